"""Settings: what can be set, what it means, and what a misspelt one should have been."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.engine import URL
from sqlalchemy.pool import Pool

from fastapi_database.errors import ConflictingSettings, InvalidModels, InvalidURL, UnknownSetting

SESSION_OPTIONS = frozenset(
    {
        "autobegin",
        "autoflush",
        "enable_baked_queries",
        "expire_on_commit",
        "info",
        "join_transaction_mode",
        "query_cls",
    }
)
"""Options of ``sqlalchemy.orm.Session`` that pass through by their own names."""

ENGINE_OPTIONS = frozenset(
    {
        "connect_args",
        "creator",
        "echo",
        "echo_pool",
        "enable_from_linting",
        "execution_options",
        "hide_parameters",
        "insertmanyvalues_page_size",
        "isolation_level",
        "json_deserializer",
        "json_serializer",
        "label_length",
        "logging_name",
        "max_identifier_length",
        "module",
        "paramstyle",
        "plugins",
        "pool",
        "pool_logging_name",
        "pool_pre_ping",
        "pool_recycle",
        "pool_reset_on_return",
        "pool_use_lifo",
        "poolclass",
        "query_cache_size",
        "skip_autocommit_rollback",
        "use_insertmanyvalues",
    }
)
"""Options of ``sqlalchemy.create_engine`` that pass through by their own names."""

_REPLACED = {
    "pool_size": "max_connections",
    "max_overflow": "max_connections",
    "pool_timeout": "queue_timeout",
}
_REFUSED = {
    "bind": "the engine is made from the URL",
    "binds": "one Database is one database: make a second Database for another one",
    "twophase": "two-phase commit needs several databases in one session, which a unit of work never has",
    "future": "it is always on in SQLAlchemy 2",
    "strategy": "SQLAlchemy removed it",
    "close_resets_only": "a unit of work that has ended refuses to work by itself",
    "class_": "the session class carries the guarantees; listen to events of sqlalchemy.orm.Session instead",
}
_AUTOCOMMIT = (
    "commits every statement by itself, so an error could not undo what came before it; leave it out. A statement that "
    "must stand outside of a transaction, such as VACUUM, has its own connection: "
    'db.engine.connect().execution_options(isolation_level="AUTOCOMMIT")'
)
ENVIRONMENT = {
    "DATABASE_URL": "url",
    "DATABASE_MAX_CONNECTIONS": "max_connections",
    "DATABASE_QUEUE_TIMEOUT": "queue_timeout",
    "DATABASE_QUEUE_TARGET": "queue_target",
    "DATABASE_MAX_WAITING": "max_waiting",
    "DATABASE_STATEMENT_TIMEOUT": "statement_timeout",
    "DATABASE_LOCK_TIMEOUT": "lock_timeout",
    "DATABASE_HOLD_WARNING": "hold_warning",
    "DATABASE_TRANSACTION_POOLER": "transaction_pooler",
    "DATABASE_SQLITE_ON_EVENT_LOOP": "sqlite_on_event_loop",
    "DATABASE_ECHO": "echo",
}
"""Environment variables, read only when no URL is passed; a keyword argument wins over its variable."""


STATEMENT_TIMEOUT = 30.0
LOCK_TIMEOUT = 5.0

LONGEST = 2_000_000.0  # seconds, 23 days: PostgreSQL and SQLite count milliseconds in 31 bits
_SECONDS = {"queue_timeout", "queue_target", "statement_timeout", "lock_timeout", "hold_warning"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the database itself may take, in seconds; 0 is no limit, as PostgreSQL has it."""

    statement: float = STATEMENT_TIMEOUT
    lock: float = LOCK_TIMEOUT


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings of one ``Database``."""

    url: str | URL = field(repr=False)
    metadata: tuple[MetaData, ...] = ()
    max_connections: int = 10
    """Connections that may be open at once, sync and async together. Small on purpose: a database
    answers fewest requests late when it is asked few things at once; 10 is what HikariCP ships with."""
    queue_timeout: float = 5.0
    """Seconds a request waits for a connection before it is answered with 503."""
    queue_target: float = 0.2
    """Seconds within which somebody should get a connection. Once requests are refused because the queue is full or
    ``queue_timeout`` has passed, and still more come than are served, those who have waited more than twice as long are
    refused first, so that the others are served early: as many, but while their clients are still there. Ten times the
    20 ms that an ordinary transaction takes, and early enough for a client that gives up after a second."""
    max_waiting: int = 1000
    """Requests that may wait at once; the next one is answered with 503 at once."""
    statement_timeout: float = STATEMENT_TIMEOUT
    """Seconds one statement may run before the database ends it and the request is answered with 504; 0 is no limit.
    After 30 s nobody reads the answer: common proxies and hosting platforms give up a request after 30 to 60 s."""
    lock_timeout: float = LOCK_TIMEOUT
    """Seconds one statement waits for a lock before the request is answered with 503; 0 is no limit. As long as
    ``queue_timeout``, for it is the same patience, and longer than the one second after which PostgreSQL looks for a
    deadlock.
    """
    hold_warning: float = 30.0
    """Seconds after which the log says who holds a connection. Longer than an ordinary request or report, and
    early enough to be read before somebody restarts the service; 0 never."""
    transaction_pooler: bool = False
    """True where the URL leads to PgBouncer, or what is like it, in transaction mode: two transactions of one
    connection may meet two servers. Nothing can tell that from outside, and without one it would only cost speed."""
    sqlite_on_event_loop: bool = True
    """Whether async sessions on SQLite run short statements on the event loop, within a bound: a hand-over to a thread
    costs more than SQLite's work for a small answer. To be switched off where the file is on a slow disk."""
    engine_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    session_options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def limits(self) -> Limits:
        """The time-outs that the database itself keeps."""
        return Limits(statement=self.statement_timeout, lock=self.lock_timeout)


