"""aiosqlite's cursor with one hand-over per statement: the same rows, and nothing forgotten when it is cancelled."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextlib import closing as closing_of
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from fastapi_database import Database
from fastapi_database.engines.aiosqlite import LARGE, Connection, connect
from fastapi_database.engines.aiosqlite import PREFETCH as STEPS

PATIENCE = 30.0
PREFETCH = sum(STEPS)
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n WHERE i <= {}"
COUNTS = [0, 1, 2, 10, PREFETCH - 1, PREFETCH, PREFETCH + 1, 3 * PREFETCH]
pytestmark = pytest.mark.anyio


def numbers(count: int) -> str:
    return NUMBERS.format(max(count, 1), count)


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    db = Database(sqlite_url)
    async with db.begin() as session:
        await session.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)"))
    yield db
    await db.aclose()


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    connection = await connect(str(tmp_path / "one.db"), check_same_thread=False, isolation_level=None)
    yield connection
    await connection.close()


async def test_a_statement_is_one_hand_over_to_the_thread(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(sqlite_url, sqlite_on_event_loop=False)
    async with db.begin() as session:
        await session.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)"))
    handed: list[str] = []
    execute = aiosqlite.Connection._execute

    async def note(self: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        handed.append(function.__name__)
        return await execute(self, function, *arguments, **options)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", note)
    for statement in (
        "SELECT name FROM t",
        "INSERT INTO t (name) VALUES ('Ada')",
        "INSERT INTO t DEFAULT VALUES RETURNING id",
    ):
        handed.clear()
        async with db.begin() as session:
            await session.execute(text(statement))
        assert handed == ["_execute_and_fetch", "_execute_and_fetch", "commit"]  # the first is BEGIN
    async with db.begin() as session:
        await session.execute(text("SELECT 1"))
        handed.clear()
        await session.rollback()
    assert handed == ["rollback"]
    await db.aclose()


@pytest.mark.parametrize("count", COUNTS)
async def test_rows_are_those_of_sqlite_however_they_are_fetched(connection: Connection, count: int) -> None:
    expected = [(number,) for number in range(1, count + 1)]
    async with connection.cursor() as cursor:
        assert await cursor.fetchall() == []
        assert await cursor.fetchone() is None
        await cursor.execute(numbers(count))
        assert await cursor.fetchall() == expected
        assert await cursor.fetchall() == []
        assert await cursor.fetchmany(5) == []
        assert await cursor.fetchone() is None
        await cursor.execute(numbers(count))
        assert [row async for row in cursor] == expected
        await cursor.execute(numbers(count))
        found = [await cursor.fetchone() for _ in range(2)]
        while rows := await cursor.fetchmany(9):
            assert len(rows) == 9 or len(found) + len(rows) == count
            found += rows
        assert [row for row in found if row is not None] == expected
        await cursor.execute(numbers(count))
        cursor.arraysize = 3
        assert await cursor.fetchmany() == expected[:3]
        assert await cursor.fetchall() == expected[3:]


@pytest.mark.parametrize("count", COUNTS)
async def test_sqlalchemy_gets_every_row_at_once_and_as_a_stream(db: Database, count: int) -> None:
    expected = list(range(1, count + 1))
    async with db.begin() as session:
        assert (await session.scalars(text(numbers(count)))).all() == expected
        assert [row[0] async for row in await session.stream(text(numbers(count)))] == expected
        parts = (await session.stream(text(numbers(count)), execution_options={"yield_per": 40})).partitions()
        assert [row[0] for part in [rows async for rows in parts] for row in part] == expected
        first = await session.stream(text(numbers(count)))
        await first.fetchmany(1)
        await first.close()  # in the middle of its rows
        assert (await session.execute(text("INSERT INTO t (name) VALUES ('Ada')"))).rowcount == 1  # type: ignore[attr-defined]
    async with db.begin() as session:
        assert await session.scalar(text("SELECT count(*) FROM t")) == 1


async def test_counts_and_keys_of_what_was_written_are_told(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    cursor = await connection.cursor()
    assert (cursor.description, cursor.rowcount, cursor.lastrowid) == (None, -1, None)
    await cursor.execute("INSERT INTO t (name) VALUES (?)", ("Ada",))
    assert (cursor.rowcount, cursor.lastrowid) == (1, 1)
    await cursor.executemany("INSERT INTO t (name) VALUES (?)", [("Bob",), ("Cy",)])
    assert (cursor.rowcount, await cursor.fetchall()) == (2, [])
    await cursor.execute("UPDATE t SET name = upper(name) RETURNING name")
    assert [column[0] for column in cursor.description] == ["name"]
    assert await cursor.fetchall() == [("ADA",), ("BOB",), ("CY",)]
    await cursor.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        await cursor.execute("SELECT 1")
    await cursor.close()


@pytest.mark.parametrize("row", [1, PREFETCH, PREFETCH + 50])
async def test_a_row_that_fails_is_an_error_of_sqlalchemy(db: Database, row: int) -> None:
    overflow = f"CASE WHEN i = {row} THEN abs(-9223372036854775808) ELSE i END"
    statement = numbers(row + 1).replace("SELECT i FROM", f"SELECT {overflow} FROM")
    async with db.begin() as session:
        with pytest.raises(OperationalError, match="integer overflow"):
            await session.execute(text(statement))
        await session.rollback()


@asynccontextmanager
async def busy(connection: Connection) -> AsyncIterator[None]:
    """Keep the thread of a connection at work for as long as the block lasts."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    working = asyncio.create_task(connection._execute(work))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    yield
    go_on.set()
    await working


