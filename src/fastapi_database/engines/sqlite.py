"""SQLite: one file or one piece of memory, one writer at a time, real transactions."""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import uuid
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import PoolProxiedConnection

from fastapi_database.config import LOCK_TIMEOUT, Limits, Settings
from fastapi_database.engines.dialect import Dialect, UnitEngines
from fastapi_database.engines.internals import sqlite3_connection
from fastapi_database.engines.on_loop import PlainConnection
from fastapi_database.engines.shapes import Shapes
from fastapi_database.engines.transactions import Transactions, UnitEngine, unit_transaction
from fastapi_database.engines.vanished import Vanishing
from fastapi_database.engines.watchdog import Watchdog
from fastapi_database.errors import FastAPIDatabaseError, InheritedConnection, InvalidURL, Unreachable

logger = logging.getLogger("fastapi_database")

BUSY_TIMEOUT = LOCK_TIMEOUT
"""Seconds SQLite waits for another *process* that writes. Inside the process our queue orders the
writers, so this is the only waiting left. 5 s is also what Python's sqlite3 module has."""

PRAGMAS: Mapping[str, str] = {
    "journal_mode": "wal",  # readers never block the writer, nor the writer them: https://sqlite.org/wal.html
    "foreign_keys": "on",  # off by default for the sake of programs from before 2009: https://sqlite.org/foreignkeys.html
}
"""Set on every connection. ``synchronous`` stays at SQLite's FULL: a committed answer survives a power cut."""

_TRANSACTIONS = "DEFERRED"  # sqlite3's own default; None is how SQLAlchemy sets and knows a connection in AUTOCOMMIT
_FOREVER = 2_000_000.0  # seconds: SQLite counts milliseconds in 31 bits
_URI = "file:"  # what sqlite3 takes with uri=true: https://sqlite.org/uri.html
_PRIMARY = 0xFF  # the part of an extended result code that says what it is about: https://sqlite.org/rescode.html


