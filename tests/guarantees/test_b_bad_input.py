"""Mistakes about life: each is one clear error, nothing is lost, nothing hangs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import ANY

import anyio
import fastapi
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.b_faults import black_hole
from apps.b_serving import comes_true
from fastapi_database import APIRouter, Database, errors
from support.clients import burst, statuses
from support.server import Server

APP = "apps.b_life:app"
ROUTERS: list[Callable[..., fastapi.APIRouter]] = [APIRouter, fastapi.APIRouter]
FORMS = [f"/{kind}/{router}" for kind in ("sync", "async") for router in ("own", "plain")]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(f"sqlite:///{tmp_path / 'life.sqlite'}")
    yield db
    db.close()


@pytest.mark.parametrize("make", ROUTERS)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_install_forgotten_says_so_at_the_first_request(
    db: Database, make: Callable[[], fastapi.APIRouter], kind: str
) -> None:
    app, router = FastAPI(), make()

    @router.get("/sync")
    def sync_endpoint(session: Annotated[Session, Depends(db.session)]) -> None: ...

    @router.get("/async")
    async def async_endpoint(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None: ...

    app.include_router(router)
    with TestClient(app) as client:
        for _ in range(2):
            with pytest.raises(errors.NotInstalled, match=r"db\.install\(app\)"):
                client.get(f"/{kind}")


def test_install_called_twice_is_an_error(db: Database) -> None:
    app = FastAPI()
    db.install(app)
    with pytest.raises(errors.AlreadyInstalled, match="once is enough"):
        db.install(app)


def test_install_after_the_start_is_an_error(db: Database) -> None:
    app = FastAPI()
    with TestClient(app) as client:
        client.get("/")
        with pytest.raises(errors.InstalledTooLate, match="where the application is made"):
            db.install(app)


def test_install_inside_the_lifespan_is_too_late(db: Database) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        db.install(app)
        yield

    with pytest.raises(errors.InstalledTooLate), TestClient(FastAPI(lifespan=lifespan)):
        pass


def test_a_session_asked_for_outside_a_request_says_what_to_write(db: Database) -> None:
    for dependency in (db.session, db.async_session):
        called: Any = dependency
        name = dependency.__name__
        with pytest.raises(errors.OutsideRequest, match=rf"Depends\(db\.{name}\).*with db\.begin\(\) as session:"):
            asyncio.run(called())
        with pytest.raises(errors.OutsideRequest), called() as session:
            session.execute(text("SELECT 1"))
        with pytest.raises(errors.OutsideRequest):
            next(called())
        with pytest.raises(errors.OutsideRequest):
            called().execute(text("SELECT 1"))


def test_a_session_kept_after_its_block_says_so(db: Database) -> None:
    with db.begin() as session:
        session.execute(text("SELECT 1"))
    with pytest.raises(errors.UnitEnded, match=r"db\.begin\(\) at test_b_bad_input\.py:\d+"):
        session.execute(text("SELECT 1"))
    assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)


def test_an_async_session_kept_after_its_block_says_so(db: Database) -> None:
    async def keep() -> None:
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
        with pytest.raises(errors.UnitEnded, match=r"db\.begin\(\) at test_b_bad_input\.py:\d+"):
            await session.execute(text("SELECT 1"))

    asyncio.run(keep())
    assert (db.stats().in_use, db.stats().open) == (0, 0)


def test_a_session_kept_after_its_request_says_so(db: Database) -> None:
    app = FastAPI()
    db.install(app)
    kept: list[Session] = []

    @app.get("/x")
    def endpoint(session: Annotated[Session, Depends(db.session)]) -> None:
        kept.append(session)

    with TestClient(app) as client:
        client.get("/x")
        with pytest.raises(errors.UnitEnded, match='"GET /x"'):
            kept[0].execute(text("SELECT 1"))


def make_database() -> None:
    Database("sqlite://")


async def make_database_async() -> None:
    Database("sqlite://")


def add_makers(router: Any) -> None:
    @router.get("/def")
    def in_def() -> None:
        make_database()

    @router.get("/async-def")
    async def in_async_def() -> None:
        make_database()

    @router.get("/def-dependency")
    def in_def_dependency(made: Annotated[None, Depends(make_database)]) -> None: ...

    @router.get("/async-dependency")
    async def in_async_dependency(made: Annotated[None, Depends(make_database_async)]) -> None: ...


PLACES = ["def", "async-def", "def-dependency", "async-dependency"]


@pytest.mark.parametrize("make", ROUTERS)
@pytest.mark.parametrize("place", PLACES)
def test_a_database_built_inside_a_request_is_refused(
    db: Database, make: Callable[[], fastapi.APIRouter], place: str
) -> None:
    app, router = FastAPI(), make()
    db.install(app)
    add_makers(router)
    app.include_router(router)
    with TestClient(app) as client:
        answer = client.get(f"/{place}")
    assert (answer.status_code, answer.json()["code"]) == (500, "built-inside-request")


def test_a_database_built_in_a_stream_is_refused(db: Database) -> None:
    app = FastAPI()
    db.install(app)
    refused: list[Exception] = []

    @app.get("/x")
    async def in_stream() -> AsyncIterator[int]:
        try:
            make_database()
        except errors.BuiltInsideRequest as error:
            refused.append(error)
        yield 1

    with TestClient(app) as client:
        client.get("/x")
    assert "Depends(db.session)" in str(refused[0])


@pytest.mark.parametrize("place", [place for place in PLACES if place != "def-dependency"])
def test_a_database_built_inside_a_request_is_refused_without_install(place: str) -> None:
    """A `def` dependency runs in AnyIO's thread, where only `install` tells that a request waits for it."""
    app = FastAPI()
    add_makers(app)
    with TestClient(app) as client, pytest.raises(errors.BuiltInsideRequest):
        client.get(f"/{place}")


