"""A unit of work cancelled at every await it has, natively and by AnyIO: all or nothing, and nothing is left."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Annotated, Any

import anyio
import fastapi
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from apps.a_asgi import ask
from fastapi_database import APIRouter, Database

ENOUGH = 300
Work = Callable[[str], Awaitable[None]]
Cancel = Callable[[Callable[[], Awaitable[None]], int], Awaitable[tuple[bool, bool]]]


class Interrupted:
    """Awaits something and calls `interrupt` while it is suspended for the n-th time."""

    def __init__(self, awaitable: Awaitable[Any], at: int, interrupt: Callable[[], object]) -> None:
        self._inner = awaitable.__await__()
        self._at = at
        self._interrupt = interrupt
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = lambda: next(self._inner)  # noqa: E731
        while True:
            try:
                waits_for = resume()
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            if self.suspensions == self._at:
                asyncio.get_running_loop().call_soon(self._interrupt)
            try:
                yield waits_for
            except BaseException as error:
                thrown = error
                resume = lambda: self._inner.throw(thrown)  # noqa: B023, E731
            else:
                resume = lambda: next(self._inner)  # noqa: E731


async def natively(work: Callable[[], Awaitable[None]], at: int) -> tuple[bool, bool]:
    """Cancel a task at its n-th await; tell whether it came that far, and whether it got through."""

    def cancel() -> None:
        task.cancel()

    async def run() -> bool:
        steps = Interrupted(work(), at, cancel)
        try:
            await steps
        finally:
            reached.append(steps.suspensions >= at)
        return True

    reached: list[bool] = []
    task = asyncio.create_task(run())
    await asyncio.wait({task})
    if task.cancelled():
        return reached[0], False
    return reached[0], task.result()


async def by_scope(work: Callable[[], Awaitable[None]], at: int) -> tuple[bool, bool]:
    """Cancel a scope of AnyIO at the n-th await inside it."""
    with anyio.CancelScope() as scope:
        steps = Interrupted(work(), at, scope.cancel)
        await steps
    return steps.suspensions >= at, not scope.cancelled_caught


@pytest.mark.parametrize("cancel", [natively, by_scope])
@pytest.mark.parametrize("pool", ["warm", "cold", "new"])
def test_b12_a_unit_cancelled_at_any_await_is_all_or_nothing_and_leaves_nothing(
    async_url: str, cancel: Cancel, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(sweep(async_url, cancel, pool, lambda db: partial(write_twice, db)))
    nothing_was_logged(caplog)


@pytest.mark.parametrize("cancel", [natively, by_scope])
@pytest.mark.parametrize("router", ["own", "plain"])
@pytest.mark.parametrize("pool", ["warm", "cold"])
def test_b12_a_request_cancelled_at_any_await_is_all_or_nothing_and_leaves_nothing(
    async_url: str, cancel: Cancel, router: str, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(sweep(async_url, cancel, pool, lambda db: requests_to(db, router, "async")))
    nothing_was_logged(caplog)


@pytest.mark.parametrize("cancel", [natively, by_scope])
@pytest.mark.parametrize("router", ["own", "plain"])
@pytest.mark.parametrize("pool", ["warm", "cold"])
def test_b12_a_request_in_a_thread_cancelled_at_any_await_is_all_or_nothing_and_leaves_nothing(
    url: str, cancel: Cancel, router: str, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(sweep(url, cancel, pool, lambda db: requests_to(db, router, "sync")))
    nothing_was_logged(caplog)


def nothing_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    # A connection that psycopg was about to make lives in a cycle: the server waits for it until it is collected.
    gc.collect()
    for words in ("garbage collector", "Exception terminating"):
        assert words not in caplog.text


async def sweep(url: str, cancel: Cancel, pool: str, works: Callable[[Database], Work]) -> None:
    asyncio.get_running_loop().set_exception_handler(without_asyncpgs_own)
    db = Database(url, max_connections=3)
    work = works(db)
    async with db.begin() as session:
        await session.execute(text("CREATE TABLE notes (text TEXT)"))
    tasks = len(asyncio.all_tasks())
    for at in range(1, ENOUGH):
        if pool == "cold":
            await empty(db)
        if pool == "new":  # SQLAlchemy asks the first connection of an engine what server it is
            await db.aclose()
            db = Database(url, max_connections=3)
            work = works(db)
        reached, through = await cancel(partial(work, str(at)), at)
        stats = db.stats()
        assert (stats.in_use, stats.waiting, stats.open - stats.idle) == (0, 0, 0), at
        if pool == "cold":
            await empty(db)
            assert db.stats().open == 0, at
        async with asyncio.timeout(20), db.begin() as session:  # at once: nobody holds a lock that has been cancelled
            rows = await session.scalar(text(f"SELECT count(*) FROM notes WHERE text = '{at}'"))
            await session.execute(text("INSERT INTO notes VALUES ('after')"))
        assert rows in ({2} if through else {0, 2}), at
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        if not reached:
            break
    else:
        pytest.fail("the work never got through")
    await db.aclose()
    assert db.stats().open == 0


async def empty(db: Database) -> None:
    await db.async_engine.dispose()
    db.engine.dispose()


async def write_twice(db: Database, value: str) -> None:
    async with db.begin() as session:
        for _ in range(2):
            await session.execute(text(f"INSERT INTO notes VALUES ('{value}')"))


def requests_to(db: Database, router: str, kind: str) -> Work:
    """Give what sends one request that writes twice: once in a dependency, once in the endpoint."""
    app = FastAPI()
    db.install(app)
    routes = APIRouter() if router == "own" else fastapi.APIRouter()
    (add_sync if kind == "sync" else add_async)(routes, db)
    app.include_router(routes)

    async def send(value: str) -> None:
        reply = await ask(app, "POST", f"/notes/{value}")
        assert (reply.status, reply.error) == (201, None)

    return send


def add_sync(routes: fastapi.APIRouter, db: Database) -> None:
    def write(value: str, session: Annotated[Session, Depends(db.session)]) -> Session:
        session.execute(text(f"INSERT INTO notes VALUES ('{value}')"))
        return session

    @routes.post("/notes/{value}", status_code=201)
    def create(value: str, session: Annotated[Session, Depends(write)]) -> None:
        write(value, session)


def add_async(routes: fastapi.APIRouter, db: Database) -> None:
    async def write(value: str, session: Annotated[AsyncSession, Depends(db.async_session)]) -> AsyncSession:
        await session.execute(text(f"INSERT INTO notes VALUES ('{value}')"))
        return session

    @routes.post("/notes/{value}", status_code=201)
    async def create(value: str, session: Annotated[AsyncSession, Depends(write)]) -> None:
        await write(value, session)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def without_asyncpgs_own(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass on what the loop complains about; asyncpg does not hear of its own future when connecting is cancelled."""
    if "connection_lost" not in str(context.get("exception")):
        loop.default_exception_handler(context)
