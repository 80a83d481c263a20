"""The errors of this library, and the table from a driver's error to an HTTP problem.

```
FastAPIDatabaseError
├── ConfigurationError                 wrong before anything ran: nothing was sent to the database
│   ├── UnknownSetting                 unknown-setting
│   ├── ConflictingSettings            conflicting-settings
│   ├── InvalidURL                     invalid-url
│   ├── UnsupportedDatabase            unsupported-database
│   ├── DriverNotInstalled             driver-not-installed
│   ├── InvalidModels                  invalid-models
│   ├── NotInstalled                   not-installed
│   ├── AlreadyInstalled               already-installed
│   ├── InstalledTooLate               installed-too-late
│   ├── WrongSession                   wrong-session
│   ├── MixedSessions                  mixed-sessions
│   ├── SessionInStream                session-in-stream
│   └── BuiltInsideRequest             built-inside-request
├── UsageError                         a session was used where it can not serve
│   ├── UnitEnded                      unit-ended
│   ├── OutsideRequest                 outside-request
│   ├── ConcurrentUse                  concurrent-use
│   ├── UnsavedWork                    unsaved-work
│   ├── SessionReleased                session-released
│   ├── LoadOutsideSession             load-outside-session
│   ├── InheritedConnection            inherited-connection
│   └── SessionFeature                 session-feature
├── TransactionAborted                 transaction-aborted
├── DeadlineExceeded                   deadline-exceeded
├── OutcomeUnknown                     outcome-unknown
└── Unavailable                        the database can not serve now: answered with 503
    ├── QueueFull                      queue-full
    ├── QueueShed                      queue-shed
    ├── QueueTimeout                   queue-timeout
    ├── Unreachable                    unreachable
    └── LoginRefused                   login-refused
```

Every error carries a stable ``code``; ``docs/errors/<code>.md`` is its page. Errors of SQLAlchemy and
of the drivers keep their own types; :func:`problem_for` gives the problem document each is answered with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, MetaData
from sqlalchemy import exc as sa

RETRY_AFTER = 1
"""Seconds a client is asked to wait where nothing better is known: the smallest value ``Retry-After`` has."""


class FastAPIDatabaseError(Exception):
    """The root: catch it to catch everything this library raises by itself.

    >>> QueueTimeout("no connection after 5.00 s").code
    'queue-timeout'
    """

    code: ClassVar[str] = "database-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The database request failed"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(f"{message} [{self.code}]")
        self.retry_after = retry_after
        """Seconds after which a retry may succeed, or None where a retry is no use."""


class ConfigurationError(FastAPIDatabaseError):
    """The application is put together wrongly; no statement was sent."""

    code = "configuration-error"
    title = "The server is misconfigured"


class UnknownSetting(ConfigurationError):
    """A keyword that neither this library nor SQLAlchemy knows."""

    code = "unknown-setting"


class ConflictingSettings(ConfigurationError):
    """Two settings that can not both hold, or a value that none can hold."""

    code = "conflicting-settings"


class InvalidURL(ConfigurationError):
    """The database URL is missing or can not be read."""

    code = "invalid-url"


class UnsupportedDatabase(ConfigurationError):
    """The URL names a database this version has no dialect file for."""

    code = "unsupported-database"


class DriverNotInstalled(ConfigurationError):
    """The driver the URL needs is not installed."""

    code = "driver-not-installed"


class InvalidModels(ConfigurationError):
    """``models`` is not a declarative base, a MetaData, or a sequence of them."""

    code = "invalid-models"


class NotInstalled(ConfigurationError):
    """A session dependency ran in an application without ``db.install(app)``."""

    code = "not-installed"


class AlreadyInstalled(ConfigurationError):
    """``db.install(app)`` was called twice with the same application."""

    code = "already-installed"


class InstalledTooLate(ConfigurationError):
    """``db.install(app)`` was called after the application had started."""

    code = "installed-too-late"


class WrongSession(ConfigurationError):
    """The async session in a ``def`` endpoint, or the sync session on the event loop."""

    code = "wrong-session"


class MixedSessions(ConfigurationError):
    """A sync and an async session of one ``Database`` in one request."""

    code = "mixed-sessions"


class SessionInStream(ConfigurationError):
    """A generator or WebSocket endpoint declares the request's session itself."""

    code = "session-in-stream"


