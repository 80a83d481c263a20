"""SQLite's statement time-out: SQLite has none, but it asks a callback from time to time whether to go on.

It asks while it computes, never while the application does something with the rows it has; so a row taken slowly from a
stream does not count as a slow statement. What is measured is the time between two questions.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

STEPS = 1_000_000
"""Instructions of SQLite's virtual machine between two questions: some 15 ms of computing. Each question takes the
interpreter's lock, which under load is a wait of up to 5 ms; a statement that has fewer steps is never asked about."""

_ANOTHER_CALL = 1.0  # seconds without a question after which SQLite was not at work: the rows of a stream were


class Watchdog:
    """Ends a statement of one SQLite connection that computes for too long.

    It must not know the connection: SQLite's handle keeps it, so the two would wait for the garbage collector.
    """

    __slots__ = ("_asked", "_clock", "_limit", "_spent", "limit", "new", "usual")

    def __init__(self, limit: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.usual = limit
        """Seconds a statement may take; 0 is no limit."""
        self.limit: float | None = None
        """The same for the next statement, where its unit of work has a time of its own."""
        self._limit = limit  # for the statement that is running now
        self.new = True
        """Whether another statement begins; set by the connection."""
        self._asked = self._spent = 0.0
        self._clock = clock

    def install(self, connection: sqlite3.Connection) -> None:
        """Have SQLite ask. Whoever sets another handler for a while calls this again afterwards."""
        # Not by the connection's own method, which takes it for a handler of the application.
        sqlite3.Connection.set_progress_handler(connection, self.overdue, STEPS)

    def overdue(self) -> bool:
        """Tell SQLite whether to end the statement it is at; its error then is "interrupted"."""
        now = self._clock()
        passed = now - self._asked
        self._asked = now
        if self.new:
            self.new = False
            self._spent = 0.0
            # Said before or after the driver made its cursor: SQLAlchemy 2.0 does that later than 2.1.
            self._limit = self.usual if self.limit is None else self.limit
        elif passed < _ANOTHER_CALL:
            self._spent += passed
        return 0 < self._limit < self._spent
