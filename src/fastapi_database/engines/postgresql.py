"""PostgreSQL through psycopg (sync and async) and asyncpg (async)."""

from __future__ import annotations

import functools
import importlib.util
import re
import select
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from sqlalchemy import event
from sqlalchemy import exc as sa
from sqlalchemy.engine import URL, Connection, Engine, ExceptionContext

from fastapi_database.engines.dialect import Dialect, UnitEngines
from fastapi_database.errors import FastAPIDatabaseError, LoginRefused, TransactionAborted, Unreachable

CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection. libpq waits as long as the system does (minutes), asyncpg 60 s;
a request that waits longer than its place in the queue may take helps nobody."""

SYNC_DRIVERS = {"psycopg": "psycopg", "psycopg2": "psycopg2"}
ASYNC_DRIVERS = {"asyncpg": "asyncpg", "psycopg": "psycopg"}

_ASYNCPG_OWN = {
    "command_timeout",
    "direct_tls",
    "krbsrvname",
    "gsslib",
    "max_cached_statement_lifetime",
    "max_cacheable_statement_size",
    "passfile",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "ssl",
    "statement_cache_size",
    "target_session_attrs",
    "timeout",
}
_CONNECTION = {"user", "password", "host", "port", "database"}
_LIBPQ_ONLY = re.compile(
    r"channel_binding|fallback_application_name|gss.*|keepalives.*|load_balance_hosts|tcp_user_timeout"
)
_AUTHENTICATION = {"28000", "28P01", "3D000"}
_SHORT = 3  # a text of three letters or fewer is no secret, and is part of every message
_NO_DETAIL_CLASSES = {"22", "23"}  # data exceptions and constraint violations quote the row's values


class PostgreSQL(Dialect):
    """PostgreSQL 14 and later, and what speaks its protocol."""

    name: ClassVar[str] = "postgresql"
    drivers: ClassVar[tuple[str, ...]] = ("psycopg", "asyncpg")

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

    def connect_arguments(self, driver: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if driver == "asyncpg":
            return _asyncpg_arguments(arguments)
        return {"connect_timeout": CONNECT_TIMEOUT, **arguments}

    def listen(self, engine: Engine, *, hide_values: bool) -> None:
        if engine.dialect.driver.startswith("psycopg"):
            event.listen(engine, "commit", _refuse_failed)
        if hide_values:
            event.listen(engine, "handle_error", _hide_values)

    def unit_engines(self, engine: Engine) -> UnitEngines:
        return UnitEngines(read=engine, write=engine)

    def looks_alive(self, driver_connection: Any) -> bool:
        if hasattr(driver_connection, "is_closed"):  # asyncpg
            if driver_connection.is_closed():
                return False
            # asyncpg has no public way to its socket; seen in 0.30 to 0.32.
            socket = driver_connection._transport.get_extra_info("socket")
            return socket is not None and not _readable(socket.fileno())
        if driver_connection.closed:
            return False
        return not _readable(driver_connection.fileno())

    def address(self) -> tuple[str, int] | str | None:
        host = self.url.host or self.url.query.get("host") or "localhost"
        first = host if isinstance(host, str) else host[0]
        if first.startswith("/"):
            return f"{first}/.s.PGSQL.{self.url.port or 5432}"
        name, _, port = first.rpartition(":") if ":" in first and not self.url.host else (first, "", "")
        return name or first, int(port or self.url.port or 5432)

    def connect_error(self, error: Exception) -> FastAPIDatabaseError:
        state = getattr(error, "sqlstate", None)
        where = self.describe()
        text = str(error).strip()
        if state in _AUTHENTICATION or re.search(r"FATAL:.*(authentication failed|does not exist)", text):
            reason = next((line for line in text.splitlines() if "FATAL" in line), text).rpartition("FATAL:")[2]
            return LoginRefused(f"{where} refused the login: {reason.strip()}. Check user, password and database name")
        if isinstance(error, TimeoutError):
            return Unreachable(f"{where} did not answer within {CONNECT_TIMEOUT} s")
        first = text.splitlines()[0] if text else type(error).__name__
        return Unreachable(f"{where} can not be reached: {first}. Is the server running, and are host and port right?")


def _missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def _readable(descriptor: int) -> bool:
    """Tell whether bytes or an end wait on a socket nobody reads: on an idle connection, that is its farewell."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _asyncpg_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Translate libpq's parameters, which URLs carry, into what asyncpg's ``connect`` takes.

    asyncpg reads ``sslmode``, ``sslrootcert``, ``application_name``, ``options`` … only from a DSN, so they
    travel in one; what libpq alone understands is left out.
    """
    own = {k: v for k, v in arguments.items() if k in _ASYNCPG_OWN or k in _CONNECTION or not isinstance(v, str)}
    libpq = {k: v for k, v in arguments.items() if k not in own and not _LIBPQ_ONLY.fullmatch(k)}
    if "connect_timeout" in libpq:
        own["timeout"] = float(libpq.pop("connect_timeout"))
    for name in ("command_timeout", "timeout"):
        if name in own:
            own[name] = float(own[name])
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
                raise asyncpg.InFailedSQLTransactionError(_ABORTED)
            return status

    return CheckedConnection


_ABORTED = (
    "COMMIT was answered with ROLLBACK: a statement of this transaction had failed. Let the error pass, or run the "
    "statement that may fail inside `session.begin_nested()`"
)


def _refuse_failed(connection: Connection) -> None:
    """Look before COMMIT whether the transaction has failed: psycopg does not tell what COMMIT did."""
    driver_connection: Any = connection.connection.driver_connection
    info = getattr(driver_connection, "info", None)
    if info is not None and info.transaction_status == _INERROR:
        raise TransactionAborted(_ABORTED)


_INERROR = 3  # PQTRANS_INERROR: https://www.postgresql.org/docs/current/libpq-status.html


def _hide_values(context: ExceptionContext) -> None:
    """Take the row's values out of an error: PostgreSQL puts them into DETAIL and some messages.

    ``hide_parameters`` of SQLAlchemy hides what the application sent, not what the server quotes back.
    """
    error = context.original_exception
    causes: list[Any] = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    state = next((s for e in causes if isinstance(s := getattr(e, "sqlstate", None), str)), "")
    secrets = _texts(context.parameters)
    for cause in causes:
        if getattr(cause, "detail", None):  # asyncpg prints it with the message
            cause.detail = None
        if cause.args and isinstance(cause.args[0], str):
            cause.args = (_without_values(cause, state, secrets), *cause.args[1:])
    wrapped = context.sqlalchemy_exception
    if isinstance(wrapped, sa.StatementError):
        kind = type(error)
        wrapped.args = (f"({kind.__module__}.{kind.__name__}) {error.args[0] if error.args else ''}",)


def _without_values(error: BaseException, state: str, secrets: list[str]) -> str:
    message = str(error.args[0]).splitlines()[0] if str(error.args[0]) else ""
    if state[:2] in _NO_DETAIL_CLASSES:
        source = getattr(error, "diag", error)
        parts = [f"sqlstate {state}"]
        for name in ("constraint_name", "table_name", "column_name"):
            value = getattr(source, name, None)
            if value:
                parts.append(f"{name.removesuffix('_name')} {value}")
        return f"{type(error).__name__}: {', '.join(parts)}"
    for secret in secrets:
        message = message.replace(secret, "[hidden]")
    return message


def _texts(parameters: object) -> list[str]:
    """Collect the text parameters of a statement, longest first, to look for them in messages."""
    found: list[str] = []
    stack: list[object] = [parameters]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if len(value) > _SHORT:
                found.append(value)
        elif isinstance(value, Mapping):
            stack.extend(value.values())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        elif isinstance(value, list | tuple):
            stack.extend(value)  # pyright: ignore[reportUnknownArgumentType]
    return sorted(found, key=len, reverse=True)
