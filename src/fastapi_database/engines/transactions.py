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
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from sqlalchemy import event
from sqlalchemy import exc as sa
from sqlalchemy.engine import Connection, Dialect, Engine, ExceptionContext, ExecutionContext

from fastapi_database.engines.deadlines import Deadline, keep
from fastapi_database.engines.internals import OptionEngine
from fastapi_database.engines.interruption import Interruption
from fastapi_database.engines.outcome import SESSION_ENDED, Outcome
from fastapi_database.errors import SCHEMA_MISMATCH, OutcomeUnknown, TransactionAborted, problem_for, sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

ABORTED = (
    "COMMIT was refused: a statement of this transaction had failed, and what it was part of is incomplete. Let the "
    "error pass, or run the statement that may fail inside `with session.begin_nested():`"
)

MISMATCH = (
    "A table or column that this statement names does not exist here: run your migrations; in a demo or a test call "
    "db.create_all(), with models= given and the models imported [schema-mismatch]"
)

NOT_OURS = {"26000", "42P05"}
"""A prepared statement that is not there, or is there already: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

POOLER = (
    "If the URL leads to PgBouncer, or to another pooler in transaction mode, prepared statements of one client meet "
    "those of the others there: write Database(..., transaction_pooler=True)"
)

NO_ANSWER = "The connection was lost between COMMIT and its answer"

UNKNOWN = (
    "whether the transaction is stored is not known. Look for what it was to store before trying again, or it may be "
    "stored twice"
)

DISCARDED = SESSION_ENDED | {"57P02", "57P03"}
"""SQLSTATEs after which a connection is of no use: the server ends the session, is dying, or is starting."""

_TRANSACTION = "fastapi_database_transaction"


@dataclass(slots=True)
class UnitTransaction:
    """What a connection knows of the transaction that a unit of work has on it."""

    begin: str
    """The statement it begins with, where it needs one."""
    late: bool = False
    """Whether the database has not been told yet that it begins: its statements so far only read."""
    changes: int = 0
    """Where the database counts what a connection changes: the count when the transaction began."""
    failed: bool = False
    """Whether a statement failed, outside the savepoints that were rolled back since."""
    savepoints: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    """The open savepoints, each with what ``failed`` was before it."""
    deadline: Deadline | None = None
    """When the unit's time is over. What the database is told of it is told inside of the transaction."""
    interruption: Interruption = field(default_factory=Interruption)
    keeps: bool = False
    """Whether a SELECT set, locked or announced something that the end of the transaction takes away unseen."""
    committing: bool = False
    """Whether COMMIT was sent and had no answer; an error is one, where it tells what became of the transaction."""
    lost: bool = False
    """Whether the connection was lost in this transaction."""


class UnitEngine(OptionEngine):
    """The engine of units of work: SQLAlchemy's, with its pool and listeners, on connections that know of the unit."""

    late: ClassVar[bool] = False
    """Whether its transactions may begin late: ``engines/late.py``."""

    def __init__(self, engine: Engine, *, begin: str = "", deadline: Deadline | None = None, **options: Any) -> None:
        super().__init__(engine, options)
        self._begin_with = begin
        self._deadline = deadline

    def raw_connection(self) -> PoolProxiedConnection:
        """Take a connection from the pool for a unit; SQLAlchemy also does so for a connection that was invalidated."""
        try:
            connection = super().raw_connection()
        except Exception as error:
            dialect: Any = self.dialect
            dialect.no_connection(error)
            raise
        connection.info[_TRANSACTION] = UnitTransaction(self._begin_with, deadline=self._deadline)
        return connection

    def execution_options(self, **options: Any) -> UnitEngine:
        """Make an engine with more options, whose connections know of the unit as well."""
        return UnitEngine(self, begin=self._begin_with, deadline=self._deadline, **options)

    def until(self, deadline: Deadline) -> UnitEngine:
        """Make an engine for one unit of work whose time is limited."""
        engine = UnitEngine(self, begin=self._begin_with, deadline=deadline)
        keep(engine, deadline)
        return engine


@dataclass(slots=True)
class LastAnswer:
    """When the database last answered, whatever the engine."""

    at: float = float("-inf")
    """A time of the monotonic clock."""

    def now(self) -> None:
        """Note an answer."""
        self.at = time.monotonic()