class BuiltInsideRequest(ConfigurationError):
    """A ``Database`` was constructed while a request was being handled."""

    code = "built-inside-request"


class UsageError(FastAPIDatabaseError):
    """A session was used where it can not serve."""

    code = "usage-error"


class UnitEnded(UsageError):
    """The session was used after its unit of work had ended."""

    code = "unit-ended"


class OutsideRequest(UsageError):
    """A session dependency was called by hand, where there is no request."""

    code = "outside-request"


class ConcurrentUse(UsageError):
    """Two tasks used one async session at the same time."""

    code = "concurrent-use"


class UnsavedWork(UsageError):
    """The connection of a unit that has written was to be given back in the middle of it."""

    code = "unsaved-work"


class SessionReleased(UsageError):
    """A session was used inside the block that gave its connection back."""

    code = "session-released"


class LoadOutsideSession(UsageError):
    """An async session had to load something where nothing can await it."""

    code = "load-outside-session"


class InheritedConnection(UsageError):
    """A connection that was in use at a fork would have been used in the child."""

    code = "inherited-connection"


class SessionFeature(UsageError):
    """A statement sets something for the whole connection, which behind a transaction pooler is everybody's."""

    code = "session-feature"


class TransactionAborted(FastAPIDatabaseError):
    """A statement of the transaction had failed, so COMMIT could store nothing: it was rolled back."""

    code = "transaction-aborted"
    title = "The transaction had failed and was rolled back"


class DeadlineExceeded(FastAPIDatabaseError):
    """The ``timeout`` of ``transaction()`` or ``db.begin()`` was over before the unit of work was."""

    code = "deadline-exceeded"
    status = 504
    title = "The time for this request was over"


class OutcomeUnknown(FastAPIDatabaseError):
    """The connection was lost between COMMIT and its answer: whether the transaction is stored is not known."""

    # 500, without Retry-After. 503 and 502, 504 say "try again" to clients and proxies, and many do so by themselves:
    # what is stored already would be stored twice. https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
    code = "outcome-unknown"
    title = "Whether this was stored is not known"


class Unavailable(FastAPIDatabaseError):
    """The database can not serve this request now; a later one may succeed."""

    code = "unavailable"
    status = 503
    title = "The database is busy or can not be reached"

    def __init__(self, message: str, *, retry_after: float | None = RETRY_AFTER) -> None:
        super().__init__(message, retry_after=retry_after)


class QueueFull(Unavailable):
    """More requests than ``max_waiting`` wait for a connection already."""

    code = "queue-full"
    title = "Too many requests are waiting for the database"


class QueueShed(Unavailable):
    """More come than are served, and as many wait as ``queue_target`` lets, or this one had waited too long."""

    code = "queue-shed"
    title = "The database is overloaded"


class QueueTimeout(Unavailable):
    """No connection became free within ``queue_timeout`` seconds."""

    code = "queue-timeout"
    title = "No database connection became free in time"


class Unreachable(Unavailable):
    """The server did not accept the connection."""

    code = "unreachable"
    title = "The database can not be reached"