class ClosingConnection(PlainConnection):
    """A connection that lets go of its file when it is closed.

    SQLite keeps a connection open, with its lock, for as long as a statement is in the middle of its rows:
    https://sqlite.org/c3ref/close.html. The traceback of a cancellation may hold such a cursor until the garbage
    collector comes by.
    """

    def __init__(self, *arguments: Any, statement_timeout: float = 0.0, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.watchdog = Watchdog(statement_timeout)
        self.watchdog.install(self)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def resume_progress_handler(self) -> None:
        """Have the time-out watched again."""
        self.watchdog.install(self)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Make a cursor, and remember it. SQLAlchemy makes one for each statement, which gets its whole time."""
        cursor = super().cursor(*arguments, **options)
        self.watchdog.new = True
        self._cursors.add(cursor)
        return cursor

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute in a new cursor; the driver would make one behind our back."""
        cursor: sqlite3.Cursor = self.cursor()
        return cursor.execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute for each set of parameters in a new cursor."""
        cursor: sqlite3.Cursor = self.cursor()
        return cursor.executemany(*arguments)

    def close(self) -> None:
        """Close the cursors, then the connection."""
        for cursor in list(self._cursors):
            with suppress(sqlite3.ProgrammingError):  # closed with its connection, by a second call
                cursor.close()
        super().close()


class SQLite(Dialect):
    """SQLite through sqlite3 (sync) and aiosqlite (async)."""

    name: ClassVar[str] = "sqlite"
    drivers: ClassVar[tuple[str, ...]] = ("pysqlite", "aiosqlite")
    single_writer: ClassVar[bool] = True
    locks_by_process: ClassVar[bool] = True
    remote: ClassVar[bool] = False
    question: ClassVar[str] = "PRAGMA schema_version"  # reads the file; SELECT 1 succeeds on one that is no database

    def __init__(self, url: URL, limits: Limits = Limits()) -> None:  # noqa: B008 - it is frozen
        super().__init__(url, limits)
        if url.host:
            raise InvalidURL(
                f"sqlite://{url.host} has a host, which a file has not: write sqlite:///{url.host} (three slashes) for "
                "a path relative to the working directory, four for an absolute one, sqlite:// alone for memory"
            )
        self._in_memory = url.database in {None, "", ":memory:"}
        # A name nobody else has: every connection of this Database sees one database, others see none of it.
        self._memory_name = f"/fastapi-database-{uuid.uuid4().hex}"
        self._anchor: sqlite3.Connection | None = None
        self._shapes: Shapes | None = None
        path = None if self._in_memory else _path(url)
        # As it is now: the engines are made later, and a process that changes its directory means the same file.
        self._path = None if path is None else os.path.abspath(path)
        self._is_relative = path != self._path
        self._vanishing = None if self._path is None else Vanishing(self._path, self.describe())

    @property
    def sync_url(self) -> URL:
        return self._located(self.url.set(drivername="sqlite+pysqlite"))

    @property
    def async_url(self) -> URL:
        return self._located(self._with_driver("aiosqlite", "aiosqlite", extra=None))

    def _located(self, url: URL) -> URL:
        if not self._in_memory:
            if self._path is None or not self._is_relative:
                return url
            is_uri = (url.database or "").startswith(_URI)
            return url.set(database=f"{_URI}{quote(self._path)}" if is_uri else self._path)
        # The memdb VFS gives each connection its own transaction over shared memory, with SQLite's normal
        # locks; cache=shared has table locks that ignore the busy time-out. https://sqlite.org/src/file/src/memdb.c
        return url.set(database=f"file:{self._memory_name}").update_query_dict({"vfs": "memdb", "uri": "true"})

    def connect_arguments(self, driver: str, arguments: dict[str, Any]) -> dict[str, Any]:
        defaults = {
            "timeout": self.limits.lock or _FOREVER,
            # A unit's connection moves between threads, one at a time; sqlite3 is compiled for that.
            "check_same_thread": False,
            "factory": functools.partial(ClosingConnection, statement_timeout=self.limits.statement),
        }
        complete = {**defaults, **arguments, "isolation_level": _TRANSACTIONS}
        if self._vanishing is not None:
            self._vanishing.refuse_to_make_another()
        if driver == "aiosqlite" and not complete["check_same_thread"]:
            complete.setdefault("async_creator_fn", functools.partial(_connect_async, shapes=self._shapes))
        return complete

    def adapted(self, connection: Any) -> Any:
        if self._shapes is None or not hasattr(connection, "driver_connection"):
            return connection
        # A driver is imported when it is used, never with the package.
        from fastapi_database.engines.adapted import adapted  # noqa: PLC0415

        return adapted(connection)

    def configure(self, settings: Settings) -> None:
        self._shapes = Shapes() if settings.sqlite_on_event_loop else None

    def transactions(self, driver: str) -> type[Transactions]:
        return SQLiteTransactions

    def listen(self, engine: Engine) -> None:
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "checkout", _begin_transactions)
        if self._vanishing is not None:
            event.listen(engine, "connect", self._vanishing.opened)
            event.listen(engine, "checkout", self._vanishing.check)

    def unit_engines(self, engine: Engine) -> UnitEngines:
        return UnitEngines(
            read=UnitEngine(engine, begin="BEGIN DEFERRED"),
            write=UnitEngine(engine, begin="BEGIN IMMEDIATE"),
        )

    async def interrupt(self, driver_connection: Any) -> None:
        sqlite3_connection(driver_connection).interrupt()

    def looks_alive(self, driver_connection: Any) -> bool:
        return True

    def address(self) -> tuple[str, int] | str | None:
        return self._path

    def connect_error(self, error: Exception) -> FastAPIDatabaseError:
        folder = os.path.dirname(self._path or os.curdir)
        hint = "" if os.path.isdir(folder) else f"; the folder {folder} does not exist"
        return Unreachable(f"{self.describe()} can not be opened: {error}{hint}")

    def open(self) -> None:
        if self._in_memory and self._anchor is None:
            # Memory lives as long as one connection to it: this one.
            self._anchor = sqlite3.connect(
                f"file:{self._memory_name}?vfs=memdb", uri=True, check_same_thread=False, isolation_level=None
            )
            weakref.finalize(self, self._anchor.close)  # a Database nobody closed takes its memory with it

    def close(self) -> None:
        if self._vanishing is not None:
            self._vanishing.forget()
        anchor, self._anchor = self._anchor, None
        if anchor is not None:
            anchor.close()

    def begin_anew(self) -> None:
        if self._shapes is not None:
            self._shapes = Shapes()  # connections that have the old ones are the parent's

    def refuses_after_fork(self, *, in_use: int) -> FastAPIDatabaseError | None:
        if in_use:
            return InheritedConnection(
                f"{self.describe()} was in use when this process was forked ({in_use} of its connections), and SQLite "
                "keeps its locks by process: what the child did on this database could destroy it. Fork while no unit "
                "of work is open and no event loop runs, or start a new process instead (spawn)"
            )
        if self._anchor is not None:
            logger.warning(
                "%s is in memory, and this process was forked: it goes on with a copy of its own, and what it stores "
                "is seen by no other process. Take a file to share one: sqlite:///app.db",
                self.describe(),
            )
        return None


class SQLiteTransactions(Transactions):
    """Begins every transaction; sqlite3 itself does so only before the first statement that writes.

    What is read before would be outside, which breaks savepoints and consistent reading.
    """

    limits_one_statement = True

    def limit_statements(self, connection: Connection, seconds: float) -> None:
        driver_connection = sqlite3_connection(connection.connection.driver_connection)
        if isinstance(driver_connection, ClosingConnection):  # the application may have a factory of its own
            driver_connection.watchdog.limit = seconds

    def do_begin(self, dbapi_connection: PoolProxiedConnection) -> None:
        connection: Any = dbapi_connection  # behind the pool's proxy is a driver's connection
        if self.detect_autocommit_setting(connection):
            return  # asked of this connection alone, for VACUUM and the like
        if connection.driver_connection.in_transaction:
            return  # a listener for "begin" has written, before which sqlite3 begins
        transaction = unit_transaction(dbapi_connection)
        if transaction is not None:
            transaction.changes = connection.driver_connection.total_changes
        cursor = connection.cursor()
        cursor.execute("BEGIN" if transaction is None else transaction.begin)
        cursor.close()

    def has_written(self, connection: Connection) -> bool:
        """Compare SQLite's count of changed rows; it does not count tables that were made or dropped.

        https://sqlite.org/c3ref/total_changes.html
        """
        transaction = unit_transaction(connection)
        driver_connection: Any = connection.connection.driver_connection
        return transaction is None or bool(driver_connection.total_changes != transaction.changes)


def _path(url: URL) -> str | None:
    """Give the path of the file in a URL; None for memory."""
    database = url.database
    if database is None or url.query.get("mode") == "memory":
        return None
    return unquote(urlsplit(database).path) if database.startswith(_URI) else database


def _connect_async(*args: Any, **arguments: Any) -> Any:
    # A driver is imported when it is used, never with the package.
    from fastapi_database.engines.aiosqlite import connect  # noqa: PLC0415

    return connect(*args, **arguments)


def _begin_transactions(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Have transactions on a connection from elsewhere too: of the application's ``creator`` or "connect" listener.

    AUTOCOMMIT that is asked of a connection by its execution options is set after the checkout.
    """
    if dbapi_connection.isolation_level is None:
        dbapi_connection.isolation_level = _TRANSACTIONS
    connection = sqlite3_connection(getattr(dbapi_connection, "driver_connection", dbapi_connection))
    if isinstance(connection, ClosingConnection):
        connection.watchdog.limit = None  # the time of the unit that had it before


def _set_pragmas(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    for name, value in PRAGMAS.items():
        try:
            cursor.execute(f"PRAGMA {name}={value}")
            cursor.fetchall()
        except sqlite3.OperationalError as error:
            # The journal mode stands in the file. One that can only be read keeps the mode it has, and has no writers.
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_READONLY:
                raise
    cursor.close()
