"""B11: what a refusal costs beside a route without a database, and that nothing else about it changed for that."""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastapi_database import Database, DatabaseRoute
from fastapi_database.errors import QueueFull, QueueShed, QueueTimeout, Unavailable
from fastapi_database.web.refusals import LINE_EVERY, RefusalLog

pytestmark = pytest.mark.anyio

REQUESTS = 50
PROBLEM = (
    b'{"type":"urn:fastapi-database:queue-full","title":"Too many requests are waiting for the database",'
    b'"status":503,"code":"queue-full"}'
)


@pytest.fixture
def db(sqlite_url: str) -> Database:
    return Database(sqlite_url, max_connections=1, max_waiting=0)


@asynccontextmanager
async def full(db: Database, app: FastAPI) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an application whose only connection is held and whose queue has no room."""
    db.install(app)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        session = await stack.enter_async_context(db.begin())
        await session.execute(text("SELECT 1"))
        transport = httpx.ASGITransport(app)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))


def declares(db: Database) -> Callable[..., dict[str, bool]]:
    def work(session: Annotated[Session, Depends(db.session)]) -> dict[str, bool]:
        session.execute(text("SELECT 1"))
        return {"ok": True}

    return work


async def nothing() -> dict[str, bool]:
    return {"ok": True}


async def calls_of(work: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Give how many functions are called, of Python and of C, for one call of an application."""
    await work()  # what is made once
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        for _ in range(REQUESTS):
            await work()
    finally:
        sys.setprofile(None)
    return count / REQUESTS


