"""aiosqlite with one hand-over to its thread per statement, where SQLAlchemy's use of it makes four.

SQLAlchemy makes a cursor, executes, fetches and closes, and each is a way to the connection's thread and back,
which costs more than SQLite's own work on a small answer. Here the thread fetches what it executed at once, and
what needs no thread is done without one. Whoever asks SQLAlchemy for the driver's connection gets aiosqlite's
class, with all it can do.

Seen in aiosqlite 0.22.1, the oldest and the newest that is taken, and not documented: ``Connection._execute``, through
which every hand-over goes, ``._conn``, ``._connection``, ``._tx`` and ``._thread``, and ``Cursor._cursor``. Tests in
``tests/engines/test_aiosqlite.py``.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiosqlite
from aiosqlite.context import contextmanager

PREFETCH = (1, 9, 90)
"""Rows that come along with the execution, in this many steps: most answers have fewer than all of them."""

LARGE = 10_000
"""Characters or bytes of one value after which no further step is made: a stream asks for little memory at a time."""


class Cursor(aiosqlite.Cursor):
    """A cursor that has its first rows when it has executed."""

    def __init__(self, connection: Connection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._rows: deque[Any] = deque()
        self._through = True
        """Whether SQLite has no more rows than those."""

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Cursor:
        """Execute a statement and fetch its first rows."""
        self._rows.clear()
        self._through = False  # whatever becomes of the call: a cancelled one is still on its way
        given = () if parameters is None else parameters
        await self._execute(self._execute_and_fetch, sql, given)  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Cursor:
        """Execute a statement for each set of parameters."""
        self._rows.clear()
        self._through = False
        await super().executemany(sql, parameters)
        self._through = True
        return self

    async def fetchone(self) -> Any:
        """Give the next row, or None."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Give the next rows, fewer than asked for only at the end."""
        wanted = self.arraysize if size is None else size
        rows = [self._rows.popleft() for _ in range(min(wanted, len(self._rows)))]
        if len(rows) < wanted and not self._through:
            missing = wanted - len(rows)
            more = list(await super().fetchmany(missing))
            self._through = len(more) < missing
            rows += more
        return rows

    async def fetchall(self) -> list[Any]:
        """Give the rows that are left."""
        rows = list(self._rows)
        self._rows.clear()
        if not self._through:
            rows += await super().fetchall()
            self._through = True
        return rows

    async def close(self) -> None:
        """Let go of the statement; after its last row SQLite has done so, and there is nothing to wait for."""
        self._rows.clear()
        if self._through:
            self._cursor.close()
        else:
            await super().close()
            self._rows.clear()  # a cancelled execution may have come in between

    def _execute_and_fetch(self, sql: str, parameters: Any) -> None:
        self._cursor.execute(sql, parameters)
        for step in PREFETCH:
            rows = self._cursor.fetchmany(step)
            self._rows.extend(rows)
            self._through = len(rows) < step
            if self._through or _is_large(rows[-1]):
                return


def _is_large(row: Sequence[Any]) -> bool:
    return any(isinstance(value, str | bytes) and len(value) > LARGE for value in row)


class Connection(aiosqlite.Connection):
    """A connection that goes to its thread only where SQLite is asked something."""

    def __init__(self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int) -> None:
        self._opening = _Opening(connector)
        super().__init__(self._opening, iter_chunk_size)
        self._thread.daemon = True  # as SQLAlchemy has it: a process ends without closing
        self._count = _Count()

    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        """Make a cursor."""
        return Cursor(self, self._conn.cursor())

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread, and close what it opened after nobody waited for it any more."""
        if self._connection is None:
            self._tx.put_nowait((None, self._opening.close))  # pyright: ignore[reportUnknownMemberType]
        return super().stop()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    async def rollback(self) -> None:
        """Roll back. With nothing begun, and nothing on its way that a cancellation left behind, there is no need."""
        if self._count.asked != self._count.done or self.in_transaction:
            await super().rollback()

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._count.asked += 1
        errand = _Errand(functools.partial(fn, *args, **kwargs), self._count)
        return await super()._execute(errand)  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]


class _Opening:
    """The connection that is opened, of which aiosqlite hears nothing when it was cancelled meanwhile."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        self._connector = connector
        self._opened: sqlite3.Connection | None = None

    def __call__(self) -> sqlite3.Connection:
        self._opened = self._connector()
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


class _Count:
    """What a connection asked of its thread, and what is done; each written by one thread."""

    __slots__ = ("asked", "done")

    def __init__(self) -> None:
        self.asked = self.done = 0


class _Errand:
    """One call in the thread. It forgets what it called: the thread has it until the next, and so would keep all."""

    __slots__ = ("_calls", "_count")

    def __init__(self, call: Callable[[], Any], count: _Count) -> None:
        self._calls = [call]
        self._count = count

    def __call__(self) -> Any:
        try:
            return self._calls.pop()()
        finally:
            self._count.done += 1


def connect(database: str, *, iter_chunk_size: int = 64, **options: Any) -> Connection:
    """Make a connection, to be awaited, as ``aiosqlite.connect`` does. Needs ``check_same_thread=False``."""
    return Connection(functools.partial(sqlite3.connect, database, **options), iter_chunk_size)
