"""The queue for places, pure: no clock, no lock, no I/O. ``core/admission.py`` is the shell around it.

A *place* is the right to hold one connection. There are as many places as connections may be open, so
whoever has a place never waits for the pool. On SQLite there is one *writer's place* besides: a unit
that writes takes both in one step, so that nobody holds one of them while waiting for the other, and
units that only read pass by those who wait to write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from fastapi_database.core.shedding import Shedding
from fastapi_database.errors import RETRY_AFTER, QueueFull, QueueShed

LONGEST_RETRY = 60.0
"""Seconds. What was measured a minute ago tells little; a client that is sent away for longer does not come back."""

Refusal = QueueFull | QueueShed

_NEWEST = 0.1  # the weight of the newest time in the mean time a place is held


class Owner(Protocol):
    """Whoever claims a place; its ``str`` stands in messages."""

    @property
    def priority(self) -> int:
        """Claims with a higher one go first. Looked at only when a claim has to wait."""
        ...

    @property
    def location(self) -> str:
        """Where the code stands that its ``str`` names; empty where that says so itself. Looked at for messages."""
        ...


@dataclass(frozen=True, slots=True)
class Named:
    """An owner that has a name and nothing else."""

    name: str
    priority: int = 0
    location: str = ""

    def __str__(self) -> str:
        return self.name


def _nobody() -> bool:
    """Wake nobody: the place was granted before anyone had to wait."""
    return True


@dataclass(slots=True, eq=False)
class Ticket:
    """One claim to a place. Made by :meth:`AdmissionQueue.request`, given back by ``release``."""

    writer: bool
    owner: Owner
    requested: float
    number: int
    priority: int = 0
    request: object = None
    """The request whose context the place was claimed in, if it was one."""
    granted: float | None = None
    refusal: Refusal | None = None
    """Why it lost its turn: in a full queue, to a claim of higher priority; in one that stands, to those behind it."""
    upgrading: bool = False
    wake: Callable[[], bool] = _nobody
    """Tells whoever waits that the place is granted, or the turn lost; False when nobody is left to hear it."""


class Line:
    """Claims that wait: by priority, and in the order they came."""

    def __init__(self, *, target: float) -> None:
        self._claims: dict[int, deque[Ticket]] = {}
        self.shedding = Shedding(target=target)

    def __len__(self) -> int:
        return sum(map(len, self._claims.values()))

    def __bool__(self) -> bool:
        return bool(self._claims)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._claims.get(ticket.priority, ())

    @property
    def first(self) -> Ticket:
        """The claim whose turn is next."""
        return self._claims[max(self._claims)][0]

    @property
    def last(self) -> Ticket:
        """The claim whose turn is last."""
        return self._claims[min(self._claims)][-1]

    def serve(self, ticket: Ticket, now: float) -> None:
        """Take a claim out that has its place now."""
        self.shedding.served()
        if ticket.priority == min(self._claims):  # those before it are served early whatever the line is like
            self.shedding.least = min(self.shedding.least, now - ticket.requested)
        self.remove(ticket)

    def overdue(self, now: float) -> Ticket | None:
        """Take out who has waited too long in a line that stands, the lowest priority first.

        One for each claim that comes: all of them at once would keep the process busy with refusals for as long as a
        second, in which nobody is served.
        """
        if self.shedding.standing:
            for priority in sorted(self._claims):
                first = self._claims[priority][0]
                if now - first.requested > self.shedding.limit:
                    self.remove(first)
                    return first
        return None

    def add(self, ticket: Ticket) -> None:
        """Put a claim behind those of its priority."""
        self._claims.setdefault(ticket.priority, deque()).append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Take a claim out, wherever it stands."""
        claims = self._claims[ticket.priority]
        if claims[0] is ticket:
            claims.popleft()
        else:
            claims.remove(ticket)
        if not claims:
            del self._claims[ticket.priority]


