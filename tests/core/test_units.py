"""`db.begin()`: the same cases over `with` and `async with`, on every driver."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from fastapi_database import Database, errors

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase): ...


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    orders: Mapped[list["Order"]] = relationship()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))


class OnPurposeError(Exception):
    pass


class Awaitables:
    """A `Session` whose methods can be awaited, so that one text serves both kinds."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **options: Any) -> Any:
            return getattr(self._session, name)(*arguments, **options)

        return call

    def add(self, one: object) -> None:
        self._session.add(one)


class Sync:
    """Units by `with db.begin()`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        with self._db.begin() as session:
            yield Awaitables(session)

    async def close(self) -> None:
        self._db.close()


class Async:
    """Units by `async with db.begin()`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self) -> Any:
        return self._db.begin()

    async def close(self) -> None:
        await self._db.aclose()


@pytest.fixture
async def db(async_url: str) -> AsyncIterator[Database]:
    db = Database(async_url, models=Base, max_connections=3)
    await db.acreate_all()
    yield db
    assert (db.stats().in_use, db.stats().waiting, db.stats().open - db.stats().idle) == (0, 0, 0)
    await db.aclose()
    assert db.stats().open == 0


class Cases:
    """What both kinds have in common: everything."""

    async def test_the_end_of_the_block_commits(self, db: Database, units: Any) -> None:
        async with units.begin() as session:
            session.add(Guest(name="Ann"))
            assert db.stats().in_use == 0  # nothing was asked of the database yet
        assert await names(db) == ["Ann"]
        assert db.stats().commits >= 1

    async def test_an_exception_rolls_back_and_goes_on(self, db: Database, units: Any) -> None:
        async def work() -> None:
            async with units.begin() as session:
                session.add(Guest(name="Ann"))
                await session.flush()
                assert db.stats().in_use == 1
                raise OnPurposeError

        with pytest.raises(OnPurposeError):
            await work()
        assert await names(db) == []

    async def test_a_commit_that_fails_raises_and_stores_nothing(self, db: Database, units: Any) -> None:
        async def work() -> None:
            async with units.begin() as session:
                session.add(Guest(name="Ann"))
                await session.flush()
                session.add(Guest(name="Ann"))

        with pytest.raises(IntegrityError):
            await work()
        assert await names(db) == []

    async def test_a_failure_that_was_swallowed_does_not_commit(self, db: Database, units: Any) -> None:
        async def work() -> None:
            async with units.begin() as session:
                session.add(Guest(name="Ann"))
                await session.flush()
                with contextlib.suppress(Exception):
                    await session.execute(text("SELECT no_such_column FROM guests"))

        with pytest.raises(errors.TransactionAborted):
            await work()
        assert await names(db) == []

    async def test_a_savepoint_takes_a_failure(self, db: Database, units: Any) -> None:
        async with units.begin() as session:
            session.add(Guest(name="Ann"))
            await session.flush()
            savepoint = await session.begin_nested()
            with pytest.raises(Exception, match="no_such_column"):
                await session.execute(text("SELECT no_such_column FROM guests"))
            await called(savepoint.rollback)
        assert await names(db) == ["Ann"]

    async def test_an_explicit_commit_is_durable_and_a_later_error_undoes_only_later_work(
        self, db: Database, units: Any
    ) -> None:
        async def work() -> None:
            async with units.begin() as session:
                session.add(Guest(name="Ann"))
                await session.commit()
                durable.append(count(db))
                session.add(Guest(name="Bob"))
                await session.flush()
                raise OnPurposeError

        durable: list[int] = []
        with pytest.raises(OnPurposeError):
            await work()
        assert durable == [1]
        assert await names(db) == ["Ann"]

    async def test_an_explicit_rollback_undoes_and_the_session_goes_on(self, db: Database, units: Any) -> None:
        async with units.begin() as session:
            session.add(Guest(name="Ann"))
            await session.flush()
            await session.rollback()
            session.add(Guest(name="Bob"))
        assert await names(db) == ["Bob"]

    async def test_loaded_attributes_stay_readable_after_the_end(self, db: Database, units: Any) -> None:
        async with units.begin() as session:
            guest = Guest(name="Ann")
            session.add(guest)
        assert (guest.id, guest.name) == (1, "Ann")

    @pytest.mark.parametrize("use", ["execute", "refresh", "commit", "flush", "get", "begin_nested"])
    async def test_the_session_refuses_to_work_after_the_end(self, db: Database, units: Any, use: str) -> None:
        async def work() -> None:
            if use in {"commit", "flush"}:
                session.add(Guest(name="Bob"))
            await called(getattr(session, use), *arguments)

        async with units.begin() as session:
            guest = Guest(name="Ann")
            session.add(guest)
        arguments = {"execute": [select(1)], "refresh": [guest], "get": [Guest, 7]}.get(use, [])
        with pytest.raises(errors.UnitEnded, match=r"db\.begin\(\) at test_units\.py:\d+"):
            await work()
        assert await names(db) == ["Ann"]

    async def test_the_session_refuses_every_time(self, db: Database, units: Any) -> None:
        async with units.begin() as session:
            session.add(Guest(name="Ann"))
        for _ in range(3):
            with pytest.raises(errors.UnitEnded):
                session.add(Guest(name="Bob"))
            with pytest.raises(errors.UnitEnded):
                await session.execute(select(1))
        await session.rollback()  # there is nothing to roll back or to close, and so nothing to refuse
        await session.close()
        assert await names(db) == ["Ann"]

    async def test_a_lazy_load_after_the_end_says_so(self, db: Database, units: Any) -> None:
        async with units.begin() as session:
            session.add(Guest(name="Ann"))
        async with units.begin() as session:
            guest = (await session.scalars(select(Guest))).one()
        with pytest.raises(errors.UnitEnded):
            _ = guest.orders

    async def test_a_block_inside_a_block_is_a_unit_of_its_own(self, db: Database, units: Any) -> None:
        async def work() -> None:
            async with units.begin() as outer:
                outer.add(Guest(name="Bob"))
                async with units.begin() as inner:
                    inner.add(Guest(name="Ann"))
                raise OnPurposeError

        with pytest.raises(OnPurposeError):
            await work()
        assert await names(db) == ["Ann"]

    async def test_one_begin_is_good_for_one_block(self, db: Database, units: Any) -> None:
        once = units.begin()
        async with once as session:
            session.add(Guest(name="Ann"))
        with pytest.raises((errors.UnitEnded, RuntimeError, AttributeError)):
            async with once:
                pass
        assert await names(db) == ["Ann"]

    async def test_a_block_that_asks_nothing_takes_nothing(self, db: Database, units: Any) -> None:
        admitted = db.stats().admitted
        async with units.begin():
            pass
        assert db.stats().admitted == admitted

    async def test_an_interrupt_rolls_back_and_goes_on(self, db: Database, units: Any) -> None:
        async def work() -> None:
            async with units.begin() as session:
                session.add(Guest(name="Ann"))
                await session.flush()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await work()
        assert await names(db) == []


class TestSync(Cases):
    @pytest.fixture
    def units(self, db: Database) -> Sync:
        return Sync(db)


class TestAsync(Cases):
    @pytest.fixture
    def units(self, db: Database) -> Async:
        return Async(db)


async def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that may or may not be asynchronous."""
    result = function(*arguments)
    return await result if isinstance(result, Awaitable) else result


def count(db: Database) -> int:
    """Count the guests over a connection that no unit of work has."""
    with db.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(Guest))


async def names(db: Database) -> list[str]:
    async with db.begin() as session:
        return list(await session.scalars(select(Guest.name).order_by(Guest.name)))
