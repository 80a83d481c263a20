"""The undocumented details that core/internals.py touches: one test for each."""

import ast
import asyncio
import inspect
import logging
import os
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiosqlite
import anyio
import asyncpg
import pytest
from sqlalchemy import ForeignKey, create_engine, event, make_url, select, text
from sqlalchemy import inspect as orm_inspect
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    defer,
    lazyload,
    mapped_column,
    raiseload,
    relationship,
    selectinload,
    with_loader_criteria,
)
from sqlalchemy.pool import QueuePool

from fastapi_database.core import internals
from fastapi_database.engines import internals as engine_internals
from fastapi_database.engines.internals import OptionEngine, asyncpg_socket, cancel_asyncpg, sqlite3_connection
from fastapi_database.engines.transactions import LastAnswer, Transactions, watch
from support.postgres import PostgreSQL

DOCUMENTED = {
    "annotations",
    "Any",
    "Session",
    "InstanceState",
    "PoolProxiedConnection",
    "QueuePool",
    "AsyncAdaptedQueuePool",
    "LoaderCriteriaOption",
    "RelationshipProperty",
}


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    host_id: Mapped[int | None] = mapped_column(ForeignKey("guests.id"))
    friends: Mapped[list["Guest"]] = relationship()


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Any]:
    engine = create_engine(sqlite_url, poolclass=internals.ClosablePool, pool_size=3, max_overflow=0)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("module", "other"),
    [(internals, r"AnyIO 4[\d.]+"), (engine_internals, r"asyncpg 0[\d.]+ to 0[\d.]+")],
    ids=["core", "engines"],
)
def test_every_detail_is_listed_with_its_versions(module: ModuleType, other: str) -> None:
    listed = inspect.getdoc(module) or ""
    assert re.search(other, listed)
    assert re.search(r"Seen in SQLAlchemy 2\.0[\d.]+ to 2\.0[\d.]+ and 2\.1[\d.]+ to 2\.1[\d.]+", listed)
    source = Path(module.__file__ or "").read_text()
    taken = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for alias in node.names
    }
    assert [name for name in sorted(taken - DOCUMENTED) if name not in listed] == []
    attributes = set(re.findall(r"\.(_[a-z]\w+)", source))
    assert [name for name in sorted(attributes) if name not in listed] == []


def test_one_idle_connection_of_a_pool_can_be_closed(engine: Any) -> None:
    closed: list[object] = []
    event.listen(engine, "close", lambda connection, _record: closed.append(connection))
    assert not engine.pool.close_one_idle()  # none is open
    first, second = engine.connect(), engine.connect()
    assert not engine.pool.close_one_idle()  # none is idle
    first.close()
    second.close()
    assert (engine.pool.checkedin(), engine.pool.checkedout()) == (2, 0)
    assert engine.pool.close_one_idle()
    assert (len(closed), engine.pool.checkedin(), engine.pool.checkedout()) == (1, 1, 0)
    with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        assert [connection.scalar(text("SELECT 1")) for connection in (one, two, three)] == [1, 1, 1]
    assert engine.pool.checkedin() == 3


def test_a_place_in_the_pool_is_free_again_after_its_connection_was_invalidated(engine: Any) -> None:
    for _ in range(5):  # more often than the pool has places
        with engine.connect() as connection:
            connection.invalidate()
    assert (engine.pool.checkedin(), engine.pool.checkedout()) == (0, 0)
    assert not engine.pool.close_one_idle()


def test_the_pool_of_async_engines_closes_the_same_way(sqlite_url: str) -> None:
    async def use() -> None:
        url = make_url(sqlite_url).set(drivername="sqlite+aiosqlite")
        engine = create_async_engine(url, poolclass=internals.AsyncClosablePool, pool_size=2, max_overflow=0)
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        pool: Any = engine.pool
        assert await internals.greenlet_spawn(pool.close_one_idle)
        assert not await internals.greenlet_spawn(pool.close_one_idle)
        assert (pool.checkedin(), pool.checkedout()) == (0, 0)
        await engine.dispose()

    asyncio.run(use())