class Transactions(Dialect):
    """Goes before the class of SQLAlchemy's dialect, see :func:`watch`."""

    last_answer: LastAnswer
    no_connection: Callable[[Exception], None]
    """Told why a unit that asked got no connection."""
    limits_one_statement = False
    """Whether :meth:`limit_statements` is about the next statement only."""

    def limit_statements(self, connection: Connection, seconds: float) -> None:
        """Have the database end statements of the running transaction that take longer from now on."""

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        super().do_execute(cursor, statement, parameters, context)
        self._answered(context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        super().do_executemany(cursor, statement, parameters, context)
        self._answered(context)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        super().do_execute_no_params(cursor, statement, context)
        self._answered(context)

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Refuse to commit what is incomplete."""
        transaction = unit_transaction(dbapi_connection)
        if transaction is None:
            super().do_commit(dbapi_connection)
            return
        if transaction.failed:
            self.refuse(dbapi_connection)
        transaction.committing = True
        try:
            super().do_commit(dbapi_connection)
        except Exception as error:
            if self.outcome(dbapi_connection, error) is Outcome.UNKNOWN:
                raise OutcomeUnknown(f"{NO_ANSWER}: {UNKNOWN}") from error
            transaction.committing = False
            raise
        transaction.committing = False

    def outcome(self, dbapi_connection: PoolProxiedConnection, error: Exception) -> Outcome:
        """Tell what became of a COMMIT that ended with an error."""
        return Outcome.NOT_STORED

    def do_rollback(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Roll back, and begin with nothing failed."""
        super().do_rollback(dbapi_connection)
        transaction = unit_transaction(dbapi_connection)
        if transaction is not None:
            transaction.failed = False
            transaction.savepoints.clear()

    def refuse(self, dbapi_connection: PoolProxiedConnection) -> NoReturn:
        """Roll back in place of a COMMIT. Nobody else does: SQLAlchemy counts the transaction as ended."""
        self.do_rollback(dbapi_connection)
        raise TransactionAborted(ABORTED)

    def has_written(self, connection: Connection) -> bool:
        """Ask the database whether the transaction on a connection has written, whatever its statements look like.

        True where it does not tell.
        """
        return True

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

    def _answered(self, context: ExecutionContext | None) -> None:
        # What SQLAlchemy asks a new connection, before anything else, is not in a transaction: it may yet fail.
        if context is not None and context.root_connection.in_transaction():
            self.last_answer.now()


def watch(
    engine: Engine,
    hooks: type[Transactions],
    last_answer: LastAnswer,
    *,
    no_connection: Callable[[Exception], None],
) -> None:
    """Have ``hooks`` override the methods of an engine's dialect; note answers, and the statements that fail."""
    dialect: Any = engine.dialect
    dialect.__class__ = _hooked(hooks, type(dialect))  # type: ignore[arg-type]  # types are hashable
    dialect.last_answer = last_answer
    dialect.no_connection = no_connection
    event.listen(engine, "handle_error", _fail)


def unit_transaction(connection: Connection | PoolProxiedConnection) -> UnitTransaction | None:
    """Give the transaction of the unit that has taken a connection, or None when none has."""
    try:
        transaction: UnitTransaction | None = connection.info.get(_TRANSACTION)
    except NotImplementedError:  # SQLAlchemy is setting up its dialect, on a connection that no pool has lent
        return None
    return transaction


def returned(entry: ConnectionPoolEntry) -> None:
    """Forget the unit that had taken a connection: it is back in its pool."""
    transaction: UnitTransaction | None = entry.info.pop(_TRANSACTION, None)
    if transaction is not None:
        transaction.interruption.give_back()
        if transaction.interruption.uncertain:
            entry.invalidate()  # a request that comes late must not find another unit


@functools.cache
def _hooked(hooks: type[Transactions], dialect: type[Dialect]) -> type[Dialect]:
    # A dialect has to say for itself that it may cache: https://sqlalche.me/e/20/cprf
    own = {"__module__": dialect.__module__, "supports_statement_cache": dialect.supports_statement_cache}
    return type(dialect.__name__, (hooks, dialect), own)


def _fail(context: ExceptionContext) -> None:
    if isinstance(context.original_exception, TransactionAborted):
        return  # that is our answer to a failure, and the transaction is over
    ended = getattr(context.original_exception, "sqlstate", None) in DISCARDED
    if ended or isinstance(context.original_exception, OutcomeUnknown | sa.PendingRollbackError):
        context.is_disconnect = True  # the connection is of no use any more; nor, likely, are the idle ones beside it
    wrapped = context.sqlalchemy_exception
    if wrapped is not None and problem_for(wrapped) is SCHEMA_MISMATCH:
        wrapped.add_note(MISMATCH)
    if isinstance(wrapped, sa.DBAPIError) and sqlstate(wrapped) in NOT_OURS:
        wrapped.add_note(POOLER)
    connection = context.connection
    if connection is not None and not connection.closed and not connection.invalidated:
        transaction = unit_transaction(connection)
        if transaction is not None:
            transaction.failed = True
            transaction.lost = context.is_disconnect
