"""`db.released(session)`: no connection while the block lasts, and nothing committed or lost by it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import listening
from fastapi_database import Database
from fastapi_database.core.threads import Threads
from fastapi_database.errors import NotReleasable, QueueTimeout, UnitEnded, WrongSession

PATIENCE = 30.0
HAS_WRITTEN = r"db\.begin\(\) at test_released\.py:\d+ has written"


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def db(async_url: str) -> Iterator[Database]:
    db = Database(async_url, models=Base, max_connections=1, queue_timeout=0.3)
    db.create_all()
    with db.begin() as session:
        session.add(Guest(id=1, name="Ada"))
    yield db
    db.close()


def in_use(db: Database) -> tuple[int, int]:
    """Count the places and the connections that are held."""
    return db.stats().in_use, db.stats().open - db.stats().idle


def each(db: Database, sync: Callable[[Session], None], asynchronous: Callable[[AsyncSession], Any]) -> None:
    """Do the same with a session of each kind."""
    with db.begin() as session:
        sync(session)

    async def unit() -> None:
        async with db.begin() as session:
            await asynchronous(session)
        await db.aclose()

    asyncio.run(unit())


def test_the_connection_is_back_while_the_block_lasts_and_objects_stay_readable(db: Database) -> None:
    def sync(session: Session) -> None:
        ada = session.get_one(Guest, 1)
        assert in_use(db) == (1, 1)
        with db.released(session):
            assert in_use(db) == (0, 0)
            assert ada.name == "Ada"
            with db.released(session):  # an inner one does nothing more
                assert in_use(db) == (0, 0)
            with db.begin() as other:
                assert other.scalar(select(Guest.name)) == "Ada"
        assert session.scalar(select(Guest)) is ada

    async def asynchronous(session: AsyncSession) -> None:
        ada = await session.get_one(Guest, 1)
        async with db.released(session):
            assert in_use(db) == (0, 0)
            assert ada.name == "Ada"
            async with db.released(session), db.begin() as other:
                assert await other.scalar(select(Guest.name)) == "Ada"
        assert await session.scalar(select(Guest)) is ada

    each(db, sync, asynchronous)


def test_objects_stay_readable_with_expire_on_commit_too(sqlite_url: str) -> None:
    db = Database(sqlite_url, models=Base, expire_on_commit=True)
    db.create_all()
    with db.begin() as session:
        session.add(Guest(id=1, name="Ada"))
    with db.begin() as session:
        ada = session.get_one(Guest, 1)
        with db.released(session):
            assert ada.name == "Ada"
            assert in_use(db) == (0, 0)
        assert session.expire_on_commit
    db.close()


def test_a_unit_that_was_not_used_yet_is_released_without_asking_the_database(db: Database) -> None:
    statements: list[object] = []

    def sync(session: Session) -> None:
        with db.released(session):
            assert in_use(db) == (0, 0)

    async def asynchronous(session: AsyncSession) -> None:
        async with db.released(session):
            assert in_use(db) == (0, 0)

    with listening(db.engine, "before_cursor_execute", lambda *_: statements.append(1)):
        each(db, sync, asynchronous)
    assert statements == []


WRITES: dict[str, Callable[[Session], object]] = {
    "statement": lambda session: session.execute(text("UPDATE guests SET name = 'Eve'")),
    "statement after a read": lambda session: (
        session.get_one(Guest, 1),
        session.execute(text("UPDATE guests SET name = 'Eve'")),
    ),
    "flushed": lambda session: (session.add(Guest(id=2, name="Eve")), session.flush()),
    "new": lambda session: (session.get_one(Guest, 1), session.add(Guest(id=2, name="Eve"))),
    "dirty": lambda session: setattr(session.get_one(Guest, 1), "name", "Eve"),
    "deleted": lambda session: session.delete(session.get_one(Guest, 1)),
    "savepoint": lambda session: (session.get_one(Guest, 1), session.begin_nested()),
}


@pytest.mark.parametrize("write", WRITES)
def test_what_was_written_is_neither_committed_nor_undone_by_it(db: Database, write: str) -> None:
    def sync(session: Session) -> None:
        WRITES[write](session)
        with pytest.raises(NotReleasable, match=HAS_WRITTEN), db.released(session):
            pass
        session.rollback()

    async def asynchronous(session: AsyncSession) -> None:
        await session.run_sync(WRITES[write])
        with pytest.raises(NotReleasable, match=HAS_WRITTEN):
            async with db.released(session):
                pass
        await session.rollback()

    each(db, sync, asynchronous)
    with db.begin() as session:
        assert session.scalars(select(Guest.name)).all() == ["Ada"]


def test_what_was_committed_before_may_be_released(db: Database) -> None:
    with db.begin() as session:
        session.execute(text("UPDATE guests SET name = 'Eve'"))
        session.commit()
        with db.released(session):
            assert in_use(db) == (0, 0)
        session.execute(text("UPDATE guests SET name = 'Bob'"))
        session.rollback()
    with db.begin() as session:
        assert session.scalars(select(Guest.name)).all() == ["Eve"]


def test_waiting_for_a_place_after_the_block_is_bounded(db: Database) -> None:
    """Another unit has taken the only one meanwhile, and keeps it."""
    with db.begin() as other:

        def late(session: Session) -> None:
            session.get_one(Guest, 1)
            with db.released(session):
                other.execute(text("SELECT 1"))

        with pytest.raises(QueueTimeout), db.begin() as session:
            late(session)
    assert in_use(db) == (0, 0)


def test_an_error_of_the_block_goes_on_at_once(db: Database) -> None:
    with pytest.raises(LookupError), db.begin() as session, db.released(session):
        raise LookupError
    assert in_use(db) == (0, 0)


def test_a_session_that_is_not_of_this_database_is_refused(db: Database, sqlite_url: str) -> None:
    other = Database(sqlite_url)
    with other.begin() as session:
        for given in (session, Session(), AsyncSession(), None):
            with pytest.raises(WrongSession, match="no session of this Database"):
                db.released(given)  # type: ignore[arg-type]
    other.close()


def test_the_wrong_kind_of_block_names_the_right_one(db: Database) -> None:
    def sync(session: Session) -> None:
        async def enter() -> None:
            async with db.released(session):
                pass

        with pytest.raises(WrongSession, match=r"write `with db\.released"):
            asyncio.run(enter())

    async def asynchronous(session: AsyncSession) -> None:
        with pytest.raises(WrongSession, match=r"write `async with db\.released"), db.released(session):
            pass

    each(db, sync, asynchronous)


def test_after_its_unit_a_session_can_not_be_released(db: Database) -> None:
    with db.begin() as session:
        pass
    with pytest.raises(UnitEnded), db.released(session):
        pass


# The threads that wait in such a block.


@contextmanager
def threads_of(size: int) -> Iterator[Threads]:
    threads = Threads(size)
    yield threads
    threads.close()


@pytest.mark.anyio
async def test_threads_that_are_set_aside_keep_no_other_from_running() -> None:
    together = threading.Barrier(20)

    def wait() -> None:
        with threads.aside() as ours:
            assert ours
            with threads.aside() as inner:
                assert inner
            together.wait(PATIENCE)

    with threads_of(2) as threads:
        await asyncio.gather(*(threads.run(wait) for _ in range(20)))
        before = threading.active_count()
        assert await threads.run(lambda: "next") == "next"
        deadline = time.monotonic() + PATIENCE
        while len(threads._idle) > 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        assert len(threads._idle) <= 2
        assert threading.active_count() <= before
    with threads.aside() as ours:
        assert not ours
