"""Who goes first when connections are scarce: `transaction(priority=...)`, on every router and for both kinds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session

from apps.c_cases import KINDS, ROUTERS, Kind, endpoint, router
from fastapi_database import Database, transaction
from fastapi_database.errors import ConflictingSettings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def calling(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def application(db: Database, kind: Kind, routes: str, served: list[str]) -> FastAPI:
    app, added = FastAPI(), router(routes)

    def serve(name: str) -> Callable[[Session], None]:
        def work(session: Session) -> None:
            session.execute(text("SELECT 1"))
            served.append(name)

        return work

    for name, priority in (("probe", 10), ("page", 0), ("report", -10)):
        added.add_api_route(f"/{name}", transaction(priority=priority)(endpoint(db, kind, serve(name))))
    db.install(app)
    app.include_router(added, prefix="/api")
    return app


@pytest.mark.parametrize("routes", ROUTERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_who_waits_with_a_higher_priority_goes_first(sqlite_url: str, kind: Kind, routes: str) -> None:
    db, served, requests = Database(sqlite_url, max_connections=1), list[str](), list[asyncio.Task[Any]]()
    async with calling(application(db, kind, routes, served)) as client:
        async with db.begin() as busy:
            await busy.execute(text("SELECT 1"))
            for name in ("report", "page", "probe", "report", "page", "probe"):
                requests.append(asyncio.create_task(client.get(f"/api/{name}")))
                await until(lambda: db.stats().waiting == len(requests))
        answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert served == ["probe", "probe", "page", "page", "report", "report"]


@pytest.mark.parametrize("kind", KINDS)
async def test_in_a_full_queue_the_lowest_gives_way_and_is_told_when_to_come_again(sqlite_url: str, kind: Kind) -> None:
    db, served = Database(sqlite_url, max_connections=1, max_waiting=1), list[str]()
    async with calling(application(db, kind, "plain", served)) as client:
        async with db.begin() as busy:
            await busy.execute(text("SELECT 1"))
            report = asyncio.create_task(client.get("/api/report"))
            await until(lambda: db.stats().waiting == 1)
            probe = asyncio.create_task(client.get("/api/probe"))
            refused = await report
        assert (await probe).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"], refused.json()["code"]) == (503, "1", "queue-full")
    assert served == ["probe"]
    assert (db.stats().in_use, db.stats().waiting, db.stats().refused) == (0, 0, 1)


async def test_a_unit_outside_requests_has_a_priority_too(sqlite_url: str) -> None:
    db, served, tasks = Database(sqlite_url, max_connections=1), list[int](), list[asyncio.Task[None]]()

    async def unit(priority: int) -> None:
        async with db.begin(priority=priority) as session:
            await session.execute(text("SELECT 1"))
            served.append(priority)

    async with db.begin() as busy:
        await busy.execute(text("SELECT 1"))
        for priority in (-1, 0, 1):
            tasks.append(asyncio.create_task(unit(priority)))
            await until(lambda: db.stats().waiting == len(tasks))
    await asyncio.gather(*tasks)
    assert served == [1, 0, -1]
    await db.aclose()


@pytest.mark.parametrize("given", ["high", 1.5, None, True])
async def test_a_priority_that_is_no_number_is_refused(sqlite_url: str, given: Any) -> None:
    with pytest.raises(ConflictingSettings, match=r"priority=.* is no int"):
        transaction(priority=given)
    with pytest.raises(ConflictingSettings, match=r"priority=.* is no int"):
        Database(sqlite_url).begin(priority=given)
