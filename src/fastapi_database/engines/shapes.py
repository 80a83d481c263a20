"""Which statements of SQLite may run on the event loop: judged by the program that SQLite makes of them.

``EXPLAIN`` shows that program, with what a text does not: the functions of views, generated columns and indexes, and
triggers. A statement may read on the loop when each instruction of it takes a short time; how many there are is bounded
when it runs. It may write there when its program has no loop, so that it touches a fixed number of rows. An
instruction, function or collation that is not named here is not known to be short, and leaves the statement in its
thread.

The instructions are listed at https://sqlite.org/opcode.html and were seen in SQLite 3.40. They are no interface, and
another version may have others: statements that use those stay in their thread.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LONGEST_TEXT = 10_000
"""Characters of a statement that is compiled on the loop."""

KNOWN = 1_000
"""Statements that are remembered; the one known for longest is forgotten first."""

JUDGED_FOR = 60.0
"""Seconds after which a statement is judged again: the schema may have changed."""

SLOW_FOR = 10.0
"""Seconds a statement stays in its thread after it exceeded the budget of the loop."""

LATE = 0.005
"""Seconds a statement may take on the loop. One that takes longer and reads from a disk, twice in succession, stays in
its thread for a while. What takes longer and reads nothing has waited for a processor, as it would in a thread."""

HUNG = 0.1
"""Seconds after which a statement is late whatever it waited for: not every file system counts what is read."""

_PENALTY = 20.0  # times its duration, and twice as long each time in succession
_LONGEST_PENALTY = 60.0  # seconds

FUNCTIONS = _names(
    "abs avg changes coalesce count current_date current_time current_timestamp date datetime dense_rank "
    "first_value ifnull iif instr julianday lag last_insert_rowid last_value lead length likelihood likely lower "
    "ltrim max min nth_value ntile nullif percent_rank rank round row_number rtrim sign strftime substr substring sum "
    "time total trim typeof unixepoch unlikely upper"
)
"""Functions of SQLite that take a time in proportion to their arguments, which are short on the loop."""

COLLATIONS = frozenset({"B", "BINARY", "NOCASE", "RTRIM"})

_JUMPS = _names(
    "ElseEq ElseNotEq Eq FkIfZero Found Ge Goto Gt If IfNoHope IfNot IfNotOpen IfNullRow IsNull IsType Init Jump Le Lt "
    "MustBeInt Ne NoConflict NotExists NotFound NotNull Once SeekRowid"
)
_STRAIGHT = _JUMPS | _names(
    "Add AddImm Affinity And BitAnd BitNot BitOr Blob Cast Close CollSeq Column Compare Concat Copy Divide "
    "FinishSeek Function Halt HaltIfNull IdxRowid Int64 IntCopy Integer IsTrue MakeRecord Move Multiply Noop Not Null "
    "NullRow OpenPseudo OpenRead Or Permutation PureFunc Real RealAffinity ReleaseReg Remainder ReopenIdx ResultRow "
    "Rowid RowData SCopy SeekHit ShiftLeft ShiftRight SoftNull String String8 Subtract TableLock Trace Transaction "
    "TypeCheck Variable ZeroOrNull"
)
_READS = _STRAIGHT | _names(
    "AggFinal AggInverse AggStep AggStep1 AggValue BeginSubrtn ColumnsUsed CursorHint DecrJumpZero DeferredSeek Delete "
    "EndCoroutine Explain Filter FilterAdd Gosub IdxDelete IdxGE IdxGT IdxInsert IdxLE IdxLT IfNotZero IfPos "
    "IfSizeBetween IfSmaller InitCoroutine Insert Last NewRowid Next OffsetLimit OpenAutoindex OpenDup OpenEphemeral "
    "Prev ResetSorter Return Rewind RowCell RowSetAdd RowSetRead RowSetTest SeekEnd SeekGE SeekGT SeekLE SeekLT "
    "SeekScan Sequence SequenceTest Sort SorterCompare SorterData SorterInsert SorterNext SorterOpen SorterSort Yield"
)
"""Without ``Count``, which walks through a whole table, and without what writes: an ``Insert`` in a program that opens
no table for writing goes into one that the statement keeps for itself."""
_WRITES = _STRAIGHT | _names("Delete FkCounter IdxDelete IdxInsert Insert NewRowid OpenWrite")
_CALLS = frozenset({"AggFinal", "AggInverse", "AggStep", "AggStep1", "AggValue", "Function", "PureFunc"})

_JUDGED = frozenset({"SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "REPLACE"})


class Place(enum.Enum):
    """Where a statement may run."""

    THREAD = "thread"
    READ = "read"  # on the loop, within a budget
    WRITE = "write"  # on the loop, in a transaction that has the lock of the writer
    BEGIN = "begin"
    BEGIN_IMMEDIATE = "begin immediate"
    SAVEPOINT = "savepoint"


def judge(program: Iterable[Sequence[Any]]) -> Place:
    """Tell where a statement may run, by the rows of its ``EXPLAIN``."""
    rows = [(row[0], row[1], row[2], row[3], row[5]) for row in program]
    opcodes = {row[1] for row in rows}
    if not rows or any(not _is_ours(opcode, p4) for _, opcode, _, _, p4 in rows):
        return Place.THREAD
    writes = "OpenWrite" in opcodes or any(opcode == "Transaction" and p2 for _, opcode, _, p2, _ in rows)
    if not writes:
        return Place.READ if opcodes <= _READS else Place.THREAD
    in_main = all(p1 == 0 for _, opcode, p1, _, _ in rows if opcode == "Transaction")
    last = rows[-1][0]
    loops = any(
        opcode in _JUMPS and p2 <= address and address != last  # the last one goes back to the start, once
        for address, opcode, _, p2, _ in rows
    )
    return Place.WRITE if in_main and not loops and opcodes <= _WRITES else Place.THREAD


def _is_ours(opcode: str, p4: Any) -> bool:
    """Tell whether what an instruction calls back is SQLite's own and short."""
    if not isinstance(p4, str):
        return True
    if opcode in _CALLS:
        return p4.partition("(")[0].lower() in FUNCTIONS
    if p4.startswith("k("):  # a key: the number of its columns, then the collation of each, with "-" where it descends
        names = p4[2:].rstrip(")").split(",")[1:]
        return all(name.lstrip("-").removeprefix("N.") in {*COLLATIONS, ""} for name in names)
    if opcode in {"Eq", "Ne", "Lt", "Le", "Gt", "Ge", "CollSeq"}:
        return p4.rpartition("-")[0] in COLLATIONS or p4 in COLLATIONS
    return True


