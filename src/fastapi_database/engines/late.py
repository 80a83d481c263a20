"""Transactions that begin late: at the first statement that needs one, or never.

A unit of work that is expected to read is told apart by its engine, :class:`LateUnitEngine`. While its statements mean
the same without a transaction (:mod:`~fastapi_database.engines.reads`), the driver's connection is in its autocommit
mode, which saves the round trips for BEGIN and for the end. The mode is left before the first statement that needs a
transaction, when the driver sends BEGIN by itself, and before the connection is lent again. For SQLAlchemy, and whoever
listens to its engine, the transaction began when the first statement came.

This is only so where it can not be told from a transaction that begins at once: in the server's own isolation level,
when that is READ COMMITTED, and while nobody but SQLAlchemy gets at the driver's connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy.engine import Connection

from fastapi_database.engines.internals import was_listened_to
from fastapi_database.engines.reads import keeps_something, only_reads
from fastapi_database.engines.transactions import Transactions, UnitEngine, unit_transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

_READ_COMMITTED = "READ COMMITTED"  # as SQLAlchemy writes it

_AUTOCOMMIT = "fastapi_database_autocommit"

_CHARACTERISTICS = frozenset({"isolation_level", "postgresql_readonly", "postgresql_deferrable"})
"""Execution options that say what a transaction is to be like, so that one has to begin."""


_HEARD = (
    "begin", "engine_connect", "before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute",
)  # fmt: skip
"""Events of an engine whose listeners get the connection, and may count on a transaction without a word to us."""

_TAKEN_OVER = ("do_execute", "do_executemany", "do_execute_no_params")
"""Events of a dialect, whose listeners execute in its place."""


class LateUnitEngine(UnitEngine):
    """The engine of units of work that are expected to read."""

    late: ClassVar[bool] = True

    def raw_connection(self) -> PoolProxiedConnection:
        """Take a connection from the pool for a unit, whose transaction begins late if it may."""
        connection = super().raw_connection()
        transaction = unit_transaction(connection)
        if transaction is not None and self._may_begin_late(connection):
            driver_connection: Any = connection.dbapi_connection
            driver_connection.autocommit = True
            connection.info[_AUTOCOMMIT] = transaction.late = True
        return connection

    def execution_options(self, **options: Any) -> UnitEngine:
        """Make an engine with more options; if they are about transactions, these begin at once."""
        if _CHARACTERISTICS.isdisjoint(options):
            return LateUnitEngine(self, **options)
        return UnitEngine(self, **options)

    def _may_begin_late(self, connection: PoolProxiedConnection) -> bool:
        dialect: Any = self.dialect
        return (
            dialect.default_isolation_level == _READ_COMMITTED
            and not (was_listened_to(self) and any(getattr(self.dispatch, name) for name in _HEARD))
            and not any(getattr(dialect.dispatch, name) for name in _TAKEN_OVER)
            and dialect.is_idle(connection)
        )


class LateTransactions(Transactions):
    """What overrides SQLAlchemy's dialect where transactions may begin late."""

    def is_idle(self, dbapi_connection: PoolProxiedConnection) -> bool:
        """Tell whether a connection is outside of a transaction; a listener of its pool may have begun one."""
        raise NotImplementedError

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        # A cursor in the server lives in a transaction.
        if context is not None and (
            context.execution_options.get("stream_results") or self.server_side_cursors or not only_reads(statement)
        ):
            begin_now(context.root_connection)
            _note_what_it_keeps(context.root_connection, statement)
        super().do_execute(cursor, statement, parameters, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        if context is not None:
            begin_now(context.root_connection)
        super().do_executemany(cursor, statement, parameters, context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        if context is not None:
            begin_now(context.root_connection)
            _note_what_it_keeps(context.root_connection, statement)
        super().do_execute_no_params(cursor, statement, context)

    def set_connection_execution_options(self, connection: Connection, opts: Mapping[str, Any]) -> None:
        """Begin before a connection is told what its transaction is to be like."""
        if not _CHARACTERISTICS.isdisjoint(opts):
            begin_now(connection)
        super().set_connection_execution_options(connection, opts)

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Commit what has begun; what has failed is refused all the same."""
        transaction = unit_transaction(dbapi_connection)
        if transaction is None or transaction.failed or not transaction.late:
            super().do_commit(dbapi_connection)

    def do_rollback(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Roll back what has begun."""
        transaction = unit_transaction(dbapi_connection)
        if transaction is None or not transaction.late:
            super().do_rollback(dbapi_connection)
        else:
            transaction.failed = False


def begin_now(connection: Connection) -> None:
    """Have the transaction of a unit begin before the next statement, if it has not begun yet."""
    transaction = unit_transaction(connection)
    if transaction is not None and transaction.late:
        driver_connection: Any = connection.connection.dbapi_connection
        driver_connection.autocommit = transaction.late = False
        connection.info[_AUTOCOMMIT] = False


def _note_what_it_keeps(connection: Connection, statement: str) -> None:
    transaction = unit_transaction(connection)
    if transaction is not None and keeps_something(statement):
        transaction.keeps = True


def leave_autocommit(dbapi_connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Leave the mode when the pool lends a connection, to whomever: on its return, nothing must stand in the way."""
    if entry.info.pop(_AUTOCOMMIT, False):
        dbapi_connection.autocommit = False
