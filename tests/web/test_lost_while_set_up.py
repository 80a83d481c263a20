"""A connection that is lost while SQLAlchemy sets it up."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, Pool

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


@pytest.mark.parametrize("pool", [None, NullPool], ids=["our pool", "the application's"])
@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite", "psycopg", "psycopg async", "asyncpg"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a5_code_that_swallows_it_is_not_answered_as_if_it_had_stored(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, driver: str, pool: type[Pool] | None
) -> None:
    lose = True

    def fail(connection: Any, _record: object) -> None:
        if lose:
            raise LookupError("a listener of the application's")

    if driver.startswith("sqlite"):
        url = f"sqlite:///{tmp_path}/app.db"
    else:
        url = request.getfixturevalue("postgresql_url").replace(
            "postgresql:", f"postgresql+{driver.removesuffix(' async')}:"
        )
    asynchronous = driver in {"sqlite+aiosqlite", "psycopg async", "asyncpg"}
    db, app, routes = Database(url, **({} if pool is None else {"poolclass": pool})), FastAPI(), router(name)
    db.install(app)

    @routes.post("/sync")
    def store(session: Annotated[Session, Depends(db.session)], status: int = 200) -> JSONResponse:
        event.listen(db.engine, "connect", fail)
        with suppress(LookupError):
            session.execute(select(1))
        return JSONResponse({}, status)

    @routes.post("/async")
    async def store_async(
        session: Annotated[AsyncSession, Depends(db.async_session)], status: int = 200
    ) -> JSONResponse:
        event.listen(db.async_engine.sync_engine, "connect", fail)
        with suppress(LookupError):
            await session.execute(select(1))
        return JSONResponse({}, status)

    app.include_router(routes)
    path = "/async" if asynchronous else "/sync"
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "unreachable")
        assert client.post(path, params={"status": 404}).status_code == 404  # it says itself that nothing was done
        lose = False
        assert client.post(path).status_code == 200
        assert db.stats().in_use == 0