class Shape:
    """What is known of one statement."""

    __slots__ = ("again", "away_until", "place", "schema", "strikes")

    def __init__(self, place: Place | None, *, again: float) -> None:
        self.place = place
        """None until it is judged."""
        self.again = again
        """When it is to be judged again."""
        self.schema: int | None = None
        """The version of the schema that a write was judged with."""
        self.away_until = 0.0
        self.strikes = 0


class Shapes:
    """Remembers the statements of one ``Database``; used by all of its event loops and threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._shapes: dict[str, Shape] = {}
        self.wal = False
        """Whether the database was in WAL mode when a write was judged last."""
        self._control = {
            "BEGIN": Shape(Place.BEGIN, again=float("inf")),
            "BEGIN DEFERRED": Shape(Place.BEGIN, again=float("inf")),
            "BEGIN IMMEDIATE": Shape(Place.BEGIN_IMMEDIATE, again=float("inf")),
            "COMMIT": Shape(Place.THREAD, again=float("inf")),
            "ROLLBACK": Shape(Place.THREAD, again=float("inf")),
        }

    def find(self, sql: str) -> Shape | None:
        """Give what is known of a statement; None for one that is not worth knowing, or was never seen before.

        Statements that are built anew each time would each be judged for nothing, so only the second use counts.
        """
        shape = self._control.get(sql) or self._shapes.get(sql)
        if shape is None:
            self._add(sql)
        return shape

    def wants_judging(self, shape: Shape) -> bool:
        """Tell whether a statement is to be judged when it runs in its thread."""
        return shape.place is None or self._clock() >= shape.again

    def judged(self, shape: Shape, place: Place) -> None:
        """Remember where a statement may run."""
        shape.again = self._clock() + JUDGED_FOR
        shape.place = place

    def may_run(self, shape: Shape) -> bool:
        """Tell whether a statement that was judged may be tried on the loop now."""
        now = self._clock()
        return now >= shape.away_until and now < shape.again

    def exceeded(self, shape: Shape) -> None:
        """Note that a statement exceeded its budget."""
        shape.away_until = self._clock() + SLOW_FOR

    def took(self, shape: Shape, seconds: float, *, disk: bool = False) -> None:
        """Note how long a statement took on the loop, and whether a disk was read meanwhile."""
        if seconds <= (LATE if disk else HUNG):
            shape.strikes = 0
            return
        if shape.strikes:
            away = min(_LONGEST_PENALTY, seconds * _PENALTY * 2 ** (shape.strikes - 1))
            shape.away_until = self._clock() + away
        shape.strikes = min(shape.strikes + 1, 10)

    def ending(self, name: str) -> Shape:
        """Give what is known of ``COMMIT`` and ``ROLLBACK``, which have no text in the driver."""
        return self._control[name]

    def _add(self, sql: str) -> None:
        words = sql.split(None, 2)
        first = words[0].upper() if words else ""
        if len(sql) > LONGEST_TEXT:
            return
        if first == "SAVEPOINT" and len(words) == 2:
            shape = Shape(Place.SAVEPOINT, again=float("inf"))
        elif first in _JUDGED:
            shape = Shape(None, again=0.0)
        else:
            return
        with self._lock:
            if len(self._shapes) >= KNOWN:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[sql] = shape
