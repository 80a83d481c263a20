"""Workers x pool against the server's limit, told in the log at the start; the start does not wait for it."""

import asyncio
import logging
import socket
from collections.abc import Callable

import pytest
from fastapi import FastAPI

from apps.b_serving import comes_true
from fastapi_database import Database
from fastapi_database.core import limits
from support.clients import burst, statuses
from support.postgres import PostgreSQL
from support.server import Server

APP = "apps.b_death:app"
DRIVERS = ["psycopg", "asyncpg"]


def patient_url(driver: str, server: socket.socket) -> str:
    """Give the URL of a server that never answers, with a time-out of the driver's that does not end the wait."""
    option = {"psycopg": "connect_timeout", "asyncpg": "timeout"}[driver]
    return f"postgresql+{driver}://app:secret@127.0.0.1:{server.getsockname()[1]}/cafe?{option}=600"


@pytest.mark.parametrize("driver", DRIVERS)
def test_more_connections_than_the_server_has_are_a_warning_with_the_numbers(
    serve: Callable[..., Server], postgresql_url: str, postgresql: PostgreSQL, driver: str
) -> None:
    url = postgresql_url.replace("postgresql:", f"postgresql+{driver}:")
    env = {"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": "250"}
    server = serve(APP, env=env, args=["--workers", "1"])
    assert comes_true(lambda: "1 worker x max_connections 250 = 250 connections" in server.log(), 30.0), server.log()
    (line,) = [one for one in server.log().splitlines() if "x max_connections" in one]
    most = postgresql.execute("SELECT current_setting('max_connections')::int")[0][0]
    assert f"(max_connections {most}, 3 of them reserved, " in line
    assert "Set max_connections to " in line
    assert postgresql.password is None or postgresql.password not in line
    # The application has done nothing yet, so whatever is connected is the question's.
    name = url.rpartition("/")[2]
    assert comes_true(lambda: not postgresql.backends(name), 30.0), postgresql.backends(name)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_database_that_never_answers_delays_neither_the_start_nor_the_end(
    serve: Callable[..., Server], driver: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30.0)
        url = patient_url(driver, silent)
        server = serve(APP, env={"DATABASE_URL": url, "DATABASE_MAX_CONNECTIONS": "250"})
        with silent.accept()[0]:  # the question is on its way
            assert statuses(burst(f"{server.url}/health/live", 1)) == {200: 1}
            server.stop()
    assert "Application startup complete" in server.log()
    assert "Traceback" not in server.log()
    assert "x max_connections" not in server.log()


@pytest.mark.anyio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_start_is_over_while_the_question_has_no_answer(driver: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        db = Database(patient_url(driver, silent), max_connections=50)
        app = FastAPI()
        db.install(app)
        async with app.router.lifespan_context(app):
            async with asyncio.timeout(30.0):
                while not db.stats().in_use:
                    await asyncio.sleep(0)
    assert db.stats().in_use == db.stats().open == 0


@pytest.mark.anyio
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_question_that_fails_or_takes_long_says_nothing(
    driver: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "PATIENCE", 0.2)
    caplog.set_level(logging.DEBUG, logger="fastapi_database")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        db = Database(patient_url(driver, silent), max_connections=50)
        async with asyncio.timeout(30.0):
            await db._resources.look_at_limits(processes=4)
    await db._resources.look_at_limits(processes=4)  # nobody listens there any more
    assert [record.levelname for record in caplog.records if record.name == "fastapi_database"] == ["DEBUG", "DEBUG"]
    assert "secret" not in caplog.text
    assert db.stats().in_use == db.stats().open == 0
    await db.aclose()


def test_the_numbers_of_one_process_with_the_defaults_are_not_asked_for(
    serve: Callable[..., Server], postgresql_url: str, postgresql: PostgreSQL
) -> None:
    server = serve(APP, env={"DATABASE_URL": postgresql_url})
    assert statuses(burst(f"{server.url}/health/live", 20)) == {200: 20}
    assert postgresql.backends(postgresql_url.rpartition("/")[2]) == []
