"""How the transactions of units of work begin and end, told by the connection they run on.

A statement that failed fails its unit of work, on every database. PostgreSQL refuses all further statements of such a
transaction and answers COMMIT with ROLLBACK, but only for what failed in the server; SQLite commits what came before.
Units of work mean the same everywhere: a failure outside a savepoint can not be committed, one inside a savepoint that
is rolled back can. Connections that no unit has taken follow SQLAlchemy's own rules.

This is done by overriding methods of SQLAlchemy's dialect, not by listening to events of its engine: of an engine that
nobody listens to, no connection builds and calls listeners. ARCHITECTURE.md has the figures.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine, ExceptionContext, ExecutionContext

from fastapi_database.engines.internals import OptionEngine
from fastapi_database.errors import SCHEMA_MISMATCH, TransactionAborted, problem_for

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

ABORTED = (
    "COMMIT was refused: a statement of this transaction had failed, and what it was part of is incomplete. Let the "
    "error pass, or run the statement that may fail inside `with session.begin_nested():`"
)

MISMATCH = (
    "A table or column that this statement names does not exist here: run your migrations; in a demo or a test call "
    "db.create_all(), with models= given and the models imported [schema-mismatch]"
)

_TRANSACTION = "fastapi_database_transaction"


@dataclass(slots=True)
class UnitTransaction:
    """The one transaction for which a unit of work has taken a connection."""

    begin: str
    """The statement it begins with, where it needs one."""
    failed: bool = False
    """Whether a statement failed, outside the savepoints that were rolled back since."""
    savepoints: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    """The open savepoints, each with what ``failed`` was before it."""


class UnitEngine(OptionEngine):
    """The engine of units of work: SQLAlchemy's, with its pool and its listeners, on connections that know their unit.

    A unit takes a connection for each of its transactions.
    """

    def __init__(self, engine: Engine, *, begin: str = "") -> None:
        super().__init__(engine, {})
        self._begin_with = begin
        self.last_answer = float("-inf")
        """When the database last answered a statement of a unit, on the monotonic clock."""

    def connect(self) -> Connection:
        """Take a connection from the pool, for one transaction of a unit."""
        connection = super().connect()
        connection.info[_TRANSACTION] = UnitTransaction(self._begin_with)
        return connection


class Transactions(Dialect):
    """Goes before the class of SQLAlchemy's dialect, see :func:`watch`."""

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        super().do_execute(cursor, statement, parameters, context)
        _answered(context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        super().do_executemany(cursor, statement, parameters, context)
        _answered(context)

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Refuse to commit what is incomplete."""
        transaction = unit_transaction(dbapi_connection)
        if transaction is not None and transaction.failed:
            raise TransactionAborted(ABORTED)
        super().do_commit(dbapi_connection)

    def do_savepoint(self, connection: Connection, name: str) -> None:
        transaction = unit_transaction(connection)
        if transaction is not None:
            transaction.savepoints.append((name, transaction.failed))
        super().do_savepoint(connection, name)

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        super().do_rollback_to_savepoint(connection, name)
        transaction = unit_transaction(connection)
        while transaction is not None and transaction.savepoints:
            opened, transaction.failed = transaction.savepoints.pop()
            if opened == name:
                return

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        super().do_release_savepoint(connection, name)
        transaction = unit_transaction(connection)
        while transaction is not None and transaction.savepoints and transaction.savepoints.pop()[0] != name:
            pass


def watch(engine: Engine, hooks: type[Transactions]) -> None:
    """Have ``hooks`` override the methods of an engine's dialect, and note the statements that fail."""
    dialect = engine.dialect
    dialect.__class__ = _hooked(hooks, type(dialect))  # type: ignore[arg-type]  # types are hashable
    event.listen(engine, "handle_error", _fail)


def unit_transaction(connection: Connection | PoolProxiedConnection) -> UnitTransaction | None:
    """Give the transaction of the unit that has taken a connection, or None when none has."""
    transaction: UnitTransaction | None = connection.info.get(_TRANSACTION)
    return transaction


def returned(entry: ConnectionPoolEntry) -> None:
    """Forget the unit that had taken a connection: it is back in its pool."""
    entry.info.pop(_TRANSACTION, None)


def _answered(context: ExecutionContext | None) -> None:
    engine = None if context is None else context.engine
    if isinstance(engine, UnitEngine):
        engine.last_answer = time.monotonic()


@functools.cache
def _hooked(hooks: type[Transactions], dialect: type[Dialect]) -> type[Dialect]:
    # A dialect has to say for itself that it may cache: https://sqlalche.me/e/20/cprf
    own = {"__module__": dialect.__module__, "supports_statement_cache": dialect.supports_statement_cache}
    return type(dialect.__name__, (hooks, dialect), own)


def _fail(context: ExceptionContext) -> None:
    wrapped = context.sqlalchemy_exception
    if wrapped is not None and problem_for(wrapped) is SCHEMA_MISMATCH:
        wrapped.add_note(MISMATCH)
    connection = context.connection
    if connection is not None and not connection.closed and not connection.invalidated:
        transaction = unit_transaction(connection)
        if transaction is not None:
            transaction.failed = True
