"""A request that fails after a commit of its own: it is not told to try again, for that would store things twice."""

import logging
from collections.abc import Callable, Iterator

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import ROUTERS, Kind, endpoint, opened, router
from fastapi_database import Database

DRIVERS = [("sync", "postgresql+psycopg"), ("async", "postgresql+psycopg"), ("async", "postgresql+asyncpg")]


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


@pytest.fixture(params=DRIVERS, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[Kind, Database]:
    return opened(request, Base)


@pytest.fixture
def lose(postgresql_url: str) -> Iterator[Callable[[Session], None]]:
    with psycopg.connect(postgresql_url, autocommit=True) as other:

        def lose(session: Session) -> None:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [session.scalar(select(func.pg_backend_pid()))])
            session.execute(text("SELECT 1"))

        yield lose


def ask(case: tuple[Kind, Database], work: Callable[[Session], None], *, method: str, routes: str) -> Response:
    kind, db = case
    app, added = FastAPI(), router(routes)
    added.add_api_route("/", endpoint(db, kind, work), methods=[method])
    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        return client.request(method, "/")


@pytest.mark.parametrize("routes", ROUTERS)
def test_a_503_after_a_commit_has_no_retry_after_and_says_why(
    case: tuple[Kind, Database], lose: Callable[[Session], None], routes: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work(session: Session) -> None:
        session.add(Note(text="a"))
        session.commit()
        lose(session)

    with caplog.at_level(logging.WARNING, "fastapi_database"):
        answer = ask(case, work, method="POST", routes=routes)
    assert (answer.status_code, answer.json()["code"]) == (503, "connection-lost")
    assert "retry-after" not in answer.headers
    assert answer.json()["detail"].startswith("Part of this request is stored")
    assert [record for record in caplog.records if "answered 503, after it had committed" in record.getMessage()]
    with case[1].begin() as session:
        assert session.scalar(select(func.count()).select_from(Note)) == 1


@pytest.mark.parametrize("routes", ROUTERS)
def test_a_503_after_a_commit_of_what_was_only_read_may_be_tried_again(
    case: tuple[Kind, Database], lose: Callable[[Session], None], routes: str
) -> None:
    def work(session: Session) -> None:
        session.scalars(select(Note)).all()
        session.commit()
        lose(session)

    answer = ask(case, work, method="GET", routes=routes)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "detail" not in answer.json()


@pytest.mark.parametrize("routes", ROUTERS)
def test_a_conflict_after_a_commit_says_that_part_is_stored(case: tuple[Kind, Database], routes: str) -> None:
    def work(session: Session) -> None:
        session.add(Note(text="a"))
        session.commit()
        session.add(Note(text="a"))
        session.flush()

    answer = ask(case, work, method="POST", routes=routes)
    assert (answer.status_code, answer.json()["code"]) == (409, "unique-violation")
    assert answer.json()["detail"].startswith("Part of this request is stored")
