"""Everything the engines touch that SQLAlchemy and the drivers do not document, in one place.

Seen in SQLAlchemy 2.0.50 to 2.0.58 and 2.1.0 to 2.1.9, and in asyncpg 0.30 to 0.32. Each detail has a test in
``tests/core/test_internals.py``.

* ``__sqlalchemy_greenlet_provider__``: marks the greenlets in which ``await_only`` works.
* ``sqlalchemy.util.await_only`` and ``greenlet_spawn``: the bridge between the two worlds; widely used.
* ``asyncio._get_running_loop`` (Python 3.11): the running loop or None, without an exception where none runs.
* ``sqlalchemy.engine.base.OptionEngine``: the class of what ``Engine.execution_options()`` makes, an engine that shares
  the pool, the dialect, the cache and the listeners of another one.
* ``Engine.dialect``, whose class can be exchanged for a subclass before the engine is used: ``create_engine`` takes the
  class from the URL alone. What is overridden are documented methods of ``Dialect``.
* ``Engine._has_events``: whether anybody ever listened to an engine, or to all of them.
* ``DefaultDialect._on_connect_isolation_level``: the isolation level that ``create_engine`` was given, or None.
* ``asyncpg.Connection._transport``: asyncpg has no public way to the socket of a connection.
* ``asyncpg.Connection._cancel``: how asyncpg cancels a statement; in public only together with the task that awaits it.
  It swallows a cancellation of its own (0.32).
* ``aiosqlite.Connection._conn``: the connection of ``sqlite3`` behind it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from greenlet import getcurrent, greenlet
from sqlalchemy.engine import Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.util import await_only, greenlet_spawn

__all__ = ["OptionEngine", "await_only", "greenlet_spawn"]


def current_greenlet() -> greenlet | None:
    """Give SQLAlchemy's greenlet this code runs in, or None where nothing can be awaited."""
    current = getcurrent()
    return current if getattr(current, "__sqlalchemy_greenlet_provider__", False) else None


def asked_isolation_level(engine: Engine) -> str | None:
    """Give the isolation level that the application asked for when it made the engine."""
    dialect: Any = engine.dialect
    level: str | None = dialect._on_connect_isolation_level
    return level


def was_listened_to(engine: Engine) -> bool:
    """Tell whether anybody ever listened to an engine, or to the one it shares its listeners with."""
    return bool(engine._has_events)  # pyright: ignore[reportPrivateUsage]


def asyncpg_socket(connection: Any) -> int | None:
    """Give the descriptor of an asyncpg connection's socket, or None when it has none any more."""
    socket = connection._transport.get_extra_info("socket")
    return None if socket is None else int(socket.fileno())


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Give the event loop that runs in this thread, or None."""
    return asyncio._get_running_loop()


async def cancel_asyncpg(connection: Any) -> None:
    """Have the server cancel what an asyncpg connection runs, as asyncpg does it for a task that was cancelled."""
    await connection._cancel(asyncio.get_running_loop().create_future())


def sqlite3_connection(driver_connection: Any) -> Any:
    """Give the connection of ``sqlite3``, where it stands behind aiosqlite's."""
    return getattr(driver_connection, "_conn", driver_connection)
