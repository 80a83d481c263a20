"""The transactions of units of work, as their connections know them."""

import asyncio
import warnings
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

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