class LoginRefused(Unavailable):
    """The server was reached and refused the user, the password or the database name."""

    code = "login-refused"
    title = "The database refused the connection"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told, as RFC 9457 has it. ``members`` are extension members such as ``fields``."""

    status: int
    code: str
    title: str
    retry_after: float | None = None
    members: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def type(self) -> str:
        """A URI that names the kind of problem; stable across versions."""
        return f"urn:fastapi-database:{self.code}"


UNIQUE = Problem(409, "unique-violation", "Something with this value exists already")
FOREIGN_KEY = Problem(409, "foreign-key-violation", "Something that this refers to does not exist, or is still in use")
EXCLUSION = Problem(409, "exclusion-violation", "This overlaps something that exists already")
NOT_NULL = Problem(422, "not-null-violation", "A required value is missing")
CHECK = Problem(422, "check-violation", "A value is outside what is allowed")
TOO_LONG = Problem(422, "value-too-long", "A value is too long")
INVALID_VALUE = Problem(422, "invalid-value", "A value can not be stored in its column")
SERIALIZATION = Problem(503, "serialization-failure", "Another request changed the same data", RETRY_AFTER)
DEADLOCK = Problem(503, "deadlock", "Another request locked the same data", RETRY_AFTER)
LOCK_TIMEOUT = Problem(503, "lock-timeout", "The data is locked by another request", RETRY_AFTER)
STATEMENT_TIMEOUT = Problem(504, "statement-timeout", "The database did not answer in time")
READ_ONLY = Problem(503, "read-only", "The database accepts no writes now", RETRY_AFTER)
CONNECTION_LOST = Problem(503, "connection-lost", "The connection to the database was lost", RETRY_AFTER)
OUT_OF_RESOURCES = Problem(503, "out-of-resources", "The database is out of resources", RETRY_AFTER)
ABORTED = Problem(500, TransactionAborted.code, TransactionAborted.title)
SCHEMA_MISMATCH = Problem(500, "schema-mismatch", "The server's tables do not fit the application")
OTHER = Problem(500, "database-error", "The database request failed")

# PostgreSQL, by SQLSTATE and then by its class (first two characters):
# https://www.postgresql.org/docs/current/errcodes-appendix.html
SQLSTATE: Mapping[str, Problem] = {
    "23505": UNIQUE,
    "23503": FOREIGN_KEY,
    "23001": FOREIGN_KEY,
    "23P01": EXCLUSION,
    "23502": NOT_NULL,
    "23514": CHECK,
    "22001": TOO_LONG,
    "40001": SERIALIZATION,
    "40P01": DEADLOCK,
    "55P03": LOCK_TIMEOUT,
    "57014": STATEMENT_TIMEOUT,
    "25006": READ_ONLY,
    "25P02": ABORTED,
    "57P01": CONNECTION_LOST,
    "57P02": CONNECTION_LOST,
    "57P03": CONNECTION_LOST,
    "57P05": CONNECTION_LOST,
    "25P03": CONNECTION_LOST,
    "08": CONNECTION_LOST,
    "22": INVALID_VALUE,
    "53": OUT_OF_RESOURCES,
    "42P01": SCHEMA_MISMATCH,
    "42703": SCHEMA_MISMATCH,
    "3F000": SCHEMA_MISMATCH,
}

# SQLite, by extended result code and then by its low byte: https://www.sqlite.org/rescode.html
SQLITE_CODE: Mapping[int, Problem] = {
    2067: UNIQUE,
    1555: UNIQUE,
    2579: UNIQUE,
    787: FOREIGN_KEY,
    1299: NOT_NULL,
    275: CHECK,
    3091: INVALID_VALUE,
    5: LOCK_TIMEOUT,
    6: LOCK_TIMEOUT,
    8: READ_ONLY,
    9: STATEMENT_TIMEOUT,
    10: OUT_OF_RESOURCES,
    13: OUT_OF_RESOURCES,
    14: Problem(Unreachable.status, Unreachable.code, Unreachable.title, RETRY_AFTER),
    18: TOO_LONG,
    19: CHECK,
    20: INVALID_VALUE,
}

_CONNECTION_GONE = "8s2b"  # the transaction's connection was lost before: https://sqlalche.me/e/20/8s2b


def connection_lost(message: str) -> sa.PendingRollbackError:
    """Make the error SQLAlchemy itself raises when a transaction is used whose connection was lost.

    >>> problem_for(connection_lost("the server had ended the connection")).code
    'connection-lost'
    """
    return sa.PendingRollbackError(message, code=_CONNECTION_GONE)


def problem_for(error: BaseException, *, metadata: Iterable[MetaData] = ()) -> Problem:
    """Give the problem document for an error of this library, of SQLAlchemy or of a driver.

    Decided by SQLSTATE or by SQLite's result code, never by the text of a message. Constraint errors
    carry ``fields`` (the columns) and ``constraint`` (its name) where the database tells them; PostgreSQL tells the
    name alone, whose columns are looked up in ``metadata``.

    >>> problem_for(QueueTimeout("no connection after 5.00 s")).status
    503
    """
    if isinstance(error, FastAPIDatabaseError):
        return Problem(error.status, error.code, error.title, error.retry_after)
    if isinstance(error, sa.TimeoutError):
        return Problem(QueueTimeout.status, QueueTimeout.code, QueueTimeout.title, RETRY_AFTER)
    if isinstance(error, sa.PendingRollbackError):
        return CONNECTION_LOST if error.code == _CONNECTION_GONE else ABORTED
    if isinstance(error, sa.DBAPIError):
        return _problem_for_driver_error(error, metadata)
    return OTHER


def sqlstate(error: sa.DBAPIError) -> str | None:
    """Read the SQLSTATE off a driver error: psycopg and asyncpg (through SQLAlchemy) both call it ``sqlstate``."""
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _problem_for_driver_error(error: sa.DBAPIError, metadata: Iterable[MetaData]) -> Problem:
    state = sqlstate(error)
    if state is not None:
        found = SQLSTATE.get(state) or SQLSTATE.get(state[:2])
        if found is not None:
            return _with_constraint(found, _postgresql_constraint(error, metadata))
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(code, int):
        found = SQLITE_CODE.get(code) or SQLITE_CODE.get(code & 0xFF)
        if found is not None:
            return _with_constraint(found, _sqlite_constraint(str(error.orig)))
        if str(error.orig).startswith(("no such table", "no such column")):
            return SCHEMA_MISMATCH
    if error.connection_invalidated:
        return CONNECTION_LOST
    return OTHER


def _with_constraint(problem: Problem, members: Mapping[str, Any]) -> Problem:
    if problem.status not in {409, 422} or not members:
        return problem
    return Problem(problem.status, problem.code, problem.title, problem.retry_after, members)


def _postgresql_constraint(error: sa.DBAPIError, metadata: Iterable[MetaData]) -> dict[str, Any]:
    """Read constraint and columns from the error's own fields (psycopg's ``diag``, asyncpg's attributes)."""
    driver_error = getattr(error.orig, "__cause__", None) or error.orig
    source = getattr(driver_error, "diag", driver_error)
    constraint = getattr(source, "constraint_name", None)
    table = getattr(source, "table_name", None)
    column = getattr(source, "column_name", None)
    members: dict[str, Any] = {}
    if column:
        members["fields"] = [column]
    elif constraint and table and (columns := _columns(constraint, table, metadata)):
        members["fields"] = columns
    if constraint:
        members["constraint"] = constraint
    return members


