"""A connection that is lost in the middle of a transaction: the client is told to try again, swallowed or not."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import ROUTERS, Kind, endpoint, opened, router
from fastapi_database import Database

DRIVERS = [("sync", "postgresql+psycopg"), ("async", "postgresql+psycopg"), ("async", "postgresql+asyncpg")]


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture(params=DRIVERS, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return opened(request, Base)


@pytest.fixture
def kill(case: tuple[Kind, Database], postgresql_url: str) -> Iterator[Callable[[Session], None]]:
    with psycopg.connect(postgresql_url, autocommit=True) as other:

        def kill(session: Session) -> None:
            pid = session.scalar(select(func.pg_backend_pid()))
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

        yield kill


def swallowed(session: Session) -> None:
    with suppress(Exception):
        session.execute(text("SELECT 1"))


def swallowed_in_a_savepoint(session: Session) -> None:
    with suppress(Exception), session.begin_nested():
        session.execute(text("SELECT 1"))


def swallowed_in_a_flush(session: Session) -> None:
    session.add(Note(text="b"))
    with suppress(Exception):
        session.flush()


def swallowed_in_a_flush_and_used_again(session: Session) -> None:
    swallowed_in_a_flush(session)
    session.execute(text("SELECT 1"))


def swallowed_in_a_flush_and_added_to(session: Session) -> None:
    swallowed_in_a_flush(session)
    session.add(Note(text="c"))


def raised(session: Session) -> None:
    session.execute(text("SELECT 1"))


def found_by_commit(session: Session) -> None: ...


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize(
    "use",
    [
        swallowed,
        swallowed_in_a_savepoint,
        swallowed_in_a_flush,
        swallowed_in_a_flush_and_used_again,
        swallowed_in_a_flush_and_added_to,
        raised,
        found_by_commit,
    ],
)
def test_a_connection_lost_before_the_commit_is_503_and_nothing_is_stored(
    case: tuple[Kind, Database], kill: Callable[[Session], None], use: Callable[[Session], None], routes: str
) -> None:
    kind, db = case
    app, added = FastAPI(), router(routes)

    def work(session: Session) -> Any:
        session.add(Note(text="a"))
        session.flush()
        kill(session)
        use(session)

    added.add_api_route("/", endpoint(db, kind, work), methods=["POST"])
    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        answer = client.post("/")
    assert (answer.status_code, answer.json()["code"]) == (503, "connection-lost")
    assert answer.headers["retry-after"] == "1"
    with db.begin() as session:
        assert session.scalar(select(func.count()).select_from(Note)) == 0
    assert db.stats().in_use == 0