def settings(
    url: str | URL | None,
    *,
    models: object = None,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Validate everything a ``Database`` was given; raise one clear error for the first thing that is wrong.

    ``given`` are this library's settings by name, None where the caller left them out; ``options`` go to
    SQLAlchemy. Without a URL the environment is read.
    """
    own = {name: value for name, value in given.items() if value is not None}
    options = dict(options)
    if url is None:
        url = _from_environment(os.environ if environ is None else environ, own, options)
    _take_pool_names(own, options)
    _refuse_unknown(options)
    _refuse_autocommit(options)
    result = Settings(
        url=url,
        metadata=tuple(_metadata(models)),
        engine_options={k: v for k, v in options.items() if k not in SESSION_OPTIONS},
        session_options={k: v for k, v in options.items() if k in SESSION_OPTIONS},
        **own,
    )
    _check_numbers(result)
    return result


def refuse_unknown_dialect_options(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise for engine options that neither ``create_engine`` nor the dialect knows."""
    candidates = {*known, *_REPLACED, *ENGINE_OPTIONS, *SESSION_OPTIONS, *(f.name for f in fields(Settings))}
    for name in options:
        if name not in ENGINE_OPTIONS and name not in known:
            raise UnknownSetting(
                f"Database() has no setting {name!r}{_did_you_mean(name, candidates)} Settings are those of "
                "Database, create_engine and Session; see docs/reference/engine-defaults.md"
            )


def refuse_autocommit_of_the_driver(where: str, arguments: Mapping[str, Any]) -> None:
    """Raise for the ``autocommit`` of psycopg, and of sqlite3 since Python 3.12, in what a driver is called with."""
    if arguments.get("autocommit"):
        raise ConflictingSettings(f"{where} autocommit={arguments['autocommit']!r} {_AUTOCOMMIT}")


def _from_environment(environ: Mapping[str, str], own: dict[str, Any], options: dict[str, Any]) -> str:
    url = environ.get("DATABASE_URL")
    if not url:
        near = difflib.get_close_matches("DATABASE_URL", [name for name in environ if name != "DATABASE_URL"], n=1)
        hint = f" (there is {near[0]})" if near else ""
        raise InvalidURL(
            f"Database() got no URL and DATABASE_URL is not set in the environment{hint}; pass one, for example "
            'Database("sqlite:///app.db") or Database("postgresql://user:password@localhost/app")'
        )
    _refuse_misspelt(environ)
    for variable, name in ENVIRONMENT.items():
        value = environ.get(variable)
        if value is None or name == "url":
            continue
        target = options if name == "echo" else own
        target.setdefault(name, _parse(variable, name, value))
    return url


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    own = [name for name in ENVIRONMENT if name != "DATABASE_URL"]  # whose neighbours other programs use
    for variable in environ:
        if variable.startswith("DATABASE_") and variable not in ENVIRONMENT:
            near = difflib.get_close_matches(variable, own, n=1, cutoff=0.86)
            if near:
                raise UnknownSetting(f"the environment sets {variable}, which nothing reads; did you mean {near[0]}?")


def _parse(variable: str, name: str, value: str) -> bool | int | float:
    if name in {"echo", "sqlite_on_event_loop", "transaction_pooler"}:
        lowered = value.strip().lower()
        if lowered in {"1", "true", "yes", "on"}:
            return True
        if lowered in {"", "0", "false", "no", "off"}:
            return False
        raise ConflictingSettings(f"{variable}={value!r} is neither true nor false")
    try:
        return float(value) if name in _SECONDS else int(value)
    except ValueError:
        raise ConflictingSettings(f"{variable}={value!r} is not a number") from None


def _take_pool_names(own: dict[str, Any], options: dict[str, Any]) -> None:
    """Accept the pool options of ``create_engine``, so that an existing call can be moved over as it is."""
    size, overflow = options.pop("pool_size", None), options.pop("max_overflow", None)
    if size is not None or overflow is not None:
        size, overflow = 5 if size is None else size, 10 if overflow is None else overflow  # SQLAlchemy's defaults
        if not isinstance(size, int) or not isinstance(overflow, int) or size < 1 or overflow < 0:
            raise ConflictingSettings(
                f"pool_size={size!r} with max_overflow={overflow!r} gives no limit; set max_connections instead"
            )
        total = size + overflow
        _agree(own, "max_connections", total, "pool_size and max_overflow")
    timeout = options.pop("pool_timeout", None)
    if timeout is not None:
        _agree(own, "queue_timeout", timeout, "pool_timeout")


def _agree(own: dict[str, Any], name: str, value: object, other: str) -> None:
    if own.setdefault(name, value) != value:
        raise ConflictingSettings(f"{name}={own[name]} and {other} (which mean {name}={value}) disagree; keep {name}")


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    for name in options:
        if name in _REFUSED:
            raise ConflictingSettings(f"Database() does not take {name!r}: {_REFUSED[name]}")
    for name, whose in (("connect_args", "the driver"), ("execution_options", "SQLAlchemy")):
        value = options.get(name, {})
        if not isinstance(value, Mapping):
            raise ConflictingSettings(f"{name} is a {type(value).__name__}; it must be a dict of options of {whose}")
    poolclass = options.get("poolclass")
    if poolclass is not None and not (isinstance(poolclass, type) and issubclass(poolclass, Pool)):
        raise ConflictingSettings(f"poolclass={poolclass!r} is not a class of sqlalchemy.pool")


def _refuse_autocommit(options: Mapping[str, Any]) -> None:
    executing: Mapping[str, Any] = options.get("execution_options", {})
    for where, level in (
        ("isolation_level", options.get("isolation_level")),
        ("execution_options' isolation_level", executing.get("isolation_level")),
    ):
        if isinstance(level, str) and level.upper() == "AUTOCOMMIT":
            raise ConflictingSettings(f"{where}={level!r} {_AUTOCOMMIT}")
    refuse_autocommit_of_the_driver("connect_args'", options.get("connect_args", {}))


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _metadata(models: object) -> Iterable[MetaData]:
    if models is None:
        return
    candidates: Sequence[object] = list(models) if isinstance(models, list | tuple) else [models]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    for candidate in candidates:
        metadata = candidate if isinstance(candidate, MetaData) else getattr(candidate, "metadata", None)
        if not isinstance(metadata, MetaData):
            raise InvalidModels(
                f"models={candidate!r} has no tables; pass a declarative base, a MetaData, or a list of them"
            )
        yield metadata


def _check_numbers(result: Settings) -> None:
    for name, low in (("max_connections", 1), ("max_waiting", 0)):
        value = getattr(result, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConflictingSettings(f"{name}={value!r} must be a whole number of at least {low}")
    for name in ("sqlite_on_event_loop", "transaction_pooler"):
        switch: Any = getattr(result, name)
        if not isinstance(switch, bool):
            raise ConflictingSettings(f"{name}={switch!r} must be True or False")
    for name in ("statement_timeout", "lock_timeout"):
        limit: Any = getattr(result, name)
        if not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 <= limit <= LONGEST:
            raise ConflictingSettings(
                f"{name}={limit!r} must be a number of seconds from 0 (no limit) to {LONGEST:.0f}"
            )
    target: Any = result.queue_target
    if not isinstance(target, int | float) or isinstance(target, bool) or not target > 0:
        raise ConflictingSettings(
            f"queue_target={target!r} must be a number of seconds above 0; float('inf') switches it off"
        )
    for name in ("queue_timeout", "hold_warning"):
        seconds: Any = getattr(result, name)
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < float("inf"):
            raise ConflictingSettings(f"{name}={seconds!r} must be a finite number of seconds, 0 or more")
