"""Stopping a statement from outside: only one that runs, only whose it is, and without a cancellation too many."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, text

from apps.b_serving import comes_true
from apps.c_cases import Kind
from fastapi_database import Database
from fastapi_database.core.internals import greenlet_spawn
from fastapi_database.engines.interruption import Interruption
from support.postgres import PostgreSQL
from support.proxy import Fault, Proxy

FORMS = [("sync", "psycopg"), ("async", "psycopg"), ("async", "asyncpg")]
PID = text("SELECT pg_backend_pid()")
SLEEP = text("SELECT pg_sleep(3)")  # longer than the two seconds after which a request to cancel is given up


@pytest.fixture(params=FORMS, ids="-".join)
def case(request: pytest.FixtureRequest, postgresql_url: str, proxy: Proxy) -> Iterator[tuple[Kind, Database]]:
    """A database behind the proxy."""
    kind, driver = request.param
    db = Database(make_url(postgresql_url).set(drivername=f"postgresql+{driver}", port=proxy.port))
    yield kind, db
    db.close()


def test_a_connection_that_a_late_request_to_cancel_may_still_hit_is_nobody_elses(
    case: tuple[Kind, Database], proxy: Proxy, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    kind, db = case

    async def interrupt(session: Any) -> None:
        def sleeps() -> bool:
            return any("pg_sleep" in one.query for one in postgresql.backends(postgresql_url))

        assert await asyncio.to_thread(comes_true, sleeps)
        proxy.meet(Fault.BLACK_HOLE)  # the request is on its way, and nobody knows whether it will arrive
        await session.unit.interrupt()
        proxy.meet(None)

    async def in_tasks() -> list[int | None]:
        async with db.begin() as session:
            first = await session.scalar(PID)
            sleeping = asyncio.create_task(session.execute(SLEEP))
            await interrupt(session)
            await sleeping
            await session.rollback()
        async with db.begin() as session:
            second = await session.scalar(PID)
        await db.aclose()
        return [first, second]

    def in_threads() -> list[int | None]:
        with db.begin() as session:
            first = session.scalar(PID)
            interrupting = threading.Thread(target=lambda: asyncio.run(interrupt(session)))
            interrupting.start()
            session.execute(SLEEP)
            interrupting.join()
            session.rollback()
        with db.begin() as session:
            return [first, session.scalar(PID)]

    first, second = in_threads() if kind == "sync" else asyncio.run(in_tasks())
    assert first != second


def test_nothing_is_sent_while_no_statement_runs(case: tuple[Kind, Database], proxy: Proxy) -> None:
    kind, db = case

    async def interrupt(session: Any) -> None:
        for _ in range(3):
            await session.unit.interrupt()

    async def in_a_task() -> int:
        async with db.begin() as session:
            await session.execute(PID)
            before = proxy.connects
            await interrupt(session)
            sent = proxy.connects - before
            await session.rollback()
        await db.aclose()
        return sent

    def in_a_thread() -> int:
        with db.begin() as session:
            session.execute(PID)
            before = proxy.connects
            asyncio.run(interrupt(session))
            session.rollback()
            return proxy.connects - before

    assert (in_a_thread() if kind == "sync" else asyncio.run(in_a_task())) == 0


@pytest.mark.parametrize("others", [0, 2])
def test_a_time_out_around_giving_a_connection_back_is_still_a_time_out(others: int) -> None:
    """The cancellation waits for the request that is on its way, and is delivered once."""
    assert asyncio.run(give_back(others)) == ("timed out" if others == 0 else f"cancelled by {others}")


async def give_back(others: int) -> str:
    """Give back within a time-out, while a request is on its way and others cancel the task as well."""
    interruption = Interruption()
    assert interruption.begin()
    task = asyncio.current_task()
    assert task is not None
    ending = asyncio.create_task(end_when_cancelled(task, interruption, others))
    try:
        async with asyncio.timeout(0):
            await greenlet_spawn(interruption.give_back)
            await asyncio.sleep(60)
    except TimeoutError:
        return "timed out"
    except asyncio.CancelledError:
        return f"cancelled by {task.cancelling()}"
    finally:
        await ending
    return "not cancelled"


async def end_when_cancelled(task: asyncio.Task[Any], interruption: Interruption, others: int) -> None:
    while not task.cancelling():
        await asyncio.sleep(0)
    for _ in range(others):
        task.cancel()
    for _ in range(10):  # turns of the loop, in which it hears of it
        await asyncio.sleep(0)
    interruption.end()
