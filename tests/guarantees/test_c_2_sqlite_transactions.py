"""C2: on SQLite a transaction is one, and foreign keys are kept."""

import asyncio
import sqlite3
from contextlib import ExitStack, closing

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import ForeignKey, delete, func, make_url, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router, work
from fastapi_database import Database


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id", ondelete="CASCADE"))


class Undone(Exception):
    """Rolls a unit of work back."""


@pytest.fixture(params=["file", "memory"])
def db(request: pytest.FixtureRequest, sqlite_url: str):
    db = Database(sqlite_url if request.param == "file" else "sqlite://", models=Base, max_connections=4)
    db.create_all()
    yield db
    db.close()


@pytest.mark.parametrize("kind", KINDS)
def test_c2_a_released_savepoint_is_rolled_back_with_its_transaction(sqlite_url: str, kind: Kind) -> None:
    db = Database(sqlite_url, models=Base)
    db.create_all()

    def insert_and_undo(session: Session) -> None:
        assert session.scalars(select(Guest)).all() == []
        with session.begin_nested():
            session.add(Guest(id=1))
        raise Undone

    with pytest.raises(Undone):
        work(db, kind, insert_and_undo)
    db.close()
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as stranger:
        assert stranger.execute("SELECT count(*) FROM guests").fetchone() == (0,)


@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_c2_a_released_savepoint_of_a_request_is_rolled_back_with_it(
    sqlite_url: str, kind: Kind, name: str, how: str
) -> None:
    db = Database(sqlite_url, models=Base)
    db.create_all()
    app, routes = FastAPI(), router(name)
    db.install(app)

    def insert_and_refuse(session: Session) -> None:
        session.scalars(select(Guest)).all()
        with session.begin_nested():
            session.add(Guest(id=1))
        if how == "raised":
            raise HTTPException(400)

    status = 400 if how == "returned" else 201
    routes.add_api_route("/", endpoint(db, kind, insert_and_refuse), methods=["POST"], status_code=status)
    app.include_router(routes)
    with TestClient(app) as client:
        assert client.post("/").status_code == 400
        with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as stranger:
            assert stranger.execute("SELECT count(*) FROM guests").fetchone() == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_c2_what_a_savepoint_undid_is_gone_and_the_rest_is_stored(db: Database, kind: Kind) -> None:
    def keep_the_outer(session: Session) -> None:
        session.add(Guest(id=1))
        session.flush()
        savepoint = session.begin_nested()
        session.add(Guest(id=2))
        session.flush()
        savepoint.rollback()
        with session.begin_nested():
            session.add(Guest(id=3))

    work(db, kind, keep_the_outer)
    assert work(db, kind, lambda session: session.scalars(select(Guest.id)).all()) == [1, 3]


def test_c2_a_transaction_reads_one_state_from_its_first_select_on(sqlite_url: str) -> None:
    """A SELECT opens the transaction: what another connection commits meanwhile stays out of sight."""
    db = Database(sqlite_url, models=Base)
    db.create_all()
    count = select(func.count()).select_from(Guest)
    with db.engine.connect() as connection:
        assert connection.scalar(count) == 0
        with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as stranger:
            stranger.execute("INSERT INTO guests VALUES (1)")
            stranger.commit()
        assert connection.scalar(count) == 0
    with db.engine.connect() as connection:
        assert connection.scalar(count) == 1
    db.close()


def test_c2_foreign_keys_are_on_in_every_connection(db: Database) -> None:
    pragma = text("PRAGMA foreign_keys")
    with ExitStack() as all_at_once:
        connections = [all_at_once.enter_context(db.engine.connect()) for _ in range(4)]
        assert [connection.scalar(pragma) for connection in connections] == [1] * 4
        connections[0].invalidate()
        connections[0].rollback()
        assert connections[0].scalar(pragma) == 1  # also in the one that took its place

    async def every_async_connection() -> list[int]:
        connections = [await db.async_engine.connect() for _ in range(4)]
        found = [await connection.scalar(pragma) for connection in connections]
        for connection in connections:
            await connection.close()
        return found

    assert asyncio.run(every_async_connection()) == [1] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_c2_deleting_a_parent_deletes_its_children(db: Database, kind: Kind) -> None:
    def fill(session: Session) -> None:
        session.add(Guest(id=1))
        session.flush()
        session.add_all([Order(guest_id=1), Order(guest_id=1)])

    work(db, kind, fill)
    work(db, kind, lambda session: session.execute(delete(Guest)))
    assert work(db, kind, lambda session: session.scalars(select(Order)).all()) == []


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_c2_an_orphan_is_answered_409_and_not_stored(db: Database, kind: Kind, name: str) -> None:
    app, routes = FastAPI(), router(name)
    db.install(app)

    def orphan(session: Session) -> None:
        session.add(Order(guest_id=404))

    routes.add_api_route("/orders", endpoint(db, kind, orphan), methods=["POST"], status_code=201)
    app.include_router(routes)
    # Without the lifespan, whose end would close a database in memory.
    answer = TestClient(app).post("/orders")
    assert (answer.status_code, answer.json()["code"]) == (409, "foreign-key-violation")
    assert answer.headers["content-type"] == "application/problem+json"
    assert work(db, kind, lambda session: session.scalar(select(func.count()).select_from(Order))) == 0
