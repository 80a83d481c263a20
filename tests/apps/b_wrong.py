"""An application with one mistake, which MISTAKE in the environment names; some show at first use only."""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
from fastapi import Depends, FastAPI, WebSocket
from fastapi.sse import EventSourceResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastapi_database import APIRouter, Database

db = Database(os.environ.get("DATABASE_URL", "sqlite://"))
SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]
MISTAKES: dict[str, Any] = {}


def mistake(register: Any) -> Any:
    MISTAKES[register.__name__] = register
    return register


@mistake
def async_session_in_def(router: Any) -> None:
    @router.get("/x")
    def endpoint(session: TaskSession) -> None: ...


@mistake
def sync_session_in_async_def(router: Any) -> None:
    @router.get("/x")
    async def endpoint(session: SyncSession) -> None: ...


@mistake
def sync_session_in_stream(router: Any) -> None:
    @router.get("/x")
    async def endpoint(session: SyncSession) -> AsyncIterator[int]:
        yield 1


@mistake
def async_session_in_stream(router: Any) -> None:
    @router.get("/x", response_class=EventSourceResponse)
    async def endpoint(session: TaskSession) -> AsyncIterator[int]:
        yield 1


@mistake
def session_in_socket(router: Any) -> None:
    @router.websocket("/x")
    async def endpoint(websocket: WebSocket, session: TaskSession) -> None: ...


@mistake
def both_kinds(router: Any) -> None:
    def current_user(session: SyncSession) -> None: ...

    @router.get("/x")
    async def endpoint(user: Annotated[None, Depends(current_user)], session: TaskSession) -> None: ...


@mistake
def both_kinds_in_dependencies(router: Any) -> None:
    def inner(session: SyncSession) -> None: ...

    def current_user(user: Annotated[None, Depends(inner)]) -> None: ...

    async def tenant(session: TaskSession) -> None: ...

    @router.get("/x", dependencies=[Depends(tenant), Depends(current_user)])
    async def endpoint() -> None: ...


class Repository:
    """A class dependency: nothing at registration tells where its methods will be called."""

    def __init__(self, session: SyncSession) -> None:
        self.session = session

    def read(self) -> Any:
        return self.session.scalar(text("SELECT 1"))


class AsyncReader:
    """A dependency whose `__call__` runs on the event loop."""

    async def __call__(self, session: SyncSession) -> Any:
        return session.scalar(text("SELECT count(*) FROM notes"))


def worked(session: SyncSession) -> Session:
    session.execute(text("INSERT INTO notes (text) VALUES ('worked')"))
    return session


async def committed(session: Annotated[Session, Depends(worked)]) -> None:
    session.commit()


async def rolled_back(session: Annotated[Session, Depends(worked)]) -> None:
    session.rollback()


def add_first_uses(router: Any) -> None:
    @router.get("/class")
    async def by_class(repository: Annotated[Repository, Depends()]) -> Any:
        return repository.read()

    @router.get("/call")
    async def by_call(found: Annotated[Any, Depends(AsyncReader())]) -> Any:
        return found

    @router.get("/begin")
    async def by_begin() -> Any:
        with db.begin() as session:
            return session.scalar(text("SELECT 1"))

    @router.get("/commit", dependencies=[Depends(committed)])
    def by_commit() -> None: ...

    @router.get("/rollback", dependencies=[Depends(rolled_back)])
    def by_rollback() -> None: ...

    @router.get("/def")
    def by_thread(repository: Annotated[Repository, Depends()]) -> Any:
        return repository.read()


app = FastAPI()
db.install(app)
if wanted := os.environ.get("MISTAKE"):
    plain = fastapi.APIRouter()
    MISTAKES[wanted](plain)
    app.include_router(plain)
for made, name in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
    add_first_uses(made)
    app.include_router(made, prefix=f"/{name}")


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}
