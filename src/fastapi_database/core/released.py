"""Giving the connection back around slow other work in the middle of a unit of work."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from sqlalchemy import select

from fastapi_database.core.internals import listens_to_begin
from fastapi_database.core.resources import Resources
from fastapi_database.core.threads import SPARE
from fastapi_database.core.unit import AsyncUnit, SyncUnit, Unit
from fastapi_database.engines.transactions import Transactions, unit_transaction
from fastapi_database.errors import TransactionAborted, UnsavedWork, WrongSession

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction


class Released:
    """A block in which a unit holds no connection and no place; made by :meth:`CoreDatabase.released`."""

    def __init__(self, resources: Resources, session: Session | AsyncSession) -> None:
        unit = getattr(session, "unit", None)
        if not isinstance(unit, Unit) or not resources.opened(unit):
            raise WrongSession(
                f"db.released() was given {session!r}, which is no session of this Database: give it the one of "
                "Depends(db.session), Depends(db.async_session) or db.begin()"
            )
        self._unit = unit
        self._threads = resources.threads
        self._asides: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        unit = self._unit
        if not isinstance(unit, SyncUnit):
            raise WrongSession(f"the session of {unit.owner} is async: write `async with db.released(session):`")
        release(unit)
        aside = self._threads.aside(spare=SPARE)  # others must not wait for a thread that only waits
        aside.__enter__()
        self._asides.append(aside)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unit.resume()
        self._asides.pop().__exit__(None, None, None)

    async def __aenter__(self) -> None:
        unit = self._unit
        if not isinstance(unit, AsyncUnit):
            raise WrongSession(f"the session of {unit.owner} is sync: write `with db.released(session):`, in a `def`")
        unit.refuse_if_ended()
        await unit.async_session.run_sync(lambda _: release(unit))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unit.resume()


def release(unit: Unit) -> None:
    """End a transaction that has only read, and give connection and place back, until ``unit.resume()``.

    Raises :class:`UnsavedWork` or :class:`TransactionAborted` where that would lose or hide anything, and changes
    nothing then. Runs where the session may block.
    """
    unit.check_context()
    unit.refuse_if_ended()
    session = unit.session
    _refuse_to_lose(unit, session)
    transaction = session.get_transaction()
    if transaction is not None:
        _end(transaction)
    unit.give_back()


def _end(transaction: SessionTransaction) -> None:
    """Roll back, and leave the loaded objects as they are. Never a COMMIT: a hook of the application may write then."""
    try:
        transaction.close()
    except BaseException as error:
        # Lost, or cancelled in the middle of an answer: closing the connection rolls back too. SQLAlchemy has
        # forgotten the transaction by now, and nobody else would.
        transaction.close(invalidate=True)
        if not isinstance(error, Exception):
            raise


def _refuse_to_lose(unit: Unit, session: Session) -> None:
    from sqlalchemy.orm import Session  # noqa: PLC0415 - the ORM is not imported with the package

    if session.new or session.deleted or any(session.is_modified(one) for one in session.dirty):
        raise _unsaved(unit, "has objects that are not stored yet")
    if not session.in_transaction():
        return
    if session.in_nested_transaction():
        raise _unsaved(unit, "is in a savepoint")
    if not session.is_active:
        raise _failed(unit)
    if not unit.asked:
        return
    # Not ours, which has a transaction begin that may not have begun yet.
    connection = Session.connection(session, bind_arguments={"clause": select()})
    begun = unit_transaction(connection)
    if begun is not None and begun.failed:
        raise _failed(unit)
    if unit.wrote:
        raise _unsaved(unit, "has sent a statement that is no SELECT")
    # What a hook sets at each beginning, of the session's transaction or the engine's, it sets again after the block.
    if begun is not None and begun.keeps and not (listens_to_begin(session) or connection.dispatch.begin):
        raise _unsaved(unit, "has set, locked or announced something in a SELECT (set_config, say)")
    dialect = connection.dialect
    if not isinstance(dialect, Transactions) or dialect.has_written(connection):
        raise _unsaved(unit, "has written or locked rows, in a function, a WITH or a FOR UPDATE")


def _unsaved(unit: Unit, what: str) -> UnsavedWork:
    return UnsavedWork(
        f"the unit of work of {unit.owner} {what}: to give its connection back, that would have to be stored or undone "
        "now, and a unit is one whole. Nothing is lost. Call session.commit() before db.released(session) if it may "
        "stand alone, or do the slow work before or after it"
    )


def _failed(unit: Unit) -> TransactionAborted:
    return TransactionAborted(
        f"a statement of {unit.owner} has failed, so its unit of work can only be rolled back; db.released(session) "
        "would hide that. Let the error pass, or run the statement that may fail inside `with session.begin_nested():`"
    )
