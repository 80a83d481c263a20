"""What is known before COMMIT decides about it, wherever in the request it became known."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.notes import Base, Note, notes
from fastapi_database import Database, transaction


@pytest.fixture
def db(sqlite_url: str) -> Iterator[Database]:
    made = Database(sqlite_url, models=Base, max_connections=3, queue_timeout=0.3)
    made.create_all()
    yield made
    made.close()


def write(session: Session) -> None:
    session.add(Note(text="a"))
    session.flush()


class CopiesScope:
    """A middleware as the ASGI specification recommends it: what it changes, it changes in a copy."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)


class Elsewhere(Exception): ...


def mounted(db: Database, mounts: FastAPI) -> TestClient:
    app = FastAPI()
    mounts.add_middleware(CopiesScope)
    db.install(app)
    app.mount("/sub", mounts)
    return TestClient(app, follow_redirects=False)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a7_an_exception_counts_where_a_mounted_application_has_copied_the_scope(db: Database, kind: str) -> None:
    app = FastAPI()

    @app.post("/sync")
    def sync(session: Annotated[Session, Depends(db.session)]) -> None:
        write(session)
        raise Elsewhere

    @app.post("/async")
    async def tasks(session: Annotated[AsyncSession, Depends(db.async_session)]) -> None:
        await session.run_sync(write)
        raise Elsewhere

    @app.exception_handler(Elsewhere)
    def answer(_request: Any, _error: Any) -> Response:
        return Response(status_code=303, headers={"location": "/"})

    with mounted(db, app) as client:
        assert client.post(f"/sub/{kind}").status_code == 303
    assert notes(db) == []


def test_commit_on_counts_where_a_mounted_application_has_copied_the_scope(db: Database) -> None:
    app = FastAPI()

    @app.post("/")
    @transaction(commit_on={401})
    def refuse(session: Annotated[Session, Depends(db.session)]) -> None:
        write(session)
        raise HTTPException(401)

    with mounted(db, app) as client:
        assert client.post("/sub/").status_code == 401
    assert notes(db) == ["a"]


def test_a_statement_that_failed_in_one_database_keeps_the_other_from_committing(db: Database, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path / 'other.sqlite'}", models=Base)
    other.create_all()
    app = FastAPI()
    db.install(app)
    other.install(app)

    @app.post("/")
    def both(one: Annotated[Session, Depends(db.session)], two: Annotated[Session, Depends(other.session)]) -> None:
        write(one)
        write(two)
        try:
            two.execute(text("SELECT nothing FROM nowhere"))
        except Exception:
            return

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/").status_code == 500
    other.close()
    assert notes(db) == []


def test_commit_on_stores_nothing_where_a_refusal_was_swallowed(db: Database) -> None:
    app = FastAPI()
    db.install(app)

    @app.post("/")
    @transaction(commit_on={401})
    def refuse(session: Annotated[Session, Depends(db.session)]) -> None:
        write(session)
        try:
            with db.begin() as own:  # SQLite has one writer: this one waits in vain
                write(own)
        except Exception:
            raise HTTPException(401) from None

    with TestClient(app) as client:
        assert client.post("/").status_code == 503
    assert notes(db) == []


@contextmanager
def without_the_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.anyio
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_b12_a_second_cancellation_does_not_keep_a_rollback_from_its_thread(db: Database, turns: int) -> None:
    app = FastAPI()
    db.install(app)
    entered = asyncio.Event()

    def wrote(session: Annotated[Session, Depends(db.session)]) -> None:
        write(session)

    @app.post("/")
    async def wait(_: Annotated[None, Depends(wrote)]) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    with without_the_collector():
        task = asyncio.create_task(app(scope | {"root_path": "", "http_version": "1.1", "state": {}}, receive, send))
        await entered.wait()
        for _ in range(turns + 1):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task})
        stats = db.stats()
    await db.aclose()
    assert (stats.in_use, stats.open - stats.idle) == (0, 0)
    assert notes(db) == []
