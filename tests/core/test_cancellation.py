"""A unit of work cancelled at every await it has, natively and by AnyIO: all or nothing, and nothing is left."""

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import anyio
import pytest
from sqlalchemy import text

from fastapi_database import Database

ENOUGH = 300
# The sweep belongs to guarantee B12, which does not hold everywhere yet (see CHANGELOG.md): run it by the variable.
pytestmark = pytest.mark.skipif("FASTAPI_DATABASE_TEST_B12" not in os.environ, reason="B12 is not promised yet")
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
@pytest.mark.parametrize("pool", ["warm", "cold"])
def test_a_unit_cancelled_at_any_await_is_all_or_nothing_and_leaves_nothing(
    async_url: str, cancel: Cancel, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(sweep(async_url, cancel, pool))
    # A connection that psycopg was about to make lives in a cycle: the server waits for it until it is collected.
    gc.collect()
    for words in ("garbage collector", "Exception terminating"):
        assert words not in caplog.text


async def sweep(url: str, cancel: Cancel, pool: str) -> None:
    asyncio.get_running_loop().set_exception_handler(without_asyncpgs_own)
    db = Database(url, max_connections=3)
    async with db.begin() as session:
        await session.execute(text("CREATE TABLE notes (text TEXT)"))
    tasks = len(asyncio.all_tasks())
    for at in range(1, ENOUGH):
        if pool == "cold":
            await db.async_engine.dispose()
        reached, through = await cancel(partial(write_twice, db, str(at)), at)
        stats = db.stats()
        assert (stats.in_use, stats.waiting, stats.open - stats.idle) == (0, 0, 0), at
        if pool == "cold":
            await db.async_engine.dispose()
            assert db.stats().open == 0, at
        async with asyncio.timeout(2), db.begin() as session:  # at once: nobody holds a lock that has been cancelled
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


async def write_twice(db: Database, value: str) -> None:
    async with db.begin() as session:
        for _ in range(2):
            await session.execute(text(f"INSERT INTO notes VALUES ('{value}')"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def without_asyncpgs_own(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pass on what the loop complains about; asyncpg does not hear of its own future when connecting is cancelled."""
    if "connection_lost" not in str(context.get("exception")):
        loop.default_exception_handler(context)
