"""One small service in every form: sync and async sessions, on `DatabaseRoute` and on FastAPI's own router.

The same endpoints stand under `/sync/own`, `/sync/plain`, `/async/own` and `/async/plain`. With WITHOUT_TABLES in the
environment it starts without touching the database.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import fastapi
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from apps.b_watch import Watch
from fastapi_database import APIRouter, Database
from fastapi_database.errors import FastAPIDatabaseError


class Base(DeclarativeBase): ...


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(order_by="Book.id")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class BookOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    title: str


class AuthorOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    name: str
    books: list[BookOut]


db = Database(models=Base)
if "WITHOUT_TABLES" not in os.environ:
    db.create_all()
    with db.begin() as setup:
        if setup.scalar(select(func.count()).select_from(Author)) == 0:
            setup.add_all([Author(name="Ann"), Author(name="Bob")])
            setup.flush()
            setup.add_all([Book(title="First", author_id=1), Book(title="Second", author_id=1)])
    db.close()
watch = Watch(db)

SLOW = {
    "postgresql": "SELECT pg_sleep(0.03), '{mark}'",
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) "
    "SELECT count(*), '{mark}' FROM c",
}[db.engine.dialect.name]

SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]
SYNC_USES: dict[str, Callable[[Session, Author], object]] = {
    "execute": lambda session, author: session.execute(select(1)),
    "get": lambda session, author: session.get(Author, 2),
    "lazy": lambda session, author: author.books,
    "refresh": lambda session, author: session.refresh(author),
    "write": lambda session, author: (session.add(Note(text="escaped")), session.commit()),
}
ASYNC_USES: dict[str, Callable[[AsyncSession, Author], Awaitable[object]]] = {
    "execute": lambda session, author: session.execute(select(1)),
    "get": lambda session, author: session.get(Author, 2),
    "lazy": lambda session, author: session.run_sync(lambda _: author.books),
    "bare lazy": lambda session, author: read_bare(author),
    "refresh": lambda session, author: session.refresh(author),
    "write": lambda session, author: write_and_commit(session),
}


async def read_bare(author: Author) -> object:
    return author.books


async def write_and_commit(session: AsyncSession) -> None:
    session.add(Note(text="escaped"))
    await session.commit()


def outcome(error: BaseException | None) -> dict[str, Any]:
    code = error.code if isinstance(error, FastAPIDatabaseError) else None
    return {"error": type(error).__name__, "code": code, "message": str(error)}


def try_sync(use: str, session: Session, author: Author) -> dict[str, Any]:
    try:
        SYNC_USES[use](session, author)
    except Exception as error:
        return outcome(error)
    return outcome(None)


async def try_async(use: str, session: AsyncSession, author: Author) -> dict[str, Any]:
    try:
        await ASYNC_USES[use](session, author)
    except Exception as error:
        return outcome(error)
    return outcome(None)


def fail(how: str, session: Session | AsyncSession) -> None:
    """Have a dependency refuse the request, or leave something that can not be committed."""
    if how == "refuses":
        raise HTTPException(403, "on purpose")
    if how == "commit":
        session.add(Book(title="by nobody", author_id=0))


def add_sync(router: fastapi.APIRouter) -> None:
    def user(session: SyncSession) -> Author:
        return session.scalars(select(Author).where(Author.name == "Ann")).one()

    def swallowing_user(session: SyncSession) -> Author:
        try:
            return session.scalars(select(Author)).first()
        except Exception:
            raise HTTPException(401, "who are you?") from None

    def user_by_begin() -> None:
        try:
            with db.begin() as session:
                session.execute(select(Author))
        except Exception:
            raise HTTPException(401, "who are you?") from None

    def marks(mark: str, session: SyncSession, fails: str = "") -> str:
        session.add(Note(text=mark))
        session.flush()
        fail(fails, session)
        return mark

    def count(mark: str) -> int | None:
        with db.begin() as session:
            return session.scalar(select(func.count()).where(Note.text == mark))

    @router.get("/declares")
    def declares(session: SyncSession) -> dict[str, bool]:
        return {"ok": True}

    @router.get("/select")
    def select_one(session: SyncSession) -> int | None:
        return session.scalar(select(1))

    @router.get("/one")
    def one(session: SyncSession) -> dict[str, int | None]:
        return {"one": session.scalar(select(func.count()).select_from(Author))}

    @router.post("/write", status_code=201, response_model=AuthorOut)
    def write(session: SyncSession, fail: bool = False) -> Any:
        author = Author(name="Eve")
        session.add(author)
        if fail:
            raise HTTPException(418, "on purpose")
        return author

    @router.get("/library", response_model=list[AuthorOut])
    def library(me: Annotated[Author, Depends(user)], session: SyncSession) -> Any:
        return session.scalars(select(Author).order_by(Author.id)).all()

    @router.get("/guarded")
    def guarded(me: Annotated[Author, Depends(swallowing_user)], session: SyncSession) -> dict[str, str]:
        return {"name": me.name}

    @router.get("/guarded-by-begin", dependencies=[Depends(user_by_begin)])
    def guarded_by_begin() -> dict[str, bool]:
        return {"ok": True}

    @router.get("/hold/{name:path}")
    def hold(name: str, session: SyncSession) -> dict[str, bool]:
        session.execute(select(1))
        watch.wait(name)
        return {"held": True}

    @router.get("/escape/{how}/{use}")
    def escape(how: str, use: str, name: str, tasks: BackgroundTasks, session: SyncSession) -> Any:
        author = session.scalars(select(Author).order_by(Author.id)).first()

        def attempt() -> None:
            watch.reach(name, try_sync(use, session, author))

        def later() -> None:
            watch.wait(f"go {name}")
            attempt()

        def stream() -> Iterator[bytes]:
            attempt()
            yield b"streamed"

        if how == "stream":
            return StreamingResponse(stream())
        if how == "task":
            threading.Thread(target=later).start()
        else:
            tasks.add_task(attempt)
        return {"how": how}

    @router.post("/background")
    def background(name: str, tasks: BackgroundTasks, session: SyncSession) -> dict[str, bool]:
        def task() -> None:
            seen = watch.seen()
            with db.begin() as own:
                own.add(Note(text=f"task {name}"))
            watch.reach(name, seen)

        session.add(Note(text=f"request {name}"))
        tasks.add_task(task)
        return {"ok": True}

    @router.post("/background-fails/{name}")
    def background_fails(name: str, tasks: BackgroundTasks, session: SyncSession) -> dict[str, bool]:
        def task() -> None:
            with db.begin() as own:
                own.add(Note(text=f"task {name}"))
                own.flush()
                raise RuntimeError(f"on purpose, {name}")

        session.add(Note(text=f"request {name}"))
        tasks.add_task(task)
        return {"ok": True}

    @router.get("/stream", response_class=StreamingResponse)
    def stream(session: SyncSession, mark: Annotated[str, Depends(marks)]) -> StreamingResponse:
        def body() -> Iterator[str]:
            seen = watch.seen()
            yield line(seen, mark, count(mark))

        return StreamingResponse(body())

    @router.get("/jsonl")
    def jsonl(mark: Annotated[str, Depends(marks)]) -> Iterator[dict[str, Any]]:
        seen = watch.seen()
        yield {**seen, "mark": mark, "rows": count(mark)}

    @router.get("/sse", response_class=EventSourceResponse)
    def sse(mark: Annotated[str, Depends(marks)]) -> Iterator[dict[str, Any]]:
        seen = watch.seen()
        yield {**seen, "mark": mark, "rows": count(mark)}

    @router.websocket("/socket")
    async def socket(websocket: WebSocket, mark: Annotated[str, Depends(marks)]) -> None:
        await websocket.accept()
        seen = watch.seen()
        rows = await asyncio.to_thread(count, mark)
        await websocket.send_json({**seen, "mark": mark, "rows": rows})
        await websocket.close()


def line(seen: dict[str, Any], mark: str, rows: int | None) -> str:
    return JSONResponse({**seen, "mark": mark, "rows": rows}).body.decode() + "\n"


def add_async(router: fastapi.APIRouter) -> None:
    async def user(session: TaskSession) -> Author:
        return (await session.scalars(select(Author).where(Author.name == "Ann"))).one()

    async def swallowing_user(session: TaskSession) -> Author:
        try:
            return (await session.scalars(select(Author))).first()
        except Exception:
            raise HTTPException(401, "who are you?") from None

    async def user_by_begin() -> None:
        try:
            async with db.begin() as session:
                await session.execute(select(Author))
        except Exception:
            raise HTTPException(401, "who are you?") from None

    async def marks(mark: str, session: TaskSession, fails: str = "") -> str:
        session.add(Note(text=mark))
        await session.flush()
        fail(fails, session)
        return mark

    async def count(mark: str) -> int | None:
        async with db.begin() as session:
            return await session.scalar(select(func.count()).where(Note.text == mark))

    @router.get("/declares")
    async def declares(session: TaskSession) -> dict[str, bool]:
        return {"ok": True}

    @router.get("/select")
    async def select_one(session: TaskSession) -> int | None:
        return await session.scalar(select(1))

    @router.get("/one")
    async def one(session: TaskSession) -> dict[str, int | None]:
        return {"one": await session.scalar(select(func.count()).select_from(Author))}

    @router.post("/write", status_code=201, response_model=AuthorOut)
    async def write(session: TaskSession, fail: bool = False) -> Any:
        author = Author(name="Eve", books=[])
        session.add(author)
        if fail:
            raise HTTPException(418, "on purpose")
        return author

    @router.get("/late")
    async def late(session: TaskSession, seconds: float) -> dict[str, int | None]:
        await asyncio.sleep(seconds)
        return {"one": await session.scalar(select(func.count()).select_from(Author))}

    @router.get("/library", response_model=list[AuthorOut])
    async def library(me: Annotated[Author, Depends(user)], session: TaskSession) -> Any:
        # Only DatabaseRoute can load while it serialises; on another router an async session has loaded before.
        load = [] if isinstance(router, APIRouter) else [selectinload(Author.books)]
        statement = select(Author).order_by(Author.id).options(*load).execution_options(populate_existing=True)
        return (await session.scalars(statement)).all()

    @router.get("/guarded")
    async def guarded(me: Annotated[Author, Depends(swallowing_user)], session: TaskSession) -> dict[str, str]:
        return {"name": me.name}

    @router.get("/guarded-by-begin", dependencies=[Depends(user_by_begin)])
    async def guarded_by_begin() -> dict[str, bool]:
        return {"ok": True}

    @router.get("/raises-401")
    async def raises_401(session: TaskSession) -> dict[str, str]:
        try:
            author = (await session.scalars(select(Author))).first()
        except Exception:
            raise HTTPException(401, "who are you?") from None
        return {"name": author.name}

    @router.get("/returns-401", response_model=None)
    async def returns_401(session: TaskSession) -> dict[str, str] | JSONResponse:
        try:
            author = (await session.scalars(select(Author))).first()
        except Exception:
            return JSONResponse({"detail": "who are you?"}, 401)
        return {"name": author.name}

    @router.get("/hold/{name:path}")
    async def hold(name: str, session: TaskSession) -> dict[str, bool]:
        await session.execute(select(1))
        await watch.reached(name)
        return {"held": True}

    @router.get("/escape/{how}/{use}")
    async def escape(how: str, use: str, name: str, tasks: BackgroundTasks, session: TaskSession) -> Any:
        author = (await session.scalars(select(Author).order_by(Author.id))).first()

        async def attempt() -> None:
            watch.reach(name, await try_async(use, session, author))

        async def later() -> None:
            await watch.reached(f"go {name}")
            await attempt()

        async def stream() -> AsyncIterator[bytes]:
            await attempt()
            yield b"streamed"

        if how == "stream":
            return StreamingResponse(stream())
        if how == "task":
            keep(asyncio.create_task(later()))
        else:
            tasks.add_task(attempt)
        return {"how": how}

    @router.post("/background")
    async def background(name: str, tasks: BackgroundTasks, session: TaskSession) -> dict[str, bool]:
        async def task() -> None:
            seen = watch.seen()
            async with db.begin() as own:
                own.add(Note(text=f"task {name}"))
            watch.reach(name, seen)

        session.add(Note(text=f"request {name}"))
        tasks.add_task(task)
        return {"ok": True}

    @router.post("/background-fails/{name}")
    async def background_fails(name: str, tasks: BackgroundTasks, session: TaskSession) -> dict[str, bool]:
        async def task() -> None:
            async with db.begin() as own:
                own.add(Note(text=f"task {name}"))
                await own.flush()
                raise RuntimeError(f"on purpose, {name}")

        session.add(Note(text=f"request {name}"))
        tasks.add_task(task)
        return {"ok": True}

    @router.post("/gather/{pool}")
    async def gather(pool: str, name: str, session: TaskSession, swallow: bool = False) -> dict[str, Any]:
        if pool == "cold":
            await db.async_engine.dispose()
        session.add(Note(text=f"gather {name}"))
        if pool == "held":
            await session.flush()
        statements = [text(SLOW.format(mark=f"gather {name} {i}")) for i in range(3)]
        found = await asyncio.gather(*map(session.execute, statements), return_exceptions=swallow)
        return {"errors": [type(one).__name__ for one in found]}

    @router.get("/stream", response_class=StreamingResponse)
    async def stream(session: TaskSession, mark: Annotated[str, Depends(marks)]) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            seen = watch.seen()
            yield line(seen, mark, await count(mark))

        return StreamingResponse(body())

    @router.get("/jsonl")
    async def jsonl(mark: Annotated[str, Depends(marks)]) -> AsyncIterator[dict[str, Any]]:
        seen = watch.seen()
        yield {**seen, "mark": mark, "rows": await count(mark)}

    @router.get("/sse", response_class=EventSourceResponse)
    async def sse(mark: Annotated[str, Depends(marks)]) -> AsyncIterator[dict[str, Any]]:
        seen = watch.seen()
        yield {**seen, "mark": mark, "rows": await count(mark)}

    @router.websocket("/socket")
    async def socket(websocket: WebSocket, mark: Annotated[str, Depends(marks)]) -> None:
        await websocket.accept()
        seen = watch.seen()
        await websocket.send_json({**seen, "mark": mark, "rows": await count(mark)})
        await websocket.close()


def keep(task: asyncio.Task[None]) -> None:
    running.add(task)
    task.add_done_callback(running.discard)


running: set[asyncio.Task[None]] = set()
app = FastAPI()
db.install(app)
app.include_router(watch.router())
app.include_router(db.health(), prefix="/health")
for add, session_kind in ((add_sync, "sync"), (add_async, "async")):
    for made, name_of_router in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
        add(made)
        app.include_router(made, prefix=f"/{session_kind}/{name_of_router}")
