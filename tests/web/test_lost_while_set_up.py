"""A connection of asyncpg that the server ends while SQLAlchemy sets it up."""

import asyncio
from typing import Annotated, Any

import asyncpg
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from apps.c_cases import ROUTERS, router
from fastapi_database import Database


@pytest.mark.parametrize("seen", [False, True], ids=["in flight", "seen"])
@pytest.mark.parametrize("number", [0, 1], ids=["first", "later"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a10_who_gets_it_is_told_to_try_again_and_the_next_is_served(
    postgresql_url: str, name: str, number: int, seen: bool
) -> None:
    """The first connection of an engine is set up by SQLAlchemy otherwise than those after it."""
    opened = list[Any]()

    async def open_and_lose(*arguments: Any, **options: Any) -> Any:
        connection = await asyncpg.connect(*arguments, **options)
        opened.append(connection)
        if len(opened) == number + 1:
            other = await asyncpg.connect(postgresql_url)
            await other.execute("SELECT pg_terminate_backend($1, 5000)", connection.get_server_pid())
            await other.close()
            while seen and not connection.is_closed():
                await asyncio.sleep(0.001)
        return connection

    url = postgresql_url.replace("postgresql:", "postgresql+asyncpg:")
    db, app, routes = Database(url, connect_args={"async_creator_fn": open_and_lose}), FastAPI(), router(name)
    db.install(app)

    @routes.get("/")
    async def read(session: Annotated[AsyncSession, Depends(db.async_session)], lose: bool = False) -> int | None:
        if lose:
            await db.async_engine.dispose()  # the next statement opens a connection
        return await session.scalar(select(1))

    app.include_router(routes)
    with TestClient(app, raise_server_exceptions=False) as client:
        answers = [client.get("/", params={"lose": number + 1 == i + 1}) for i in range(number + 2)]
        assert [answer.status_code for answer in answers] == [200] * number + [503, 200]
        assert answers[number].json()["code"] == "connection-lost"
        assert (db.stats().in_use, db.stats().open - db.stats().idle) == (0, 0)
