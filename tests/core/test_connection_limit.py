"""`max_connections` across the sync pool and the pools of all event loops: never more, and nobody waits in vain."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text
from sqlalchemy.pool import Pool

from fastapi_database import Database, errors
from fastapi_database.core.admission import REFUSALS, Refusals

POOL = 3
LONG = 60.0


class Opened:
    """Counts the connections of every pool in this process, apart from how the library counts them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: set[int] = set()
        self.most = 0

    @property
    def now(self) -> int:
        return len(self._now)

    def opened(self, connection: object, _record: object) -> None:
        with self._lock:
            self._now.add(id(connection))
            self.most = max(self.most, len(self._now))

    def closed(self, connection: object, _record: object) -> None:
        with self._lock:
            self._now.discard(id(connection))


@pytest.fixture
def opened() -> Iterator[Opened]:
    opened = Opened()
    event.listen(Pool, "connect", opened.opened)
    event.listen(Pool, "close", opened.closed)
    yield opened
    event.remove(Pool, "connect", opened.opened)
    event.remove(Pool, "close", opened.closed)


@pytest.fixture
def db(async_url: str, opened: Opened) -> Iterator[Database]:
    db = Database(async_url, max_connections=POOL, queue_timeout=LONG)
    yield db
    db.close()
    assert (db.stats().open, opened.now) == (0, 0)


async def use_async(db: Database, at_once: int) -> None:
    """Have so many async units open at the same time."""
    together = asyncio.Barrier(at_once)

    async def one() -> None:
        async with db.begin() as session:
            assert await session.scalar(text("SELECT 1")) == 1
            await session.commit()
            await session.scalar(text("SELECT 1"))
            await together.wait()

    async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one())


def use_sync(db: Database, at_once: int) -> None:
    """Have so many sync units open at the same time."""
    together = threading.Barrier(at_once)

    def one() -> None:
        with db.begin() as session:
            assert session.scalar(text("SELECT 1")) == 1
            together.wait(LONG)

    with ThreadPoolExecutor(at_once) as threads:
        for done in [threads.submit(one) for _ in range(at_once)]:
            done.result(LONG)


def readers(db: Database) -> int:
    """How many units can be open at once: `db.begin()` means to write, and SQLite has one writer."""
    return 1 if "sqlite" in repr(db) else POOL


def test_idle_connections_of_one_pool_make_room_for_another(db: Database, opened: Opened) -> None:
    async def main() -> None:
        await asyncio.to_thread(use_sync, db, readers(db))
        await use_async(db, readers(db))
        assert opened.now <= POOL
        await asyncio.to_thread(use_sync, db, readers(db))
        assert opened.now <= POOL

    asyncio.run(main())
    assert opened.most <= POOL


def test_idle_connections_of_one_event_loop_make_room_for_another(db: Database, opened: Opened) -> None:
    async def main() -> None:
        await use_async(db, readers(db))
        await asyncio.to_thread(asyncio.run, use_async(db, readers(db)))
        await use_async(db, readers(db))

    asyncio.run(main())
    assert opened.most <= POOL


def test_threads_tasks_and_two_event_loops_at_once_never_open_more(db: Database, opened: Opened) -> None:
    async def tasks() -> None:
        async def one() -> None:
            for _ in range(10):
                async with db.begin() as session:
                    assert await session.scalar(text("SELECT 1")) == 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(one())
        done.append("loop")

    def thread() -> None:
        for _ in range(40):
            with db.begin() as session:
                assert session.scalar(text("SELECT 1")) == 1
        done.append("thread")

    done: list[str] = []
    work = [lambda: asyncio.run(tasks()), lambda: asyncio.run(tasks()), thread, thread]
    with ThreadPoolExecutor(len(work)) as pool:
        for one in [pool.submit(function) for function in work]:
            one.result(LONG)
    assert sorted(done) == ["loop", "loop", "thread", "thread"]
    assert opened.most <= POOL
    assert (db.stats().in_use, db.stats().waiting, db.stats().timed_out) == (0, 0, 0)


