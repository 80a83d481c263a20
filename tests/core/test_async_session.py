"""The async session, which is SQLAlchemy's from its first use on."""

import copy
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_object_session
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from fastapi_database import Database
from fastapi_database.errors import UnitEnded

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    db = Database(sqlite_url, models=Base)
    await db.acreate_all()
    yield db
    await db.aclose()


async def test_the_first_use_finds_whatever_sqlalchemys_has(db: Database) -> None:
    for name in [name for name in dir(AsyncSession()) if not name.startswith("_")]:
        async with db.begin() as session:
            found, usual = getattr(session, name), getattr(AsyncSession(), name)
            assert type(found) is type(usual) or isinstance(found, Session) or name == "sync_session_class", name


async def test_a_setting_made_before_the_first_use_holds(db: Database) -> None:
    async with db.begin() as session:
        session.autoflush = False
        assert session.sync_session.autoflush is session.autoflush is False


async def test_it_is_the_async_session_of_its_objects(db: Database) -> None:
    async with db.begin() as session:
        guest = Guest(name="Ada")
        session.add(guest)
        assert guest in session
        assert async_object_session(guest) is session
        await session.flush()
        assert [one async for one in await session.stream_scalars(select(Guest))] == [guest]


async def test_what_sqlalchemy_does_not_have_it_has_not(db: Database) -> None:
    async with db.begin() as session:
        assert not hasattr(session, "exec")
        session.seen = True  # type: ignore[attr-defined]
        assert session.seen  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match="'UnitAsyncSession' object has no attribute 'exec'"):
            _ = session.exec  # type: ignore[attr-defined]


async def test_one_that_is_first_used_after_its_unit_refuses(db: Database) -> None:
    async with db.begin() as session:
        pass
    with pytest.raises(UnitEnded):
        session.add(Guest(name="Ada"))
    with pytest.raises(UnitEnded):
        await session.execute(text("SELECT 1"))
    assert db.stats().in_use == 0


async def test_it_can_be_copied_before_and_after_its_first_use(db: Database) -> None:
    async with db.begin() as session:
        assert copy.copy(session).sync_session is copy.copy(session).sync_session


async def test_one_that_was_used_too_late_is_freed_without_the_garbage_collector(db: Database) -> None:
    context = db.begin()
    async with context as session:
        unit = weakref.ref(context._unit)
    del context
    assert not session.in_transaction()
    gc.disable()
    try:
        del session
        assert unit() is None
    finally:
        gc.enable()


async def test_a_failed_unit_that_was_never_used_makes_no_session(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(Session, "__init__", lambda session, **_: made.append(session))
    with pytest.raises(LookupError):
        async with db.begin():
            raise LookupError
    async with db.begin():
        pass
    assert made == []
