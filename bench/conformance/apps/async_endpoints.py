"""The endpoints of every application with async sessions: `async def`; the twin of sync_endpoints.py.

What an answer reads is loaded in the query, as SQLAlchemy's documentation asks of async code.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, Security, WebSocket
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from bench.conformance.apps import model
from bench.conformance.apps.model import AuthorOut, HandledError, ItemIn, Number, StrictIn

BIG = "x" * 1_000_000


def add_endpoints(
    app: FastAPI,
    *,
    session: Callable[..., Any],
    save: Callable[[AsyncSession], Awaitable[None]],
    own: Callable[[], AbstractAsyncContextManager[AsyncSession]],
    socket_session: bool = False,
) -> None:
    """Add them all. With `socket_session` a WebSocket endpoint asks for the session as any other endpoint does."""
    Db = Annotated[AsyncSession, Depends(session)]  # noqa: N806
    _add_writes(app, Db, save)
    _add_failures(app, Db, save)
    _add_forms(app, session)
    _add_reads(app, Db)
    _add_after_the_end(app, Db, save, own)
    _add_streams(app, Db)
    _add_socket(app, Db if socket_session else None, save, own)
    if model.MISTAKE:

        @app.get("/mistake")
        def mistake(db: Db) -> str:
            db.add(model.Item(name="mistake"))
            db.execute(select(model.Item))  # a coroutine that nobody awaits
            db.commit()
            return "nothing was stored"


def _add_writes(app: FastAPI, Db: Any, save: Any) -> None:  # noqa: N803
    @app.get("/ping")
    async def ping() -> str:
        return "pong"

    @app.post("/items", status_code=201)
    async def create(item: ItemIn, db: Db) -> dict[str, int]:
        row = model.Item(name=item.name)
        db.add(row)
        await save(db)
        return {"id": row.id}

    @app.get("/items/{item_id}")
    async def read(item_id: int, db: Db) -> dict[str, Any]:
        row = await db.get(model.Item, item_id)
        if row is None:
            raise HTTPException(404)
        return {"id": row.id, "name": row.name}

    @app.post("/fails-at-commit", status_code=201)
    async def fails_at_commit(mark: str, db: Db) -> str:
        db.add_all([model.Item(name=mark), model.Deferred(item_id=-1)])
        await save(db)
        return "stored"

    @app.post("/slow-commit", status_code=201)
    async def slow_commit(mark: str, db: Db) -> str:
        db.add(model.SlowCommit(name=mark))
        await save(db)
        return "stored"

    @app.post("/slow-write", status_code=201)
    async def slow_write(mark: str, seconds: float, db: Db) -> str:
        db.add(model.Item(name=mark))
        await db.flush()
        await asyncio.sleep(seconds)
        await save(db)
        return "stored"

    @app.post("/explicit")
    async def explicit(mark: str, db: Db) -> None:
        db.add(model.Item(name=f"{mark} kept"))
        await db.commit()
        db.add(model.Item(name=f"{mark} undone"))
        await db.flush()
        raise RuntimeError("on purpose")

    @app.post("/labels", status_code=201)
    async def label(body: ItemIn, db: Db) -> str:
        db.add(model.Label(name=body.name))
        await save(db)
        return "stored"

    @app.post("/strict", status_code=201)
    async def strict(body: StrictIn, db: Db) -> str:
        db.add(model.Strict(**body.model_dump()))
        await save(db)
        return "stored"


def _add_failures(app: FastAPI, Db: Any, save: Any) -> None:  # noqa: N803
    @app.exception_handler(HandledError)
    async def handled_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"handled": True})

    async def writes(mark: str, db: Db) -> None:
        db.add(model.Item(name=mark))
        await db.flush()

    async def refuses(written: Annotated[None, Depends(writes)]) -> None:
        raise HTTPException(403)

    async def fails_at_exit() -> AsyncIterator[None]:
        yield
        raise RuntimeError("on purpose, at the exit")

    @app.post("/returned/{status}")
    async def returned(status: int, mark: str, db: Db) -> Response:
        await writes(mark, db)
        if status < 400:
            await save(db)
        return JSONResponse({}, status)

    @app.post("/raised/{status}")
    async def raised(status: int, mark: str, db: Db) -> None:
        await writes(mark, db)
        raise HTTPException(status)

    @app.post("/crashes")
    async def crashes(mark: str, db: Db) -> None:
        await writes(mark, db)
        raise RuntimeError("on purpose")

    @app.post("/dependency-raises", dependencies=[Depends(refuses)])
    async def dependency_raises() -> None: ...

    @app.post("/exit-raises", dependencies=[Depends(fails_at_exit, scope="function")])
    async def exit_raises(mark: str, db: Db) -> None:
        await writes(mark, db)
        await save(db)

    @app.post("/invalid-answer", response_model=Number)
    async def invalid_answer(mark: str, db: Db) -> Any:
        await writes(mark, db)
        await save(db)
        return {"number": "none"}

    @app.post("/redirects")
    async def redirects(mark: str, db: Db) -> RedirectResponse:
        await writes(mark, db)
        await save(db)
        return RedirectResponse("/ping", 303)

    @app.post("/handled")
    async def handled(mark: str, db: Db) -> None:
        await writes(mark, db)
        raise HandledError

    @app.post("/swallows")
    async def swallows(mark: str, db: Db) -> str:
        await writes(mark, db)
        with suppress(Exception):
            await db.execute(text("SELECT * FROM nowhere"))
        await save(db)
        return "stored"

    @app.post("/swallows-in-savepoint")
    async def swallows_in_savepoint(mark: str, db: Db) -> str:
        await writes(mark, db)
        with suppress(Exception):
            async with db.begin_nested():
                await db.execute(text("SELECT * FROM nowhere"))
        await save(db)
        return "stored"

    @app.post("/leaks")
    async def leaks(item: ItemIn, db: Db) -> None:
        await db.execute(text("INSERT INTO nowhere (name) VALUES (:secret)"), {"secret": item.name})


def _add_forms(app: FastAPI, session: Any) -> None:
    async def first(db: Annotated[AsyncSession, Depends(session)]) -> AsyncSession:
        return db

    async def second(db: Annotated[AsyncSession, Depends(first)]) -> AsyncSession:
        return db

    async def third(db: Annotated[AsyncSession, Depends(second)]) -> AsyncSession:
        return db

    @app.get("/forms")
    async def forms(
        plain: Annotated[AsyncSession, Depends(session)],
        secured: Annotated[AsyncSession, Security(session, scopes=["read"])],
        uncached: Annotated[AsyncSession, Depends(session, use_cache=False)],
        early: Annotated[AsyncSession, Depends(session, scope="function")],
        deep: Annotated[AsyncSession, Depends(third)],
    ) -> dict[str, int]:
        sessions = [plain, secured, uncached, early, deep]
        for one in sessions:
            await one.execute(select(model.Item.id).limit(1))
        return {"sessions": len({id(one) for one in sessions})}


def _add_reads(app: FastAPI, Db: Any) -> None:  # noqa: N803
    @app.get("/declares")
    async def declares(db: Db) -> str:
        return "unused"

    async def user(db: Db) -> Any:
        return (await db.scalars(select(model.Author).where(model.Author.name == "Ann"))).one()

    @app.get("/library", response_model=list[AuthorOut])
    async def library(me: Annotated[Any, Depends(user)], db: Db) -> Any:
        query = select(model.Author).order_by(model.Author.id).options(selectinload(model.Author.books))
        return (await db.scalars(query.execution_options(populate_existing=True))).all()

    @app.get("/slow")
    async def slow(seconds: float, db: Db) -> str:
        await db.execute(text(model.sleep_statement()), {"seconds": seconds})
        return "slept"

    @app.get("/sleeps")
    async def sleeps(seconds: float, db: Db) -> str:
        await asyncio.sleep(seconds)
        await db.execute(select(model.Item.id).limit(1))
        return "slept"

    overlapping: list[str] = []

    async def gather(db: AsyncSession) -> JSONResponse:
        statement = text(model.sleep_statement())
        outcomes = await asyncio.gather(
            *(db.execute(statement, {"seconds": 0.02}) for _ in range(3)), return_exceptions=True
        )
        errors = [type(one).__name__ for one in outcomes if isinstance(one, BaseException)]
        overlapping.extend(errors)
        return JSONResponse({}, 409 if errors else 200)

    @app.get("/gathered")
    async def gathered() -> list[str]:
        return overlapping

    @app.post("/gathers-warm")
    async def gathers_warm(mark: str, db: Db) -> JSONResponse:
        db.add(model.Item(name=mark))
        await db.flush()
        return await gather(db)

    @app.post("/gathers-cold")
    async def gathers_cold(mark: str, db: Db) -> JSONResponse:
        return await gather(db)

    @app.get("/settings")
    async def settings(db: Db) -> dict[str, str]:
        return {name: str(await db.scalar(text(f"SHOW {name}"))) for name in ("statement_timeout", "lock_timeout")}

    @app.get("/processes")
    async def processes(db: Db) -> dict[str, Any]:
        return {"server": os.getpid(), "backend": await db.scalar(text("SELECT pg_backend_pid()"))}


def _add_after_the_end(app: FastAPI, Db: Any, save: Any, own: Any) -> None:  # noqa: N803
    uses: list[str] = []
    tasks_running: set[asyncio.Task[None]] = set()

    @app.post("/escapes")
    async def escapes(db: Db) -> str:
        await db.execute(select(model.Item.id).limit(1))

        async def later() -> None:
            await asyncio.sleep(0.5)
            try:
                await db.execute(select(model.Item.id).limit(1))
            except Exception as error:
                uses.append(type(error).__name__)
            else:
                uses.append("worked")
            await asyncio.sleep(2)  # as somebody who keeps the session does

        task = asyncio.create_task(later())
        tasks_running.add(task)
        task.add_done_callback(tasks_running.discard)
        return "escaped"

    @app.get("/escaped")
    async def escaped() -> list[str]:
        return uses

    @app.post("/background")
    async def background(mark: str, tasks: BackgroundTasks, db: Db) -> str:
        async def task() -> None:
            await asyncio.sleep(0.8)
            async with own() as session:
                session.add(model.Item(name=f"{mark} by the task"))

        db.add(model.Item(name=mark))
        tasks.add_task(task)
        await save(db)
        return "later"


def _add_streams(app: FastAPI, Db: Any) -> None:  # noqa: N803
    async def user(db: Db) -> str:
        return str((await db.scalars(select(model.Author.name))).first())

    @app.get("/stream")
    async def stream(db: Db) -> StreamingResponse:
        name = await user(db)

        async def body() -> Any:
            yield name.encode()
            await asyncio.sleep(60)

        return StreamingResponse(body())

    @app.get("/sse", response_class=EventSourceResponse)
    async def sse(name: Annotated[str, Depends(user)]) -> Any:
        yield {"name": name}
        await asyncio.sleep(60)

    @app.get("/big")
    async def big(name: Annotated[str, Depends(user)]) -> StreamingResponse:
        async def body() -> Any:
            for _ in range(50):
                yield BIG

        return StreamingResponse(body())


def _add_socket(app: FastAPI, Db: Any, save: Any, own: Any) -> None:  # noqa: N803
    async def work(db: AsyncSession, message: str) -> str:
        await db.execute(select(model.Item.id).limit(1))
        if message != "read":
            db.add(model.Item(name=message))
            await db.flush()
        if message.startswith("fails"):
            raise HandledError
        return message

    async def answer(message: str) -> str:
        try:
            async with own() as session:
                return await work(session, message)
        except HandledError:
            return "failed"

    async def answer_with(db: AsyncSession, message: str) -> str:
        try:
            await work(db, message)
            if message != "read":
                await save(db)
        except HandledError:
            await db.rollback()
            return "failed"
        return message

    if Db is None:

        @app.websocket("/socket")
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            async for message in websocket.iter_text():
                await websocket.send_text(await answer(message))

    else:

        @app.websocket("/socket")
        async def socket_with_session(websocket: WebSocket, db: Db) -> None:
            await websocket.accept()
            async for message in websocket.iter_text():
                await websocket.send_text(await answer_with(db, message))