async def test_what_a_cancellation_left_behind_is_rolled_back(connection: Connection) -> None:
    async with busy(connection):
        beginning = asyncio.create_task(connection._execute(connection._conn.execute, "BEGIN IMMEDIATE"))
        await asyncio.sleep(0)
        beginning.cancel()
        rolling_back = asyncio.create_task(connection.rollback())
        await asyncio.sleep(0)
    await rolling_back
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert not connection.in_transaction
    await connection.execute("BEGIN")
    assert connection.in_transaction
    await connection.rollback()
    assert not connection.in_transaction


async def test_a_cursor_closed_while_its_cancelled_statement_is_on_its_way_lets_go_of_it(
    connection: Connection, tmp_path: Path
) -> None:
    await connection.execute("PRAGMA journal_mode=wal")
    await connection.execute("CREATE TABLE t (i INTEGER)")
    cursor = await connection.cursor()
    await cursor.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(2 * PREFETCH)])
    await cursor.close()
    async with busy(connection):
        cursor = await connection.cursor()
        reading = asyncio.create_task(cursor.execute("SELECT i FROM t"))
        await asyncio.sleep(0)
        reading.cancel()
        closing = asyncio.create_task(cursor.close())
        await asyncio.sleep(0)
    await closing
    with pytest.raises(asyncio.CancelledError):
        await reading
    with closing_of(sqlite3.connect(tmp_path / "one.db", isolation_level=None)) as other:
        other.execute("INSERT INTO t VALUES (1)")
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # nobody reads
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        await cursor.execute("SELECT 1")


async def test_what_was_opened_when_nobody_waited_any_more_is_closed(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    closed: list[bool] = []

    class Slow(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            begun.set()
            assert go_on.wait(PATIENCE)
            super().__init__(*arguments, **options)

        def close(self) -> None:
            closed.append(True)
            super().close()

    connection = connect(str(tmp_path / "one.db"), check_same_thread=False, factory=Slow)
    opening = asyncio.ensure_future(connection)
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go_on.set()
    await asyncio.to_thread(connection._thread.join, PATIENCE)
    assert closed == [True]


async def test_a_connection_that_is_dropped_ends_its_thread(tmp_path: Path) -> None:
    connection = await connect(str(tmp_path / "one.db"), check_same_thread=False, isolation_level=None)
    thread = connection._thread
    cursor: Any = await connection.cursor()
    await cursor.execute("SELECT 1")
    assert await cursor.fetchall() == [(1,)]
    await cursor.close()
    kept = [cursor, connection]
    del cursor, connection
    with pytest.warns(ResourceWarning, match="deleted before being closed"):
        kept.clear()
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not thread.is_alive()


async def test_large_values_are_not_fetched_before_they_are_asked_for(connection: Connection) -> None:
    cursor: Any = await connection.cursor()
    await cursor.execute(f"SELECT zeroblob({LARGE + 1}), i FROM ({numbers(PREFETCH)})")
    assert len(cursor._rows) == 1
    assert [row[1] for row in await cursor.fetchall()] == list(range(1, PREFETCH + 1))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_closed_connection_keeps_no_lock_whoever_keeps_its_cursors(
    db: Database, sqlite_url: str, kind: str
) -> None:
    dialect = db._resources.dialect
    driver = "pysqlite" if kind == "sync" else "aiosqlite"
    arguments = dialect.connect_arguments(driver, {})
    place = make_url(sqlite_url).database
    assert place is not None
    kept: list[Any] = []
    if kind == "sync":
        raw = sqlite3.connect(place, **arguments)
        kept.append(raw.execute("INSERT INTO t (name) SELECT 'Ada' UNION ALL SELECT 'Bob' RETURNING id"))
        kept.append(kept[0].fetchone())
        raw.close()
    else:
        arguments.pop("async_creator_fn")
        opened = await connect(place, **arguments)
        kept.append(opened._conn.execute("INSERT INTO t (name) SELECT 'Ada' UNION ALL SELECT 'Bob' RETURNING id"))
        kept.append(kept[0].fetchone())
        await opened.close()
    with closing_of(sqlite3.connect(place, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")


async def test_the_driver_connection_is_aiosqlites_with_all_it_can_do(db: Database) -> None:
    async with db.async_engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, aiosqlite.Connection)
        assert driver._thread.daemon
        async with driver.execute("SELECT 1") as cursor:
            assert await cursor.fetchone() == (1,)
        async with driver.cursor() as cursor:
            await cursor.executescript("CREATE TEMP TABLE one (id INTEGER); INSERT INTO one VALUES (7)")
            assert isinstance(cursor, aiosqlite.Cursor)
            assert [row async for row in await cursor.execute("SELECT id FROM one")] == [(7,)]
        driver.row_factory = sqlite3.Row
        async with driver.execute("SELECT id AS number FROM one") as cursor:
            assert (await cursor.fetchone())["number"] == 7
        driver.row_factory = None
        assert await driver.execute_fetchall("SELECT id FROM one") == [(7,)]


@pytest.mark.parametrize("given", [{"check_same_thread": True}, {"async_creator_fn": aiosqlite.connect}])
async def test_an_application_that_asks_for_it_gets_aiosqlite_as_it_is(sqlite_url: str, given: dict[str, Any]) -> None:
    db = Database(sqlite_url, connect_args=given)
    async with db.begin() as session:
        raw: Any = await (await session.connection()).get_raw_connection()
        assert type(raw.driver_connection) is aiosqlite.Connection
        assert await session.scalar(text("SELECT 1")) == 1
    await db.aclose()
