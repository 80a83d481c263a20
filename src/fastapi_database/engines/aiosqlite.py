"""aiosqlite with at most one hand-over to its thread per statement, where SQLAlchemy's use of it makes four.

SQLAlchemy makes a cursor, executes, fetches and closes, and each is a way to the connection's thread and back,
which costs more than SQLite's own work on a small answer. Here the thread fetches what it executed at once, and
what needs no thread is done without one: :mod:`~fastapi_database.engines.on_loop` says what. Whoever asks SQLAlchemy
for the driver's connection gets aiosqlite's class, with all it can do.

Seen in aiosqlite 0.22.1, the oldest and the newest that is taken, and not documented: ``Connection._tx``, the queue
through which every hand-over goes, ``._execute``, ``._conn``, ``._connection`` and ``._thread``, and
``Cursor._cursor``. Tests in ``tests/engines/test_aiosqlite.py``.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import aiosqlite
from aiosqlite.context import contextmanager

from fastapi_database.engines.internals import running_loop
from fastapi_database.engines.on_loop import ROWS, OnLoop
from fastapi_database.engines.shapes import Shape, Shapes

PREFETCH = (1, 9, 90)
"""Rows that come along with the execution, in this many steps: most answers have fewer than all of them."""

LARGE = 10_000
"""Characters or bytes of one value after which no further step is made: a stream asks for little memory at a time."""

_PATIENCE = 5.0
"""Seconds for a thread to close what nobody uses any more; the last one of a file writes a checkpoint."""


class Cursor(aiosqlite.Cursor):
    """A cursor that has its first rows when it has executed."""

    def __init__(self, connection: Connection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._owner = connection
        self._rows: deque[Any] = deque()
        self.through = True
        """Whether SQLite has no more rows than those."""

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Cursor:
        """Execute a statement and fetch its first rows."""
        rest = self.begin(sql, parameters)
        if rest is not None:
            await rest
        return self

    def begin(self, sql: str, parameters: Iterable[Any] | None = None) -> Coroutine[Any, Any, None] | None:
        """Execute a statement now, or give what has to be awaited for it."""
        self._rows.clear()
        given = () if parameters is None else parameters
        on_loop, raw = self._owner.on_loop, self._owner.raw
        shape = on_loop.find(raw, sql)
        if shape is not None:
            if on_loop.had_its_turn():
                return self._execute_later(sql, given, shape)
            if self._execute_now(sql, given, shape):
                return None
        return self._execute_in_thread(sql, given, shape)

    def _execute_now(self, sql: str, given: Any, shape: Shape) -> bool:
        rows = self._owner.on_loop.run(self._owner.raw, self._cursor, sql, given, shape)
        if rows is None:
            return False
        self._rows.extend(rows)
        self.through = len(rows) < ROWS
        return True

    async def _execute_later(self, sql: str, given: Any, shape: Shape) -> None:
        await asyncio.sleep(0)
        if not self._execute_now(sql, given, shape):
            await self._execute_in_thread(sql, given, shape)

    async def _execute_in_thread(self, sql: str, given: Any, shape: Shape | None) -> None:
        self.through = False  # whatever becomes of the call: a cancelled one is still on its way
        self._owner.on_loop.announce(sql, shape)
        await self._execute(self._execute_and_fetch, sql, given, shape)  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Cursor:
        """Execute a statement for each set of parameters."""
        self._rows.clear()
        self.through = False
        await super().executemany(sql, parameters)
        self.through = True
        return self

    async def fetchone(self) -> Any:
        """Give the next row, or None."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Give the next rows, fewer than asked for only at the end."""
        wanted = self.arraysize if size is None else size
        rows = [self._rows.popleft() for _ in range(min(wanted, len(self._rows)))]
        if len(rows) < wanted and not self.through:
            missing = wanted - len(rows)
            more = list(await super().fetchmany(missing))
            self.through = len(more) < missing
            rows += more
        return rows

    def fetch_here(self) -> list[Any]:
        """Give the rows that are here."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    async def fetchall(self) -> list[Any]:
        """Give the rows that are left."""
        rows = self.fetch_here()
        if not self.through:
            rows += await super().fetchall()
            self.through = True
        return rows

    async def close(self) -> None:
        """Let go of the statement; after its last row SQLite has done so, and there is nothing to wait for."""
        if self.through:
            self.close_here()
        else:
            self._rows.clear()
            await super().close()
            self._rows.clear()  # a cancelled execution may have come in between

    def close_here(self) -> None:
        """Let go of a statement that is through."""
        self._rows.clear()
        self._cursor.close()

    def _execute_and_fetch(self, sql: str, parameters: Any, shape: Shape | None) -> None:
        if shape is not None:
            self._owner.on_loop.judge(self._owner.raw, sql, parameters, shape)
        self._cursor.execute(sql, parameters)
        for step in PREFETCH:
            rows = self._cursor.fetchmany(step)
            self._rows.extend(rows)
            self.through = len(rows) < step
            if self.through or _is_large(rows[-1]):
                return


def _is_large(row: Sequence[Any]) -> bool:
    return any(isinstance(value, str | bytes) and len(value) > LARGE for value in row)


class Connection(aiosqlite.Connection):
    """A connection that goes to its thread only where SQLite may take long."""

    def __init__(
        self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int, shapes: Shapes | None = None
    ) -> None:
        self._opening = _Opening(connector)
        super().__init__(self._opening, iter_chunk_size)
        self._thread.daemon = True  # as SQLAlchemy has it: a process ends without closing
        self.on_loop = OnLoop(shapes)
        self._tx: Any = _Errands(self._tx, self.on_loop, self._opening)
        self._stopping = False
        self._stopped: asyncio.Future[Any] | None = None

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection of sqlite3. Raises ``ValueError`` when there is none."""
        return self._connection or self._conn

    @contextmanager
    async def cursor(self) -> aiosqlite.Cursor:
        """Make a cursor."""
        return self.make_cursor()

    def make_cursor(self) -> Cursor:
        """Make a cursor, which needs no thread. Raises ``ValueError`` when there is no connection."""
        return Cursor(self, self.raw.cursor())

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread, and close what it opened after nobody waited for it any more.

        A second call gives what the first gave: the thread that has ended would never answer it. SQLAlchemy makes one
        when closing is cancelled, and the close that goes on makes another.
        """
        if not self._stopping:
            self._stopping = True
            if self._connection is None:
                self._tx.put_nowait((None, self._opening.close))  # pyright: ignore[reportUnknownMemberType]
            self._stopped = super().stop()  # pyright: ignore[reportUnknownMemberType]
        stopped = self._stopped
        return stopped if stopped is not None and stopped.get_loop() is running_loop() else None

    def wait_until_closed(self) -> None:
        """Wait, after :meth:`stop`, until the thread has closed and ended."""
        self._thread.join(_PATIENCE)

    async def close(self) -> None:
        """Close, or wait until the thread has closed where it was told to already."""
        if not self._stopping:
            await super().close()
        elif (stopped := self.stop()) is not None:
            await stopped

    async def commit(self) -> None:
        """Commit."""
        if not self.commits_here():
            self.on_loop.announce_commit()
            await super().commit()

    def commits_here(self) -> bool:
        """Commit now, if that needs no thread, and tell whether it did."""
        raw = self._connection
        return raw is not None and self.on_loop.ends(raw, "COMMIT")

    def rolls_back_here(self) -> bool:
        """Roll back now, if that needs no thread, and tell whether it did."""
        raw = self._connection
        if raw is None:
            return False
        nothing_begun = self.on_loop.idle and not raw.in_transaction
        return nothing_begun or self.on_loop.ends(raw, "ROLLBACK")

    async def rollback(self) -> None:
        """Roll back. With nothing begun, and nothing on its way that a cancellation left behind, there is no need."""
        if not self.rolls_back_here():
            await super().rollback()


class _Opening:
    """The connection that is opened, of which aiosqlite hears nothing when it was cancelled meanwhile."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        self._connector = connector
        self.opened: sqlite3.Connection | None = None

    def __call__(self) -> sqlite3.Connection:
        self.opened = self._connector()
        return self.opened

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()