def test_a_database_built_in_a_def_endpoint_with_a_session_is_refused(db: Database) -> None:
    app = FastAPI()
    db.install(app)

    @app.get("/x")
    def endpoint(session: Annotated[Session, Depends(db.session)]) -> None:
        make_database()

    with TestClient(app) as client:
        assert client.get("/x").json()["code"] == "built-inside-request"


def test_a_database_built_in_a_websocket_is_refused(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    db.install(app)

    @app.websocket("/x")
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        make_database()

    with TestClient(app) as client, client.websocket_connect("/x") as socket:
        assert socket.receive() == {"type": "websocket.close", "code": 1011, "reason": ANY}
    assert "built-inside-request" in caplog.text


def test_a_database_built_outside_a_request_is_never_refused() -> None:
    made: list[Database] = []

    async def main() -> None:
        made.append(Database("sqlite://"))
        await anyio.to_thread.run_sync(lambda: made.append(Database("sqlite://")))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        made.append(Database("sqlite://"))
        yield

    asyncio.run(main())
    anyio.run(main)
    with TestClient(FastAPI(lifespan=lifespan)) as client:
        client.get("/")
    thread = threading.Thread(target=lambda: made.append(Database("sqlite://")))
    thread.start()
    thread.join()
    assert len(made) == 6


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_an_unreachable_server_answers_503_at_once_with_one_line_in_the_log(
    serve: Callable[..., Server], run: Any, driver: str
) -> None:
    url = f"postgresql+{driver}://ann:s3cr3t-7f@127.0.0.1:{run.free_port()}/app"
    server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
    for form in FORMS:
        seen = len(server.log())
        (answer,) = burst(f"{server.url}{form}/select", 1, timeout=20)
        assert_unavailable(answer, "unreachable")
        (line,) = server.log()[seen:].splitlines()
        assert f"GET {form}/select answered 503" in line
        assert "can not be reached" in line
        assert "Is the server running" in line
    assert statuses(burst(f"{server.url}/sync/own/select", 40, concurrency=20)) == {503: 40}
    assert "s3cr3t-7f" not in server.log()
    seen = burst(f"{server.url}/watch", 1)[0].json()
    assert (seen["in_use"], seen["open"], seen["waiting"]) == (0, 0, 0)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_server_that_never_answers_hangs_nobody(serve: Callable[..., Server], driver: str) -> None:
    with black_hole(accepts=True) as port:
        url = f"postgresql+{driver}://ann:s3cr3t-7f@127.0.0.1:{port}/app"
        server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
        answers = burst(lambda i: f"{server.url}{FORMS[i]}/select", len(FORMS), concurrency=len(FORMS), timeout=60)
        for answer in answers:
            assert_unavailable(answer, "unreachable")


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("wrong", ["password", "user", "database"])
def test_a_refused_login_is_one_clear_line_without_the_secret(
    serve: Callable[..., Server], postgresql: Any, postgresql_url: str, driver: str, wrong: str
) -> None:
    url = postgresql_url.replace("postgresql:", f"postgresql+{driver}:").replace(postgresql.password, "s3cr3t-7f")
    if wrong == "user":
        url = url.replace(postgresql.user, "nobody")
    if wrong == "database":
        url = postgresql.url("missing", driver=driver)
    server = serve(APP, env={"DATABASE_URL": url, "WITHOUT_TABLES": "yes"})
    assert comes_true(lambda: "Uvicorn running" in server.log())  # it says so a moment after it listens
    for form in FORMS:
        seen = len(server.log())
        (answer,) = burst(f"{server.url}{form}/select", 1, timeout=20)
        assert_unavailable(answer, "login-refused")
        (line,) = server.log()[seen:].splitlines()
        assert f"GET {form}/select answered 503" in line
        assert "refused the login" in line
        assert "Check user, password and database name" in line
    for secret in ("s3cr3t-7f", postgresql.password):
        assert secret not in server.log()
        assert secret.encode() not in answer.body


def assert_unavailable(answer: Any, code: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["code"] == code
    assert int(answer.headers["retry-after"]) >= 1
    assert b"ann" not in answer.body
