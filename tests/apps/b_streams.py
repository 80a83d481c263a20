"""Answers that go on for long, sockets, and slow other work in the middle, in every form.

The same endpoints stand under `/sync/own`, `/sync/plain`, `/async/own` and `/async/plain`; the kind is that of the
session. Bodies are async throughout: a `def` generator that waits keeps one of AnyIO's forty threads, database or not.
With BASE_MIDDLEWARES in the environment, so many of Starlette's `BaseHTTPMiddleware` stand before everything.
"""

import asyncio
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import fastapi
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.middleware.base import BaseHTTPMiddleware

from apps.b_watch import PATIENCE, Watch
from fastapi_database import APIRouter, Database

LARGE = 50_000_000
CHUNK = b"x" * 50_000


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


db = Database(models=Base)
db.create_all()
with db.begin() as setup:
    setup.add(Author(id=1, name="Ann"))
db.close()
watch = Watch(db)
SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]


class Gate:
    """Where requests of one name meet: each waits until so many have come."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.used: list[int] = []
        self.open = threading.Event()
        self._lock = threading.Lock()

    def enter(self, wanted: int) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside == wanted:
                self.used.append(watch.seen()["in_use"])
                self.open.set()

    def wait(self) -> None:
        if not self.open.wait(PATIENCE):
            raise TimeoutError(f"{self.inside} came")

    async def wait_async(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.open.is_set():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.inside} came")
            await asyncio.sleep(0.01)


gates: defaultdict[str, Gate] = defaultdict(Gate)
large = Path(tempfile.mkdtemp()) / "large"
with large.open("wb") as file:
    file.truncate(LARGE)


def dependent(kind: str) -> Any:
    """Give a dependency that asks for the current user, in the kind of session of the form."""
    if kind == "sync":

        def user(session: SyncSession) -> str:
            return session.scalars(select(Author.name)).one()

        return Depends(user)

    async def user_async(session: TaskSession) -> str:
        return (await session.scalars(select(Author.name))).one()

    return Depends(user_async)


async def until_gone() -> None:
    await asyncio.Event().wait()


def add_streams(router: fastapi.APIRouter, kind: str) -> None:
    User = Annotated[str, dependent(kind)]  # noqa: N806 - it is a type

    @router.get("/sse", response_class=EventSourceResponse)
    async def sse(user: User) -> AsyncIterator[dict[str, str]]:
        yield {"user": user}
        await until_gone()

    @router.get("/jsonl")
    async def jsonl(user: User) -> AsyncIterator[dict[str, str]]:
        yield {"user": user}
        await until_gone()

    @router.get("/file")
    def file(user: User) -> FileResponse:
        return FileResponse(large, headers={"user": user})

    @router.get("/large")
    def large_body(user: User) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(LARGE // len(CHUNK)):
                yield CHUNK

        return StreamingResponse(body(), headers={"user": user})

    @router.websocket("/socket")
    async def socket(websocket: WebSocket, user: User) -> None:
        await websocket.accept()
        await websocket.send_text(user)
        await websocket.receive_text()

    @router.websocket("/messages")
    async def messages(websocket: WebSocket, user: User) -> None:
        """Store each message, in a unit of its own; the one that says so fails after its INSERT."""
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive_text()
                try:
                    await websocket.send_text(str(await store(kind, message)))
                except LookupError:
                    await websocket.send_text("failed")
        except WebSocketDisconnect:
            return

    @router.get("/ticks", response_class=EventSourceResponse)
    async def ticks(user: User, every: float) -> AsyncIterator[dict[str, int]]:
        """Ask the database regularly, and say what is held while the answer is sent on."""
        while True:
            await count(kind)
            seen = watch.seen()
            yield {name: seen[name] for name in ("in_use", "checked_out", "checkouts")}
            await asyncio.sleep(every)


async def store(kind: str, message: str) -> int:
    def work(session: Session) -> int:
        session.add(Note(text=message))
        session.flush()
        if message.startswith("fail"):
            raise LookupError
        return session.scalar(select(func.count()).where(Note.text == message)) or 0

    def in_thread() -> int:
        with db.begin() as session:
            return work(session)

    if kind == "sync":
        return await asyncio.to_thread(in_thread)
    async with db.begin() as session:
        return await session.run_sync(work)


async def count(kind: str) -> int:
    def in_thread() -> int:
        with db.begin() as session:
            return session.scalar(select(func.count()).select_from(Note)) or 0

    if kind == "sync":
        return await asyncio.to_thread(in_thread)
    async with db.begin() as session:
        return await session.scalar(select(func.count()).select_from(Note)) or 0


def add_sync(router: fastapi.APIRouter) -> None:
    @router.get("/stream")
    def stream(session: SyncSession) -> StreamingResponse:
        user = session.scalars(select(Author.name)).one()

        async def body() -> AsyncIterator[str]:
            yield user
            await until_gone()

        return StreamingResponse(body())

    @router.get("/one")
    def one(session: SyncSession) -> int | None:
        return session.scalar(select(1))

    @router.get("/released")
    @router.post("/released")
    def released(session: SyncSession, name: str, wanted: int, note: str = "", fail: str = "") -> dict[str, Any]:
        author = session.get_one(Author, 1)
        gate = gates[name]
        with db.released(session):
            gate.enter(wanted)
            gate.wait()
            if fail == "inside":
                raise HTTPException(418, "on purpose")
        if note:
            session.add(Note(text=note))
            session.flush()
        if fail == "after":
            raise HTTPException(418, "on purpose")
        return {"name": author.name, "then": session.scalar(select(1))}

    @router.get("/released-for")
    def released_for(session: SyncSession, seconds: float) -> dict[str, Any]:
        author = session.get_one(Author, 1)
        with db.released(session):
            time.sleep(seconds)
        return {"name": author.name, "then": session.scalar(select(1))}


def add_async(router: fastapi.APIRouter) -> None:
    @router.get("/stream")
    async def stream(session: TaskSession) -> StreamingResponse:
        user = (await session.scalars(select(Author.name))).one()

        async def body() -> AsyncIterator[str]:
            yield user
            await until_gone()

        return StreamingResponse(body())

    @router.get("/one")
    async def one(session: TaskSession) -> int | None:
        return await session.scalar(select(1))

    @router.get("/released")
    @router.post("/released")
    async def released(session: TaskSession, name: str, wanted: int, note: str = "", fail: str = "") -> dict[str, Any]:
        author = await session.get_one(Author, 1)
        gate = gates[name]
        async with db.released(session):
            gate.enter(wanted)
            await gate.wait_async()
            if fail == "inside":
                raise HTTPException(418, "on purpose")
        if note:
            session.add(Note(text=note))
            await session.flush()
        if fail == "after":
            raise HTTPException(418, "on purpose")
        return {"name": author.name, "then": await session.scalar(select(1))}

    @router.get("/released-for")
    async def released_for(session: TaskSession, seconds: float) -> dict[str, Any]:
        author = await session.get_one(Author, 1)
        async with db.released(session):
            await asyncio.sleep(seconds)
        return {"name": author.name, "then": await session.scalar(select(1))}


class Passing(BaseHTTPMiddleware):
    """Starlette's own way to write a middleware, which puts tasks and a stream between us and the client."""

    async def dispatch(self, request: fastapi.Request, call_next: Any) -> fastapi.Response:
        response: fastapi.Response = await call_next(request)
        return response


app = FastAPI()
db.install(app)
for _ in range(int(os.environ.get("BASE_MIDDLEWARES", "0"))):
    app.add_middleware(Passing)
app.include_router(watch.router())


@app.get("/gates/{name}")
async def gate_seen(name: str) -> dict[str, Any]:
    gate = gates.pop(name)
    return {"most": gate.most, "in_use": gate.used}


@app.get("/samples")
async def samples(n: int, every: float) -> list[int]:
    """Look `n` times at how many connections are checked out."""
    seen: list[int] = []
    for _ in range(n):
        seen.append(watch.seen()["checked_out"])
        await asyncio.sleep(every)
    return seen


for add, session_kind in ((add_sync, "sync"), (add_async, "async")):
    for made, name_of_router in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
        add(made)
        add_streams(made, session_kind)
        app.include_router(made, prefix=f"/{session_kind}/{name_of_router}")
