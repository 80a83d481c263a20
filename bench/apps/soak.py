"""Every kind of request that `python -m bench soak` sends, on one `Database`, and a look inside the process."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from typing import Annotated

import fastapi
from anyio import create_task_group, to_thread
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from bench.apps.model import LISTED, Base, User, UserOut, database_url
from fastapi_database import APIRouter, Database

db = Database(database_url(), models=Base)
app = FastAPI()
db.install(app)

SyncSession = Annotated[Session, Depends(db.session)]
TaskSession = Annotated[AsyncSession, Depends(db.async_session)]
listed = select(User).order_by(User.id).limit(LISTED)


def add_sync(router: fastapi.APIRouter) -> None:
    @router.get("/users", response_model=list[UserOut])
    def list_users(session: SyncSession) -> object:
        return session.scalars(listed).all()

    @router.post("/users/{user_id}", response_model=UserOut)
    def rename(user_id: int, session: SyncSession, tasks: BackgroundTasks) -> User:
        """An UPDATE and no INSERT: the table, and what a database keeps of it in memory, is not to grow."""
        user = session.get_one(User, user_id)
        user.name = f"User {user_id}" if user.name.endswith("!") else f"{user.name}!"
        tasks.add_task(in_background)
        return user

    @router.get("/released")
    def released(session: SyncSession) -> int:
        user = session.get_one(User, 1)
        with db.released(session):
            found = user.id
        return found + (session.scalar(select(User.id).limit(1)) or 0)

    @router.post("/conflict")
    def conflict(session: SyncSession) -> None:
        session.add(User(id=1, name="taken", email=None))

    @router.get("/unknown")
    def unknown(session: SyncSession) -> None:
        session.execute(text("SELECT 1"))
        raise HTTPException(404)


def add_async(router: fastapi.APIRouter) -> None:
    @router.get("/users", response_model=list[UserOut])
    async def list_users(session: TaskSession) -> object:
        return (await session.scalars(listed)).all()

    @router.post("/users/{user_id}", response_model=UserOut)
    async def rename(user_id: int, session: TaskSession, tasks: BackgroundTasks) -> User:
        user = await session.get_one(User, user_id)
        user.name = f"User {user_id}" if user.name.endswith("!") else f"{user.name}!"
        tasks.add_task(in_background_async)
        return user

    @router.get("/released")
    async def released(session: TaskSession) -> int:
        user = await session.get_one(User, 1)
        async with db.released(session):
            await asyncio.sleep(0)
            found = user.id
        return found + (await session.scalar(select(User.id).limit(1)) or 0)

    @router.get("/stream")
    async def stream(session: TaskSession) -> StreamingResponse:
        user = await session.get_one(User, 1)

        async def body() -> AsyncIterator[str]:
            yield f"{user.id}\n"
            async with db.begin() as own:
                yield f"{await own.scalar(select(User.name).limit(1))}\n"

        return StreamingResponse(body())

    @router.post("/conflict")
    async def conflict(session: TaskSession) -> None:
        session.add(User(id=1, name="taken", email=None))

    @router.get("/unknown")
    async def unknown(session: TaskSession) -> None:
        await session.execute(text("SELECT 1"))
        raise HTTPException(404)

    async def user(session: TaskSession) -> User:
        return await session.get_one(User, 1)

    @router.get("/events", response_class=EventSourceResponse)
    async def events(user: Annotated[User, Depends(user)]) -> AsyncIterator[dict[str, int]]:
        for _ in range(3):
            async with db.begin() as own:
                yield {"id": await own.scalar(select(User.id).limit(1)) or 0}


def in_background() -> None:
    with db.begin() as session:
        session.execute(select(User.id).limit(1))


async def in_background_async() -> None:
    async with db.begin() as session:
        await session.execute(select(User.id).limit(1))


@app.post("/settle")
async def settle() -> None:
    """Close what is opened again by itself, and have as many threads as there can be: whatever else is there grew."""
    db.engine.dispose()
    await db.async_engine.dispose()  # not db.aclose(): a new engine would fill caches of the mappers anew
    db._resources.threads.close()
    threads = int(to_thread.current_default_thread_limiter().total_tokens)
    all_there = threading.Barrier(threads, timeout=60)
    async with create_task_group() as group:
        for _ in range(threads):
            group.start_soon(to_thread.run_sync, all_there.wait)


@app.get("/inside")
async def inside() -> dict[str, int]:
    """Count what a leak would add to, after the garbage collector."""
    gc.collect()
    objects = gc.get_objects()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    stats = db.stats()
    return {
        "objects": len(objects),
        "sessions": sum(isinstance(one, Session | AsyncSession) for one in objects),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "in_use": stats.in_use,
        "waiting": stats.waiting,
        "checked_out": stats.open - stats.idle,
        "open": stats.open,
    }


for add, kind in ((add_sync, "sync"), (add_async, "async")):
    for made, name in ((APIRouter(), "own"), (fastapi.APIRouter(), "plain")):
        add(made)
        app.include_router(made, prefix=f"/{kind}/{name}")
