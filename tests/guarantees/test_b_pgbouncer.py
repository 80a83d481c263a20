"""B23: PgBouncer in transaction mode: twelve connections of ours over three of the server, with one switch."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import JSON, bindparam, exc, text
from sqlalchemy.dialects.postgresql import JSONB

from fastapi_database import Database, errors
from support.pgbouncer import SERVERS, PgBouncer
from support.postgres import PostgreSQL

SESSIONS, TRANSACTIONS, ROUNDS, POOL = 60, 3, 5, 12
CANCELLED = 6
DRIVERS = ["psycopg", "asyncpg"]
STATEMENTS = [text(f"SELECT :value + {number}") for number in range(4)]
AS_JSON = text("SELECT CAST(:value AS jsonb) AS value").bindparams(bindparam("value", type_=JSONB)).columns(value=JSON)
WRITE = text("INSERT INTO notes VALUES (:value)")


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, postgresql_url: str, postgresql: PostgreSQL) -> Iterator[str]:
    postgresql.execute("CREATE TABLE notes (id integer)", database=postgresql_url)
    yield pgbouncer.url(postgresql_url)
    # What is a connection of nobody's is closed by the pooler, later; the database is dropped with force.
    assert len(postgresql.backends(postgresql_url)) <= SERVERS


def database(url: str, driver: str = "", **options: Any) -> Database:
    target = url.replace("postgresql:", f"postgresql+{driver}:") if driver else url
    return Database(target, max_connections=POOL, queue_timeout=120.0, **options)


async def use_async(db: Database, number: int) -> None:
    async with db.begin() as session:
        for turn in range(TRANSACTIONS):
            for add, statement in enumerate(STATEMENTS):
                assert await session.scalar(statement, {"value": number}) == number + add
            found = await session.scalar(AS_JSON, {"value": {"number": [number, None, "ü"]}})
            assert found == {"number": [number, None, "ü"]}, json.dumps(found)
            await session.execute(WRITE, {"value": number * TRANSACTIONS + turn})
            await session.commit()


def use_sync(db: Database, number: int) -> None:
    with db.begin() as session:
        for turn in range(TRANSACTIONS):
            for add, statement in enumerate(STATEMENTS):
                assert session.scalar(statement, {"value": number}) == number + add
            assert session.scalar(AS_JSON, {"value": [number]}) == [number]
            session.execute(WRITE, {"value": number * TRANSACTIONS + turn})
            session.commit()


async def wait_for_ever(db: Database) -> None:
    async with db.begin() as session:
        await session.execute(WRITE, {"value": -1})
        await session.execute(text("SELECT pg_sleep(600)"))


async def rounds(db: Database) -> list[BaseException]:
    found: list[Any] = []
    for _ in range(ROUNDS):
        sessions = [asyncio.ensure_future(use_async(db, number)) for number in range(SESSIONS)]
        doomed = [asyncio.ensure_future(wait_for_ever(db)) for _ in range(CANCELLED)]
        for number, one in enumerate(doomed):
            asyncio.get_running_loop().call_later(0.05 * (number + 1), one.cancel)
        found += await asyncio.gather(*sessions, return_exceptions=True)
        ended = await asyncio.gather(*doomed, return_exceptions=True)
        assert Counter(map(type, ended)) == {asyncio.CancelledError: CANCELLED}
    await db.aclose()
    return [one for one in found if one is not None]


@pytest.mark.parametrize("driver", DRIVERS)
def test_b23_async_sessions_over_three_server_connections(pooled_url: str, postgresql: PostgreSQL, driver: str) -> None:
    db = database(pooled_url, driver, transaction_pooler=True, pool_pre_ping=True)
    assert asyncio.run(rounds(db)) == []
    rows = postgresql.execute("SELECT count(*), min(id) FROM notes", database=pooled_url_name(pooled_url))
    assert rows == [(SESSIONS * TRANSACTIONS * ROUNDS, 0)]


def test_b23_sync_sessions_over_three_server_connections(pooled_url: str, postgresql: PostgreSQL) -> None:
    db = database(pooled_url, transaction_pooler=True, pool_pre_ping=True)
    with ThreadPoolExecutor(20) as threads:
        for _ in range(ROUNDS):
            for done in [threads.submit(use_sync, db, number) for number in range(SESSIONS)]:
                done.result()
    db.close()
    rows = postgresql.execute("SELECT count(*) FROM notes", database=pooled_url_name(pooled_url))
    assert rows == [(SESSIONS * TRANSACTIONS * ROUNDS,)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_b23_without_the_switch_the_error_names_it(pooled_url: str, driver: str) -> None:
    async def provoke() -> list[BaseException]:
        db = database(pooled_url, driver, statement_timeout=0, lock_timeout=0)  # which would be refused before
        for _ in range(40):
            found = await asyncio.gather(*(use_async(db, number) for number in range(24)), return_exceptions=True)
            wrong = [one for one in found if isinstance(one, exc.DBAPIError)]
            if wrong:
                break
        await db.aclose()
        return wrong

    wrong = asyncio.run(provoke())
    prepared = [one for one in wrong if getattr(one.orig, "sqlstate", None) in {"26000", "42P05"}]  # type: ignore[attr-defined]
    assert prepared, wrong
    for one in prepared:
        assert any("transaction_pooler=True" in note for note in one.__notes__)


@pytest.mark.parametrize(
    ("statement", "instead"),
    [
        ("SET search_path TO other", "SET LOCAL"),
        ("set session time zone 'UTC'", "SET LOCAL"),
        ("RESET ALL", "SET LOCAL"),
        ("LISTEN orders", "listeners"),
        ("PREPARE mine AS SELECT 1", "the statement itself"),
        ("CREATE TEMP TABLE mine (id integer)", "ON COMMIT DROP"),
        ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1", "without WITH HOLD"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_xact_lock"),
        ("SELECT 1, pg_try_advisory_lock_shared (1)", "pg_advisory_xact_lock"),
        ("/* all of us */ SET ROLE ann", "SET LOCAL"),
        ("-- first\nRESET ROLE", "SET LOCAL"),
        ("SELECT set_config('search_path', 'other', false)", "set_config"),
        ("UNLISTEN *", "listeners"),
        ("DEALLOCATE ALL", "the statement itself"),
        ("DISCARD TEMP", "the statement itself"),
        ("LOAD 'auto_explain'", "the statement itself"),
        ("CREATE LOCAL TEMPORARY TABLE mine AS SELECT 1", "ON COMMIT DROP"),
    ],
)
def test_b23_what_is_for_the_whole_connection_is_refused(pooled_url: str, statement: str, instead: str) -> None:
    db = database(pooled_url, transaction_pooler=True)
    with pytest.raises(errors.SessionFeature, match=instead), db.begin() as session:
        session.execute(text(statement))
    db.close()


def test_b23_what_ends_with_the_transaction_works(pooled_url: str) -> None:
    db = database(pooled_url, transaction_pooler=True, isolation_level="SERIALIZABLE")
    for _ in range(4):
        with db.begin() as session:
            session.execute(text("SET LOCAL search_path TO public"))
            session.execute(text("SET TRANSACTION READ WRITE"))
            session.execute(text("SELECT pg_advisory_xact_lock(1)"))
            session.execute(text("CREATE TEMP TABLE mine (id integer) ON COMMIT DROP"))
            assert session.scalar(text("SHOW transaction_isolation")) == "serializable"
    db.close()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_b23_the_pooler_refuses_our_time_outs_and_the_error_says_what_to_write(pooled_url: str, driver: str) -> None:
    async def use() -> None:
        db = database(pooled_url, driver)
        try:
            async with db.begin() as session:
                await session.execute(text("SELECT 1"))
        finally:
            await db.aclose()

    with pytest.raises(errors.InvalidURL, match="transaction_pooler=True"):
        asyncio.run(use())


def pooled_url_name(url: str) -> str:
    return url.rpartition("/")[2]
