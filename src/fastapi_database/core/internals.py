"""Everything this library touches that SQLAlchemy and AnyIO do not document, in one place.

Seen in SQLAlchemy 2.0.50 to 2.0.58 and 2.1.0 to 2.1.9, and in AnyIO 4.16. Each detail has a test in
``tests/core/test_internals.py`` that fails when a version changes it.

* ``QueuePool._create_connection``, ``._close_connection``, ``._do_get``, ``._do_return_conn``, ``._dec_overflow``,
  ``._dialect``, ``._pool`` with ``sqlalchemy.util.queue.Empty``, and ``_ConnectionRecord.close``: to close one idle
  connection of a pool, to keep records without a connection out of its queue while nobody waits for one, to close what
  comes back to a pool that was disposed, and to close a connection that could not be set up. With
  ``_ConnectionRecord.dbapi_connection``, ``.fairy_ref`` and ``_ConnectionFairy.dbapi_connection``, which can be set: to
  take the connections away from a pool and from who uses them, in a forked child. The public way to close
  one, to check it out and invalidate it, opens one when the pool has none.
* ``Dialect.has_terminate`` and what it means outside a greenlet: closing asyncpg's and aiosqlite's connections without
  awaiting anything. psycopg has it not; its asynchronous ``close()`` awaits nothing (3.3.6 to 3.3.9).
  ``aiosqlite.Connection.stop`` makes a future on the running loop and sets it from its thread (0.22.1).
* ``Session.dispatch.do_orm_execute`` and ``.after_begin``: whether somebody listens to statements, and to transactions.
* ``InstanceState.load_options`` and ``.callables``: the loader options of the query an object came from.
* ``sqlalchemy.orm.interfaces.LoaderStrategy.parent_property``: the attribute a lazy load is for, found on the stack.
* ``_sqla_logger_namespace``: the name under which a pool logs.
* ``sqlalchemy.util.get_cls_kwargs``: the options a dialect takes, as ``create_engine`` finds them.
* ``anyio._backends._asyncio._task_states``: the innermost cancel scope of a task, which is shielded while AnyIO waits
  for a worker thread. The public ``current_effective_deadline()`` can tell only below a scope that has a deadline.
* ``anyio._core._eventloop.claim_worker_thread``, ``.threadlocals.current_token`` and ``.current_cancel_scope``, with
  ``anyio._backends._asyncio.AsyncIOBackend``: how ``anyio.from_thread`` finds the event loop and the cancel scope.
  ``AsyncIOBackend.current_default_thread_limiter()`` works in a plain callback of the loop, where no task runs.
* ``sys._current_frames``: where each thread is; documented, with an underscore.

What the engines need as well stands in ``engines/internals.py`` and is only handed on here.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from anyio import CancelScope
from anyio._backends import _asyncio
from anyio._core._eventloop import claim_worker_thread, threadlocals
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
from sqlalchemy.util import get_cls_kwargs
from sqlalchemy.util.queue import Empty

from fastapi_database.core.fork import Inherited
from fastapi_database.engines.internals import await_only, current_greenlet, greenlet_spawn, running_loop

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, LoaderCriteriaOption, Session

__all__ = ["await_only", "current_greenlet", "get_cls_kwargs", "greenlet_spawn", "running_loop"]


T = TypeVar("T")

_ANYIO: Any = _asyncio  # what is taken from it has no types
_OPENING: ContextVar[list[Any] | None] = ContextVar("fastapi_database_opening", default=None)


def opened(connection: Any) -> None:
    """Tell the pool that a connection was opened, which now is to be set up."""
    opening = _OPENING.get()
    if opening is not None:
        opening.append(connection)


class ClosablePool(QueuePool):
    """A ``QueuePool`` of which one idle connection can be closed."""

    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"  # it logs where people look for it

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.disposed = self.abandoned = False
        self.made: WeakSet[Any] = WeakSet()
        self.counting = threading.Lock()
        self.waiting = 0

    def close_one_idle(self) -> bool:
        """Close the connection that would be used next; False when none is idle."""
        try:
            record = self._pool.get(False)
        except Empty:
            return False
        try:
            record.close()
        finally:
            self._dec_overflow()
        return True

    def drop_one_idle(self, *, wait: bool = False) -> bool:
        """Close one without awaiting anything, in a plain callback of its event loop; False when none is idle.

        aiosqlite closes in a thread of its own. With ``wait`` that has ended too: a fork in the middle of it would
        leave a mutex of SQLite locked for ever in the child.
        """
        try:
            record: Any = self._pool.get(False)
        except Empty:
            return False
        try:
            self.close_at_once(record, wait=wait)
        finally:
            self._dec_overflow()
        return True

    def close_at_once(self, record: Any, *, wait: bool = False) -> None:
        """Close a connection as its driver can do it without awaiting anything."""
        dialect: Any = self._dialect
        if not dialect.has_terminate:
            _run_at_once(greenlet_spawn(record.close))
        elif dialect.driver == "aiosqlite":
            # Its stop() answers to the running loop, which may be closed by then; where none runs it answers nobody.
            connection = record.driver_connection
            thread = threading.Thread(target=record.invalidate)
            thread.start()
            thread.join()
            if wait and hasattr(connection, "wait_until_closed"):  # an application's creator may give another class
                connection.wait_until_closed()
        else:
            record.invalidate()

    @property
    def records(self) -> int:
        """How many connections this pool has open, is opening, or has lent out."""
        return self.checkedin() + self.checkedout()

    def _create_connection(self) -> Any:
        """Close what was opened when setting it up fails or is cancelled: SQLAlchemy drops it as it is."""
        opening: list[Any] = []
        self.count(-1)
        token = _OPENING.set(opening)
        try:
            record: Any = super()._create_connection()
        except BaseException as error:
            # SQLAlchemy's `safe_reraise` leaves a cycle of error and frames. A cursor in one of them would keep the
            # connection, and SQLite's lock, until the garbage collector runs: in an idle process, for ever.
            traceback.clear_frames(error.__traceback__)
            for connection in opening:
                self._close_connection(connection, terminate=True)
            raise
        finally:
            _OPENING.reset(token)
            self.count(+1)
        self.made.add(record)
        return record

    def dispose(self) -> None:
        """Close what is idle now, and what is in use when it is returned: nobody will ask this pool again."""
        self.disposed = True
        while self.close_one_idle():
            pass

    def abandon(self) -> list[Any]:
        """Give what is connected, idle or in use, and put something that refuses to work in its place.

        For a forked child, where a thread of the parent may hold any lock: of this pool, and of what is noted of the
        connections. From now on none is asked for, and nothing comes back.
        """
        self.abandoned = True
        taken: list[Any] = []
        for record in self.made:
            if record.dbapi_connection is None:
                continue
            taken.append(record.dbapi_connection)
            record.dbapi_connection = inherited = Inherited()
            record.info.clear()
            user = None if record.fairy_ref is None else record.fairy_ref()
            if user is not None:
                user.dbapi_connection = inherited
        return taken

    def _do_get(self) -> Any:
        self.count(+1)
        try:
            return super()._do_get()
        finally:
            self.count(-1)

    def _do_return_conn(self, record: Any) -> None:
        if self.abandoned:
            return
        if self.disposed:
            try:
                record.close()
            finally:
                self._dec_overflow()
        elif record.dbapi_connection is None and not self.waiting:  # it was invalidated: there is nothing to keep
            self._dec_overflow()
        else:  # whoever waits connects the record again
            super()._do_return_conn(record)

    def count(self, change: int) -> None:
        """Count those who wait for a connection, or are about to."""
        with self.counting:
            self.waiting += change


class AsyncClosablePool(ClosablePool, AsyncAdaptedQueuePool):
    """The same for async engines."""


def _run_at_once(coroutine: Any) -> None:
    """Drive a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("closing a connection awaited something: this version of the driver is not supported")


