"""The long-lived object: engines, admission, units of work outside requests, and closing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from sqlalchemy.engine import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from fastapi_database.config import settings
from fastapi_database.core.admission import Admission, Ticket
from fastapi_database.core.connections import Connections
from fastapi_database.core.threads import Threads
from fastapi_database.core.unit import AsyncUnit, Counters, Intent, SyncUnit
from fastapi_database.engines import dialect_for
from fastapi_database.errors import InvalidModels


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
        max_waiting: int | None = None,
        **sqlalchemy_options: Any,
    ) -> None:
        self._settings = settings(
            url,
            models=models,
            given={"max_connections": max_connections, "queue_timeout": queue_timeout, "max_waiting": max_waiting},
            options=sqlalchemy_options,
        )
        self._dialect = dialect_for(self._settings.url)
        self._connections = Connections(self._dialect, self._settings)
        self._admission = Admission(
            places=self._settings.max_connections,
            max_waiting=self._settings.max_waiting,
            timeout=self._settings.queue_timeout,
            single_writer=self._dialect.single_writer,
        )
        self._threads = Threads(self._settings.max_connections)
        self._counters = Counters()
        # Loaded attributes stay readable after the commit, without a statement; an application that wants
        # SQLAlchemy's own default passes expire_on_commit=True.
        self._session_options = {"expire_on_commit": False, **self._settings.session_options}
        self._serving = False

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<Database {self._dialect.describe()} in_use={stats.in_use}/{self._settings.max_connections} "
            f"waiting={stats.waiting} open={stats.open}>"
        )

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's sync engine, made on first use: for events, inspection and tools.

        What is run on it directly has no place in the queue and no unit of work.
        """
        return self._connections.sync_engine()

    @property
    def async_engine(self) -> AsyncEngine:
        """SQLAlchemy's async engine of the running event loop, made on first use; see :attr:`engine`."""
        return self._connections.async_engine()

    def begin(self) -> Begin:
        """Open a unit of work outside the request's own: in a script, worker, task, socket message or test.

        ``with`` gives a ``Session``, ``async with`` an ``AsyncSession``. The end of the block commits, any
        exception rolls back and goes on. The connection is taken at the first statement; waiting for it is
        bounded by ``queue_timeout`` and raises :class:`~fastapi_database.errors.QueueTimeout`. On cancellation
        the unit is rolled back. After the block the session refuses to work. Each call is good for one block.

        >>> from sqlalchemy import text
        >>> db = CoreDatabase("sqlite://")
        >>> with db.begin() as session:
        ...     session.scalar(text("SELECT 1 + 1"))
        2
        >>> db.close()
        """
        return Begin(self, owner=_caller())

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
            in_use=self._admission.in_use,
            open=self._connections.open,
            idle=self._connections.idle,
            waiting=self._admission.waiting,
            admitted=self._admission.admitted,
            refused=self._admission.refused,
            timed_out=self._admission.timed_out,
            commits=self._counters.commits,
            rollbacks=self._counters.rollbacks,
        )

    def close(self) -> None:
        """Close idle connections and end the threads. A ``:memory:`` database is gone with it.

        Connections in use close when their unit ends. A second call does nothing; a later use opens again.
        """
        self._connections.close()
        self._threads.close()
        self._dialect.close()

    async def aclose(self) -> None:
        """Close from async code, and wait until the connections of this event loop are closed; see :meth:`close`."""
        await self._pause()
        self._dialect.close()

    async def _pause(self) -> None:
        """Close everything that a later use can open again: the end of a lifespan."""
        await self._connections.aclose()
        self._threads.close()

    def _models(self) -> Iterator[Any]:
        if not self._settings.metadata:
            raise InvalidModels("create_all() has no models: pass models=Base to Database()")
        yield from self._settings.metadata

    def _sync_unit(self, *, owner: str, intent: Intent, ticket: Ticket | None = None) -> SyncUnit:
        return SyncUnit(
            connections=self._connections,
            admission=self._admission,
            counters=self._counters,
            owner=owner,
            intent=intent,
            session_options=self._session_options,
            ticket=ticket,
            allow_on_loop=self._not_serving,
        )

    def _async_unit(self, *, owner: str, intent: Intent) -> AsyncUnit:
        return AsyncUnit(
            connections=self._connections,
            admission=self._admission,
            counters=self._counters,
            owner=owner,
            intent=intent,
            session_options=self._session_options,
        )

    def _not_serving(self) -> bool:
        # A server imports the application on its event loop, where a module may well seed its tables.
        return not self._serving


class Begin:
    """One unit of work outside a request; made by :meth:`CoreDatabase.begin`."""

    def __init__(self, database: CoreDatabase, *, owner: str) -> None:
        self._database = database
        self._owner = owner
        self._unit: SyncUnit | AsyncUnit | None = None

    def __enter__(self) -> Session:
        unit = self._database._sync_unit(owner=self._owner, intent=Intent.WRITE)
        self._unit = self._once(unit)
        return unit.session

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._unit is not None:
            with _raising(error):
                self._unit.finish(commit=error is None)

    async def __aenter__(self) -> AsyncSession:
        unit = self._database._async_unit(owner=self._owner, intent=Intent.WRITE)
        self._unit = self._once(unit)
        return unit.async_session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._unit, AsyncUnit):
            with _raising(error):
                await self._unit.afinish(commit=error is None)

    def _once(self, unit: Any) -> Any:
        if self._unit is not None:
            self._unit.refuse_if_ended()
            raise RuntimeError("db.begin() is good for one `with`: call db.begin() again for another unit of work")
        return unit


@contextmanager
def _raising(error: BaseException | None) -> Iterator[None]:
    """Let the block's own exception win over one from the rollback."""
    try:
        yield
    except Exception:
        if error is None:
            raise


def _caller() -> str:
    frame = sys._getframe(2)
    return f'db.begin() at {frame.f_code.co_filename.rpartition("/")[2]}:{frame.f_lineno}'