class AdmissionQueue:
    """By priority, then first come, first served, with a bound.

    While the line stands, no more may wait than are served within the ``target``, in seconds, and who has waited for
    more than twice of it makes room: see ``core/shedding.py``.

    Every method that may grant places calls ``wake`` of the tickets it granted, in order. A place that nobody takes
    any more, because the event loop that waited was closed, goes to the next.
    """

    def __init__(self, *, places: int, max_waiting: int, single_writer: bool, target: float = inf) -> None:
        self.places = places
        self.max_waiting = max_waiting
        self.single_writer = single_writer
        self.held: dict[Ticket, None] = {}
        self._writing: Ticket | None = None
        self._readers = Line(target=target)
        self._writers = Line(target=target)
        self._upgrades: deque[Ticket] = deque()
        self._next = 0
        self._mean_hold = 0.0

    @property
    def writing(self) -> Ticket | None:
        """The holder of the writer's place."""
        return self._writing

    @property
    def waiting(self) -> int:
        """How many claims wait for a place."""
        return len(self._readers) + len(self._writers)

    def expected_wait(self, *, writer: bool, now: float) -> float:
        """Estimate the seconds until a claim that comes now would be granted: those before it, at the mean hold.

        Places that are held for longer already, by a mean, tell more than those that were given back.
        """
        ages = [now - ticket.granted for ticket in self.held if ticket.granted is not None]
        hold = max(self._mean_hold, sum(ages) / len(ages) if ages else 0.0)
        one_at_a_time = writer and self.single_writer
        ahead = len(self._writers if one_at_a_time else self._readers)
        return (ahead + 1) * hold / (1 if one_at_a_time else self.places)

    def retry_after(self, *, writer: bool, now: float) -> float:
        """Give the seconds after which a claim that is refused now may come again."""
        return min(max(RETRY_AFTER, self.expected_wait(writer=writer, now=now)), LONGEST_RETRY)

    def request(self, *, writer: bool, owner: Owner, now: float) -> Ticket:
        """Claim a place; it is granted at once when one is free, else the claim waits its turn.

        Where ``max_waiting`` claims wait already, or as many as may in a line that stands, the last one gives way to a
        claim of higher priority.
        """
        self._next += 1
        ticket = Ticket(writer=writer and self.single_writer, owner=owner, requested=now, number=self._next)
        line = self._line_of(ticket)
        if not line and len(self.held) < self.places and not (ticket.writer and self._writer_taken()):
            line.shedding.least = 0.0
            self._grant(ticket, now)
            return ticket
        line.shedding.came(now=now)
        self._shed(line, now)
        ticket.priority = owner.priority
        if self.waiting >= self.max_waiting:
            line.shedding.refused()
            self._make_room(ticket, [one for one in (self._readers, self._writers) if one], now, self._full)
        elif len(line) >= max(line.shedding.room, 1 if ticket.writer else self.places):
            self._make_room(ticket, [line], now, self._one_too_many)
        line.add(ticket)
        return ticket

    def upgrade(self, ticket: Ticket, *, now: float) -> bool:
        """Claim the writer's place for a holder that meant to read; True when it has it now."""
        if not self.single_writer or ticket.writer:
            return True
        if self._writing is None:
            ticket.writer = True
            self._writing = ticket
            return True
        ticket.upgrading = True
        self._upgrades.append(ticket)
        return False

    def abandon_upgrade(self, ticket: Ticket) -> bool:
        """Stop waiting for the writer's place; False when it was granted in the meantime."""
        if not ticket.upgrading:
            return False
        ticket.upgrading = False
        self._upgrades.remove(ticket)
        return True

    def release(self, ticket: Ticket, *, now: float) -> None:
        """Give a place back, or withdraw a claim that still waits. A second call does nothing."""
        if ticket in self.held:
            if ticket.upgrading:
                self.abandon_upgrade(ticket)
            self._take_back(ticket)
            if ticket.granted is not None:
                self._mean_hold += _NEWEST * (now - ticket.granted - self._mean_hold)
        else:
            line = self._line_of(ticket)
            if ticket.granted is not None or ticket not in line:
                return
            line.remove(ticket)
        if self._readers or self._writers or self._upgrades:
            self._serve(now)

    def expire(self, ticket: Ticket, *, now: float) -> None:
        """Withdraw a claim whose deadline has passed."""
        self._line_of(ticket).shedding.refused()
        self.release(ticket, now=now)

    def _line_of(self, ticket: Ticket) -> Line:
        return self._writers if ticket.writer else self._readers

    def _writer_taken(self) -> bool:
        return self._writing is not None or bool(self._upgrades)

    def _grant(self, ticket: Ticket, now: float) -> None:
        ticket.granted = now
        self.held[ticket] = None
        if ticket.writer:
            self._writing = ticket

    def _take_back(self, ticket: Ticket) -> None:
        del self.held[ticket]
        if self._writing is ticket:
            self._writing = None

    def _full(self, ticket: Ticket, now: float, besides: str) -> QueueFull:
        return QueueFull(
            f"{self.waiting} requests wait for one of {self.places} connections already, which is max_waiting{besides}",
            retry_after=self.retry_after(writer=ticket.writer, now=now),
        )

    def _make_room(
        self, ticket: Ticket, lines: Sequence[Line], now: float, refusal: Callable[[Ticket, float, str], Refusal]
    ) -> None:
        """Have the last claim give way to one of higher priority; raise the refusal where there is none to do so."""
        line = min(lines, key=lambda one: (one.last.priority, -one.last.number), default=None)
        if line is None or line.last.priority >= ticket.priority:
            raise refusal(ticket, now, "")
        last = line.last
        last.refusal = refusal(last, now, ", and one of higher priority came")
        line.remove(last)
        last.wake()

    def _shed(self, line: Line, now: float) -> None:
        ticket = line.overdue(now)
        if ticket is not None:
            ticket.refusal = self._overdue(ticket, line, now)
            ticket.wake()

    def _one_too_many(self, ticket: Ticket, now: float, besides: str) -> QueueShed:
        line = self._line_of(ticket)
        return QueueShed(
            f"{len(line)} requests wait already, as many as are served within queue_target={line.shedding.target:g} s"
            f"{besides}, and more come than are served (max_connections {self.places}, in use {len(self.held)}). Make "
            "the work of a request shorter, or raise max_connections if the database has room",
            retry_after=self.retry_after(writer=ticket.writer, now=now),
        )

    def _overdue(self, ticket: Ticket, line: Line, now: float) -> QueueShed:
        return QueueShed(
            f"no connection after {now - ticket.requested:.2f} s, and more requests come than are served "
            f"(max_connections {self.places}, in use {len(self.held)}, waiting {self.waiting}): who has waited more "
            f"than twice queue_target={line.shedding.target:g} s makes room for those behind. Make the work of a "
            "request shorter, or raise max_connections if the database has room",
            retry_after=self.retry_after(writer=ticket.writer, now=now),
        )

    def _serve(self, now: float) -> None:
        # A holder that waits to write comes first: it keeps a place from the others until it has written.
        if self._writing is None and self._upgrades:
            ticket = self._upgrades.popleft()
            ticket.upgrading = False
            ticket.writer = True
            self._writing = ticket
            ticket.wake()
        while len(self.held) < self.places and (line := self._next_line()) is not None:
            ticket = line.first
            line.serve(ticket, now)
            self._grant(ticket, now)
            if not ticket.wake():
                self._take_back(ticket)

    def _next_line(self) -> Line | None:
        able = [self._readers] if self._readers else []
        if self._writers and not self._writer_taken():
            able.append(self._writers)
        return min(able, key=lambda line: (-line.first.priority, line.first.number), default=None)
