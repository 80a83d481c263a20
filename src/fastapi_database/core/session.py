"""The sessions of units of work: SQLAlchemy's own, asking their unit before every statement.

This module needs the ORM, a fifth of what importing FastAPI and SQLAlchemy takes. It is imported when a
``Database`` is made, not with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from fastapi_database.core.internals import listens_to_begin
from fastapi_database.core.unit import Unit
from fastapi_database.engines.late import begin_now


@dataclass(frozen=True, slots=True)
class Sessions:
    """Makes the sessions of one ``Database``."""

    options: Mapping[str, Any]

    def sync(self, unit: Unit) -> UnitSession:
        """Make the session of a unit."""
        return UnitSession(unit, self.options)

    def asynchronous(self, unit: Unit) -> UnitAsyncSession:
        """Make the async face of the session of a unit."""
        return UnitAsyncSession(unit)


class UnitSession(Session):
    """SQLAlchemy's ``Session`` that asks its unit before every statement."""

    def __init__(self, unit: Unit, options: Mapping[str, Any]) -> None:
        self.unit = unit
        super().__init__(**options)

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **_: Any) -> Engine | Connection:
        engine = self.unit.bind(clause)
        return engine if bind is None else bind

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """Give the connection, in a transaction: what is done with its driver's connection must be part of the unit."""
        connection = super().connection(*arguments, **options)
        begin_now(connection)
        return connection

    def commit(self) -> None:
        self._check_context()
        self.unit.refuse_to_commit()
        super().commit()

    def rollback(self) -> None:
        self._check_context()
        super().rollback()

    def close(self) -> None:
        self._check_context()
        super().close()

    def reset(self) -> None:
        self._check_context()
        super().reset()

    def _check_context(self) -> None:
        if self.in_transaction():
            self.unit.check_context()


class UnitAsyncSession(AsyncSession):
    """SQLAlchemy's ``AsyncSession``, initialised when it is first used: many requests declare one that they never need.

    Until then it has no attributes, so whichever is asked for first is missing.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit

    def __getattr__(self, name: str) -> Any:
        if name == "unit" or "sync_session" in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        unit = self.unit
        # What is given as the class of the session is called, and nothing else.
        super().__init__(sync_session_class=lambda **_: unit.session)  # type: ignore[arg-type]
        return getattr(self, name)


@event.listens_for(UnitSession, "after_transaction_create")
def _refuse_after_the_end(session: UnitSession, transaction: SessionTransaction) -> None:
    if session.unit.ended and transaction.parent is None:
        transaction.close()  # the session has it already, and would not ask again
        session.unit.refuse_if_ended()


@event.listens_for(UnitSession, "after_begin", insert=True)  # before a hook of the application
def _note_the_begin(session: UnitSession, _transaction: SessionTransaction, connection: Connection) -> None:
    session.unit.connected(connection)
    if listens_to_begin(session):
        begin_now(connection)


@event.listens_for(UnitSession, "before_flush", insert=True)
def _begin_before_hooks_of_mappers(session: UnitSession, *_: object) -> None:
    if session.unit.begins_late:
        session.connection()


@event.listens_for(UnitSession, "after_transaction_end")
def _note_the_end(session: UnitSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.unit.transaction_ended()


@event.listens_for(UnitSession, "after_commit", insert=True)  # before a hook of the application that may raise
def _count_commit(session: UnitSession) -> None:
    if not session.in_nested_transaction():  # a savepoint was released, and nothing is durable yet
        session.unit.committed()


@event.listens_for(UnitSession, "after_rollback")
def _count_rollback(session: UnitSession) -> None:
    session.unit.rolled_back()
