"""The long-lived object: engines, admission, units of work outside requests, and closing."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, Engine

from fastapi_database.config import settings
from fastapi_database.core.admission import REFUSALS
from fastapi_database.core.queue import Named
from fastapi_database.core.released import Released
from fastapi_database.core.resources import Resources
from fastapi_database.core.transaction import checked_priority, checked_timeout
from fastapi_database.core.unit import AsyncUnit, Intent, Unit
from fastapi_database.engines.deadlines import Deadline
from fastapi_database.errors import ConcurrentUse, InvalidModels

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Stats:
    """What a ``Database`` is doing now, and what it has done since it was made."""

    in_use: int
    """Places held: units of work that have, or are about to take, a connection."""
    open: int
    """Connections open, in use or idle, sync and async together."""
    idle: int
    """Connections waiting in a pool."""
    waiting: int
    """Units of work that wait for a place."""
    admitted: int
    """Units of work that got a place."""
    refused: int
    """Units of work refused at once because ``max_waiting`` were waiting."""
    shed: int
    """Units of work refused after more than twice ``queue_target`` seconds, while more came than were served."""
    timed_out: int
    """Units of work refused after ``queue_timeout`` seconds."""
    commits: int
    rollbacks: int


class CoreDatabase:
    """Everything of a ``Database`` that needs no web framework."""

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        models: object = None,
        max_connections: int | None = None,
        queue_timeout: float | None = None,
        queue_target: float | None = None,
        max_waiting: int | None = None,
        statement_timeout: float | None = None,
        lock_timeout: float | None = None,
        hold_warning: float | None = None,
        transaction_pooler: bool | None = None,
        sqlite_on_event_loop: bool | None = None,
        **sqlalchemy_options: Any,
    ) -> None:
        self._resources = Resources(
            settings(
                url,
                models=models,
                given={
                    "max_connections": max_connections,
                    "queue_timeout": queue_timeout,
                    "queue_target": queue_target,
                    "max_waiting": max_waiting,
                    "statement_timeout": statement_timeout,
                    "lock_timeout": lock_timeout,
                    "hold_warning": hold_warning,
                    "transaction_pooler": transaction_pooler,
                    "sqlite_on_event_loop": sqlite_on_event_loop,
                },
                options=sqlalchemy_options,
            )
        )

    def __repr__(self) -> str:
        stats = self.stats()
        places = self._resources.settings.max_connections
        return (
            f"<Database {self._resources.dialect.describe()} in_use={stats.in_use}/{places} "
            f"waiting={stats.waiting} open={stats.open}>"
        )

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's sync engine, made on first use: for events, inspection and tools.

        What is run on it directly has no place in the queue and no unit of work.
        """
        return self._resources.connections.sync_engine()

    @property
    def async_engine(self) -> AsyncEngine:
        """SQLAlchemy's async engine of the running event loop, made on first use; see :attr:`engine`."""
        return self._resources.connections.async_engine()

    def begin(self, *, priority: int = 0, timeout: float | None = None) -> Begin:
        """Open a unit of work outside the request's own: in a script, worker, task, socket message or test.

        ``with`` gives a ``Session``, ``async with`` an ``AsyncSession``. The end of the block commits, any
        exception rolls back and goes on. The connection is taken at the first statement; waiting for it is
        bounded by ``queue_timeout`` and raises :class:`~fastapi_database.errors.QueueTimeout`. ``priority`` and
        ``timeout`` (seconds, counted from the beginning of the block) are those of
        :func:`~fastapi_database.transaction`. On cancellation the unit is rolled back. After the block the session
        refuses to work. Each call is good for one block.

        >>> from sqlalchemy import text
        >>> db = CoreDatabase("sqlite://")
        >>> with db.begin() as session:
        ...     session.scalar(text("SELECT 1 + 1"))
        2
        >>> db.close()
        """
        return Begin(
            self._resources, owner=Named(_caller(), checked_priority(priority)), timeout=checked_timeout(timeout)
        )

    def released(self, session: Session | AsyncSession) -> Released:
        """Hold no connection while the block lasts: around a call of another service, a computation, a long wait.

        ``with`` for a ``Session``, ``async with`` for an ``AsyncSession``; the session is that of a request or of
        :meth:`begin`. What was read so far ends as a transaction of its own, by ROLLBACK; loaded objects stay as they
        are. The first statement after the block waits for a connection as the first of a unit does, and sees what
        others committed meanwhile. A statement in the block raises ``SessionReleased``; an inner block does nothing
        more. Up to 400 sync blocks at a time keep no thread from other requests.

        Raises ``UnsavedWork``, and changes nothing, when the unit has written, has locked rows, has objects to store or
        is in a savepoint, and ``TransactionAborted`` when a statement of it has failed. An exception or a cancellation
        in the block goes on; the unit is rolled back then as ever.

        >>> from sqlalchemy import text
        >>> db = CoreDatabase("sqlite://")
        >>> with db.begin() as session:
        ...     price = session.scalar(text("SELECT 3"))
        ...     with db.released(session):
        ...         in_use = db.stats().in_use
        >>> price, in_use
        (3, 0)
        >>> db.close()
        """
        return Released(self._resources, session)

    def create_all(self) -> None:
        """Create the tables of ``models`` that do not exist yet: for demos and tests; use migrations elsewhere.

        Existing tables are left as they are. Raises ``InvalidModels`` when the ``Database`` was given no models.
        """
        with self.engine.begin() as connection:
            for metadata in self._models():
                metadata.create_all(connection)

    async def acreate_all(self) -> None:
        """Create the tables of ``models`` that do not exist yet, from async code; see :meth:`create_all`."""
        async with self.async_engine.begin() as connection:
            for metadata in self._models():
                await connection.run_sync(metadata.create_all)

    def stats(self) -> Stats:
        """Give live numbers; costs no I/O.

        >>> CoreDatabase("sqlite://").stats().in_use
        0
        """
        return Stats(
            in_use=self._resources.admission.in_use,
            open=self._resources.connections.open,
            idle=self._resources.connections.idle,
            waiting=self._resources.admission.waiting,
            admitted=self._resources.admission.admitted,
            refused=self._resources.admission.refused,
            shed=self._resources.admission.shed,
            timed_out=self._resources.admission.timed_out,
            commits=self._resources.counters.commits,
            rollbacks=self._resources.counters.rollbacks,
        )

    def close(self) -> None:
        """Close idle connections and end the threads. A ``:memory:`` database is gone with it.

        Connections in use close when their unit ends. A second call does nothing; a later use opens again.
        """
        self._resources.close()

    async def aclose(self) -> None:
        """Close from async code, and wait until the connections of this event loop are closed; see :meth:`close`."""
        await self._resources.pause()
        self._resources.close()

    def _models(self) -> Iterator[Any]:
        if not self._resources.settings.metadata:
            raise InvalidModels("create_all() has no models: pass models=Base to Database()")
        yield from self._resources.settings.metadata