def test_a_unit_inside_a_unit_that_has_the_last_place_is_refused_at_the_deadline(async_url: str) -> None:
    db = Database(async_url, max_connections=1, queue_timeout=0.1)

    def sync_inside() -> None:
        with db.begin() as outer, db.begin() as inner:
            outer.execute(text("SELECT 1"))
            inner.execute(text("SELECT 1"))

    async def async_inside() -> None:
        async with db.begin() as outer, db.begin() as inner:
            await outer.execute(text("SELECT 1"))
            await inner.execute(text("SELECT 1"))

    with pytest.raises(errors.QueueTimeout, match=r"; held by db\.begin\(\) at test_connection_limit\.py:\d+ for"):
        sync_inside()
    with pytest.raises(errors.QueueTimeout, match=r"; held by db\.begin\(\) at test_connection_limit\.py:\d+ for"):
        asyncio.run(async_inside())
    assert db.stats().in_use == 0
    db.close()


def test_whoever_waits_for_a_connection_hears_of_one_that_was_invalidated(sqlite_url: str) -> None:
    db = Database(sqlite_url, max_connections=1, queue_timeout=LONG)
    engine = db.engine
    waited: list[object] = []

    def wait() -> None:
        with engine.connect() as connection:
            waited.append(connection.scalar(text("SELECT 1")))

    with engine.connect() as connection:
        thread = threading.Thread(target=wait)
        thread.start()
        while not engine.pool.waiting:  # type: ignore[attr-defined]
            thread.join(0.001)
        thread.join(0.05)
        connection.invalidate()
    thread.join(LONG / 2)
    assert waited == [1]
    assert (db.stats().open, db.stats().idle) == (1, 1)
    db.close()


def test_a_connection_in_use_at_close_is_counted_and_closes_when_its_unit_ends(url: str, opened: Opened) -> None:
    db = Database(url, max_connections=POOL)
    for _ in range(POOL + 1):
        with db.begin() as session:
            session.execute(text("SELECT 1"))
            db.close()
            assert (db.stats().open, db.stats().idle, opened.now) == (1, 0, 1)
        assert (db.stats().open, db.stats().idle, opened.now) == (0, 0, 0)


def test_an_async_connection_in_use_at_aclose_closes_when_its_unit_ends(async_url: str, opened: Opened) -> None:
    db = Database(async_url, max_connections=POOL)

    async def main() -> None:
        for _ in range(POOL + 1):
            async with db.begin() as session:
                await session.execute(text("SELECT 1"))
                await db.aclose()
                assert (db.stats().open, db.stats().idle, opened.now) == (1, 0, 1)
            assert (db.stats().open, db.stats().idle, opened.now) == (0, 0, 0)

    asyncio.run(main())


def test_a_connection_refused_at_the_limit_is_noted_like_any_other_refusal(sqlite_url: str) -> None:
    db = Database(sqlite_url, max_connections=1, queue_timeout=0.05)

    async def main() -> list[errors.Unavailable]:
        refusals = Refusals(on_first=lambda: None)
        REFUSALS.set(refusals)
        with pytest.raises(errors.QueueTimeout):
            async with db.begin() as session:
                await session.execute(text("SELECT 1"))
        return refusals.errors

    with db.engine.connect():
        assert [type(one) for one in asyncio.run(main())] == [errors.QueueTimeout]
    db.close()


@pytest.mark.anyio
async def test_a_probe_leaves_an_idle_connection_open_and_none_of_its_own(url: str, opened: Opened) -> None:
    db = Database(url, max_connections=POOL)
    assert await db._resources.connections.probe()
    assert opened.now == db.stats().open == 0
    async with db.begin() as session:
        await session.execute(text("SELECT 1"))
    (idle,) = opened._now
    assert await db._resources.connections.probe()
    assert opened._now == {idle}
    assert db.stats().idle == 1
    await db.aclose()