def request(app: FastAPI, path: str, expected: int) -> Callable[[], Coroutine[Any, Any, None]]:
    """Call an application as a server does, without what a client in this process would cost."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"test")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def call() -> None:
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app({**scope}, receive, send)
        assert statuses == [expected]

    return call


async def test_b11_a_refusal_calls_no_more_functions_than_a_route_without_a_database(db: Database) -> None:
    with_database, without = FastAPI(), FastAPI()
    with_database.add_api_route("/", declares(db))  # the same place among the routes
    Database("sqlite://").install(without)
    without.add_api_route("/", nothing)
    async with full(db, with_database):
        refused = await calls_of(request(with_database, "/", 503))
    served = await calls_of(request(without, "/", 200))
    assert refused <= served, (refused, served)


async def test_b11_a_refusal_after_waiting_costs_a_timer_and_a_future_more(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "fastapi_database")
    with_database, without = FastAPI(), FastAPI()
    db = Database(sqlite_url, max_connections=1, queue_timeout=0.001)
    with_database.add_api_route("/", declares(db))
    Database("sqlite://").install(without)

    async def waits() -> dict[str, bool]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, waiter.set_result, None)
        await waiter
        return {"ok": True}

    without.add_api_route("/", waits)
    async with full(db, with_database):
        refused = await calls_of(request(with_database, "/", 503))
    served = await calls_of(request(without, "/", 200))
    assert refused <= 1.25 * served, (refused, served)


async def test_a_refusal_is_answered_with_the_same_bytes_wherever_it_is_found_out(db: Database) -> None:
    app = FastAPI()
    app.add_api_route("/route", declares(db))
    plain = APIRouter()
    plain.add_api_route("/plain", declares(db))
    app.include_router(plain)

    @app.get("/async")
    async def work_async(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None:
        await session.execute(text("SELECT 1"))

    async with full(db, app) as client:
        for path in ("/route", "/plain", "/async"):
            answer = await client.get(path)
            assert (answer.status_code, answer.content) == (503, PROBLEM), path
            assert answer.headers.multi_items() == [
                ("retry-after", "1"),
                ("content-length", str(len(PROBLEM))),
                ("content-type", "application/problem+json"),
            ]


# What comes before the session still comes before it.


async def test_a_dependency_that_stands_before_the_session_answers_first(db: Database) -> None:
    app = FastAPI()

    def nobody() -> None:
        raise HTTPException(401)

    work = declares(db)
    app.add_api_route("/router", work, dependencies=[Depends(nobody)])

    @app.get("/endpoint")
    def before(_: Annotated[None, Depends(nobody)], session: Annotated[Session, Depends(db.session)]) -> None: ...

    @app.get("/after")
    def after(session: Annotated[Session, Depends(db.session)], _: Annotated[None, Depends(nobody)]) -> None: ...

    async with full(db, app) as client:
        answers = [(await client.get(path)).status_code for path in ("/router", "/endpoint", "/after")]
    assert answers == [401, 401, 503]


async def test_a_body_that_can_not_be_read_is_told_first(db: Database) -> None:
    app = FastAPI()

    class Item(BaseModel):
        name: str

    @app.post("/")
    def work(session: Annotated[Session, Depends(db.session)], item: Item) -> None: ...

    async with full(db, app) as client:
        headers = {"content-type": "application/json"}
        assert (await client.post("/", content=b"{", headers=headers)).status_code == 422
        assert (await client.post("/", json={"name": "a"})).status_code == 503


async def test_no_place_is_held_while_a_body_comes(sqlite_url: str) -> None:
    db, app = Database(sqlite_url, max_connections=1), FastAPI()
    db.install(app)
    seen: list[int] = []

    class Item(BaseModel):
        name: str

    @app.post("/")
    def work(session: Annotated[Session, Depends(db.session)], item: Item) -> None: ...

    async def body() -> AsyncIterator[bytes]:
        seen.append(db.stats().in_use)
        yield b'{"name": "a"}'

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/", content=body(), headers={"content-type": "application/json"})
    assert (answer.status_code, seen) == (200, [0])
    await db.aclose()


async def test_an_override_is_asked_in_place_of_the_session(db: Database) -> None:
    app = FastAPI()

    @app.get("/")
    def work(session: Annotated[Any, Depends(db.session)]) -> str:
        return str(session)

    app.dependency_overrides[db.session] = lambda: "another"
    async with full(db, app) as client:
        assert (await client.get("/")).json() == "another"


# Whoever wants to know of it still does.


async def test_a_handler_of_the_application_is_given_the_error(db: Database) -> None:
    app, seen = FastAPI(), list[Exception]()

    @app.exception_handler(Unavailable)
    async def busy(_request: Request, error: Exception) -> PlainTextResponse:
        seen.append(error)
        return PlainTextResponse("busy", 429)

    app.add_api_route("/", declares(db))
    async with full(db, app) as client:
        assert (await client.get("/")).status_code == 429
    assert [type(one) for one in seen] == [QueueFull]


async def test_a_route_class_of_the_application_sees_the_error(db: Database) -> None:
    seen: list[Exception] = []

    class Watching(DatabaseRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Any]]:
            handler = super().get_route_handler()

            async def watch(request: Request) -> Any:
                try:
                    return await handler(request)
                except Unavailable as error:
                    seen.append(error)
                    raise

            return watch

    app = FastAPI()
    app.router.route_class = Watching
    app.add_api_route("/", declares(db))
    async with full(db, app) as client:
        assert (await client.get("/")).status_code == 503
    assert [type(one) for one in seen] == [QueueFull]


# The log.


async def test_the_log_has_a_line_for_the_first_refusal_and_not_one_for_each(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    app.add_api_route("/work", declares(db))
    async with full(db, app) as client:
        for _ in range(5):
            await client.get("/work")
    said = [one.getMessage() for one in caplog.records if one.name == "fastapi_database"]
    assert len(said) < 5
    assert said[0].startswith("GET /work answered 503: 0 requests wait for one of 1 connections already")


def test_a_line_says_how_many_refusals_it_stands_for() -> None:
    now = [100.0]
    log = RefusalLog(clock=lambda: now[0])
    shed, full_ = QueueShed("a"), QueueFull("a")
    assert [log.left_out(shed) for _ in range(4)] == [0, None, None, None]
    assert log.left_out(full_) == 0  # each kind has lines of its own
    now[0] += LINE_EVERY
    assert [log.left_out(shed), log.left_out(shed), log.left_out(QueueTimeout("a"))] == [3, None, 0]
    now[0] += 60.0
    assert log.left_out(shed) == 1