class Begin:
    """One unit of work outside a request; made by :meth:`CoreDatabase.begin`."""

    def __init__(self, resources: Resources, *, owner: Named, timeout: float | None) -> None:
        self._resources = resources
        self._owner = owner
        self._timeout = timeout
        self._unit: Unit | None = None

    def __enter__(self) -> Session:
        self._refuse_twice()
        self._unit = unit = self._resources.sync_unit(owner=self._owner, intent=Intent.WRITE, deadline=self._deadline())
        return unit.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unit is not None:
            with _raising(error):
                self._unit.finish(commit=error is None)

    async def __aenter__(self) -> AsyncSession:
        self._refuse_twice()
        self._unit = unit = self._resources.async_unit(
            owner=self._owner, intent=Intent.WRITE, deadline=self._deadline()
        )
        request = REFUSALS.get()
        if request is not None:
            request.begins(unit)
        return unit.async_session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._unit, AsyncUnit):
            with _raising(error):
                await self._unit.afinish(commit=error is None)

    def _deadline(self) -> Deadline | None:
        return None if self._timeout is None else Deadline.after(self._timeout)

    def _refuse_twice(self) -> None:
        if self._unit is not None:
            self._unit.refuse_if_ended()
            raise ConcurrentUse(
                f"{self._owner} is open already: one db.begin() is one unit of work; call db.begin() again for another"
            )


@contextmanager
def _raising(error: BaseException | None) -> Generator[None]:
    """Let the block's own exception win over one from the rollback."""
    try:
        yield
    except Exception:
        if error is None:
            raise


def _caller() -> str:
    frame = inspect.currentframe()
    for _ in range(2):  # past this function and begin()
        frame = frame.f_back if frame is not None else None
    if frame is None:
        return "db.begin()"
    return f"db.begin() at {frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