class _Errands:
    """The queue to the thread: counts what is asked and what is done, and has the connection as the thread needs it."""

    __slots__ = ("_on_loop", "_opening", "_queue")

    def __init__(self, queue: Any, on_loop: OnLoop, opening: _Opening) -> None:
        self._queue = queue
        self._on_loop = on_loop
        self._opening = opening

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        """Hand a call over."""
        future, call = item
        leaves = self._on_loop.hand_over()
        self._queue.put_nowait((future, _Errand(call, self._on_loop, self._opening if leaves else None)))


class _Errand:
    """One call in the thread. It forgets what it called: the thread has it until the next, and so would keep all."""

    __slots__ = ("_calls", "_on_loop", "_opening")

    def __init__(self, call: Callable[[], Any], on_loop: OnLoop, opening: _Opening | None) -> None:
        self._calls = [call]
        self._on_loop = on_loop
        self._opening = opening

    def __call__(self) -> Any:
        try:
            if self._opening is not None and self._opening.opened is not None:
                self._on_loop.leave(self._opening.opened)
            return self._calls.pop()()
        finally:
            self._on_loop.done += 1


def connect(database: str, *, iter_chunk_size: int = 64, shapes: Shapes | None = None, **options: Any) -> Connection:
    """Make a connection, to be awaited, as ``aiosqlite.connect`` does. Needs ``check_same_thread=False``.

    With ``shapes`` it runs what is judged short on the event loop; without, everything in its thread.
    """
    return Connection(functools.partial(sqlite3.connect, database, **options), iter_chunk_size, shapes)
