"""PostgreSQL: idle connections that died, COMMIT that was none, one URL for both drivers."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from apps.c_cases import EVERY_DRIVER, Kind, url_for, work
from fastapi_database import Database
from fastapi_database.errors import FastAPIDatabaseError, InvalidURL, TransactionAborted
from support.postgres import PostgreSQL

DRIVERS = [case for case in EVERY_DRIVER if case[1] != "sqlite"]
ONE = text("SELECT 1")


def one(session: Session) -> Any:
    return session.scalar(ONE)


@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
def test_an_idle_connection_that_the_server_closed_is_replaced(
    request: pytest.FixtureRequest, postgresql: PostgreSQL, kind: Kind, driver: str
) -> None:
    url = url_for(request, driver)
    db = Database(url)

    async def twice() -> tuple[int, int, int]:
        def pids() -> list[int]:
            return [backend.pid for backend in postgresql.backends(url)]

        async def read() -> int:
            if kind == "sync":
                return await asyncio.to_thread(lambda: work(db, kind, one))
            async with db.begin() as session:
                return await session.run_sync(one)

        first = await read()
        (before,) = await asyncio.to_thread(pids)
        assert await asyncio.to_thread(postgresql.terminate_backends, url) == 1
        second = await read()
        (after,) = await asyncio.to_thread(pids)
        assert before != after
        return first, second, db.stats().open

    assert asyncio.run(twice()) == (1, 1, 1)
    db.close()


@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
def test_a_commit_that_the_server_answers_with_rollback_raises(
    request: pytest.FixtureRequest, kind: Kind, driver: str
) -> None:
    """The failure is hidden from SQLAlchemy: sent by the driver itself, and swallowed."""
    db = Database(url_for(request, driver))
    work(db, kind, lambda session: session.execute(text("CREATE TABLE t (id INTEGER)")))

    def insert_and_swallow(session: Session) -> None:
        session.execute(text("INSERT INTO t VALUES (1)"))
        cursor = session.connection().connection.cursor()
        try:
            cursor.execute("SELECT * FROM nowhere")
        except Exception:
            cursor.close()

    with pytest.raises((TransactionAborted, DBAPIError)) as caught:
        work(db, kind, insert_and_swallow)
    assert "COMMIT" in str(caught.value)
    assert work(db, kind, lambda session: session.scalar(text("SELECT count(*) FROM t"))) == 0
    db.close()


@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
@pytest.mark.parametrize("parameter", ["nonsense=1", "sslmode=nonsense", "connect_timeout=soon"])
def test_a_parameter_that_can_not_be_read_is_no_unreachable_server(
    request: pytest.FixtureRequest, kind: Kind, driver: str, parameter: str
) -> None:
    db = Database(f"{url_for(request, driver)}?{parameter}")
    with pytest.raises(FastAPIDatabaseError, match=parameter.partition("=")[0]) as caught:
        work(db, kind, one)
    assert isinstance(caught.value, InvalidURL), caught.value
    db.close()


@pytest.mark.parametrize(("kind", "driver"), DRIVERS)
@pytest.mark.parametrize(
    "connect_args",
    [
        {"prepare_threshold": None},
        {"server_settings": {"application_name": "cafe"}},
        {"statement_cache_size": 0},
        {"application_name": "cafe"},
        {"connect_timeout": 3},
        {"keepalives": 1},
    ],
    ids=str,
)
def test_what_one_driver_takes_does_not_break_the_other(
    request: pytest.FixtureRequest, kind: Kind, driver: str, connect_args: dict[str, Any]
) -> None:
    db = Database(url_for(request, driver), connect_args=connect_args)
    assert work(db, kind, one) == 1
    if "application_name" in connect_args:
        assert work(db, kind, lambda session: session.scalar(text("SHOW application_name"))) == "cafe"
    db.close()
