"""The engines of one ``Database``: made on first use, counted together, closed with their event loop.

One sync engine serves all threads. Async engines are one per event loop, because a driver's connection
belongs to the loop that opened it. The connections of all of them are counted against one limit; when it
is reached and a pool needs one more, an idle connection of another pool is closed first.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy import exc as sa
from sqlalchemy.engine import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only, get_cls_kwargs, greenlet_spawn

from fastapi_database.config import ENGINE_OPTIONS, Settings, refuse_unknown_dialect_options
from fastapi_database.engines import Dialect, UnitEngines
from fastapi_database.errors import DriverNotInstalled, FastAPIDatabaseError

PING_AFTER = 30.0
"""Seconds a connection may have been idle before it is pinged on checkout. Below that a look at its
socket has to do: it costs no round trip and sees a server that closed it, but not a firewall that forgot it."""

_RETURNED = "fastapi_database_returned"


class _NoRoom(Exception):
    """Raised inside a checkout that was only meant to take an idle connection."""


class Connections:
    """Makes and closes engines. Owned by one ``Database``; safe to use from any thread or loop."""

    def __init__(self, dialect: Dialect, settings: Settings) -> None:
        self.dialect = dialect
        self._opened: set[int] = set()
        self._opening = 0
        self.last_answer = float("-inf")
        """When the database last answered anything, on the monotonic clock."""
        self._settings = settings
        self._lock = threading.RLock()
        self._evicting = threading.local()
        self._sync: Engine | None = None
        self._async: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        self._guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
        self._units: dict[Engine, UnitEngines] = {}
        self._options_of: dict[str, set[str]] = {driver: _option_names(dialect, driver) for driver in dialect.drivers}
        known = {name for names in self._options_of.values() for name in names}
        refuse_unknown_dialect_options(settings.engine_options, known)

    @property
    def open(self) -> int:
        """Connections that are open or being opened."""
        return len(self._opened) + self._opening

    @property
    def idle(self) -> int:
        """Connections that wait in a pool."""
        in_use = sum(e.pool.checkedout() for e in self._engines() if isinstance(e.pool, QueuePool))
        return max(0, self.open - in_use)

    def sync_engine(self) -> Engine:
        """Give the engine for sync sessions, made on first use."""
        engine = self._sync
        if engine is None:
            with self._lock:
                engine = self._sync
                if engine is None:
                    self.dialect.open()
                    url = self.dialect.sync_url
                    engine = create_engine(url, **self._options(url))
                    self._watch(engine)
                    self._sync = engine
        return engine

    def async_engine(self) -> AsyncEngine:
        """Give the running loop's engine for async sessions, made on first use."""
        loop = asyncio.get_running_loop()
        engine = self._async.get(loop)
        if engine is None:
            with self._lock:
                self._forget_closed_loops()
                self.dialect.open()
                url = self.dialect.async_url
                engine = create_async_engine(url, **self._options(url))
                self._watch(engine.sync_engine)
                self._async[loop] = engine
                self._close_with_loop(loop, engine)
        return engine

    def unit_engines(self, engine: Engine) -> UnitEngines:
        """Give the engines that units of work use in place of ``engine``."""
        return self._units[engine]

    async def probe(self) -> bool:
        """Ask the database whether it is there, without leaving a connection behind.

        An idle connection is asked where there is one; else one is opened and closed again; when all that may be
        open are busy, the server's address has to do. Raises what connecting raises.
        """
        if not self.idle and self.open >= self._settings.max_connections:
            return await _address_answers(self.dialect.address())
        try:
            engine = self.async_engine()
        except DriverNotInstalled:
            return await asyncio.to_thread(self._probe, self.sync_engine())
        return await greenlet_spawn(self._probe, engine.sync_engine)

    def _probe(self, engine: Engine) -> bool:
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
        except BaseException:
            connection.invalidate()
            raise
        self.last_answer = time.monotonic()
        if connection.record_info is not None and _RETURNED not in connection.record_info:
            connection.invalidate()  # opened for this question only
        else:
            connection.close()
        return True

    def close(self) -> None:
        """Close idle connections of every pool; those of other running loops as soon as their loop gets to it.

        A second call does nothing, and a later use opens the engines again.
        """
        with self._lock:
            sync, self._sync = self._sync, None
            asynchronous, self._async = self._async, {}
            self._guards.clear()
            self._units.clear()
        if sync is not None:
            sync.dispose()
        for loop, engine in asynchronous.items():
            if loop.is_closed():
                engine.sync_engine.dispose(close=False)
            else:
                loop.call_soon_threadsafe(_dispose_soon, loop, engine)

    async def aclose(self) -> None:
        """Close idle connections of every pool, and wait for those of the running loop."""
        own = self._async.pop(asyncio.get_running_loop(), None)
        self._guards.pop(asyncio.get_running_loop(), None)
        if own is not None:
            self._units.pop(own.sync_engine, None)
            await own.dispose()
        self.close()

    def _options(self, url: URL) -> dict[str, Any]:
        own = self._options_of.get(url.get_driver_name(), set())
        others = {name for names in self._options_of.values() for name in names} - own
        given = {name: value for name, value in self._settings.engine_options.items() if name not in others}
        options: dict[str, Any] = {"hide_parameters": True, **given}
        poolclass = options.get("poolclass")
        if "pool" not in options and (poolclass is None or issubclass(poolclass, QueuePool)):
            options |= {
                "pool_size": self._settings.max_connections,
                "max_overflow": 0,
                "pool_timeout": self._settings.queue_timeout,
                # The connection used last is the likeliest to be alive and warm; the others may grow idle.
                "pool_use_lifo": options.get("pool_use_lifo", True),
            }
        return options

    def _watch(self, engine: Engine) -> None:
        hide = bool(self._settings.engine_options.get("hide_parameters", True))
        self.dialect.listen(engine, hide_values=hide)
        self._units[engine] = self.dialect.unit_engines(engine)
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "close", self._closed)
        event.listen(engine, "checkin", _checked_in_at)
        event.listen(engine, "checkout", self._checker(engine.dialect))
        event.listen(engine, "after_cursor_execute", self._answered)

    def _connect(self, dialect: Any, _record: object, args: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        """Open a connection within the limit, with errors a person can act on."""
        if getattr(self._evicting, "now", False):
            raise _NoRoom
        self._reserve(asynchronous=dialect.is_async)
        try:
            complete = self.dialect.connect_arguments(dialect.driver, arguments)
            connection = dialect.connect(*args, **complete)
        except BaseException as error:
            with self._lock:
                self._opening -= 1
            if isinstance(error, Exception) and not isinstance(error, FastAPIDatabaseError):
                # `from None` where the original could carry the connection string; the message has what is needed.
                raise self.dialect.connect_error(error) from None
            raise
        with self._lock:
            self._opening -= 1
            self._opened.add(id(connection))
        self.last_answer = time.monotonic()
        return connection

    def _closed(self, connection: object, _record: object) -> None:
        self._opened.discard(id(connection))  # a connection may be reported closed more than once

    def _reserve(self, *, asynchronous: bool) -> None:
        with self._lock:
            if self.open < self._settings.max_connections:
                self._opening += 1
                return
        # Every place-holder has at most one connection and this one has none, so somewhere one is idle.
        for loop, engine in self._others(asynchronous=asynchronous):
            if self._evict(loop, engine, asynchronous=asynchronous):
                break
        with self._lock:
            self._opening += 1

    def _others(self, *, asynchronous: bool) -> Iterator[tuple[asyncio.AbstractEventLoop | None, Engine]]:
        if asynchronous and self._sync is not None:
            yield None, self._sync
        here = asyncio._get_running_loop() if asynchronous else None
        for loop, engine in list(self._async.items()):
            if loop is not here and not loop.is_closed():
                yield loop, engine.sync_engine

    def _evict(self, loop: asyncio.AbstractEventLoop | None, engine: Engine, *, asynchronous: bool) -> bool:
        if not _checked_in(engine):
            return False
        if loop is None:
            return self._evict_here(engine)
        future = asyncio.run_coroutine_threadsafe(greenlet_spawn(self._evict_here, engine), loop)
        if asynchronous:
            return bool(await_only(asyncio.wrap_future(future)))
        if asyncio._get_running_loop() is loop:  # a sync connection opened on the loop that would have to close it
            return True
        with suppress(TimeoutError):
            return bool(future.result(timeout=self._settings.queue_timeout))
        return False

    def _evict_here(self, engine: Engine) -> bool:
        """Close one idle connection of a pool by taking it out and invalidating it."""
        self._evicting.now = True
        try:
            engine.raw_connection().invalidate()
        except (_NoRoom, sa.TimeoutError):
            engine.pool.dispose()  # the next one in line had died; the others are behind it
        finally:
            self._evicting.now = False
        return True

    def _checker(self, dialect: Any) -> Callable[[Any, Any, object], None]:
        def check(dbapi_connection: Any, record: Any, _proxy: object) -> None:
            """Discard on checkout a connection that died while it was idle, so that no request meets it."""
            returned = record.info.get(_RETURNED)
            if returned is None:
                return
            if not self.dialect.looks_alive(record.driver_connection):
                raise sa.DisconnectionError("the server had closed this idle connection")
            if time.monotonic() - returned > PING_AFTER and not _answers(dialect, dbapi_connection):
                raise sa.DisconnectionError("this idle connection no longer answered")

        return check

    def _answered(self, *_: object) -> None:
        self.last_answer = time.monotonic()

    def _engines(self) -> list[Engine]:
        sync = [] if self._sync is None else [self._sync]
        return [*sync, *(engine.sync_engine for engine in list(self._async.values()))]

    def _close_with_loop(self, loop: asyncio.AbstractEventLoop, engine: AsyncEngine) -> None:
        """Have the loop close the engine when it ends.

        ``asyncio.run`` closes every async generator that was started on its loop before it closes the
        loop: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.shutdown_asyncgens
        """

        async def guard() -> AsyncGenerator[None]:
            try:
                yield
            finally:
                self._async.pop(loop, None)
                self._units.pop(engine.sync_engine, None)
                await engine.dispose()

        generator = guard()
        with suppress(StopIteration):
            generator.__anext__().send(None)  # start it now, in a function that can not await
        self._guards[loop] = generator

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._async if loop.is_closed()]:
            engine = self._async.pop(loop)
            self._guards.pop(loop, None)
            self._units.pop(engine.sync_engine, None)
            engine.sync_engine.dispose(close=False)


def _option_names(dialect: Dialect, driver: str) -> set[str]:
    names: set[str] = get_cls_kwargs(dialect.url.set(drivername=f"{dialect.name}+{driver}").get_dialect())
    return names - ENGINE_OPTIONS


def _checked_in(engine: Engine) -> int:
    pool = engine.pool
    return pool.checkedin() if isinstance(pool, QueuePool) else 0


def _answers(dialect: Any, dbapi_connection: Any) -> bool:
    try:
        return bool(dialect.do_ping(dbapi_connection))
    except dialect.loaded_dbapi.Error:
        return False


def _checked_in_at(_connection: object, record: Any) -> None:
    record.info[_RETURNED] = time.monotonic()


async def _address_answers(address: tuple[str, int] | str | None) -> bool:
    if address is None:
        return True
    if isinstance(address, str) and not _is_socket(address):
        return _exists(address)
    opening = asyncio.open_unix_connection(address) if isinstance(address, str) else asyncio.open_connection(*address)
    _, writer = await opening
    writer.close()
    return True


def _is_socket(path: str) -> bool:
    return _exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _dispose_soon(loop: asyncio.AbstractEventLoop, engine: AsyncEngine) -> None:
    task = loop.create_task(engine.dispose())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
