"""B20: one `Database`, several event loops, one after the other and at the same time."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from threading import Barrier, Event, Thread
from typing import Any

import pytest
import uvloop
from sqlalchemy import text

from apps.b_serving import comes_true
from fastapi_database import Database
from support.postgres import PostgreSQL

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
POOL = 5


@pytest.fixture
def backends(request: pytest.FixtureRequest, async_url: str) -> Callable[[], int]:
    """Count the connections that the database's server sees."""
    if async_url.startswith("sqlite"):
        return lambda: 0
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return lambda: len(server.backends(async_url))


@pytest.fixture
def db(async_url: str, caplog: pytest.LogCaptureFixture) -> Iterator[Database]:
    db = Database(async_url, max_connections=POOL)
    yield db
    db.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_b20_five_successive_event_loops(db: Database, loop: str, backends: Callable[[], int]) -> None:
    run(loop, create(db))
    for number in range(1, 6):
        run(loop, work(db, 20))
        assert (db.stats().in_use, db.stats().open) == (0, 0), number
        assert comes_true(lambda: backends() == 0, 5.0), number
    assert rows(db) == 100


@pytest.mark.parametrize("loop", LOOPS)
def test_b20_two_threads_with_a_loop_each(db: Database, loop: str, backends: Callable[[], int]) -> None:
    run(loop, create(db))
    together = Barrier(2)
    failures: list[BaseException] = []

    def thread() -> None:
        try:
            together.wait()
            for _ in range(3):
                run(loop, work(db, 30))
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=thread) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert (db.stats().in_use, db.stats().open, db.stats().waiting) == (0, 0, 0)
    assert comes_true(lambda: backends() == 0, 5.0)
    assert rows(db) == 180


@pytest.mark.parametrize("loop", LOOPS)
def test_b20_a_loop_that_ends_while_sync_sessions_work(db: Database, loop: str, backends: Callable[[], int]) -> None:
    run(loop, create(db))
    stop: list[bool] = []
    failures: list[BaseException] = []

    def sync_work() -> None:
        try:
            while not stop:
                with db.begin() as session:
                    session.execute(text("SELECT count(*) FROM notes"))
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=sync_work) for _ in range(2)]
    for one in threads:
        one.start()
    for _ in range(3):
        run(loop, work(db, 20))
    stop.append(True)
    for one in threads:
        one.join()
    assert failures == []
    assert rows(db) == 60
    db.close()
    assert db.stats().open == 0
    assert comes_true(lambda: backends() == 0, 5.0)


def test_b20_a_loop_that_is_told_to_close_a_connection_may_end_at_once(
    async_url: str, backends: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    db = Database(async_url, max_connections=1)
    done: list[int] = []

    def take_the_only_place() -> None:
        with db.begin() as session:
            done.append(session.scalar(text("SELECT 1")) or 0)

    thread = Thread(target=take_the_only_place)

    async def main() -> None:
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
        told = Event()
        loop: Any = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def note(*arguments: Any, **options: Any) -> Any:
            handle = call(*arguments, **options)
            told.set()
            return handle

        loop.call_soon_threadsafe = note
        thread.start()
        assert told.wait(10.0)  # stops this loop, which ends a few turns later
        for _ in range(2):
            await asyncio.sleep(0)

    asyncio.run(main())
    thread.join()
    assert done == [1]
    db.close()
    assert db.stats().open == 0
    assert comes_true(lambda: backends() == 0, 5.0)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def run(loop: str, coroutine: Coroutine[Any, Any, None]) -> None:
    """Do what `asyncio.run` does, on a loop of either kind."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(coroutine)


async def create(db: Database) -> None:
    async with db.begin() as session:
        await session.execute(text("CREATE TABLE notes (text TEXT)"))


async def work(db: Database, n: int) -> None:
    async def one(number: int) -> None:
        async with db.begin() as session:
            await session.execute(text("INSERT INTO notes (text) VALUES ('x')"))
            assert await session.scalar(text(f"SELECT {number}")) == number

    async with asyncio.TaskGroup() as group:
        for number in range(n):
            group.create_task(one(number))


def rows(db: Database) -> int:
    with db.begin() as session:
        found = session.scalar(text("SELECT count(*) FROM notes"))
    db.close()
    return found
