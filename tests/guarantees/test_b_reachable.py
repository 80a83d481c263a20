"""B13, B15: a database that goes away and comes back, and the probes that ask for it."""

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from apps.b_faults import black_hole
from apps.b_serving import POOL, Form, Served, comes_true
from apps.c_cases import work
from fastapi_database import Database
from fastapi_database.web import health
from support.clients import Answer, burst, statuses
from support.postgres import LocalServer, PostgreSQL
from support.server import Server

pytestmark = pytest.mark.load

pytest_plugins = ["apps.b_fixtures"]
NUMBERS = count(1)
APP = "apps.b_life:app"
ASYNC_DRIVERS = ["psycopg", "asyncpg"]
SLACK = 10  # how many times a stated deadline a noisy machine gets


def test_b13_backends_killed_while_idle_cost_no_request(postgresql_form: Form) -> None:
    served = postgresql_form.served
    for concurrency in (1, 10):
        assert statuses(postgresql_form.burst("/one", 20, concurrency=10)) == {200: 20}
        assert served.postgresql.terminate_backends(served.database_url) >= 1
        assert statuses(postgresql_form.burst("/one", 100, concurrency=concurrency)) == {200: 100}


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_b13_holds_on_the_event_loop_of_asyncio_too(
    serve: Callable[..., Server], postgresql: PostgreSQL, postgresql_url: str, driver: str
) -> None:
    url = postgresql_url.replace("postgresql:", f"postgresql+{driver}:")
    server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"}, loop="asyncio")
    path = f"{server.url}/async/own/select"
    assert statuses(burst(path, 20, concurrency=10)) == {200: 20}
    assert postgresql.terminate_backends(postgresql_url) >= 1
    assert statuses(burst(path, 100)) == {200: 100}


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_b15_ready_follows_the_server_and_live_does_not(
    private_postgresql: LocalServer, serve: Callable[..., Server], driver: str
) -> None:
    server = serve(APP, env={"DATABASE_URL": private_postgresql.url(driver=driver), "WITHOUT_TABLES": "yes"})
    for path in ("/sync/own/select", "/async/own/select"):
        assert statuses(burst(server.url + path, 20, concurrency=5)) == {200: 20}
    assert probe(server, "ready").status == 200
    for mode in ("fast", "immediate"):
        private_postgresql.stop(mode)
        assert seconds_until(server, 503) < 1.0 * SLACK
        while_down = [probe(server, "ready") for _ in range(20)]
        assert statuses(while_down) == {503: 20}
        assert all(answer.headers["retry-after"] for answer in while_down)
        assert_live(server)
        private_postgresql.start()
        assert seconds_until(server, 200) < 1.0 * SLACK
    assert statuses(burst(f"{server.url}/async/own/select", 20, concurrency=5)) == {200: 20}
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("database", ["sqlite", "postgresql+psycopg", "postgresql+asyncpg"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_b15_ready_stays_200_while_every_connection_is_busy(
    served: Callable[..., Served], database: str, kind: str
) -> None:
    one = served(database)
    name = f"probed {next(NUMBERS)}"
    held: list[Answer] = []
    holders = Thread(target=lambda: held.extend(one.burst(f"/{kind}/own/hold/{name}", POOL, concurrency=POOL)))
    holders.start()
    try:
        assert comes_true(lambda: one.watch()["checked_out"] == POOL)
        quiet = time.monotonic() + 1.5  # longer than an old answer of the database may count
        while time.monotonic() < quiet:
            assert one.ask("/health/ready").status == 200
            assert one.ask("/health/live").status == 200
    finally:
        one.ask(f"/moments/{name}", "POST")
        holders.join()
    assert statuses(held) == {200: POOL}


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
@pytest.mark.parametrize("accepts", [True, False], ids=["never-answers", "drops-packets"])
def test_b15_a_black_hole_is_not_ready_and_live_does_not_wait_for_it(
    serve: Callable[..., Server], driver: str, accepts: bool
) -> None:
    with black_hole(accepts=accepts) as port:
        url = f"postgresql+{driver}://ann:secret@127.0.0.1:{port}/app"
        server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
        probes: list[Answer] = []
        prober = Thread(target=lambda: probes.extend(burst(f"{server.url}/health/ready", 60, concurrency=10)))
        prober.start()
        while prober.is_alive():
            assert_live(server)
        prober.join()
        assert statuses(probes) == {503: 60}
        assert max(answer.seconds for answer in probes) < 1.0 * SLACK
        (seen,) = burst(f"{server.url}/watch", 1)
        assert (seen.json()["in_use"], seen.json()["open"]) == (0, 0)
    assert "secret" not in server.log()


def test_b15_a_sqlite_file_that_can_not_be_opened_is_not_ready(serve: Callable[..., Server], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'missing' / 'x.sqlite'}"
    server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
    assert (probe(server, "ready").status, probe(server, "live").status) == (503, 200)


def test_b15_a_sqlite_file_that_is_no_database_is_not_ready(serve: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "garbage.sqlite"
    file.write_bytes(b"garbage" * 1000)
    server = serve(APP, env={"DATABASE_URL": f"sqlite:///{file}", "WITHOUT_TABLES": "yes"})
    assert statuses([probe(server, "ready") for _ in range(5)]) == {503: 5}
    assert probe(server, "live").status == 200
    file.unlink()
    assert comes_true(lambda: probe(server, "ready").status == 200)
    assert "Traceback" not in server.log()


def test_b15_a_sqlite_file_that_stays_locked_is_not_ready_in_time(serve: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "locked.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as stranger:
        stranger.execute("BEGIN EXCLUSIVE")
        url = f"sqlite:///{file}?timeout=300"  # seconds for which sqlite3 waits for the lock
        server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
        answers = burst(f"{server.url}/health/ready", 5, concurrency=5)
        assert statuses(answers) == {503: 5}
        assert max(answer.seconds for answer in answers) < 1.0 * SLACK
        assert_live(server)
    assert comes_true(lambda: probe(server, "ready").status == 200)


def test_b15_memory_is_ready_while_a_unit_writes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWERED_WITHIN", 0.0)  # the unit's own statement is no proof
    db, app = Database("sqlite://"), FastAPI()
    app.include_router(db.health())
    with TestClient(app) as client, db.begin() as session:
        session.execute(text("CREATE TABLE t (id INTEGER)"))
        assert client.get("/ready").status_code == 200
    db.close()


def test_b15_whatever_the_driver_raises_is_not_ready_and_never_a_500(async_url: str) -> None:
    """An error of the driver's own, for a connection is asked below SQLAlchemy."""

    async def main() -> None:
        db, app = Database(async_url), FastAPI()
        db.install(app)
        app.include_router(db.health())

        @event.listens_for(db.async_engine.sync_engine, "connect")
        def look(connection: Any, _record: object) -> None:
            connection.cursor().execute("SELECT * FROM made_later")

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            answers = [await client.get("/ready") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [503] * 3
            await asyncio.to_thread(
                work, db, "sync", lambda session: session.execute(text("CREATE TABLE made_later (id INT)"))
            )
            assert (await client.get("/ready")).status_code == 200
            assert (db.stats().in_use, db.stats().open) == (0, 1)
        await db.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_b15_10_000_probes_leave_no_connection(
    serve: Callable[..., Server], postgresql: PostgreSQL, postgresql_url: str, driver: str
) -> None:
    url = postgresql_url.replace("postgresql:", f"postgresql+{driver}:")
    server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
    most = 0
    answers: list[Answer] = []
    paths = [f"{server.url}/health/ready", f"{server.url}/health/live"]
    prober = Thread(target=lambda: answers.extend(burst(lambda i: paths[i % 2], 10_000, concurrency=16)))
    prober.start()
    while prober.is_alive():
        most = max(most, len(postgresql.backends(postgresql_url)))
        time.sleep(0.05)
    prober.join()
    assert statuses(answers) == {200: 10_000}
    assert comes_true(lambda: not postgresql.backends(postgresql_url), 2.0)
    assert most <= 2  # the one question that is asked at a time, and the last one on its way out


def probe(server: Server, name: str) -> Answer:
    (answer,) = burst(f"{server.url}/health/{name}", 1)
    return answer


def seconds_until(server: Server, status: int) -> float:
    """Measure how long it takes until `ready` answers with a status."""
    start = time.monotonic()
    assert comes_true(lambda: probe(server, "ready").status == status, 60)
    return time.monotonic() - start


def assert_live(server: Server) -> None:
    answers = burst(f"{server.url}/health/live", 20)
    assert statuses(answers) == {200: 20}
    assert statistics.median(answer.seconds for answer in answers) < 0.05 * SLACK
