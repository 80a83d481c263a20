"""Runs short statements of an aiosqlite connection on the event loop; all others stay in the connection's thread.

A hand-over to a thread and back costs more than SQLite's work for a small answer. What keeps the loop from waiting:

* a statement runs here only as :mod:`~fastapi_database.engines.shapes` judged its program, and never while a call of
  the same connection is in its thread;
* a read has a budget of instructions and of time, which SQLite asks about while it runs, and a bound on the length of
  a value; past one of them it ends, and runs in the thread from its beginning. That costs nothing but time: SQLite
  keeps the transaction when a statement that only reads is interrupted (https://sqlite.org/c3ref/interrupt.html);
* a write has no budget, because interrupting it would roll the transaction back; it runs here when its program has
  no loop, in a transaction that has the writer's lock, in WAL mode or in memory: nothing is written before COMMIT;
* nothing waits for a lock here: the busy time-out is 0, and what found a lock waits for it in the thread;
* COMMIT and ROLLBACK run here when the transaction has written nothing. All others write, and wait for the disk;
* the loop gets its turn after some statements, however many a task has.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from fastapi_database.engines.shapes import FUNCTIONS, LATE, Place, Shape, Shapes, judge

if sys.platform == "linux":
    import resource

STEPS = 250
"""Instructions between two looks at the budget."""

QUESTIONS = 16
"""Looks after which a read is over its budget: 4,000 instructions, which take SQLite 0.2 ms."""

SECONDS = 0.002
"""Seconds of computing after which a read is over its budget, whatever it did in them: large values take long. Time on
the clock would count what others do on a busy processor; waiting for a disk is noticed afterwards."""

LONGEST_VALUE = 32_768
"""Bytes of a value that is read on the loop; a statement that meets a longer one goes to the thread."""

LONGEST_PARAMETERS = 10_000
"""Characters and bytes that are written on the loop, all parameters of a statement together."""

ROWS = 500
"""Rows that a read fetches on the loop; the rest is fetched in the thread."""

TURN = (16, 0.002)
"""Statements of a connection, and seconds spent in them, after which the other tasks of the loop have their turn."""


def disk_reads() -> int:
    """Count what this thread had to read from a disk so far: pages and blocks that the system did not have.

    Where the system does not count for each thread, none: see :data:`~fastapi_database.engines.shapes.HUNG`.
    """
    if sys.platform != "linux":
        return 0
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_inblock + used.ru_majflt


_IN_IT = {"INSERT", "UPDATE", "DELETE", "SELECT"}  # how statements begin that leave a transaction as it is


class PlainConnection(sqlite3.Connection):
    """A connection that knows whether SQLite calls back code of the application where the text does not show it."""

    plain = True
    """False once a function or collation may have the name of one of SQLite's, or a callback is in the way of ours."""

    def create_function(self, name: str, *arguments: Any, **options: Any) -> None:
        """Register a function; one with the name of SQLite's own may take as long as it likes."""
        self._note(name)
        super().create_function(name, *arguments, **options)

    def create_aggregate(self, name: str, *arguments: Any, **options: Any) -> None:
        """Register an aggregate."""
        self._note(name)
        super().create_aggregate(name, *arguments, **options)

    def create_window_function(self, name: str, *arguments: Any, **options: Any) -> None:
        """Register a window function."""
        self._note(name)
        super().create_window_function(name, *arguments, **options)

    def create_collation(self, name: str, *arguments: Any, **options: Any) -> None:
        """Register a collation."""
        self.plain = self.plain and name.upper() not in {"BINARY", "NOCASE", "RTRIM"}
        super().create_collation(name, *arguments, **options)

    def load_extension(self, *arguments: Any, **options: Any) -> None:
        """Load an extension, which may register anything."""
        self.plain = False
        super().load_extension(*arguments, **options)

    def set_progress_handler(self, *arguments: Any, **options: Any) -> None:
        """Set the one progress handler, which the budget needs otherwise."""
        self.plain = False
        super().set_progress_handler(*arguments, **options)

    def resume_progress_handler(self) -> None:
        """Have the progress handler that belongs here when the budget needs it no more: none."""
        sqlite3.Connection.set_progress_handler(self, None, 0)

    def _note(self, name: str) -> None:
        self.plain = self.plain and name.lower() not in FUNCTIONS


class Budget:
    """What SQLite asks while it reads on the loop. It knows no connection: SQLite's handle keeps it."""

    __slots__ = ("_clock", "_ends", "_left")

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = -1
        self._ends = 0.0

    def begin(self) -> None:
        """Give one statement its budget."""
        self._left = QUESTIONS
        self._ends = self._clock() + SECONDS

    def end(self) -> None:
        """Let whatever runs from now on end by itself."""
        self._left = -1

    def __call__(self) -> bool:
        """Tell whether to interrupt the statement."""
        if self._left < 0:
            return False
        self._left -= 1
        return self._left <= 0 or self._clock() > self._ends


