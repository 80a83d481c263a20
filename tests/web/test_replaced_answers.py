"""An answer whose commit fails is replaced; what is logged when even that fails."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router
from fastapi_database import Database, transaction


class Base(DeclarativeBase): ...


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("guests.id", deferrable=True, initially="DEFERRED"))


class OnPurposeError(Exception):
    pass


@pytest.fixture
def db() -> Iterator[Database]:
    database = Database("sqlite://", models=Base)
    database.create_all()
    yield database
    assert database.stats().in_use == 0
    with database.begin() as session:
        assert session.scalar(select(func.count()).select_from(Guest)) == 0
    database.close()


def refused_by_commit(session: Session) -> None:
    session.add(Guest(id=1, host_id=99))


def raises(_request: Any, _error: Exception) -> None:
    raise OnPurposeError


def returns_none(_request: Any, _error: Exception) -> None:
    return None


def breaks_off(_request: Any, _error: Exception) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"sorry"
        raise OnPurposeError

    return StreamingResponse(body(), 418)


def post(db: Database, kind: Kind, routes: str, handler: Callable[..., Any], *, status: int = 201) -> int:
    app, added = FastAPI(), router(routes)
    app.add_exception_handler(IntegrityError, handler)
    work = transaction(commit_on={503})(endpoint(db, kind, refused_by_commit))
    added.add_api_route("/", work, methods=["POST"], status_code=status)
    db.install(app)
    app.include_router(added)
    with TestClient(app, raise_server_exceptions=False) as client:
        return client.post("/").status_code


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "fastapi_database"]


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("handler", [raises, returns_none])
def test_a_handler_that_fails_before_it_answers_is_a_500_and_no_answer_had_begun(
    db: Database, kind: Kind, routes: str, handler: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert post(db, kind, routes, handler) == 500
    assert logged(caplog) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_breaks_off_in_the_place_of_another_is_logged(
    db: Database, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    assert post(db, kind, "plain router", breaks_off) == 418
    (said,) = logged(caplog)
    assert said == '"POST /" failed after its answer had begun: OnPurposeError()'
    assert {one.levelno for one in caplog.records if one.name == "fastapi_database"} == {logging.ERROR}


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_was_to_commit_and_can_not_is_no_answer_that_had_begun(
    db: Database, kind: Kind, routes: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert post(db, kind, routes, returns_none, status=503) >= 500
    assert logged(caplog) == []
