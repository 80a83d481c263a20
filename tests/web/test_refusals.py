"""A place that was refused: what the message says, who answers it, and when it is forgotten."""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.middleware.base import BaseHTTPMiddleware

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router
from fastapi_database import Database, errors, transaction

SHORT = 0.05


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    made: list[Database] = []

    def database(**options: Any) -> Database:
        made.append(Database(f"sqlite:///{tmp_path / str(len(made))}", queue_timeout=SHORT, **options))
        with made[-1].begin() as session:
            session.execute(text("CREATE TABLE notes (text TEXT)"))
        return made[-1]

    yield database
    for one in made:
        one.close()


def write(session: Session) -> None:
    session.execute(text("INSERT INTO notes VALUES ('a')"))


# What the message says.


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize(
    ("places", "held"),
    [
        (3, r"in use 1, waiting 1; the writer's place is held by .*itself"),
        (1, r"; held by .* holds one of them itself"),
    ],
)
def test_a_request_that_waits_for_itself_is_told_so(
    make: Callable[..., Database], caplog: pytest.LogCaptureFixture, routes: str, places: int, held: str
) -> None:
    db, app = make(max_connections=places), FastAPI()

    def write_twice(session: Session) -> None:
        write(session)
        with db.begin() as other:
            write(other)

    added = router(routes)
    added.add_api_route("/", endpoint(db, "sync", write_twice), methods=["POST"])
    db.install(app)
    app.include_router(added)
    with TestClient(app) as client:
        assert client.post("/").status_code == 503
    (record,) = [one for one in caplog.records if one.name == "fastapi_database"]
    said = record.getMessage()
    assert 'by "POST /"' in said
    assert re.search(held, said), said
    assert "do all of its work in the session it has" in said
    assert "raise max_connections" not in said


def test_another_writer_in_the_way_is_no_reason_to_raise_max_connections(make: Callable[..., Database]) -> None:
    db = make(max_connections=3)
    with db.begin() as session:
        write(session)
        with pytest.raises(
            errors.QueueTimeout, match=r"the writer's place is held by .*test_refusals.*one writer"
        ) as caught:
            in_a_thread(db)
    assert "raise max_connections" not in str(caught.value)


# Who answers it.


class Held:
    """The only place of a database, until it is given back."""

    def __init__(self, db: Database) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(db.begin()).execute(text("SELECT 1"))
        self.give_back = self._stack.close


def ask(db: Database, work: Callable[[], Any], *, routes: str = "DatabaseRoute") -> tuple[int, list[Exception]]:
    """Give the status of an application whose handler answers every refusal with 429, and what it was called with."""
    app, added, called = FastAPI(), router(routes), list[Exception]()

    @app.exception_handler(errors.FastAPIDatabaseError)
    def busy(_request: Any, error: Exception) -> PlainTextResponse:
        called.append(error)
        return PlainTextResponse("busy", 429)

    added.add_api_route("/", work, methods=["GET"])
    app.include_router(added)
    db.install(app)
    with TestClient(app) as client:
        return client.get("/").status_code, called


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("form", ["session sync", "session async", "begin sync", "begin async", "begin again"])
def test_the_applications_own_handler_is_called_once(make: Callable[..., Database], form: str, routes: str) -> None:
    db = make(max_connections=1)

    def begin() -> None:
        with db.begin() as session:
            session.execute(text("SELECT 1"))

    async def begin_async() -> None:
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))

    def begin_again() -> None:
        with suppress(errors.QueueTimeout):
            begin()
        begin()

    def select_one(session: Session) -> None:
        session.execute(text("SELECT 1"))

    endpoints = {
        "session sync": endpoint(db, "sync", select_one),
        "session async": endpoint(db, "async", select_one),
        "begin sync": begin,
        "begin async": begin_async,
        "begin again": begin_again,
    }
    held = Held(db)
    status, called = ask(db, endpoints[form], routes=routes)
    held.give_back()
    assert (status, [type(one) for one in called]) == (429, [errors.QueueTimeout])


