"""PostgreSQL through psycopg (sync and async) and asyncpg (async)."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import math
import os
import re
import select
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import urlencode

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import PoolProxiedConnection

from fastapi_database.config import Limits
from fastapi_database.engines.dialect import Dialect, UnitEngines
from fastapi_database.engines.internals import asked_isolation_level, asyncpg_socket, cancel_asyncpg
from fastapi_database.engines.late import LateTransactions, LateUnitEngine, leave_autocommit
from fastapi_database.engines.outcome import Outcome, outcome_of_commit
from fastapi_database.engines.pooler import SWITCH, UNPREPARED, PooledTransactions, refuse_start_up_parameters
from fastapi_database.engines.transactions import ABORTED, DISCARDED, Transactions, UnitEngine, unit_transaction
from fastapi_database.errors import (
    FastAPIDatabaseError,
    InvalidURL,
    LoginRefused,
    Unreachable,
    connection_lost,
)

CONNECT_TIMEOUT = 2
"""Seconds to wait for a connection. libpq waits as long as the system does (minutes), asyncpg 60 s. A server that is
there answers in milliseconds; the requests that meet one that is not are told so after this time, and a URL with
several hosts goes on to the next one. 2 is the least that libpq takes."""

LOST_BEFORE_COMMIT = (
    "The server had ended this transaction's connection before COMMIT was sent: nothing is stored, and trying again is "
    "safe. The server's log has the reason"
)

LOST_IN_SET_UP = (
    "The server ended a new connection while it was set up, before anything of this transaction was sent: nothing is "
    "stored, and trying again is safe. The server's log has the reason"
)

SYNC_DRIVERS = {"psycopg": "psycopg", "psycopg2": "psycopg2"}
ASYNC_DRIVERS = {"asyncpg": "asyncpg", "psycopg": "psycopg"}

_ASYNCPG_OWN = {  # parameters of asyncpg.connect, and of SQLAlchemy's dialect for it, that libpq does not have
    "async_creator_fn",
    "command_timeout",
    "connection_class",
    "dsn",
    "loop",
    "record_class",
    "server_settings",
    "direct_tls",
    "krbsrvname",
    "gsslib",
    "max_cached_statement_lifetime",
    "max_cacheable_statement_size",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "ssl",
    "statement_cache_size",
    "timeout",
}
_PSYCOPG_OWN = {"autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory"}
_CONNECTION = {"user", "password", "host", "port", "database", "passfile", "target_session_attrs"}
_LIBPQ_ONLY = re.compile(
    r"channel_binding|fallback_application_name|gss.*|keepalives.*|load_balance_hosts|tcp_user_timeout"
)
_WRONG_PARAMETERS = {"ProgrammingError", "ValueError", "TypeError", "ClientConfigurationError"}
_AUTHENTICATION = {"28000", "28P01", "3D000"}
_UNKNOWN_PARAMETER = "42704"
_READ_ONLY = "25006"


class PostgreSQL(Dialect):
    """PostgreSQL 14 and later, and what speaks its protocol."""

    name: ClassVar[str] = "postgresql"
    drivers: ClassVar[tuple[str, ...]] = ("psycopg", "asyncpg", "psycopg2")
    room_question: str | None = (
        "SELECT CAST(current_setting('max_connections') AS int), "
        "CAST(current_setting('superuser_reserved_connections') AS int) "
        "+ CAST(coalesce(current_setting('reserved_connections', true), '0') AS int), "  # from PostgreSQL 16 on
        "CAST(count(*) AS int) FROM pg_stat_activity WHERE datname IS NOT NULL "
        "AND (datname <> current_database() OR usename <> current_user)"
    )
    pooled: bool = False
    """True behind a transaction pooler: what is sent outside of a transaction may meet one server after the other."""

    def __init__(self, url: URL, limits: Limits = Limits()) -> None:  # noqa: B008 - it is frozen
        # libpq takes the login from the query too; SQLAlchemy hides a password only where it looks for one.
        login = {k: v for k, v in url.query.items() if k in {"user", "password"} and isinstance(v, str)}
        if login:
            url = url.difference_update_query(tuple(login))
            url = url.set(username=url.username or login.get("user"), password=url.password or login.get("password"))
        super().__init__(url, limits)
        if "@" in (url.database or "") or "@" in (url.host or ""):
            raise InvalidURL(
                "the postgresql:// URL has an @ in its host or database, so it was cut in the wrong place: a password "
                "with @, :, / or % in it must be percent-encoded (urllib.parse.quote(password, safe='') does it)"
            )

    @property
    def sync_url(self) -> URL:
        driver = self._explicit_driver()
        if driver not in SYNC_DRIVERS:
            driver = "psycopg"
        return self._with_driver(driver, SYNC_DRIVERS[driver], extra="postgresql" if driver == "psycopg" else None)

    @property
    def async_url(self) -> URL:
        driver = self._explicit_driver()
        if driver not in ASYNC_DRIVERS:
            # asyncpg costs about half of psycopg's CPU per request here (bench/), psycopg does where it is missing.
            driver = "psycopg" if _missing("asyncpg") and not _missing("psycopg") else "asyncpg"
        return self._with_driver(driver, ASYNC_DRIVERS[driver], extra="postgresql")

    def _explicit_driver(self) -> str:
        return self.url.drivername.partition("+")[2]

    def use_transaction_pooler(self, arguments: Mapping[str, Any]) -> None:
        refuse_start_up_parameters("the URL's", self.url.query)
        refuse_start_up_parameters("connect_args'", arguments)
        self.pooled = True
        self.room_question = None  # it is the pooler that has the connections

    def connect_arguments(self, driver: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.pooled:
            arguments = {**UNPREPARED.get(driver, {}), **arguments}
        if driver == "asyncpg":
            return _asyncpg_arguments(arguments, self.start_up_options())
        return _psycopg_arguments(arguments, self.start_up_options())

    def start_up_options(self) -> str:
        """Give what a connection is started with, in the form of libpq's ``options``: it costs no round trip."""
        if self.pooled:
            return ""
        limits = {"statement_timeout": self.limits.statement, "lock_timeout": self.limits.lock}
        return " ".join(f"-c {name}={milliseconds(limit)}" for name, limit in limits.items() if limit)

    def transactions(self, driver: str) -> type[Transactions]:
        if driver.startswith("psycopg"):
            return PooledPsycopgTransactions if self.pooled else PsycopgTransactions
        return PooledAsyncpgTransactions if self.pooled else AsyncpgTransactions

    def listen(self, engine: Engine) -> None:
        event.listen(engine, "checkout", leave_autocommit)

    def unit_engines(self, engine: Engine) -> UnitEngines:
        # Whoever asks for an isolation level wants one transaction from the first statement on; behind a pooler, what
        # stands before it may meet another server.
        late = asked_isolation_level(engine) is None and not self.pooled
        read = LateUnitEngine if late else UnitEngine
        return UnitEngines(read=read(engine), write=UnitEngine(engine))

    def executes(self, driver_connection: Any) -> bool:
        info = getattr(driver_connection, "info", None)  # asyncpg does not tell
        return info is None or info.transaction_status == _ACTIVE

    async def interrupt(self, driver_connection: Any) -> None:
        async with asyncio.timeout(_INTERRUPT_TIMEOUT) as limit:
            if hasattr(driver_connection, "is_closed"):  # asyncpg
                await cancel_asyncpg(driver_connection)
            elif inspect.iscoroutinefunction(getattr(driver_connection, "cancel_safe", None)):
                await driver_connection.cancel_safe(timeout=_INTERRUPT_TIMEOUT)
            else:
                await asyncio.to_thread(_interrupt, driver_connection)
        if limit.expired():  # asyncpg swallows the cancellation
            raise TimeoutError("the server was not reached in time")

    def looks_alive(self, driver_connection: Any) -> bool:
        descriptor = _descriptor(driver_connection)
        return descriptor is not None and not _readable(descriptor)

    def is_read_only(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == _READ_ONLY

    def may_write(self, dbapi_connection: Any) -> bool:
        cursor = dbapi_connection.cursor()
        try:
            # Of a new transaction: "on" on a standby, and where default_transaction_read_only is set.
            cursor.execute("SHOW transaction_read_only")
            (read_only,) = cursor.fetchone()
        finally:
            cursor.close()
            dbapi_connection.rollback()
        return bool(read_only == "off")

    def address(self) -> tuple[str, int] | str | None:
        host = _first(self.url.host or self.url.query.get("host")) or "localhost"
        port = _first(str(self.url.port or "") or self.url.query.get("port")) or "5432"
        if host.startswith("/"):
            return f"{host}/.s.PGSQL.{port}"
        if host.count(":") == 1:  # SQLAlchemy's form for several hosts: host=name:port
            host, _, port = host.partition(":")
        return host, int(port)

    def connect_error(self, error: Exception) -> FastAPIDatabaseError:
        state = getattr(error, "sqlstate", None)
        where = self.describe()
        text = str(error).strip()
        if state in _AUTHENTICATION or re.search(
            r"FATAL:.*(authentication failed|does not exist)|no password supplied", text
        ):
            reason = next((line for line in text.splitlines() if "FATAL" in line or "password" in line), text)
            reason = reason.rpartition("FATAL:")[2] or reason
            return LoginRefused(f"{where} refused the login: {reason.strip()}. Check user, password and database name")
        if re.search("unsupported startup parameter|command-line options", text):
            return InvalidURL(
                f"{where} is a pooler that takes no settings for a connection ({text.splitlines()[0]}). {SWITCH}"
            )
        if (
            state == _UNKNOWN_PARAMETER
            or type(error).__name__ in _WRONG_PARAMETERS
            or re.search(r"invalid sslmode|sslmode.* must be", text)
        ):
            return InvalidURL(f"{where} has a parameter that the driver does not take: {text}")
        if isinstance(error, TimeoutError):
            return Unreachable(f"{where} did not answer in time (connect_timeout)")
        first = text.splitlines()[0] if text else type(error).__name__
        return Unreachable(f"{where} can not be reached: {first}. Is the server running, and are host and port right?")


def _first(several: str | tuple[str, ...] | None) -> str:
    one = several[0] if isinstance(several, tuple) and several else several
    return one.split(",")[0] if isinstance(one, str) else ""


def _missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def _descriptor(driver_connection: Any) -> int | None:
    """Give the descriptor of a connection's socket, or None when the driver knows that it has none any more."""
    if _closed(driver_connection):
        return None
    if hasattr(driver_connection, "is_closed"):
        return asyncpg_socket(driver_connection)
    descriptor: int = driver_connection.fileno()
    return descriptor


def _closed(driver_connection: Any) -> bool:
    asyncpg = hasattr(driver_connection, "is_closed")
    return bool(driver_connection.is_closed() if asyncpg else driver_connection.closed)


def _hung_up(descriptor: int) -> bool:
    """Tell whether the other side has ended a connection; unlike an idle one, it may have something to say."""
    poll = select.poll()
    poll.register(descriptor, _HANG_UP)
    return any(events & (_HANG_UP | select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere only an end of both directions is seen


def _readable(descriptor: int) -> bool:
    """Tell whether bytes or an end wait on a socket nobody reads: on an idle connection, that is its farewell."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def milliseconds(seconds: float) -> int:
    """Give a time as PostgreSQL counts it: at least 1, for 0 is no limit there.

    >>> milliseconds(1.5), milliseconds(0.0001)
    (1500, 1)
    """
    return max(1, math.ceil(seconds * 1000))


def _with_options(ours: str, theirs: object) -> str:
    """Join options; of two values for one setting PostgreSQL takes the last, which is the application's."""
    given = os.environ.get("PGOPTIONS", "") if theirs is None else str(theirs)  # libpq reads it where none is passed
    return f"{ours} {given}".strip()


def _psycopg_arguments(arguments: dict[str, Any], options: str) -> dict[str, Any]:
    """Leave out what only asyncpg understands, so that one URL serves both; its ``ssl`` is libpq's ``sslmode``."""
    own = {name: value for name, value in arguments.items() if name not in _ASYNCPG_OWN}
    if isinstance(ssl := arguments.get("ssl"), str):
        own.setdefault("sslmode", "require" if ssl == "true" else ssl)
    if options:
        own["options"] = _with_options(options, own.get("options"))
    return {"connect_timeout": CONNECT_TIMEOUT, **own}


def _asyncpg_arguments(arguments: dict[str, Any], options: str) -> dict[str, Any]:
    """Translate libpq's parameters, which URLs carry, into what asyncpg's ``connect`` takes.

    asyncpg reads ``sslmode``, ``sslrootcert``, ``application_name``, ``options`` … only from a DSN, so they
    travel in one; what libpq or psycopg alone understand is left out.
    """
    own = {name: value for name, value in arguments.items() if name in _ASYNCPG_OWN or name in _CONNECTION}
    libpq = {
        name: str(value)
        for name, value in arguments.items()
        if name not in own and name not in _PSYCOPG_OWN and not _LIBPQ_ONLY.fullmatch(name)
    }
    if "connect_timeout" in libpq:
        own["timeout"] = libpq.pop("connect_timeout")
    for name, kind in (("command_timeout", float), ("timeout", float), ("statement_cache_size", int)):
        if name in own:
            own[name] = kind(own[name])
    if options:
        # As options, not one by one: those would win over the options of the application.
        server_settings: dict[str, Any] = own.get("server_settings") or {}
        theirs = server_settings.get("options", libpq.pop("options", ""))
        own["server_settings"] = {**server_settings, "options": _with_options(options, theirs)}
    if libpq:
        own["dsn"] = "postgresql:///?" + urlencode(libpq)
    return {"timeout": CONNECT_TIMEOUT, "connection_class": _checked_asyncpg_connection(), **own}


@functools.cache
def _checked_asyncpg_connection() -> type[Any]:
    """Give asyncpg's connection with a COMMIT that notices when the server rolled back instead.

    PostgreSQL answers COMMIT of a failed transaction with the tag ROLLBACK, and asyncpg drops the tag.
    """
    import asyncpg  # noqa: PLC0415 - a driver is imported when it is used, never with the package

    class CheckedConnection(asyncpg.Connection):  # type: ignore[misc, unused-ignore]
        async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
            status: str = await super().execute(query, *args, timeout=timeout)
            if status == "ROLLBACK" and query.startswith("COMMIT"):
                raise asyncpg.InFailedSQLTransactionError(ABORTED)
            return status

    return CheckedConnection


@contextmanager
def _setting_up() -> Generator[None]:
    """Take an error of a new connection of asyncpg that is closed, or about to be, for a lost connection."""
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None) or ""
        asyncpgs_own = type(error).__module__.startswith("asyncpg") and not state
        if state in DISCARDED or state.startswith("08") or asyncpgs_own or isinstance(error, OSError):
            raise connection_lost(LOST_IN_SET_UP) from error
        raise


def _interrupt(connection: Any) -> None:
    if hasattr(connection, "cancel_safe"):
        connection.cancel_safe(timeout=_INTERRUPT_TIMEOUT)
    else:  # psycopg2
        connection.cancel()


class PostgreSQLTransactions(LateTransactions):
    """Asks the server about the transaction and the COMMIT, and tells it how long its statements may take."""

    def has_written(self, connection: Connection) -> bool:
        """Ask whether the transaction was given a number: it is with its first write, or lock of a row.

        https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT
        """
        transaction = unit_transaction(connection)
        if transaction is not None and transaction.late:
            return False
        return bool(connection.exec_driver_sql("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").scalar())

    def limit_statements(self, connection: Connection, seconds: float) -> None:
        cursor = connection.connection.cursor()
        place = "$1" if self.paramstyle == "numeric_dollar" else "%s"
        cursor.execute(f"SELECT set_config('statement_timeout', {place}, true)", (str(milliseconds(seconds)),))
        cursor.close()

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        """Look at the socket first: while nothing was sent, it is certain that nothing is stored."""
        transaction = unit_transaction(dbapi_connection)
        if transaction is not None and not transaction.late:
            descriptor = _descriptor(dbapi_connection.driver_connection)
            if descriptor is None or _hung_up(descriptor):
                raise connection_lost(LOST_BEFORE_COMMIT)
        super().do_commit(dbapi_connection)

    def outcome(self, dbapi_connection: PoolProxiedConnection, error: Exception) -> Outcome:
        # A driver that gave up waiting (asyncpg's command_timeout) has a connection, and no answer.
        lost = _closed(dbapi_connection.driver_connection) or isinstance(error, TimeoutError)
        return outcome_of_commit(lost=lost, sqlstate=getattr(error, "sqlstate", None))


class AsyncpgTransactions(PostgreSQLTransactions):
    """Knows when a connection of asyncpg is outside of a transaction, and when it is of no use any more."""

    def is_idle(self, dbapi_connection: PoolProxiedConnection) -> bool:
        driver_connection: Any = dbapi_connection.driver_connection
        return not driver_connection.is_in_transaction()

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Take an error of asyncpg's own state for a lost connection.

        A session that the server ends between two statements leaves it in the middle of one; the end of the
        connection is seen only in a later turn of the event loop.
        """
        dbapi: Any = self.loaded_dbapi
        return isinstance(e, dbapi.InternalClientError) or super().is_disconnect(e, connection, cursor)

    # What SQLAlchemy lets other dialects override: it awaits the driver, whose errors nobody translates there.

    async def setup_asyncpg_json_codec(self, conn: Any) -> None:
        with _setting_up():
            await super().setup_asyncpg_json_codec(conn)  # type: ignore[misc]

    async def setup_asyncpg_jsonb_codec(self, conn: Any) -> None:
        with _setting_up():
            await super().setup_asyncpg_jsonb_codec(conn)  # type: ignore[misc]


class PsycopgTransactions(PostgreSQLTransactions):
    """Looks before COMMIT whether the transaction has failed: psycopg does not tell what COMMIT did."""

    def is_idle(self, dbapi_connection: PoolProxiedConnection) -> bool:
        driver_connection: Any = dbapi_connection.driver_connection
        info = getattr(driver_connection, "info", None)
        return info is not None and info.transaction_status == _IDLE

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """Take an error that is not the server's, of a connection that is closed by it, for a lost connection.

        Also while SQLAlchemy sets one up. Other such errors are the driver's own: too many parameters, say.
        """
        if isinstance(e, self.loaded_dbapi.OperationalError) and getattr(e, "sqlstate", "") is None:
            return bool(getattr(getattr(connection, "driver_connection", connection), "closed", True))
        return super().is_disconnect(e, connection, cursor)

    def do_commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        driver_connection: Any = dbapi_connection.driver_connection
        info = getattr(driver_connection, "info", None)
        if info is not None and info.transaction_status == _INERROR:
            self.refuse(dbapi_connection)
        super().do_commit(dbapi_connection)


class PooledPsycopgTransactions(PooledTransactions, PsycopgTransactions):
    """Both."""


class PooledAsyncpgTransactions(PooledTransactions, AsyncpgTransactions):
    """Both."""


_INTERRUPT_TIMEOUT = 2.0  # seconds to reach the server with a request to cancel
# PQTRANS_IDLE, PQTRANS_ACTIVE and PQTRANS_INERROR: https://www.postgresql.org/docs/current/libpq-status.html
_IDLE, _ACTIVE, _INERROR = 0, 1, 3
