"""A task that an endpoint starts and leaves behind, in the middle of a statement, when it answers."""

import asyncio
import time
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from apps.c_cases import ROUTERS, router
from fastapi_database import Database


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("name", ROUTERS)
def test_a_task_left_at_its_first_statement_keeps_nothing(sqlite_url: str, name: str, turns: int) -> None:
    db = Database(sqlite_url, queue_timeout=1, connect_args={"timeout": 1})
    with db.begin() as session:
        session.execute(text("CREATE TABLE t (id INTEGER)"))
    app, routes, tasks = FastAPI(), router(name), list[asyncio.Task[Any]]()
    db.install(app)

    async def late(session: AsyncSession) -> None:
        for _ in range(5):
            await session.execute(text("INSERT INTO t VALUES (1)"))

    @routes.post("/")
    async def leave(session: Annotated[AsyncSession, Depends(db.async_session)]) -> int:
        tasks.append(asyncio.create_task(late(session)))
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    app.include_router(routes)
    with TestClient(app) as client:
        assert client.post("/").status_code == 200
        deadline = time.monotonic() + 5
        while not (tasks[0].done() and db.stats().open == db.stats().idle) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tasks[0].done()
        if not tasks[0].cancelled():
            tasks[0].exception()  # seen: asyncio would complain about it in some later test
        assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)
        with db.begin() as session:
            session.execute(text("INSERT INTO t VALUES (2)"))  # nobody holds the lock
    db.close()


@pytest.mark.parametrize("name", ROUTERS)
def test_a_task_that_outlives_its_request_completes_the_unit_it_has_begun(sqlite_url: str, name: str) -> None:
    db = Database(sqlite_url)
    with db.begin() as session:
        session.execute(text("CREATE TABLE t (id INTEGER)"))
    app, routes = FastAPI(), router(name)
    db.install(app)
    tasks, in_the_middle, answered = list[asyncio.Task[None]](), asyncio.Event(), asyncio.Event()

    async def late() -> None:
        async with db.begin() as session:
            await session.execute(text("INSERT INTO t VALUES (1)"))
            in_the_middle.set()
            await answered.wait()
            await session.execute(text("INSERT INTO t VALUES (2)"))

    @routes.post("/")
    async def leave() -> None:
        tasks.append(asyncio.create_task(late()))
        await in_the_middle.wait()

    @routes.post("/answered")
    async def wait_for_it() -> None:
        answered.set()
        await tasks[0]

    app.include_router(routes)
    with TestClient(app) as client:
        assert [client.post(path).status_code for path in ("/", "/answered")] == [200, 200]
    with db.begin() as session:
        assert session.scalars(text("SELECT id FROM t ORDER BY id")).all() == [1, 2]
    db.close()