class OnLoop:
    """One connection's share of the event loop. Used by the loop, and by the thread while the loop leaves it alone."""

    def __init__(
        self,
        shapes: Shapes | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
        disk: Callable[[], int] = disk_reads,
    ) -> None:
        self.asked = self.done = 0
        """Calls that were handed to the thread, and that it has done; each written by one side."""
        self.statements = 0
        """Statements that ran on the loop."""
        self._shapes = shapes
        self._clock = clock
        self._budget = Budget(clock=cpu_clock)
        self._disk = disk
        self._read_before = 0  # what had been read from the disk when a statement was late before
        self._here = False  # whether the connection is set up for the loop
        self._cursor: sqlite3.Cursor | None = None
        self._busy_timeout = self._length = 0
        self._clean = False  # whether the transaction began here and only reads were run since
        self._locked = False  # whether it began with the writer's lock, and nothing was run that could have ended it
        self._schema: int | None = None  # the version of the schema of a transaction that writes here
        self._has_own_schema: bool | None = None  # which may have a trigger that no other connection knows
        self._turn = (0, 0.0)
        self._reads = self._stays = False  # what the next hand-over does to the transaction
        self._commits = False  # whether it is a COMMIT

    # -- on the loop

    @property
    def idle(self) -> bool:
        """Whether the thread has done all it was asked."""
        return self.asked == self.done

    def find(self, raw: sqlite3.Connection, sql: str) -> Shape | None:
        """Give what is known of a statement; None when it has no business on the loop."""
        if self._shapes is None or not isinstance(raw, PlainConnection) or not raw.plain:
            return None
        return self._shapes.find(sql)

    def run(
        self, raw: sqlite3.Connection, cursor: sqlite3.Cursor, sql: str, given: Any, shape: Shape
    ) -> list[Any] | None:
        """Run a statement now and give its first :data:`ROWS` rows; None when it has to run in the thread.

        Nothing has happened then, and the thread runs it from the beginning. Raises what a write raises.
        """
        place = shape.place
        shapes = self._shapes
        if shapes is None or place is None or place is Place.THREAD or not self.idle or not shapes.may_run(shape):
            return None
        if place is Place.READ:
            return self._read(raw, cursor, sql, given, shape)
        if place is Place.WRITE:
            return self._write(raw, cursor, sql, given, shape)
        if raw.in_transaction is not (place is Place.SAVEPOINT) or (place is Place.SAVEPOINT and not self._clean):
            return None
        if not self._short(raw, shape, lambda: cursor.execute(sql)):
            return None
        if place is not Place.SAVEPOINT:
            self._clean = True
            self._locked = place is Place.BEGIN_IMMEDIATE
            self._schema = None
        return []

    def ends(self, raw: sqlite3.Connection, name: str) -> bool:
        """Commit or roll back now, and tell whether that was possible."""
        shapes = self._shapes
        if shapes is None or not self._clean or not self.idle or not raw.in_transaction:
            return False
        shape = shapes.ending(name)
        if not shapes.may_run(shape) or not self._short(raw, shape, raw.commit if name == "COMMIT" else raw.rollback):
            return False
        self._clean = self._locked = False
        return True

    def had_its_turn(self) -> bool:
        """Tell whether the other tasks are to have theirs."""
        statements, seconds = self._turn
        if statements < TURN[0] and seconds < TURN[1]:
            return False
        self._turn = (0, 0.0)
        return True

    def announce(self, sql: str, shape: Shape | None) -> None:
        """Say which statement the next hand-over is for; without one it may be for anything."""
        self._reads = shape is not None and shape.place is Place.READ
        self._stays = self._reads or sql.lstrip()[:6].upper() in _IN_IT
        if self._shapes is not None and not self._stays:
            self._shapes.wal = False  # it may be a PRAGMA: the next judgement asks

    def announce_commit(self) -> None:
        """Say that the next hand-over is a COMMIT."""
        self._commits = True

    def hand_over(self) -> bool:
        """Note a call that goes to the thread; tell whether it needs the connection as the thread has it.

        A COMMIT in WAL mode computes nothing and waits for no lock: the writer has them all.
        """
        shapes, commits = self._shapes, self._commits
        self._commits = False
        self.asked += 1
        self._turn = (0, 0.0)
        if not self._stays and not commits:
            self._has_own_schema = None
        self._clean = self._clean and self._reads
        self._locked = self._locked and self._stays
        self._reads = self._stays = False
        return not (commits and shapes is not None and shapes.wal)

    def _read(
        self, raw: sqlite3.Connection, cursor: sqlite3.Cursor, sql: str, given: Any, shape: Shape
    ) -> list[Any] | None:
        self._come(raw)
        started = self._clock()
        self._budget.begin()
        try:
            cursor.execute(sql, given)
            rows = cursor.fetchmany(ROWS)
        except Exception as error:  # noqa: BLE001 - the thread finds out what is wrong, by running it again
            if getattr(error, "sqlite_errorcode", 0) in {sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_TOOBIG}:
                self._shapes.exceeded(shape)  # type: ignore[union-attr]
            return None
        finally:
            self._budget.end()
            self._took(shape, started)
        return rows

    def _write(
        self, raw: sqlite3.Connection, cursor: sqlite3.Cursor, sql: str, given: Any, shape: Shape
    ) -> list[Any] | None:
        if not self._locked or not raw.in_transaction or not _is_short(given) or not self._knows_schema(raw, shape):
            return None
        self._come(raw)  # a read in the thread, since the schema was looked at, has had it leave
        self._clean = False
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._length)
        started = self._clock()
        try:
            cursor.execute(sql, given)
        finally:
            self._took(shape, started)
            raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        return []

    def _short(self, raw: sqlite3.Connection, shape: Shape, call: Callable[[], Any]) -> bool:
        self._come(raw)
        started = self._clock()
        try:
            call()
        except sqlite3.OperationalError:  # busy; whatever else it is, the thread will say
            return False
        finally:
            self._took(shape, started)
        return True

    def _knows_schema(self, raw: sqlite3.Connection, shape: Shape) -> bool:
        """Tell whether a write was judged with the schema of this transaction, which nobody else can change."""
        if self._schema is None:
            self._come(raw)
            self._schema = self._ask(raw, "PRAGMA schema_version")
        if self._has_own_schema is None:
            self._has_own_schema = bool(self._ask(raw, "PRAGMA temp.schema_version"))
        return self._schema == shape.schema and not self._has_own_schema

    def _took(self, shape: Shape, started: float) -> None:
        seconds = self._clock() - started
        self.statements += 1
        statements, spent = self._turn
        self._turn = (statements + 1, spent + seconds)
        disk = False
        if seconds > LATE:  # not before: asking the system costs as much as a short statement
            read = self._disk()
            disk, self._read_before = read > self._read_before, read
        self._shapes.took(shape, seconds, disk=disk)  # type: ignore[union-attr]

    def _come(self, raw: sqlite3.Connection) -> None:
        if self._here:
            return
        self._here = True
        self._read_before = self._read_before or self._disk()
        self._busy_timeout = self._ask(raw, "PRAGMA busy_timeout")
        self._ask(raw, "PRAGMA busy_timeout=0")
        self._length = raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        sqlite3.Connection.set_progress_handler(raw, self._budget, STEPS)

    def _ask(self, raw: sqlite3.Connection, question: str) -> Any:
        cursor = self._cursor
        if cursor is None:
            # Not by the connection's own method, which begins another statement's time.
            cursor = self._cursor = sqlite3.Connection.cursor(raw)
        cursor.row_factory = None  # a cursor has the row factory of its connection
        row = cursor.execute(question).fetchone()
        cursor.fetchone()
        return row[0] if row else None

    # -- in the thread

    def leave(self, raw: sqlite3.Connection) -> None:
        """Have the connection as the thread needs it."""
        if not self._here or not isinstance(raw, PlainConnection):
            return
        self._here = False
        raw.resume_progress_handler()
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._length)
        self._ask(raw, f"PRAGMA busy_timeout={self._busy_timeout}")

    def judge(self, raw: sqlite3.Connection, sql: str, given: Any, shape: Shape) -> None:
        """Judge a statement, unless it is known."""
        if self._shapes is None or not self._shapes.wants_judging(shape):
            return
        cursor = sqlite3.Connection.cursor(raw)
        cursor.row_factory = None
        try:
            program = cursor.execute("EXPLAIN " + sql, given).fetchall()
            place = judge(program)
            if place is Place.WRITE:
                if not self._writes_nothing_before_commit(raw):
                    place = Place.THREAD
                shape.schema = self._ask(raw, "PRAGMA schema_version")
        except Exception:  # noqa: BLE001 - running it will tell
            return
        finally:
            cursor.close()
        self._shapes.judged(shape, place)

    def _writes_nothing_before_commit(self, raw: sqlite3.Connection) -> bool:
        mode = self._ask(raw, "PRAGMA journal_mode")
        self._shapes.wal = mode == "wal"  # type: ignore[union-attr]
        return mode in {"wal", "memory"}


def _is_short(given: Any) -> bool:
    """Tell whether parameters are small; what has a size of its own kind, as a memoryview has, is taken for large."""
    values: list[Any] = list(given.values() if isinstance(given, dict) else given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    size = 0
    for value in values:
        if isinstance(value, str | bytes):
            size += len(value)
        elif not (value is None or isinstance(value, int | float)):
            return False
    return size <= LONGEST_PARAMETERS
