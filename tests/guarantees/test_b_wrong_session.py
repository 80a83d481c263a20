"""B17, B24, B7a: sessions that can not work are refused, by name, before they block or deadlock anything."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import fastapi
import psycopg
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps import b_wrong
from apps.b_wrong import MISTAKES
from fastapi_database import APIRouter, Database, DatabaseRoute, errors
from support.clients import burst
from support.server import Server

EXPECTED: dict[str, tuple[type[Exception], list[str]]] = {
    "async_session_in_def": (errors.WrongSession, ["async def", "Depends(db.session)"]),
    "sync_session_in_async_def": (errors.WrongSession, ["Make it `def`", "Depends(db.async_session)"]),
    "sync_session_in_stream": (errors.SessionInStream, ["with db.begin() as session:"]),
    "async_session_in_stream": (errors.SessionInStream, ["async with db.begin() as session:"]),
    "session_in_socket": (errors.SessionInStream, ["async with db.begin() as session:"]),
    "both_kinds": (errors.MixedSessions, ["current_user", "the endpoint", "sync", "async"]),
    "both_kinds_in_dependencies": (errors.MixedSessions, ["inner", "tenant", "sync", "async"]),
}


def assert_refused(mistake: str, caught: pytest.ExceptionInfo[Exception]) -> None:
    error, words = EXPECTED[mistake]
    message = str(caught.value)
    assert type(caught.value) is error
    assert re.search(r"(GET|WebSocket) /\S*x ", message), message
    assert re.search(r"endpoint, b_wrong\.py:\d+", message), message
    for word in words:
        assert word in message


def own_router() -> Any:
    return APIRouter()


def route_class() -> Any:
    return fastapi.APIRouter(route_class=DatabaseRoute)


def application() -> Any:
    app = FastAPI()
    b_wrong.db.install(app)
    return app


# A route class, and so an application, has no say over WebSockets: those are looked at when it starts.
REGISTERED = [
    *((own_router, mistake) for mistake in EXPECTED),
    *((make, mistake) for make in (route_class, application) for mistake in EXPECTED if "socket" not in mistake),
]


@pytest.mark.parametrize(("make", "mistake"), REGISTERED)
def test_b17_b24_b7a_our_routers_refuse_it_when_it_is_registered(make: Callable[[], Any], mistake: str) -> None:
    router = make()
    with pytest.raises(errors.ConfigurationError) as caught:
        MISTAKES[mistake](router)
    assert_refused(mistake, caught)


def plain(app: FastAPI, router: fastapi.APIRouter) -> None:
    app.include_router(router)


def nested(app: FastAPI, router: fastapi.APIRouter) -> None:
    outer = fastapi.APIRouter(prefix="/outer")
    outer.include_router(router, prefix="/inner")
    app.include_router(outer)


def mounted(app: FastAPI, router: fastapi.APIRouter) -> None:
    inner = FastAPI()
    inner.include_router(router)
    app.mount("/inner", inner)


@pytest.mark.parametrize("place", [plain, nested, mounted], ids=lambda place: place.__name__)
@pytest.mark.parametrize("mistake", EXPECTED)
def test_b17_b24_b7a_plain_routers_are_refused_when_the_application_starts(place: Any, mistake: str) -> None:
    app, router = FastAPI(), fastapi.APIRouter()
    b_wrong.db.install(app)
    MISTAKES[mistake](router)
    place(app, router)
    with pytest.raises(errors.ConfigurationError) as caught, TestClient(app):
        pass
    assert_refused(mistake, caught)


def test_b7a_a_websocket_of_a_plain_application_is_refused_when_it_starts() -> None:
    app = FastAPI()
    db = Database("sqlite://")
    db.install(app)

    @app.websocket("/x")
    async def endpoint(websocket: WebSocket, session: Annotated[AsyncSession, Depends(db.async_session)]) -> None: ...

    with pytest.raises(errors.SessionInStream, match=r"WebSocket /x .*async with db\.begin\(\) as session:"):
        TestClient(app).__enter__()


def test_b17_every_request_is_refused_where_no_lifespan_ran() -> None:
    app, router = FastAPI(), fastapi.APIRouter()
    b_wrong.db.install(app)
    MISTAKES["sync_session_in_async_def"](router)
    app.include_router(router)
    client = TestClient(app)  # not entered: the application never starts
    for _ in range(3):
        with pytest.raises(errors.WrongSession):
            client.get("/x")


@pytest.mark.parametrize("mistake", ["sync_session_in_async_def", "session_in_socket", "both_kinds"])
def test_b17_b24_b7a_uvicorn_does_not_start_and_its_log_says_why(
    serve: Callable[..., Server], mistake: str, sqlite_url: str
) -> None:
    error, words = EXPECTED[mistake]
    with pytest.raises(RuntimeError, match="uvicorn ended with 3") as caught:
        serve("apps.b_wrong:app", env={"MISTAKE": mistake, "DATABASE_URL": sqlite_url})
    log = str(caught.value)
    assert f"fastapi_database.errors.{error.__name__}: " in log
    assert all(word in log for word in words)


def test_b24_an_override_that_mixes_both_kinds_is_refused_at_the_request(tmp_path: Any) -> None:
    db = Database(f"sqlite:///{tmp_path / 'mixed.sqlite'}")
    app = FastAPI()
    db.install(app)

    def current_user() -> None: ...

    def other_user(session: Annotated[Session, Depends(db.session)]) -> None:
        session.execute(text("SELECT 1"))

    @app.get("/x")
    async def endpoint(
        user: Annotated[None, Depends(current_user)], session: Annotated[AsyncSession, Depends(db.async_session)]
    ) -> Any:
        return await session.scalar(text("SELECT 1"))

    app.dependency_overrides[current_user] = other_user
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/x")
        assert (answer.status_code, answer.json()["code"]) == (500, "mixed-sessions")
        assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)


def test_b24_two_databases_may_be_used_in_two_ways_in_one_request(tmp_path: Any) -> None:
    one, two = (Database(f"sqlite:///{tmp_path / name}.sqlite") for name in ("one", "two"))
    app = FastAPI()
    one.install(app)
    two.install(app)

    def current_user(session: Annotated[Session, Depends(one.session)]) -> Any:
        return session.scalar(text("SELECT 1"))

    @app.get("/x")
    async def endpoint(
        user: Annotated[int, Depends(current_user)], session: Annotated[AsyncSession, Depends(two.async_session)]
    ) -> Any:
        return [user, await session.scalar(text("SELECT 2"))]

    with TestClient(app) as client:
        assert client.get("/x").json() == [1, 2]


@pytest.fixture
def locked(postgresql_url: str) -> Iterator[str]:
    """The URL of a database whose one table nobody else can read before the test is over."""
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE TABLE notes (id SERIAL PRIMARY KEY, text TEXT)")
        connection.commit()
        yield postgresql_url


@pytest.mark.parametrize("router", ["own", "plain"])
def test_b17_a_sync_session_used_on_the_event_loop_is_refused_at_once(
    serve: Callable[..., Server], locked: str, router: str
) -> None:
    server = serve("apps.b_wrong:app", env={"DATABASE_URL": locked})
    assert burst(f"{server.url}/{router}/def", 1)[0].json() == 1  # the same class in a `def` endpoint
    found = {path: refusal(f"{server.url}/{router}/{path}") for path in ("class", "begin", "commit", "rollback")}
    with psycopg.connect(locked) as holder:
        holder.execute("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE")  # what a statement on the loop would wait for
        found["call"] = refusal(f"{server.url}/{router}/call")
        assert burst(f"{server.url}/ping", 1, timeout=5)[0].status == 200
    assert found == dict.fromkeys(found, (500, "wrong-session"))
    log = server.log()
    for name in (f'"GET /{router}/class"', f'"GET /{router}/call"', "db.begin() at b_wrong.py:"):
        assert f"the sync session of {name}" in log
    assert "Depends(db.async_session)" in log


def refusal(url: str) -> tuple[int, str | None]:
    (answer,) = burst(url, 1, timeout=5)
    return answer.status, answer.json()["code"] if answer.status >= 400 else None


def test_b17_the_refusal_at_first_use_costs_less_than_a_millisecond(tmp_path: Any) -> None:
    db = Database(f"sqlite:///{tmp_path / 'first.sqlite'}")
    app = FastAPI()
    db.install(app)
    seconds: list[float] = []

    class Reader:
        async def __call__(self, session: Annotated[Session, Depends(db.session)]) -> None:
            start = time.perf_counter()
            try:
                session.execute(text("SELECT 1"))
            except errors.WrongSession:
                seconds.append(time.perf_counter() - start)
                raise

    @app.get("/x", dependencies=[Depends(Reader())])
    def endpoint() -> None: ...

    with TestClient(app, raise_server_exceptions=False) as client:
        assert {client.get("/x").status_code for _ in range(50)} == {500}
    assert sorted(seconds)[25] < 0.001
    assert len(seconds) == 50
