"""SQLite: which BEGIN a unit opens with, and what opening a file can answer."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import column, exists, func, literal, select, table, text, union
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, listening, router, work
from fastapi_database import Database
from fastapi_database.engines import dialect_for
from fastapi_database.errors import Unreachable

SELECT, INSERT = text("SELECT count(*) FROM t"), text("INSERT INTO t VALUES (1)")


@pytest.fixture
def db(sqlite_url: str) -> Iterator[Database]:
    db = Database(sqlite_url)
    with db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    yield db
    db.close()


@contextmanager
def begins() -> Iterator[list[str]]:
    """Collect how transactions begin, as SQLite itself tells it."""
    found: list[str] = []

    def note(statement: str) -> None:
        if statement.startswith("BEGIN"):
            found.append(statement)

    def look(_dbapi_connection: object, record: Any, _proxy: object) -> None:
        connection = record.driver_connection
        getattr(connection, "_conn", connection).set_trace_callback(note)  # aiosqlite wraps sqlite3's

    with listening(Pool, "checkout", look):
        yield found


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_begins_by_its_method_and_by_its_first_statement(db: Database, kind: Kind, name: str) -> None:
    app, routes = FastAPI(), router(name)
    db.install(app)
    methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    for path, statement in (("/read", SELECT), ("/write", INSERT)):
        routes.add_api_route(
            path,
            endpoint(db, kind, lambda session, statement=statement: session.execute(statement) and None),
            methods=methods,
        )
    app.include_router(routes)
    with TestClient(app) as client:
        for method in methods:
            for path in ("/read", "/write"):
                with begins() as found:
                    assert client.request(method, path).status_code == 200
                reads = path == "/read" and method in {"GET", "HEAD", "OPTIONS"}
                assert found == ["BEGIN DEFERRED" if reads else "BEGIN IMMEDIATE"], (method, path)


READS = {
    "text": SELECT,
    "text in small letters": text("  select id from t"),
    "text with columns": text("SELECT id FROM t").columns(column("id")),
    "select": select(column("id")).select_from(table("t")),
    "union": union(select(literal(1)), select(literal(2))),
    "exists": select(exists(select(column("id")).select_from(table("t")))),
    "function": func.count(),
    "cte": select(select(literal(1).label("one")).cte().c.one),
}


@pytest.mark.parametrize("form", READS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_that_reads_takes_no_lock_in_whatever_form(db: Database, kind: Kind, form: str) -> None:
    app = FastAPI()
    db.install(app)
    app.add_api_route("/", endpoint(db, kind, lambda session: session.execute(READS[form]) and None))
    with TestClient(app) as client, begins() as found:
        assert client.get("/").status_code == 200
    assert found == ["BEGIN DEFERRED"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_outside_requests_may_write_and_begins_so(db: Database, kind: Kind) -> None:
    with begins() as found:
        work(db, kind, lambda session: session.execute(SELECT))
    assert found == ["BEGIN IMMEDIATE"]


def test_each_transaction_of_a_unit_begins_anew(db: Database) -> None:
    app = FastAPI()
    db.install(app)

    @app.get("/")
    def read_commit_write(session: Annotated[Session, Depends(db.session)]) -> None:
        session.execute(SELECT)
        session.commit()
        session.execute(INSERT)

    with TestClient(app) as client, begins() as found:
        assert client.get("/").status_code == 200
    assert found == ["BEGIN DEFERRED", "BEGIN IMMEDIATE"]


def test_an_engine_of_ours_without_a_unit_begins_as_sqlite_does(db: Database) -> None:
    with begins() as found, db.engine.begin() as connection:
        connection.execute(SELECT)
    assert found == ["BEGIN"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollback_is_one_with_skip_autocommit_rollback_too(sqlite_url: str, kind: Kind) -> None:
    db = Database(sqlite_url, skip_autocommit_rollback=True, max_connections=1)

    def fail(session: Session) -> None:
        session.execute(text("CREATE TABLE t (id INTEGER)"))
        raise InterruptedError

    for _ in range(2):
        with pytest.raises(InterruptedError):
            work(db, kind, fail)
    db.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_can_not_be_opened_says_which_and_why(tmp_path: Path, kind: Kind) -> None:
    cases = {
        f"sqlite:///{tmp_path}/missing/app.db": f"the folder {tmp_path}/missing does not exist",
        f"sqlite:///{tmp_path}": "unable to open database file",
        f"sqlite:///file:{tmp_path}/none.db?mode=ro&uri=true": "unable to open database file [",
        f"sqlite:///file:{tmp_path}/missing/app.db?mode=ro&uri=true": f"the folder {tmp_path}/missing does not exist",
    }
    for url, says in cases.items():
        db = Database(url)
        with pytest.raises(Unreachable) as caught:
            patiently(db, kind)
        assert says in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert db.stats().open == 0
        db.close()


def test_the_address_is_the_file_in_whatever_form_the_url_has_it() -> None:
    """Where every connection is busy, `/ready` looks whether this is there."""
    for url, address in {
        "sqlite:///app.db": os.path.abspath("app.db"),
        "sqlite:////data/app.db": "/data/app.db",
        "sqlite:///file:app.db?uri=true": os.path.abspath("app.db"),
        "sqlite:///file:///data/the%20app.db?mode=ro&uri=true": "/data/the app.db",
        "sqlite:///file:app?mode=memory&cache=shared&uri=true": None,
        "sqlite:///:memory:": None,
        "sqlite://": None,
    }.items():
        assert dialect_for(url).address() == address


@pytest.mark.parametrize("query", ["mode=ro", "immutable=1"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_can_only_be_read_is_read_and_says_so_to_a_writer(tmp_path: Path, kind: Kind, query: str) -> None:
    file = tmp_path / "app.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER)")
    app, db = FastAPI(), Database(f"sqlite:///file:{file}?{query}&uri=true", max_connections=1)
    db.install(app)
    app.add_api_route("/", endpoint(db, kind, lambda session: session.scalar(SELECT)), methods=["GET", "POST"])
    app.add_api_route("/write", endpoint(db, kind, lambda session: session.execute(INSERT) and None), methods=["POST"])
    with TestClient(app) as client:
        assert client.get("/").json() == client.post("/").json() == 0
        refused = client.post("/write")
        assert (refused.status_code, refused.json()["code"]) == (503, "read-only")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_database_says_so_and_leaves_nothing(tmp_path: Path, kind: Kind) -> None:
    file = tmp_path / "text.db"
    file.write_text("this is no database, but it is long enough to be read as one" * 20)
    db = Database(f"sqlite:///{file}", max_connections=2)
    for _ in range(5):  # more often than there are places
        with pytest.raises((Unreachable, DatabaseError), match="file is not a database"):
            patiently(db, kind)
    file.unlink()
    assert work(db, kind, lambda session: session.scalar(text("SELECT 1"))) == 1
    assert (db.stats().open, db.stats().in_use) == (1 if kind == "sync" else 0, 0)
    db.close()


def test_an_async_session_is_the_one_of_its_request(db: Database) -> None:
    app = FastAPI()
    db.install(app)

    @app.post("/")
    async def write(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None:
        await session.execute(INSERT)
        await session.commit()
        await session.execute(INSERT)

    with TestClient(app) as client, begins() as found:
        assert client.post("/").status_code == 200
    assert found == ["BEGIN IMMEDIATE"] * 2


def patiently(db: Database, kind: Kind) -> None:
    """Use the database, and end the event loop after the threads that aiosqlite has started on it."""
    if kind == "sync":
        return work(db, kind, lambda session: session.execute(SELECT) and None)
    before = set(threading.enumerate())

    async def use() -> None:
        try:
            async with db.begin() as session:
                await session.execute(SELECT)
        finally:
            for thread in set(threading.enumerate()) - before - {threading.current_thread()}:
                await asyncio.to_thread(thread.join, 2)

    return asyncio.run(use())
