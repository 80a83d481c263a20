"""The endpoints of every application with sync sessions: `def`, as the tutorials write them.

`bench/conformance/README.md` lists them. An application gives its own way to a session (`session`, a dependency),
what it writes after an endpoint's changes (`save`: `commit` for the tutorial's pattern, a flush where the library
commits by itself), and its own way to a session outside a request (`own`, a context manager).
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, Security, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from bench.conformance.apps import model
from bench.conformance.apps.model import AuthorOut, HandledError, ItemIn, Number, StrictIn

BIG = "x" * 1_000_000


def add_endpoints(
    app: FastAPI,
    *,
    session: Callable[..., Any],
    save: Callable[[Session], None],
    own: Callable[[], AbstractContextManager[Session]],
    models: ModuleType | Any = model,
    socket_session: bool = False,
) -> None:
    """Add them all. With `socket_session` a WebSocket endpoint asks for the session as any other endpoint does."""
    Db = Annotated[Session, Depends(session)]  # noqa: N806
    _add_writes(app, Db, save, models)
    _add_failures(app, Db, save, models)
    _add_forms(app, session, models)
    _add_reads(app, Db, save, models)
    _add_after_the_end(app, Db, save, own, models)
    _add_streams(app, Db, models)
    _add_socket(app, Db if socket_session else None, save, own, models)
    if model.MISTAKE:

        @app.get("/mistake")
        async def mistake(db: Db) -> str:
            db.execute(text(model.sleep_statement()), {"seconds": 1})
            return "the event loop was blocked"


def _add_writes(app: FastAPI, Db: Any, save: Any, models: Any) -> None:  # noqa: N803
    @app.get("/ping")
    async def ping() -> str:
        return "pong"

    @app.post("/items", status_code=201)
    def create(item: ItemIn, db: Db) -> dict[str, int]:
        row = models.Item(name=item.name)
        db.add(row)
        save(db)
        return {"id": row.id}

    @app.get("/items/{item_id}")
    def read(item_id: int, db: Db) -> dict[str, Any]:
        row = db.get(models.Item, item_id)
        if row is None:
            raise HTTPException(404)
        return {"id": row.id, "name": row.name}

    @app.post("/fails-at-commit", status_code=201)
    def fails_at_commit(mark: str, db: Db) -> str:
        db.add_all([models.Item(name=mark), models.Deferred(item_id=-1)])
        save(db)
        return "stored"

    @app.post("/slow-commit", status_code=201)
    def slow_commit(mark: str, db: Db) -> str:
        db.add(models.SlowCommit(name=mark))
        save(db)
        return "stored"

    @app.post("/slow-write", status_code=201)
    def slow_write(mark: str, seconds: float, db: Db) -> str:
        db.add(models.Item(name=mark))
        db.flush()
        time.sleep(seconds)
        save(db)
        return "stored"

    @app.post("/explicit")
    def explicit(mark: str, db: Db) -> None:
        db.add(models.Item(name=f"{mark} kept"))
        db.commit()
        db.add(models.Item(name=f"{mark} undone"))
        db.flush()
        raise RuntimeError("on purpose")

    @app.post("/labels", status_code=201)
    def label(body: ItemIn, db: Db) -> str:
        db.add(models.Label(name=body.name))
        save(db)
        return "stored"

    @app.post("/strict", status_code=201)
    def strict(body: StrictIn, db: Db) -> str:
        db.add(models.Strict(**body.model_dump()))
        save(db)
        return "stored"


def _add_failures(app: FastAPI, Db: Any, save: Any, models: Any) -> None:  # noqa: N803
    @app.exception_handler(HandledError)
    async def handled_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"handled": True})

    def writes(mark: str, db: Db) -> None:
        db.add(models.Item(name=mark))
        db.flush()

    def refuses(written: Annotated[None, Depends(writes)]) -> None:
        raise HTTPException(403)

    def fails_at_exit() -> Iterator[None]:
        yield
        raise RuntimeError("on purpose, at the exit")

    @app.post("/returned/{status}")
    def returned(status: int, mark: str, db: Db) -> Response:
        writes(mark, db)
        if status < 400:
            save(db)
        return JSONResponse({}, status)

    @app.post("/raised/{status}")
    def raised(status: int, mark: str, db: Db) -> None:
        writes(mark, db)
        raise HTTPException(status)

    @app.post("/crashes")
    def crashes(mark: str, db: Db) -> None:
        writes(mark, db)
        raise RuntimeError("on purpose")

    @app.post("/dependency-raises", dependencies=[Depends(refuses)])
    def dependency_raises() -> None: ...

    @app.post("/exit-raises", dependencies=[Depends(fails_at_exit, scope="function")])
    def exit_raises(mark: str, db: Db) -> None:
        writes(mark, db)
        save(db)

    @app.post("/invalid-answer", response_model=Number)
    def invalid_answer(mark: str, db: Db) -> Any:
        writes(mark, db)
        save(db)
        return {"number": "none"}

    @app.post("/redirects")
    def redirects(mark: str, db: Db) -> RedirectResponse:
        writes(mark, db)
        save(db)
        return RedirectResponse("/ping", 303)

    @app.post("/handled")
    def handled(mark: str, db: Db) -> None:
        writes(mark, db)
        raise HandledError

    @app.post("/swallows")
    def swallows(mark: str, db: Db) -> str:
        writes(mark, db)
        with suppress(Exception):
            db.execute(text("SELECT * FROM nowhere"))
        save(db)
        return "stored"

    @app.post("/swallows-in-savepoint")
    def swallows_in_savepoint(mark: str, db: Db) -> str:
        writes(mark, db)
        with suppress(Exception), db.begin_nested():
            db.execute(text("SELECT * FROM nowhere"))
        save(db)
        return "stored"

    @app.post("/leaks")
    def leaks(item: ItemIn, db: Db) -> None:
        db.execute(text("INSERT INTO nowhere (name) VALUES (:secret)"), {"secret": item.name})


def _add_forms(app: FastAPI, session: Any, models: Any) -> None:
    def first(db: Annotated[Session, Depends(session)]) -> Session:
        return db

    def second(db: Annotated[Session, Depends(first)]) -> Session:
        return db

    def third(db: Annotated[Session, Depends(second)]) -> Session:
        return db

    @app.get("/forms")
    def forms(
        plain: Annotated[Session, Depends(session)],
        secured: Annotated[Session, Security(session, scopes=["read"])],
        uncached: Annotated[Session, Depends(session, use_cache=False)],
        early: Annotated[Session, Depends(session, scope="function")],
        deep: Annotated[Session, Depends(third)],
    ) -> dict[str, int]:
        sessions = [plain, secured, uncached, early, deep]
        for one in sessions:
            one.execute(select(models.Item.id).limit(1))
        return {"sessions": len({id(one) for one in sessions})}


def _add_reads(app: FastAPI, Db: Any, save: Any, models: Any) -> None:  # noqa: N803
    @app.get("/declares")
    def declares(db: Db) -> str:
        return "unused"

    def user(db: Db) -> Any:
        return db.scalars(select(models.Author).where(models.Author.name == "Ann")).one()

    @app.get("/library", response_model=list[AuthorOut])
    def library(me: Annotated[Any, Depends(user)], db: Db) -> Any:
        return db.scalars(select(models.Author).order_by(models.Author.id)).all()

    @app.get("/slow")
    def slow(seconds: float, db: Db) -> str:
        db.execute(text(model.sleep_statement()), {"seconds": seconds})
        return "slept"

    @app.get("/settings")
    def settings(db: Db) -> dict[str, str]:
        return {name: str(db.scalar(text(f"SHOW {name}"))) for name in ("statement_timeout", "lock_timeout")}

    @app.get("/processes")
    def processes(db: Db) -> dict[str, Any]:
        return {"server": os.getpid(), "backend": db.scalar(text("SELECT pg_backend_pid()"))}


def _add_after_the_end(app: FastAPI, Db: Any, save: Any, own: Any, models: Any) -> None:  # noqa: N803
    uses: list[str] = []

    @app.post("/escapes")
    def escapes(db: Db) -> str:
        db.execute(select(models.Item.id).limit(1))

        def later() -> None:
            time.sleep(0.5)
            try:
                db.execute(select(models.Item.id).limit(1))
            except Exception as error:
                uses.append(type(error).__name__)
            else:
                uses.append("worked")
            time.sleep(2)  # as somebody who keeps the session does

        threading.Thread(target=later, daemon=True).start()
        return "escaped"

    @app.get("/escaped")
    async def escaped() -> list[str]:
        return uses

    @app.post("/background")
    def background(mark: str, tasks: BackgroundTasks, db: Db) -> str:
        def task() -> None:
            time.sleep(0.8)
            with own() as session:
                session.add(models.Item(name=f"{mark} by the task"))

        db.add(models.Item(name=mark))
        tasks.add_task(task)
        save(db)
        return "later"


def _add_streams(app: FastAPI, Db: Any, models: Any) -> None:  # noqa: N803
    def user(db: Db) -> str:
        return str(db.scalars(select(models.Author.name)).first())

    @app.get("/stream")
    def stream(db: Db) -> StreamingResponse:
        name = user(db)

        async def body() -> Any:
            yield name.encode()
            await asyncio.sleep(60)

        return StreamingResponse(body())

    @app.get("/sse", response_class=EventSourceResponse)
    async def sse(name: Annotated[str, Depends(user)]) -> Any:
        yield {"name": name}
        await asyncio.sleep(60)

    @app.get("/big")
    def big(name: Annotated[str, Depends(user)]) -> StreamingResponse:
        return StreamingResponse(BIG for _ in range(50))


def _add_socket(app: FastAPI, Db: Any, save: Any, own: Any, models: Any) -> None:  # noqa: N803
    def work(db: Session, message: str) -> str:
        db.execute(select(models.Item.id).limit(1))
        if message != "read":
            db.add(models.Item(name=message))
            db.flush()
        if message.startswith("fails"):
            raise HandledError
        return message

    def answer(message: str) -> str:
        try:
            with own() as session:
                return work(session, message)
        except HandledError:
            return "failed"

    def answer_with(db: Session, message: str) -> str:
        try:
            work(db, message)
            if message != "read":
                save(db)
        except HandledError:
            db.rollback()
            return "failed"
        return message

    if Db is None:

        @app.websocket("/socket")
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            async for message in websocket.iter_text():
                await websocket.send_text(await run_in_threadpool(answer, message))

    else:

        @app.websocket("/socket")
        async def socket_with_session(websocket: WebSocket, db: Db) -> None:
            await websocket.accept()
            async for message in websocket.iter_text():
                await websocket.send_text(await run_in_threadpool(answer_with, db, message))