def test_a_connection_of_an_async_pool_can_be_closed_without_awaiting_anything(
    async_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        url = async_url.replace("sqlite:", "sqlite+aiosqlite:")
        engine = create_async_engine(url, poolclass=internals.AsyncClosablePool, pool_size=2, max_overflow=0)
        async with engine.connect() as connection:
            record: Any = await connection.get_raw_connection()
            driver: Any = record.driver_connection
        pool: Any = engine.pool
        assert pool.drop_one_idle()
        assert not pool.drop_one_idle()
        assert (pool.checkedin(), pool.checkedout()) == (0, 0)
        if "asyncpg" in async_url:
            assert driver.is_closed()
        elif "psycopg" in async_url:
            assert driver.closed
        else:
            await asyncio.to_thread(driver._thread.join, 5.0)
            assert not driver._thread.is_alive()
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        await engine.dispose()

    asyncio.run(use())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_pool_logs_under_sqlalchemys_own_name(engine: Any) -> None:
    assert engine.pool.logger.name.startswith("sqlalchemy.pool")
    assert isinstance(engine.pool, QueuePool)


def test_a_greenlet_in_which_something_can_be_awaited_is_known() -> None:
    async def value() -> int:
        return 7

    def inside() -> tuple[bool, int]:
        return internals.current_greenlet() is not None, internals.await_only(value())

    async def outside() -> tuple[bool, int]:
        assert internals.current_greenlet() is None
        return await internals.greenlet_spawn(inside)

    assert internals.current_greenlet() is None
    assert asyncio.run(outside()) == (True, 7)


def test_whether_an_event_loop_runs_here_is_known() -> None:
    async def main() -> bool:
        return internals.running_loop() is asyncio.get_running_loop()

    assert internals.running_loop() is None
    assert asyncio.run(main())


def test_a_wait_for_a_thread_of_anyio_is_known() -> None:
    seen: list[bool] = []

    async def look() -> None:
        seen.append(internals.in_shielded_scope())

    async def main() -> None:
        await look()
        with anyio.CancelScope():
            await look()
        with anyio.CancelScope(shield=True):
            await look()
            with anyio.CancelScope():
                await look()
        await Watched(anyio.to_thread.run_sync(threading.active_count), seen)

    asyncio.run(main())
    assert seen == [False, False, True, False, True]


def test_a_thread_of_anyio_knows_its_loop_which_lets_more_of_them_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limiter = anyio.to_thread.current_default_thread_limiter()
        before = limiter.total_tokens
        assert internals.loop_of_worker() is None
        assert await anyio.to_thread.run_sync(internals.loop_of_worker) is loop
        assert await asyncio.to_thread(internals.loop_of_worker) is None
        done = loop.create_future()
        loop.call_soon(internals.add_worker_threads, 2)
        loop.call_soon(done.set_result, None)
        await done
        assert limiter.total_tokens == before + 2

    asyncio.run(main())


class Watched:
    """Awaits something and notes, while a future is awaited, whether the wait is shielded."""

    def __init__(self, awaitable: Any, seen: list[bool]) -> None:
        self._awaitable = awaitable
        self._seen = seen

    def __await__(self) -> Iterator[Any]:
        for awaited in self._awaitable.__await__():
            if awaited is not None:
                self._seen.append(internals.in_shielded_scope())
            yield awaited


def test_a_listener_for_statements_is_seen_wherever_it_was_registered() -> None:
    class Own(Session):
        pass

    def listen(_state: object) -> None: ...

    assert not internals.has_statement_hooks(Own())
    for target in (Session, Own):
        event.listen(target, "do_orm_execute", listen)
        try:
            assert internals.has_statement_hooks(Own())
        finally:
            event.remove(target, "do_orm_execute", listen)
        assert not internals.has_statement_hooks(Own())
    session = Own()
    event.listen(session, "do_orm_execute", listen)
    assert internals.has_statement_hooks(session)
    assert not internals.has_statement_hooks(Own())


def test_an_object_keeps_the_criteria_of_the_query_it_came_from(engine: Any) -> None:
    Base.metadata.create_all(engine)
    option = with_loader_criteria(Guest, Guest.id == 1)
    with Session(engine) as session:
        session.add(Guest(id=1, name="John Doe"))
        session.commit()
        for options, expected in (([], ()), ([option], (option,)), ([option, defer(Guest.name)], (option,))):
            session.expunge_all()
            (guest,) = session.scalars(select(Guest).options(*options))
            assert internals.criteria(orm_inspect(guest)) == expected


def test_an_object_knows_whether_its_query_said_how_an_attribute_loads(engine: Any) -> None:
    Base.metadata.create_all(engine)
    nothing = [[], [defer(Guest.name)], [selectinload(Guest.friends)], [lazyload("*")]]  # the last is the mapping's way
    something = [
        [raiseload(Guest.friends)],
        [raiseload(Guest.friends, sql_only=True)],
    ]
    with Session(engine) as session:
        session.add(Guest(id=1, name="John Doe"))
        session.commit()
        for cases, expected in ((nothing, False), (something, True)):
            for options in cases:
                session.expunge_all()
                (guest,) = session.scalars(select(Guest).options(*options))
                assert internals.has_own_loader(orm_inspect(guest), "friends") is expected, options


def test_the_attribute_a_lazy_load_is_for_is_found_on_the_stack() -> None:
    assert internals.attribute_being_read() is None
    found: list[Any] = []
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Guest(name="Ada"))
        session.commit()
        (guest,) = session.scalars(select(Guest)).all()
        event.listen(session, "do_orm_execute", lambda _: found.append(internals.attribute_being_read()))
        _ = guest.friends
    engine.dispose()
    assert found == [("Guest.friends", "selectinload(Guest.friends)")]


