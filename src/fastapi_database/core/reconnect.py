"""When to try again after the database could not be reached. Pure: clock and randomness come in as arguments.

While connections can be opened, any number may be opened at once. After one could not, one attempt is made at a time,
with pauses between them that grow and vary; whoever needs a connection meanwhile is refused at once. So a server that
comes back is not run over by all who wait for it, an attempt costs one request and not all of them, and processes
that lost the same server do not come back in step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds. Short: an attempt costs a server that is away nothing, and one that is back should be found soon."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One attempt to open a connection."""

    started: float


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the database could not be reached, for messages."""

    since: float
    attempts: int


class Reconnect:
    """Decides who may try to connect. Times are seconds of one monotonic clock; ``random`` gives 0 up to 1."""

    def __init__(self, *, random: Callable[[], float]) -> None:
        self._random = random
        self._running: set[Attempt] = set()
        self._next = float("-inf")
        self.outage: Outage | None = None
        """The outage that lasts, or None while the database can be reached as far as anybody knows."""

    def start(self, now: float) -> Attempt | None:
        """Begin an attempt, or give None to whoever must not try now."""
        if self.outage is not None and (self._running or now < self._next):
            return None
        attempt = Attempt(now)
        self._running.add(attempt)
        return attempt

    def wait(self, now: float) -> float:
        """Seconds until the next attempt may begin; 0 while one is under way."""
        return max(0.0, self._next - now)

    def succeeded(self, attempt: Attempt) -> Outage | None:
        """Note that the database was reached; gives the outage that this ends."""
        self._running.discard(attempt)
        ended, self.outage = self.outage, None
        return ended

    def failed(self, attempt: Attempt, now: float) -> None:
        """Note that an attempt failed, and pause before the next one.

        Attempts that were under way together fail together: they are one failure, and make one pause.
        """
        self._running.discard(attempt)
        outage = self.outage
        if outage is not None and attempt.started < outage.since:
            return
        attempts = 1 if outage is None else outage.attempts + 1
        self.outage = Outage(since=now if outage is None else outage.since, attempts=attempts)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempts - 1, 10))
        self._next = now + pause * (0.5 + self._random() / 2)

    def withdrawn(self, attempt: Attempt) -> None:
        """Note that an attempt ended and says nothing about the database."""
        self._running.discard(attempt)
