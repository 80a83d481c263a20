"""The time a unit of work has as a whole: no statement starts after it, and one that runs is ended by the database.

Databases limit one statement, not a transaction. So a unit that has a deadline tells the database before a statement
how much of its time is left; again only when a tenth of what it last said has passed, so that the many short statements
of a unit do not cost two round trips each. Units without a deadline have nothing of this.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

_SHORTEST = 0.001  # seconds: 0 would be no limit
_WORTH_TELLING = 0.9  # the part of what was last said below which it is said again
_SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK")


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the time of a unit is over."""

    timeout: float
    """Seconds it had."""
    at: float
    """A time of the clock."""
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, timeout: float, *, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Begin to count now."""
        return cls(timeout, clock() + timeout, clock)

    @property
    def left(self) -> float:
        """Seconds that are left; 0 when it is over."""
        return max(0.0, self.at - self.clock())


def keep(engine: Engine, deadline: Deadline) -> None:
    """Have the database end the statements of an engine, which is one unit's own, when its time is over."""
    event.listen(engine, "before_cursor_execute", _Keeper(deadline).before)


class _Keeper:
    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._told = math.inf

    def before(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(_SAVEPOINTS):
            self._told = math.inf  # a savepoint takes back what was set inside; and a failed transaction takes no more
            return
        left = max(_SHORTEST, self._deadline.left)
        dialect: Any = connection.dialect
        if left < self._told * _WORTH_TELLING or dialect.limits_one_statement:
            self._told = left
            dialect.limit_statements(connection, left)