@pytest.mark.parametrize(
    ("driver", "option"),
    [
        ("sqlite+pysqlite", "native_datetime"),
        ("postgresql+psycopg", "client_encoding"),
        ("postgresql+asyncpg", "json_serializer"),
    ],
)
def test_the_options_of_a_dialect_are_those_of_its_classes(driver: str, option: str) -> None:
    assert option in internals.get_cls_kwargs(make_url(f"{driver}://").get_dialect())


def test_an_option_engine_shares_what_its_engine_has_and_hears_what_its_listeners_hear(engine: Any) -> None:
    heard: list[object] = []
    made_before = OptionEngine(engine, {})
    event.listen(engine, "begin", heard.append)
    with made_before.begin() as connection:
        connection.execute(text("SELECT 1"))
        assert heard == [connection]
    assert (made_before.pool, made_before.dialect, made_before.url) == (engine.pool, engine.dialect, engine.url)
    assert type(engine.execution_options()) is OptionEngine


def test_the_class_of_a_dialect_can_be_exchanged_before_it_is_used(engine: Any) -> None:
    class Hooks(Transactions):
        def do_commit(self, dbapi_connection: Any) -> None:
            committed.append(dbapi_connection.info)
            super().do_commit(dbapi_connection)

    committed: list[object] = []
    before = type(engine.dialect)
    watch(engine, Hooks, LastAnswer(), no_connection=lambda error: None)
    assert isinstance(engine.dialect, before)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
        info = connection.info
    assert committed == [info]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM t")) == 0


def test_the_socket_of_an_asyncpg_connection_is_its_own(postgresql: PostgreSQL) -> None:
    async def ports() -> tuple[int, int]:
        connection = await asyncpg.connect(postgresql.url())
        descriptor = asyncpg_socket(connection)
        assert descriptor is not None
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            found = twin.getsockname()[1], await connection.fetchval("SELECT inet_client_port()")
        await connection.close()
        return found

    ours, servers = asyncio.run(ports())
    assert ours == servers


def test_a_statement_of_asyncpg_is_cancelled_in_the_server_and_its_connection_serves_on(postgresql: PostgreSQL) -> None:
    async def outcome() -> tuple[str, int]:
        connection = await asyncpg.connect(postgresql.url())
        sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        while not sleeping.done():  # before it is sent there is nothing to cancel
            await cancel_asyncpg(connection)
            await asyncio.wait({sleeping}, timeout=0.1)
        found = type(sleeping.exception()).__name__, await connection.fetchval("SELECT 1")
        await connection.close()
        return found

    assert asyncio.run(outcome()) == ("QueryCanceledError", 1)


def test_behind_aiosqlites_connection_stands_that_of_sqlite3() -> None:
    async def classes() -> tuple[type, type]:
        async with aiosqlite.connect(":memory:") as connection:
            found = sqlite3_connection(connection)
        return type(found), type(sqlite3_connection(found))

    assert asyncio.run(classes()) == (sqlite3.Connection, sqlite3.Connection)


def test_what_both_layers_need_stands_in_one_place() -> None:
    """What is known of it is tested above."""
    for name in ("await_only", "current_greenlet", "greenlet_spawn", "running_loop"):
        assert getattr(internals, name) is getattr(engine_internals, name)
