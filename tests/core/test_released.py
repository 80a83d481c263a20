"""`db.released(session)`: no connection while the block lasts, and nothing stored, lost or hidden by it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from apps.c_cases import ASYNC_DRIVERS, EVERY_DRIVER, Kind, listening, opened, url_for
from fastapi_database import Database
from fastapi_database.errors import (
    QueueTimeout,
    SessionReleased,
    TransactionAborted,
    UnitEnded,
    UnsavedWork,
    WrongSession,
)

pytestmark = pytest.mark.anyio
CALLER = r"db\.begin\(\) at test_released\.py:\d+"
WRITING_FUNCTION = (
    "CREATE FUNCTION rename() RETURNS integer LANGUAGE sql AS $$ UPDATE guests SET name = 'Eve' RETURNING 1 $$"
)


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Case:
    """Units, statements and blocks of one kind of session, written the same for both."""

    def __init__(self, kind: Kind, db: Database) -> None:
        self.kind = kind
        self.db = db

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        if self.kind == "sync":
            with self.db.begin() as session:
                yield session
        else:
            async with self.db.begin() as session:
                yield session

    @contextlib.asynccontextmanager
    async def released(self, session: Any) -> AsyncIterator[None]:
        if self.kind == "sync":
            with self.db.released(session):
                yield
        else:
            async with self.db.released(session):
                yield

    async def do(self, session: Any, work: Callable[[Session], Any]) -> Any:
        return work(session) if self.kind == "sync" else await session.run_sync(work)

    def in_use(self) -> tuple[int, int]:
        """Count the places and the connections that are held."""
        stats = self.db.stats()
        return stats.in_use, stats.open - stats.idle

    async def names(self) -> list[str]:
        """Ask in another unit."""
        async with self.begin() as other:
            return list(await self.do(other, lambda session: session.scalars(select(Guest.name)).all()))

    @property
    def on_postgresql(self) -> bool:
        return self.db.engine.dialect.name == "postgresql"


@pytest.fixture(params=EVERY_DRIVER, ids="-".join)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    kind, db = opened(request, Base, max_connections=1, queue_timeout=0.3)
    with db.engine.begin() as connection:
        connection.execute(text("INSERT INTO guests (id, name) VALUES (1, 'Ada')"))
    case = Case(kind, db)
    yield case
    assert case.in_use() == (0, 0)
    await db.aclose()


def ada(session: Session) -> Guest:
    return session.get_one(Guest, 1)


def one(session: Session) -> Any:
    return session.scalar(text("SELECT 1"))


async def test_connection_and_place_are_back_while_the_block_lasts(case: Case) -> None:
    async with case.begin() as session:
        guest = await case.do(session, ada)
        assert case.in_use() == (1, 1)
        async with case.released(session):
            assert case.in_use() == (0, 0)
            assert guest.name == "Ada"
            async with case.begin() as other:  # of the only place there is
                await case.do(other, lambda session: setattr(ada(session), "name", "Eve"))
            assert guest.name == "Ada"
        assert case.in_use() == (0, 0)  # the end of the block claims nothing
        assert guest.name == "Ada"
        await case.do(session, lambda session: session.refresh(guest))
        assert (guest.name, case.in_use()) == ("Eve", (1, 1))
        guest.name = "Bob"
    assert await case.names() == ["Bob"]


async def test_one_block_after_another_and_one_inside_another(case: Case) -> None:
    async with case.begin() as session:
        for _ in range(3):
            await case.do(session, one)
            block = case.released(session)
            async with block, case.released(session):
                assert case.in_use() == (0, 0)
        async with case.released(session):
            async with case.released(session):
                pass
            with pytest.raises(SessionReleased):  # the outer block is not over
                await case.do(session, one)
            session.unit.fatal = None  # which says so at the end
        assert await case.do(session, one) == 1


async def test_a_unit_that_was_not_used_is_released_without_a_word_to_the_database(case: Case) -> None:
    statements: list[object] = []
    with listening(case.db.engine, "before_cursor_execute", lambda *_: statements.append(1)):
        async with case.begin() as session, case.released(session):
            assert case.in_use() == (0, 0)
    assert statements == []


async def test_an_engine_that_was_only_asked_for_is_forgotten_with_its_place(case: Case) -> None:
    async with case.begin() as session:
        await case.do(session, lambda session: session.get_bind())
        async with case.released(session):
            assert case.in_use() == (0, 0)
        await case.do(session, one)
        assert case.in_use() == (1, 1)


async def test_a_statement_in_the_block_is_refused_and_can_not_be_hidden(case: Case) -> None:
    async def unit() -> None:
        async with case.begin() as session:
            session.add(Guest(id=2, name="Bob"))
            await case.do(session, lambda session: session.commit())
            async with case.released(session):
                with contextlib.suppress(SessionReleased):
                    await case.do(session, one)
                assert case.in_use() == (0, 0)
            session.add(Guest(id=3, name="Eve"))

    with pytest.raises(SessionReleased, match=rf"{CALLER} was used inside `db\.released"):
        await unit()
    assert await case.names() == ["Ada", "Bob"]


def flush_in_savepoint(session: Session) -> None:
    with session.begin_nested():
        session.add(Guest(id=2, name="Eve"))


UNSAVED: dict[str, Callable[[Session], object]] = {
    "statement": lambda session: session.execute(text("UPDATE guests SET name = 'Eve'")),
    "statement after a read": lambda session: (ada(session), session.execute(text("UPDATE guests SET name = 'Eve'"))),
    "flushed": lambda session: (session.add(Guest(id=2, name="Eve")), session.flush()),
    "new": lambda session: (ada(session), session.add(Guest(id=2, name="Eve"))),
    "new and nothing else": lambda session: session.add(Guest(id=2, name="Eve")),
    "dirty": lambda session: setattr(ada(session), "name", "Eve"),
    "deleted": lambda session: session.delete(ada(session)),
    "savepoint": lambda session: (ada(session), session.begin_nested()),
    "table": lambda session: session.execute(text("CREATE TABLE more (id INTEGER)")),
    "on the connection": lambda session: session.connection().exec_driver_sql("CREATE TABLE more (id INTEGER)"),
    "a savepoint that is over": flush_in_savepoint,
}
HIDDEN_ON_POSTGRESQL: dict[str, str] = {
    "function": "SELECT rename()",
    "with": "WITH renamed AS (UPDATE guests SET name = 'Eve' RETURNING 1) SELECT * FROM renamed",
    "row lock": "SELECT name FROM guests FOR UPDATE",
}


async def check_refused(case: Case, work: Callable[[Session], object]) -> None:
    """Refused, nothing changed by it, and the unit goes on to its end as if nobody had asked."""
    async with case.begin() as session:
        await case.do(session, work)
        before = case.in_use()
        with pytest.raises(UnsavedWork, match=CALLER) as refused:
            async with case.released(session):
                pass
        assert "session.commit() before db.released(session)" in str(refused.value)
        assert case.in_use() == before
        await case.do(session, lambda session: session.rollback())
    assert await case.names() == ["Ada"]


@pytest.mark.parametrize("work", UNSAVED)
async def test_what_a_unit_has_to_store_is_neither_stored_nor_undone(case: Case, work: str) -> None:
    await check_refused(case, UNSAVED[work])


@pytest.mark.parametrize("statement", HIDDEN_ON_POSTGRESQL)
async def test_what_a_select_hides_is_found_by_asking_the_database(case: Case, statement: str) -> None:
    if not case.on_postgresql:
        pytest.skip("SQLite has no statement that reads and writes")
    with case.db.engine.begin() as connection:
        connection.execute(text(WRITING_FUNCTION))
    await check_refused(case, lambda session: session.execute(text(HIDDEN_ON_POSTGRESQL[statement])).all())


KEPT_ON_POSTGRESQL: dict[str, Any] = {
    "set local": text("SET LOCAL application_name = 'x'"),
    "set_config in words": text("SELECT set_config('app.tenant', 'a', true)"),
    "set_config": select(func.set_config("app.tenant", "a", True)),
    "notify": select(func.pg_notify("orders", "1")),
    "lock until the end": select(func.pg_advisory_xact_lock(1)),
    "lock": text("SELECT pg_catalog.pg_try_advisory_lock_shared (1), pg_advisory_unlock_shared(1)"),
}


@pytest.mark.parametrize("statement", KEPT_ON_POSTGRESQL)
async def test_what_a_select_sets_or_locks_for_its_transaction_is_not_dropped_unseen(
    case: Case, statement: str
) -> None:
    if not case.on_postgresql:
        pytest.skip("SQLite has none of these")
    await check_refused(case, lambda session: session.execute(KEPT_ON_POSTGRESQL[statement]))


@pytest.mark.parametrize("which", ["session", "engine"])
async def test_what_a_hook_sets_at_each_begin_is_set_again_after_the_block(case: Case, which: str) -> None:
    if not case.on_postgresql:
        pytest.skip("SQLite has no settings of a transaction")
    tenant = text("SELECT current_setting('app.tenant')")

    def hook(*arguments: Any) -> None:
        arguments[-1].execute(KEPT_ON_POSTGRESQL["set_config"])

    async with case.begin() as session:
        sync_session = session if case.kind == "sync" else session.sync_session
        engine = case.db.engine if case.kind == "sync" else case.db.async_engine.sync_engine
        target = sync_session if which == "session" else engine
        with listening(target, "after_begin" if which == "session" else "begin", hook):
            assert await case.do(session, lambda session: session.scalar(tenant)) == "a"
            async with case.released(session):
                assert case.in_use() == (0, 0)
            assert await case.do(session, lambda session: session.scalar(tenant)) == "a"


async def test_what_a_with_in_words_hides_is_found_on_sqlite_too(case: Case) -> None:
    if case.on_postgresql:
        pytest.skip("see above")
    await check_refused(
        case, lambda session: session.execute(text("WITH w AS (SELECT 2) INSERT INTO guests SELECT 2, 'Eve' FROM w"))
    )


async def test_a_with_that_only_reads_is_released(case: Case) -> None:
    async with case.begin() as session:
        await case.do(session, lambda session: session.execute(text("WITH w AS (SELECT 2) SELECT * FROM w")).all())
        async with case.released(session):
            assert case.in_use() == (0, 0)


async def test_an_object_set_to_what_it_is_does_not_count_as_changed(case: Case) -> None:
    async with case.begin() as session:
        await case.do(session, lambda session: setattr(ada(session), "name", ada(session).name))
        async with case.released(session):
            assert case.in_use() == (0, 0)


async def test_a_hook_that_writes_before_the_commit_stores_nothing_in_the_middle(case: Case) -> None:
    def write(session: Session) -> None:
        session.execute(text("UPDATE guests SET name = 'Eve'"))

    async def unit() -> None:
        async with case.begin() as session:
            event.listen(session.sync_session if case.kind == "async" else session, "before_commit", write)
            await case.do(session, ada)
            async with case.released(session):
                assert await case.names() == ["Ada"]
            raise LookupError

    with pytest.raises(LookupError):
        await unit()
    assert await case.names() == ["Ada"]


async def test_what_was_committed_before_may_be_released(case: Case) -> None:
    async with case.begin() as session:
        await case.do(session, lambda session: (setattr(ada(session), "name", "Eve"), session.commit()))
        async with case.released(session):
            assert case.in_use() == (0, 0)
        await case.do(session, lambda session: (setattr(ada(session), "name", "Bob"), session.rollback()))
    assert await case.names() == ["Eve"]


async def test_a_failure_before_the_block_is_not_forgotten_by_it(case: Case) -> None:
    """Else what comes after it would be stored as half of a unit."""

    async def unit() -> None:
        async with case.begin() as session:
            with pytest.raises(IntegrityError):
                await case.do(session, lambda session: session.execute(text("INSERT INTO guests VALUES (1, 'Ada')")))
            with pytest.raises(TransactionAborted, match=rf"a statement of {CALLER} has failed"):
                async with case.released(session):
                    pass

    with pytest.raises(TransactionAborted):
        await unit()
    assert await case.names() == ["Ada"]


async def test_a_flush_that_failed_before_the_block_is_not_forgotten_by_it(case: Case) -> None:
    async with case.begin() as session:
        session.add(Guest(id=2, name="Ada"))
        with pytest.raises(IntegrityError):
            await case.do(session, lambda session: session.flush())
        with pytest.raises(TransactionAborted):
            async with case.released(session):
                pass
        await case.do(session, lambda session: session.rollback())
        async with case.released(session):
            assert case.in_use() == (0, 0)


async def test_an_error_of_the_block_goes_on_at_once(case: Case) -> None:
    with pytest.raises(LookupError):
        async with case.begin() as session, case.released(session):
            raise LookupError
    async with case.begin() as session:
        with pytest.raises(LookupError):
            async with case.released(session):
                raise LookupError
        assert await case.do(session, one) == 1


async def test_after_its_unit_a_session_can_not_be_released(case: Case) -> None:
    async with case.begin() as session:
        await case.do(session, one)
    with pytest.raises(UnitEnded):
        async with case.released(session):
            pass


async def test_a_unit_that_ends_inside_the_block_claims_nothing(case: Case) -> None:
    async with contextlib.AsyncExitStack() as unit, contextlib.AsyncExitStack() as block:
        session = await unit.enter_async_context(case.begin())
        await case.do(session, one)
        await block.enter_async_context(case.released(session))
        await unit.aclose()
        await block.aclose()
        assert case.in_use() == (0, 0)
        with pytest.raises(UnitEnded):
            await case.do(session, one)


async def test_waiting_for_a_place_after_the_block_is_bounded(case: Case) -> None:
    async def unit() -> None:
        async with case.begin() as session:
            await case.do(session, one)
            async with case.released(session):
                other = contextlib.AsyncExitStack()
                await case.do(await other.enter_async_context(case.begin()), one)
            async with other:  # which has the only place meanwhile, and keeps it
                await case.do(session, one)

    with pytest.raises(QueueTimeout):
        await unit()
    assert case.in_use() == (0, 0)


@pytest.mark.parametrize("by", ["task", "scope"])
async def test_a_cancellation_inside_the_block_leaves_nothing(case: Case, by: str) -> None:
    inside = asyncio.Event()

    async def unit() -> None:
        with anyio.CancelScope() as scope:
            async with case.begin() as session:
                await case.do(session, ada)
                async with case.released(session):
                    inside.set()
                    if by == "scope":
                        scope.cancel()
                    await asyncio.sleep(60)

    task = asyncio.create_task(unit())
    await inside.wait()
    if by == "task":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await task
    assert case.in_use() == (0, 0)
    async with case.begin() as session:
        assert await case.do(session, one) == 1


async def test_objects_are_not_expired_whatever_the_session_does_on_commit(sqlite_url: str) -> None:
    with contextlib.closing(Database(sqlite_url, models=Base, expire_on_commit=True)) as db:
        db.create_all()
        with db.begin() as session:
            session.add(Guest(id=1, name="Ada"))
        with db.begin() as session:
            guest = ada(session)
            with db.released(session):
                assert guest.name == "Ada"


async def test_a_session_that_is_not_of_this_database_is_refused(sqlite_url: str) -> None:
    db, other = Database(sqlite_url), Database(sqlite_url)
    with other.begin() as session:
        for given in (session, Session(), AsyncSession(), None):
            with pytest.raises(WrongSession, match="no session of this Database"):
                db.released(given)  # type: ignore[arg-type]
    other.close()


async def test_the_wrong_kind_of_block_names_the_right_one(sqlite_url: str) -> None:
    with contextlib.closing(Database(sqlite_url)) as db:
        with db.begin() as session, pytest.raises(WrongSession, match=r"write `with db\.released"):
            async with db.released(session):
                pass
        async with db.begin() as task_session:
            with pytest.raises(WrongSession, match=r"write `async with db\.released"), db.released(task_session):
                pass

            def in_run_sync(inner: Session) -> None:
                with db.released(inner):
                    pass

            with pytest.raises(WrongSession, match=r"write `async with db\.released"):
                await task_session.run_sync(in_run_sync)
        await db.aclose()


@pytest.fixture
def gone(postgresql_url: str) -> Iterator[Database]:
    db = Database(postgresql_url, models=Base)
    yield db
    db.close()


async def test_a_connection_that_is_lost_in_the_middle_of_a_release_is_not_kept(gone: Database) -> None:
    """The server ends it between the question and the ROLLBACK, which is the worst moment."""
    with gone.begin() as session:
        session.scalar(text("SELECT 1"))

        def end_it(connection: Any, *_: object) -> None:
            with gone.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as other:
                pid = connection.connection.driver_connection.info.backend_pid
                other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))

        event.listen(gone.engine, "rollback", end_it, once=True)
        with gone.released(session):
            stats = gone.stats()
            assert (stats.in_use, stats.open - stats.idle) == (0, 0)
        assert session.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
async def test_a_cancellation_in_the_middle_of_a_release_keeps_no_connection(
    request: pytest.FixtureRequest, driver: str
) -> None:
    db = Database(url_for(request, driver))

    async def unit() -> None:
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
            event.listen(db.async_engine.sync_engine, "rollback", cancel, once=True)
            async with db.released(session):
                pass

    def cancel(_: object) -> None:
        task.cancel()

    task = asyncio.create_task(unit())
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = db.stats()
    assert (stats.in_use, stats.open - stats.idle) == (0, 0)
    async with db.begin() as session:
        assert await session.scalar(text("SELECT 1")) == 1
    await db.aclose()
