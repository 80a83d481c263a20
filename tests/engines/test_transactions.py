"""The transactions of units of work, as their connections know them."""

import asyncio
import sqlite3
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Integer, bindparam, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from apps.c_cases import KINDS, Kind, work
from fastapi_database import Database
from fastapi_database.errors import TransactionAborted

EVENTS = ("engine_connect", "begin", "before_execute", "before_cursor_execute", "after_cursor_execute", "after_execute")
EVENTS += ("commit", "rollback", "savepoint", "rollback_savepoint", "release_savepoint")


@pytest.fixture
def db(url: str) -> Any:
    db = Database(url, max_connections=1)
    yield db
    db.close()


def engine_of(db: Database, kind: Kind) -> Engine:
    """Give the engine that sessions of a kind use; that of an event loop which is over by now, for the async ones."""
    if kind == "sync":
        return db.engine

    async def get() -> Engine:
        return db.async_engine.sync_engine

    return asyncio.run(get())


def test_nobody_listens_to_an_engine_unless_the_application_does(db: Database) -> None:
    """What is not listened to costs nothing."""
    for kind in KINDS:
        engine = engine_of(db, kind)
        assert [name for name in EVENTS if getattr(engine.dispatch, name)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_listeners_of_the_application_hear_units_of_work(db: Database, kind: Kind) -> None:
    heard: list[str] = []

    def listen(engine: Engine) -> None:
        for name in ("begin", "commit"):
            event.listen(engine, name, lambda _connection, name=name: heard.append(name))

    if kind == "sync":
        listen(db.engine)
        with db.begin() as session:
            session.execute(text("SELECT 1"))
    else:

        async def unit() -> None:
            listen(db.async_engine.sync_engine)
            async with db.begin() as session:
                await session.execute(text("SELECT 1"))

        asyncio.run(unit())
    assert heard == ["begin", "commit"]


@pytest.mark.parametrize("kind", KINDS)
def test_statements_are_compiled_once(db: Database, kind: Kind) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SQLAlchemy warns of a dialect that does not say that it caches
        work(db, kind, lambda session: session.execute(text("SELECT 1")).all())


def test_a_connection_forgets_the_unit_it_was_lent_to(db: Database) -> None:
    """The failure of a unit is not the failure of who takes the connection next."""

    def fail(session: Session) -> None:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(TransactionAborted):
        work(db, "sync", fail)
    with db.engine.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    with db.begin() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_a_failure_in_a_transaction_without_a_unit_is_the_applications_own(sqlite_url: str) -> None:
    """On a plain engine SQLAlchemy and SQLite commit what came before a failure; so do they here."""
    db = Database(sqlite_url)
    with db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
    with db.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM t")) == 0
    db.close()


def no_transactions(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def with_creator(url: str) -> Database:
    path = url.removeprefix("sqlite:///")
    return Database(url, creator=lambda: sqlite3.connect(path, isolation_level=None, check_same_thread=False))


def with_pool(url: str) -> Database:
    path = url.removeprefix("sqlite:///")
    return Database(url, pool=QueuePool(lambda: sqlite3.connect(path, isolation_level=None, check_same_thread=False)))


def with_listener(url: str) -> Database:
    db = Database(url)
    event.listen(db.engine, "connect", no_transactions)
    return db


@pytest.mark.parametrize("make", [with_creator, with_pool, with_listener])
def test_connections_from_elsewhere_have_transactions_too(sqlite_url: str, make: Callable[[str], Database]) -> None:
    """`isolation_level=None` is what a recipe for sqlite3 says: the driver is to begin nothing by itself."""
    db = make(sqlite_url)
    with db.begin() as session:
        session.execute(text("CREATE TABLE t (id INTEGER)"))

    def fail(session: Session) -> None:
        session.execute(text("INSERT INTO t VALUES (1)"))
        raise LookupError

    with pytest.raises(LookupError):
        work(db, "sync", fail)
    with db.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM t")) == 0
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM"))
    with pytest.raises(LookupError):
        work(db, "sync", fail)
    with db.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM t")) == 0
    db.close()


def ids(db: Database) -> list[int]:
    with db.engine.connect() as connection:
        return list(connection.scalars(text("SELECT id FROM t ORDER BY id")))


@pytest.fixture
def table(db: Database) -> Database:
    with db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    return db


def insert(session: Session | Connection, number: int) -> None:
    session.execute(text(f"INSERT INTO t VALUES ({number})"))


def swallow_a_failure(session: Session | Connection) -> None:
    with pytest.raises(StatementError):
        session.execute(text("SELECT :value").bindparams(bindparam("value", object(), type_=Integer())))


@pytest.mark.parametrize("reset", ["rollback", "commit", None])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_refused_is_rolled_back_whatever_the_pool_does(
    url: str, kind: Kind, reset: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(url, max_connections=1, pool_reset_on_return=reset)
    with db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))

    def refused(session: Session) -> None:
        insert(session, 1)
        swallow_a_failure(session)

    with pytest.raises(TransactionAborted):
        work(db, kind, refused)
    work(db, kind, lambda session: insert(session, 2))
    assert ids(db) == [2]
    assert caplog.records == []
    db.close()


def test_a_transaction_that_was_rolled_back_does_not_forbid_the_next(table: Database) -> None:
    with table.begin() as session, session.get_bind().connect() as connection:  # type: ignore[union-attr]
        insert(connection, 1)
        swallow_a_failure(connection)
        connection.rollback()
        insert(connection, 2)
        connection.commit()
    assert ids(table) == [2]


def test_a_connection_that_is_made_again_knows_of_its_unit(table: Database) -> None:
    def work_on(connection: Connection) -> None:
        insert(connection, 1)
        swallow_a_failure(connection)
        with pytest.raises(TransactionAborted):
            connection.commit()

    with table.begin() as session:
        engine = session.get_bind()
        assert isinstance(engine, Engine)
        with engine.connect() as connection:
            connection.invalidate()
            work_on(connection)
        with engine.execution_options(compiled_cache=None).connect() as connection:
            work_on(connection)
    assert ids(table) == []


def test_a_listener_that_writes_when_a_transaction_begins_is_part_of_it(table: Database) -> None:
    event.listen(table.engine, "begin", lambda connection: insert(connection, 7))

    def fail(session: Session) -> None:
        insert(session, 1)
        raise LookupError

    with pytest.raises(LookupError):
        work(table, "sync", fail)
    assert ids(table) == [7]  # of the transaction that reads them
    work(table, "sync", lambda session: insert(session, 1))
    assert ids(table) == [1, 7, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_send_a_statement_is_an_answer(table: Database, kind: Kind) -> None:
    answer = table._resources.connections.last_answer

    def noted(send: Callable[[Connection], Any]) -> bool:
        def send_it(session: Session) -> None:
            connection = session.connection()
            answer.at = 0.0
            send(connection)

        work(table, kind, send_it)
        return answer.at > 0

    row = {"id": 1}
    statement = text("INSERT INTO t VALUES (:id)")
    assert noted(lambda connection: connection.execute(statement, row))
    assert noted(lambda connection: connection.execute(statement, [row, row]))
    assert noted(lambda connection: connection.exec_driver_sql("SELECT 1", execution_options={"no_parameters": True}))
    answer.at = 0.0
    assert ids(table) == [1, 1, 1]
    assert answer.at > 0


def test_savepoints_undo_failures_however_deep(sqlite_url: str) -> None:
    db = Database(sqlite_url)

    def fail(connection: Connection) -> None:
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))

    def undo(session: Session) -> None:
        connection = session.connection()
        outer = connection.begin_nested()
        fail(connection)
        inner = connection.begin_nested()
        fail(connection)
        inner.commit()
        outer.rollback()

    def keep(session: Session) -> None:
        connection = session.connection()
        outer = connection.begin_nested()
        fail(connection)
        outer.commit()

    work(db, "sync", undo)
    with pytest.raises(TransactionAborted):
        work(db, "sync", keep)
    db.close()