@pytest.mark.parametrize("routes", ROUTERS)
def test_a_handler_whose_answer_was_to_commit_is_called_once(make: Callable[..., Database], routes: str) -> None:
    db = make(max_connections=1)
    held = Held(db)
    work = transaction(commit_on={429})(endpoint(db, "async", write))
    status, called = ask(db, work, routes=routes)
    held.give_back()
    assert (status, [type(one) for one in called]) == (429, [errors.QueueTimeout])


# When it is forgotten.


@pytest.mark.parametrize("again", ["the same", "another"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_forgotten_once_the_same_work_got_its_place(
    make: Callable[..., Database], kind: Kind, again: str
) -> None:
    db = make(max_connections=1)

    def sync_work() -> None:
        for _ in range(2):
            with suppress(errors.QueueTimeout), db.begin() as session:
                session.execute(text("SELECT 1"))
            held.give_back()
            if again == "another":
                break
        with db.begin() as session:
            session.execute(text("SELECT 1"))
        raise HTTPException(404)

    async def async_work() -> None:
        for _ in range(2):
            with suppress(errors.QueueTimeout):
                async with db.begin() as session:
                    await session.execute(text("SELECT 1"))
            await asyncio.to_thread(held.give_back)
            if again == "another":
                break
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
        raise HTTPException(404)

    held = Held(db)
    status, called = ask(db, sync_work if kind == "sync" else async_work)
    assert (status, len(called)) == ((404, 0) if again == "the same" else (429, 1))


def test_a_server_that_was_not_there_at_first_is_forgotten_too(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    db = Database(f"sqlite:///{folder / 'file'}")

    def work() -> None:
        for _ in range(2):
            with suppress(Exception), db.begin() as session:
                session.execute(text("SELECT 1"))
            folder.mkdir(exist_ok=True)
        raise HTTPException(404)

    status, _ = ask(db, work)
    db.close()
    assert status == 404


def test_a_refusal_in_a_middleware_leaves_the_one_rule_for_exceptions_as_it_is(make: Callable[..., Database]) -> None:
    """The middleware of a mounted application runs inside ours, and outside of what tells us of exceptions."""
    db, app, sub = make(max_connections=1), FastAPI(), FastAPI()
    held = Held(db)

    async def dispatch(request: Any, call_next: Any) -> Any:
        with suppress(errors.QueueTimeout):
            async with db.begin() as session:
                await session.execute(text("SELECT 1"))
        await asyncio.to_thread(held.give_back)
        return await call_next(request)

    def write_and_raise(session: Session) -> None:
        write(session)
        raise LookupError

    sub.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    sub.add_exception_handler(LookupError, lambda *_: PlainTextResponse("fine", 200))
    sub.add_api_route("/", endpoint(db, "async", write_and_raise), methods=["POST"])
    app.mount("/sub", sub)
    db.install(app)
    with TestClient(app) as client:
        assert client.post("/sub/").status_code == 200
    with db.begin() as session:
        assert session.scalar(text("SELECT count(*) FROM notes")) == 0


def test_a_task_that_outlives_its_request_may_build_a_database() -> None:
    app, go, built = FastAPI(), asyncio.Event(), list[Database]()

    async def build() -> None:
        await go.wait()
        built.append(Database("sqlite://"))

    @app.post("/")
    async def start() -> None:
        app.state.task = asyncio.create_task(build())

    @app.post("/wait")
    async def wait() -> None:
        go.set()
        await app.state.task

    Database("sqlite://").install(app)
    with TestClient(app) as client:
        assert client.post("/").status_code == 200
        assert client.post("/wait").status_code == 200
    assert len(built) == 1


def in_a_thread(db: Database) -> None:
    def use() -> None:
        with db.begin() as session:
            write(session)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(use).result()
