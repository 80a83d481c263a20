"""SQLAlchemy's face of our aiosqlite connections: what needs no thread leaves no greenlet.

SQLAlchemy awaits each call of the driver, cursors that are made and closed included, and each of these awaits is two
switches of greenlets and some coroutines around them. A read that runs on the event loop has nothing to wait for, from
its BEGIN to its COMMIT; one await for each statement is left, and seven of nine are spared.

``AsyncAdapt_aiosqlite_connection`` with its ``_connection`` and ``_handle_exception``, and what it needs of a cursor
(``_async_soft_close``, ``server_side``), are not documented. Seen in SQLAlchemy 2.0.58 to 2.1.9.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection

from fastapi_database.engines.aiosqlite import Connection
from fastapi_database.engines.internals import await_only, current_greenlet


class AdaptedConnection(AsyncAdapt_aiosqlite_connection):
    """What SQLAlchemy has for a connection of aiosqlite, without awaits for what ends at once."""

    __slots__ = ()

    def cursor(self, server_side: bool = False) -> Any:
        """Make a cursor; one that fetches as it goes is SQLAlchemy's."""
        return super().cursor(server_side=True) if server_side else AdaptedCursor(self)

    def commit(self) -> None:
        """Commit."""
        driver_connection: Any = self._connection
        if not driver_connection.commits_here():
            super().commit()

    def rollback(self) -> None:
        """Roll back."""
        driver_connection: Any = self._connection
        if not driver_connection.rolls_back_here():
            super().rollback()


class AdaptedCursor:
    """A cursor that has all of its rows once it has executed."""

    __slots__ = ("_adapted", "_cursor", "_rows", "arraysize", "description", "lastrowid", "rowcount")

    server_side = False

    def __init__(self, adapted: AdaptedConnection) -> None:
        self._adapted: Any = adapted
        self._rows: deque[Any] = deque()
        self.arraysize = 1
        self.rowcount = self.lastrowid = -1
        self.description: Any = None
        try:
            self._cursor = adapted.driver_connection.make_cursor()
        except Exception as error:  # noqa: BLE001 - made an error of the driver's
            self._adapted._handle_exception(error)

    def execute(self, operation: Any, parameters: Any = None) -> Any:
        """Execute a statement and fetch its rows."""
        cursor = self._cursor
        try:
            rest = cursor.begin(operation, parameters)
            # SQLAlchemy's AsyncConnection.execute() takes a statement that awaits nothing for one of a sync driver.
            await_only(_nothing() if rest is None else rest)
            self._take(cursor.fetch_here() if cursor.through else await_only(cursor.fetchall()))
        except Exception as error:  # noqa: BLE001 - made an error of the driver's
            self._adapted._handle_exception(error)
        return self

    def executemany(self, operation: Any, seq_of_parameters: Any) -> Any:
        """Execute a statement for each set of parameters."""
        try:
            await_only(self._cursor.executemany(operation, seq_of_parameters))
            self._take([])
        except Exception as error:  # noqa: BLE001 - made an error of the driver's
            self._adapted._handle_exception(error)
        return self

    def setinputsizes(self, *sizes: Any) -> None:
        """Do nothing: SQLite has no such thing."""

    def fetchone(self) -> Any:
        """Give the next row, or None."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """Give the next rows."""
        wanted = self.arraysize if size is None else size
        return [self._rows.popleft() for _ in range(min(wanted, len(self._rows)))]

    def fetchall(self) -> Sequence[Any]:
        """Give the rows that are left."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    def close(self) -> None:
        """Let go of the statement."""
        self._rows.clear()
        if self._cursor.through:
            self._cursor.close_here()
        elif current_greenlet() is not None:
            await_only(self._cursor.close())

    async def _async_soft_close(self) -> None:
        """Do nothing: the statement is through, and its rows are here."""

    def _take(self, rows: Sequence[Any]) -> None:
        raw = self._cursor
        self.description = raw.description
        self.rowcount, self.lastrowid = raw.rowcount, raw.lastrowid
        self._rows = deque(rows)


async def _nothing() -> None:
    """Wait for nothing."""


def adapted(connection: Any) -> Any:
    """Give SQLAlchemy's connection our face, if it is one of ours."""
    if not isinstance(connection, AsyncAdapt_aiosqlite_connection):
        return connection
    driver_connection: Any = connection.driver_connection
    if not isinstance(driver_connection, Connection):
        return connection
    made: Any = AdaptedConnection
    return made(connection.dbapi, driver_connection)
