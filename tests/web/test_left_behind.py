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
        assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)
        with db.begin() as session:
            session.execute(text("INSERT INTO t VALUES (2)"))  # nobody holds the lock
    db.close()
