"""The engines of one ``Database``: made on first use, counted together, closed with their event loop.

One sync engine serves all threads. Async engines are one per event loop, because a driver's connection
belongs to the loop that opened it. The connections of all of them are counted against one limit; when it
is reached and a pool needs one more, an idle connection of another pool is closed first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy import exc as sa
from sqlalchemy.engine import URL, Connection, Engine

from fastapi_database.config import ENGINE_OPTIONS, Settings, refuse_unknown_dialect_options
from fastapi_database.core.admission import no_connection, refused
from fastapi_database.core.demotion import Demotion
from fastapi_database.core.internals import (
    AsyncClosablePool,
    ClosablePool,
    await_only,
    get_cls_kwargs,
    greenlet_spawn,
    opened,
    running_loop,
)
from fastapi_database.core.outages import Outages
from fastapi_database.engines import Dialect, UnitEngines
from fastapi_database.engines.transactions import LastAnswer, returned, unit_transaction, watch
from fastapi_database.engines.values import hide_values
from fastapi_database.errors import DriverNotInstalled, FastAPIDatabaseError, QueueTimeout, Unavailable, Unreachable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger("fastapi_database")

PING_AFTER = 30.0
"""Seconds a connection may have been idle before it is pinged on checkout. Below that a look at its
socket has to do: it costs no round trip and sees a server that closed it, but not a firewall that forgot it."""

_RETURNED = "fastapi_database_returned"
_CLOSE_TIMEOUT = 0.5  # seconds another loop gets to close an idle connection before the next pool is asked
_RETRY = 0.005  # seconds between looks for room, in the rare case that two pools reach for the last place at once


class Connections:
    """Makes and closes engines. Owned by one ``Database``; safe to use from any thread or loop."""

    def __init__(self, dialect: Dialect, settings: Settings) -> None:
        self.dialect = dialect
        self.last_answer = LastAnswer()
        self._settings = settings
        self._lock = threading.RLock()
        self._inherited: list[object] = []
        """In a forked child: what is the parent's, kept so that nothing is closed when it is freed."""
        self._refuses: FastAPIDatabaseError | None = None
        """In a forked child: why it must not open anything."""
        self._sync: Engine | None = None
        self._async: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        self._guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
        self._leaving: list[ClosablePool] = []
        self._units: dict[Engine, UnitEngines] = {}
        self._outages = Outages(dialect)
        self._demotion = Demotion(dialect)
        self._options_of: dict[str, set[str]] = {driver: _option_names(dialect, driver) for driver in dialect.drivers}
        known = {name for names in self._options_of.values() for name in names}
        refuse_unknown_dialect_options(settings.engine_options, known)

    @property
    def open(self) -> int:
        """Connections that are open or being opened, of pools that are our own."""
        return min(self._claimed, self._settings.max_connections)

    @property
    def _claimed(self) -> int:
        """Those, and the ones that wait for room in :meth:`_make_room`."""
        return sum(pool.records for pool in self._pools())

    @property
    def idle(self) -> int:
        """Connections that wait in a pool."""
        return sum(pool.checkedin() for pool in self._pools())

    def sync_engine(self) -> Engine:
        """Give the engine for sync sessions, made on first use."""
        engine = self._sync
        if engine is None:
            with self._lock:
                engine = self._sync
                if engine is None:
                    self.dialect.open()
                    url = self.dialect.sync_url
                    engine = create_engine(url, **self._options(url, pool=ClosablePool))
                    self._watch(engine)
                    self._sync = engine
        return engine

    def async_engine(self) -> AsyncEngine:
        """Give the running loop's engine for async sessions, made on first use."""
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - it imports the ORM: core/session.py

        loop = asyncio.get_running_loop()
        engine = self._async.get(loop)
        if engine is None:
            with self._lock:
                self._forget_closed_loops()
                self.dialect.open()
                url = self.dialect.async_url
                engine = create_async_engine(url, **self._options(url, pool=AsyncClosablePool))
                self._watch(engine.sync_engine)
                self._async[loop] = engine
                self._close_with_loop(loop, engine)
        return engine

    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """Give the event loops that have an engine."""
        return list(self._async)

    def unit_engines(self, engine: Engine) -> UnitEngines:
        """Give the engines that units of work use in place of ``engine``."""
        return self._units[engine]

    async def interrupt(self, connection: Connection) -> None:
        """Have the database end the statement that a unit runs on its connection. Never raises.

        Nothing happens when the unit has given the connection back, and it does not while this is on its way.
        """
        try:
            transaction = unit_transaction(connection)
            driver_connection = connection.connection.driver_connection
            if transaction is None or not self.dialect.executes(driver_connection):
                return
            if not transaction.interruption.begin():
                return
        except sa.SQLAlchemyError:  # closed meanwhile
            return
        try:
            await self.dialect.interrupt(driver_connection)
        except Exception as error:  # noqa: BLE001 - what can not be stopped runs to its end, or to its time-out
            logger.warning("a statement could not be cancelled: %r", error)
            transaction.interruption.uncertain = True
        finally:
            transaction.interruption.end()

    async def probe(self) -> bool:
        """Ask the database whether it is there; see :meth:`ask`."""
        if self.dialect.address() is not None:  # else a writer would keep the question waiting
            await self.ask(self.dialect.question)
        return True

    async def ask(self, question: str) -> list[Any]:
        """Ask the database something, without leaving a connection behind.

        Called by a holder of a place. An idle connection is asked where there is one; else one is opened and closed
        again. Raises what connecting raises, and what the driver raises for the question.
        """
        try:
            engine = self.async_engine()
        except DriverNotInstalled:
            return await asyncio.to_thread(self._ask, self.sync_engine(), question)
        return await greenlet_spawn(self._ask, engine.sync_engine, question)

    def _ask(self, engine: Engine, question: str) -> list[Any]:
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(question)
            rows = list(cursor.fetchall())
            cursor.close()
        except BaseException:
            connection.invalidate()
            raise
        self.last_answer.now()
        if _RETURNED in connection.info:
            connection.close()
        else:
            connection.invalidate()  # opened for this question only
        return rows

    async def address_answers(self) -> bool:
        """Tell whether anything listens at the database's address."""
        address = self.dialect.address()
        if address is None:
            return True
        if isinstance(address, str) and not _is_socket(address):
            return _exists(address)
        opening = (
            asyncio.open_unix_connection(address) if isinstance(address, str) else asyncio.open_connection(*address)
        )
        _, writer = await opening
        writer.close()
        return True

    def close(self) -> None:
        """Close idle connections of every pool; those of other running loops as soon as their loop gets to it.

        A second call does nothing, and a later use opens the engines again.
        """
        with self._lock:
            sync, self._sync = self._sync, None
            guards, self._guards = self._guards, {}
            asynchronous, self._async = self._async, {}
            self._units.clear()
        if sync is not None:
            self._leave(sync)
            sync.dispose()
        for loop, engine in asynchronous.items():
            if loop.is_closed():
                engine.sync_engine.dispose(close=False)
            else:
                loop.call_soon_threadsafe(_close_soon, loop, guards[loop])

    async def aclose(self) -> None:
        """Close idle connections of every pool, and wait for those of the running loop."""
        guard = self._guards.pop(asyncio.get_running_loop(), None)
        if guard is not None:
            await guard.aclose()
        self.close()

    def before_fork(self) -> None:
        """Close what is idle where a child must not even have a copy of it."""
        if not self.dialect.locks_by_process:
            return
        with suppress(Exception):  # closed or not, the fork goes on
            while self._sync is not None and _close_idle(self._sync):
                pass
            here = self._async.get(running_loop())  # type: ignore[arg-type]  # where none runs there is no engine
            while here is not None and _drop_idle(here, wait=True):
                pass

    def begin_anew(self) -> None:
        """Forget, in a forked child, every connection without closing it; the sync engine keeps its listeners."""
        self._lock = threading.RLock()
        self._outages = Outages(self.dialect)
        pools = self._pools()
        taken = [connection for pool in pools for connection in pool.abandon()]
        self._inherited += [*taken, *self._async.values(), *self._guards.values(), *self._leaving]
        for engine in self._async.values():
            self._units.pop(engine.sync_engine, None)
        self._async, self._guards, self._leaving = {}, {}, []
        if self._sync is not None:
            self._inherited.append(self._sync.pool)
            self._sync.dispose(close=False)
        self._refuses = self.dialect.refuses_after_fork(in_use=len(taken))

    def _options(self, url: URL, *, pool: type[ClosablePool]) -> dict[str, Any]:
        own = self._options_of.get(url.get_driver_name(), set())
        others = {name for names in self._options_of.values() for name in names} - own
        given = {name: value for name, value in self._settings.engine_options.items() if name not in others}
        # Who turns the echo on wants to see what is sent; hide_values keeps the values out of errors all the same.
        options: dict[str, Any] = {"hide_parameters": not given.get("echo"), **given}
        if "pool" not in options and options.get("poolclass") is None:
            options |= {
                "poolclass": pool,
                "pool_size": self._settings.max_connections,
                "max_overflow": 0,
                "pool_timeout": self._settings.queue_timeout,
                # The connection used last is the likeliest to be alive and warm; the others may grow idle.
                "pool_use_lifo": options.get("pool_use_lifo", True),
            }
        return options

    def _watch(self, engine: Engine) -> None:
        hide = bool(self._settings.engine_options.get("hide_parameters", True))
        if hide:
            hide_values(engine)
        hooks = self.dialect.transactions(engine.dialect.driver)
        watch(engine, hooks, self.last_answer, no_connection=self._note_no_connection)
        self._units[engine] = self.dialect.unit_engines(engine)
        event.listen(engine, "handle_error", self._demotion.listen)
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "checkin", _checked_in_at)
        event.listen(engine, "checkout", self._checker(engine.dialect))
        self.dialect.listen(engine)  # after the look whether a connection that is lent is still alive

    def _note_no_connection(self, error: Exception) -> None:
        """Keep a request from being answered as if all were well by code that swallows why its unit got none."""
        if not isinstance(error, Unavailable):  # which is noted where it is raised
            no_connection(
                Unreachable(
                    f"{self.dialect.describe()} gave no connection: {type(error).__name__} while one was opened or set "
                    "up, which the code of the request has swallowed. Nothing was sent, so nothing is stored"
                )
            )

    def _connect(self, dialect: Any, record: Any, args: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        """Open a connection within the limit, with errors a person can act on."""
        if self._refuses is not None:
            # Each time with a traceback of its own: who asked before is still in the old one, and may be suspended.
            raise self._refuses.with_traceback(None)
        self._make_room(asynchronous=dialect.is_async)
        try:
            with self._outages.attempt():
                complete = self.dialect.connect_arguments(dialect.driver, arguments)
                connection = self.dialect.adapted(dialect.connect(*args, **complete))
        except Unavailable as error:
            refused(error)
            raise
        opened(connection)
        if record is not None:
            self._demotion.trust(record.info)
        return connection

    def _make_room(self, *, asynchronous: bool) -> None:
        """Close idle connections of any pool until the one that is being opened, counted already, is within the limit.

        Every place-holder has at most one connection and the caller has none, so somewhere one is idle; another
        caller may be quicker to take it, then it is tried again.
        """
        deadline = time.monotonic() + self._settings.queue_timeout
        while self._claimed > self._settings.max_connections:
            if self._close_one_idle(asynchronous=asynchronous):
                continue
            if time.monotonic() > deadline:
                error = QueueTimeout(
                    f"{self.open} connections are open and all are in use, though max_connections is "
                    f"{self._settings.max_connections}: code that uses db.engine directly holds some of them"
                )
                refused(error)
                raise error
            if asynchronous:
                await_only(asyncio.sleep(_RETRY))
            else:
                time.sleep(_RETRY)

    def _close_one_idle(self, *, asynchronous: bool) -> bool:
        here = running_loop()
        if self._sync is not None and _close_idle(self._sync):
            return True
        for loop, engine in list(self._async.items()):
            if loop is here and asynchronous:
                if _close_idle(engine.sync_engine):
                    return True
            elif loop.is_running() and loop is not here and self._close_there(loop, engine, asynchronous=asynchronous):
                return True
        return False

    def _close_there(self, loop: asyncio.AbstractEventLoop, engine: AsyncEngine, *, asynchronous: bool) -> bool:
        """Have another loop close an idle connection, at once: what it awaited, its end could interrupt."""
        closed: Future[bool] = Future()
        try:
            loop.call_soon_threadsafe(lambda: closed.set_result(_drop_idle(engine)))
        except RuntimeError:  # that loop has been closed meanwhile
            return False
        if asynchronous:
            return await_only(_result(closed))
        with suppress(TimeoutError):  # that loop is busy, or about to end
            return closed.result(timeout=_CLOSE_TIMEOUT)
        return False

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
            self._demotion.check(dialect, dbapi_connection, record.info)

        return check

    def _engines(self) -> list[Engine]:
        sync = [] if self._sync is None else [self._sync]
        return [*sync, *(engine.sync_engine for engine in list(self._async.values()))]

    def _pools(self) -> list[ClosablePool]:
        pools = [engine.pool for engine in self._engines() if isinstance(engine.pool, ClosablePool)]
        return pools + self._leaving

    def _leave(self, engine: Engine) -> None:
        """Go on counting the connections that are in use while their engine is closed."""
        pool = engine.pool
        with self._lock:
            self._leaving = [one for one in self._leaving if one.records]
            if isinstance(pool, ClosablePool):
                self._leaving.append(pool)

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
                self._guards.pop(loop, None)
                self._units.pop(engine.sync_engine, None)
                self._leave(engine.sync_engine)
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


def _close_idle(engine: Engine) -> bool:
    return isinstance(engine.pool, ClosablePool) and engine.pool.close_one_idle()


def _drop_idle(engine: AsyncEngine, *, wait: bool = False) -> bool:
    return isinstance(engine.sync_engine.pool, ClosablePool) and engine.sync_engine.pool.drop_one_idle(wait=wait)


async def _result(closed: Future[bool]) -> bool:
    """Wait on this loop for what another one does. Nothing is cancelled there when the wait ends early."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()

    def wake(_: object) -> None:
        with suppress(RuntimeError):  # this loop was closed: nobody waits
            loop.call_soon_threadsafe(ready.set)

    closed.add_done_callback(wake)
    with suppress(TimeoutError):
        await asyncio.wait_for(ready.wait(), _CLOSE_TIMEOUT)
    return closed.done() and closed.result()


def _answers(dialect: Any, dbapi_connection: Any) -> bool:
    try:
        return bool(dialect.do_ping(dbapi_connection))
    except dialect.loaded_dbapi.Error:
        return False


def _checked_in_at(_connection: object, record: Any) -> None:
    record.info[_RETURNED] = time.monotonic()
    returned(record)


def _is_socket(path: str) -> bool:
    return _exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _close_soon(loop: asyncio.AbstractEventLoop, guard: AsyncGenerator[None]) -> None:
    task = loop.create_task(guard.aclose())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