def has_statement_hooks(session: Session) -> bool:
    """Tell whether ``do_orm_execute`` listeners see the statements of a session."""
    return bool(session.dispatch.do_orm_execute)


def listens_to_begin(session: Session) -> bool:
    """Tell whether anybody but this library listens to the beginning of a session's transactions."""
    return len(session.dispatch.after_begin) > 1


def criteria(state: InstanceState[Any]) -> tuple[LoaderCriteriaOption, ...]:
    """Give the loader criteria of the query an object came from; its lazy loads honour them."""
    from sqlalchemy.orm import LoaderCriteriaOption  # noqa: PLC0415 - the ORM is not imported with the package

    return tuple(option for option in state.load_options if isinstance(option, LoaderCriteriaOption))


def has_own_loader(state: InstanceState[Any], key: str) -> bool:
    """Tell whether the query an object came from said how this attribute loads: ``raiseload()``, ``lazyload()``."""
    return key in state.callables


def attribute_being_read() -> tuple[str, str] | None:
    """Give the attribute whose lazy load is below this call, and the option that loads it with the query."""
    from sqlalchemy.orm import RelationshipProperty  # noqa: PLC0415 - the ORM is not imported with the package
    from sqlalchemy.orm.interfaces import LoaderStrategy  # noqa: PLC0415

    frame = inspect.currentframe()
    while frame is not None:
        strategy = frame.f_locals.get("self")
        if isinstance(strategy, LoaderStrategy):
            read = strategy.parent_property
            option = "selectinload" if isinstance(read, RelationshipProperty) else "undefer"
            return str(read), f"{option}({read})"
        frame = frame.f_back
    return None


def current_frames() -> dict[int, FrameType]:
    """Give the innermost call of each thread: https://docs.python.org/3/library/sys.html#sys._current_frames."""
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage]


def in_shielded_scope() -> bool:
    """Tell whether the running task's innermost cancel scope is shielded, as it is while AnyIO waits for a thread."""
    scope = current_scope()
    return scope is not None and scope.shield


def current_scope() -> CancelScope | None:
    """Give the innermost cancel scope of the running task."""
    task = asyncio.current_task()
    state = None if task is None else _ANYIO._task_states.get(task)
    scope: CancelScope | None = None if state is None else state.cancel_scope
    return scope


def run_as_worker(function: Callable[[], T], *, loop: asyncio.AbstractEventLoop, scope: CancelScope | None) -> T:
    """Run a function so that ``anyio.from_thread`` finds its way back from it, as from AnyIO's own threads."""
    with claim_worker_thread(_ANYIO.AsyncIOBackend, loop):
        threadlocals.current_cancel_scope = scope
        try:
            return function()
        finally:
            del threadlocals.current_cancel_scope


def loop_of_worker() -> asyncio.AbstractEventLoop | None:
    """Give the event loop that waits for this thread, if it is one of AnyIO's worker threads."""
    token = getattr(threadlocals, "current_token", None)
    loop = None if token is None else token.native_token
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None


def add_worker_threads(change: int) -> None:
    """Let more of AnyIO's threads run at once, or fewer; called on their event loop."""
    _ANYIO.AsyncIOBackend.current_default_thread_limiter().total_tokens += change
