"""Everything this library touches that SQLAlchemy does not document, in one place.

Seen in SQLAlchemy 2.0.50 to 2.0.58 and 2.1.0 to 2.1.9. Each detail has a test in
``tests/core/test_internals.py`` that fails when a version changes it.

* ``QueuePool._create_connection``, ``._close_connection``, ``._do_return_conn``, ``._dec_overflow``, ``._pool`` with
  ``sqlalchemy.util.queue.Empty``, and ``_ConnectionRecord.close``: to close one idle connection of a pool, to keep
  records without a connection out of its queue, and to close a connection that could not be set up. The public way to
  close one, to check it out and invalidate it, opens one when the pool has none.
* ``__sqlalchemy_greenlet_provider__``: marks the greenlets in which ``await_only`` works.
* ``Session.dispatch.do_orm_execute``: whether somebody listens to statements.
* ``InstanceState.load_options`` and ``.callables``: the loader options of the query an object came from.
* ``_sqla_logger_namespace``: the name under which a pool logs.
* ``sqlalchemy.util.get_cls_kwargs``: the options a dialect takes, as ``create_engine`` finds them.
* ``sqlalchemy.util.await_only`` and ``greenlet_spawn``: the bridge between the two worlds; widely used.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
from sqlalchemy.util import await_only, get_cls_kwargs, greenlet_spawn
from sqlalchemy.util.queue import Empty

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState, LoaderCriteriaOption, Session

__all__ = ["await_only", "get_cls_kwargs", "greenlet_spawn"]


_OPENING: ContextVar[list[Any] | None] = ContextVar("fastapi_database_opening", default=None)


def opened(connection: Any) -> None:
    """Tell the pool that a connection was opened, which now is to be set up."""
    opening = _OPENING.get()
    if opening is not None:
        opening.append(connection)


class ClosablePool(QueuePool):
    """A ``QueuePool`` of which one idle connection can be closed."""

    _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"  # it logs where people look for it

    def close_one_idle(self) -> bool:
        """Close the connection that would be used next; False when none is idle."""
        try:
            record = self._pool.get(False)
        except Empty:
            return False
        record.close()
        self._dec_overflow()
        return True

    @property
    def records(self) -> int:
        """How many connections this pool has open, is opening, or has lent out."""
        return self.checkedin() + self.checkedout()

    def _create_connection(self) -> Any:
        """Close what was opened when setting it up fails or is cancelled: SQLAlchemy drops it as it is."""
        opening: list[Any] = []
        token = _OPENING.set(opening)
        try:
            return super()._create_connection()
        except BaseException:
            for connection in opening:
                self._close_connection(connection, terminate=True)
            raise
        finally:
            _OPENING.reset(token)

    def _do_return_conn(self, record: Any) -> None:
        if record.dbapi_connection is None:  # it was invalidated: there is nothing to keep
            self._dec_overflow()
        else:
            super()._do_return_conn(record)


class AsyncClosablePool(ClosablePool, AsyncAdaptedQueuePool):
    """The same for async engines."""


def current_greenlet() -> greenlet | None:
    """Give SQLAlchemy's greenlet this code runs in, or None where nothing can be awaited."""
    current = getcurrent()
    return current if getattr(current, "__sqlalchemy_greenlet_provider__", False) else None


def has_statement_hooks(session: Session) -> bool:
    """Tell whether ``do_orm_execute`` listeners see the statements of a session."""
    return bool(session.dispatch.do_orm_execute)


def criteria(state: InstanceState[Any]) -> tuple[LoaderCriteriaOption, ...]:
    """Give the loader criteria of the query an object came from; its lazy loads honour them."""
    from sqlalchemy.orm import LoaderCriteriaOption  # noqa: PLC0415 - the ORM is not imported with the package

    return tuple(option for option in state.load_options if isinstance(option, LoaderCriteriaOption))


def has_own_loader(state: InstanceState[Any], key: str) -> bool:
    """Tell whether the query an object came from said how this attribute loads: ``raiseload()``, ``lazyload()``."""
    return key in state.callables