def _columns(constraint: str, table: str, metadata: Iterable[MetaData]) -> list[str]:
    """Find the columns of a constraint by its name, in the models or in PostgreSQL's default name."""
    for one in metadata:
        for candidate in one.tables.values():
            if candidate.name == table:
                for item in (*candidate.constraints, *candidate.indexes):
                    columns = [str(column.name) for column in getattr(item, "columns", ())]
                    default = f"{table}_pkey" if item is candidate.primary_key else _default_name(item, table, columns)
                    if columns and constraint in {getattr(item, "name", None), default}:
                        return columns
    match = re.fullmatch(rf"{re.escape(table)}_(.+)_(?:key|fkey|check|excl|idx)\d*", constraint)
    return [match[1]] if match else []


def _default_name(item: object, table: str, columns: list[str]) -> str:
    """Give the name PostgreSQL makes up for a constraint that has none.

    https://www.postgresql.org/docs/current/sql-createtable.html
    """
    kind = "fkey" if isinstance(item, ForeignKeyConstraint) else "check" if isinstance(item, CheckConstraint) else "key"
    return "_".join([table, *columns, kind])


def _sqlite_constraint(message: str) -> dict[str, Any]:
    """Take the columns from SQLite's fixed messages, ``UNIQUE constraint failed: users.name, users.city``."""
    kind, _, rest = message.partition(" constraint failed: ")
    if not rest:
        return {}
    if kind in {"UNIQUE", "NOT NULL"}:
        return {"fields": [name.strip().rpartition(".")[2] for name in rest.split(",")]}
    return {"constraint": rest.strip()}
