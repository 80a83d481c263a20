"""Who is served under overload, by policy: the queue itself on a simulated clock, so that no machine disturbs it.

The queue of `core/queue.py` has no clock of its own, so a run of minutes takes a second here and gives the same numbers
everywhere. Beside the policies that the library has stand the two that were considered and are not in it.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from fastapi_database.core.queue import AdmissionQueue, Line, Named, Owner, Ticket
from fastapi_database.core.shedding import Shedding
from fastapi_database.errors import QueueFull, QueueShed

PLACES = 5
HOLD = 0.2  # seconds
CAPACITY = PLACES / HOLD
TIMEOUT = 5.0
MAX_WAITING = 100  # four seconds of work, as the default is for requests of 20 ms on five connections
LENGTH = 60.0  # seconds of a run
PATIENCE = 1.0  # seconds after which whoever asked has gone, in one of the columns
OWNER = Named("request")


@dataclass(frozen=True)
class Arrival:
    """One request: when it comes and how long it needs its place."""

    at: float
    hold: float


@dataclass
class Outcome:
    """What became of the requests."""

    waits: dict[int, float] = field(default_factory=dict)
    """Seconds that those waited who were served, by the number of the request."""
    finished: int = 0
    """How many were served while requests still came: what waits at the end is no throughput."""
    refusals: dict[int, float] = field(default_factory=dict)
    """Seconds until the others were refused."""
    longest_line: int = 0

    @property
    def in_patience(self) -> int:
        """How many were served before they had gone."""
        return sum(wait <= PATIENCE for wait in self.waits.values())

    def wait(self, share: float) -> float:
        """Give a percentile of the waits of those who were served."""
        ordered = sorted(self.waits.values())
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class LastFirst(Line):
    """Adaptive LIFO: the newest goes first while the line stands."""

    @property
    def first(self) -> Ticket:
        return self._claims[max(self._claims)][-1] if self.shedding.standing else super().first

    def overdue(self, now: float) -> Ticket | None:
        return None


class Unbounded(Shedding):
    """CoDel alone: whoever comes may wait, and is refused after twice the target."""

    def _judge(self, now: float) -> None:
        super()._judge(now)
        self.room = math.inf


class Eager(Unbounded):
    """CoDel without the two conditions: a line that stands is one in which nobody was served early."""

    def _judge(self, now: float) -> None:
        standing = math.inf > self.least > self.target
        super()._judge(now)
        self.standing = standing


class AtArrival(AdmissionQueue):
    """Refuses whoever would meet the deadline, by the estimate that `Retry-After` is made of."""

    def request(self, *, writer: bool, owner: Owner, now: float) -> Ticket:
        if self.waiting and self.expected_wait(writer=writer, now=now) > TIMEOUT:
            raise QueueFull("expected to wait too long")
        return super().request(writer=writer, owner=owner, now=now)


def first_come() -> AdmissionQueue:
    """The library with `queue_target` off."""
    return controlled_delay(math.inf)


def controlled_delay(target: float = 0.2, *, max_waiting: int = MAX_WAITING) -> AdmissionQueue:
    """The library."""
    return AdmissionQueue(places=PLACES, max_waiting=max_waiting, single_writer=False, target=target)


def last_first(target: float) -> AdmissionQueue:
    """Considered and not in the library."""
    queue = controlled_delay(target)
    queue._readers = LastFirst(target=target)
    queue._readers.shedding = Unbounded(target=target)
    return queue


def unbounded(target: float) -> AdmissionQueue:
    """Considered and not in the library."""
    queue = controlled_delay(target)
    queue._readers.shedding = Unbounded(target=target)
    return queue


def eager(target: float) -> AdmissionQueue:
    """Considered and not in the library."""
    queue = controlled_delay(target)
    queue._readers.shedding = Eager(target=target)
    return queue


def at_arrival() -> AdmissionQueue:
    """Considered and not in the library."""
    return AtArrival(places=PLACES, max_waiting=MAX_WAITING, single_writer=False)


def poisson(rate: float, seconds: float, *, hold: float = HOLD, seed: int = 1) -> Iterator[Arrival]:
    """Give independent arrivals; holds vary around their mean as those of a database do."""
    chance = random.Random(seed)
    now = 0.0
    while (now := now + chance.expovariate(rate)) < seconds:
        yield Arrival(now, hold * chance.uniform(0.5, 1.5))


def simulate(queue: AdmissionQueue, arrivals: Iterator[Arrival], *, timeout: float = TIMEOUT) -> Outcome:
    """Let requests come, wait, be served or be refused, in the order of a simulated clock."""
    return _Simulation(queue, timeout).run(arrivals)


class _Simulation:
    """A clock, and an agenda of what happens when."""

    def __init__(self, queue: AdmissionQueue, timeout: float) -> None:
        self._queue = queue
        self._timeout = timeout
        self._now = 0.0
        self._last = 0.0
        self._order = count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._outcome = Outcome()

    def run(self, arrivals: Iterator[Arrival]) -> Outcome:
        for number, arrival in enumerate(arrivals):
            self._last = arrival.at
            self._at(arrival.at, partial(self._come, number, arrival))
        while self._agenda:
            self._now, _, happen = heapq.heappop(self._agenda)
            happen()
            self._outcome.longest_line = max(self._outcome.longest_line, self._queue.waiting)
        return self._outcome

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), happen))

    def _come(self, number: int, arrival: Arrival) -> None:
        try:
            ticket = self._queue.request(writer=False, owner=OWNER, now=self._now)
        except (QueueFull, QueueShed):
            self._outcome.refusals[number] = 0.0
            return
        if ticket.granted is not None:
            self._serve(number, arrival, ticket)
        else:
            ticket.wake = partial(self._wake, number, arrival, ticket)
            self._at(self._now + self._timeout, partial(self._give_up, number, arrival, ticket))

    def _wake(self, number: int, arrival: Arrival, ticket: Ticket) -> bool:
        if ticket.refusal is None:
            self._serve(number, arrival, ticket)
        else:
            self._outcome.refusals[number] = self._now - arrival.at
        return True

    def _serve(self, number: int, arrival: Arrival, ticket: Ticket) -> None:
        self._outcome.waits[number] = self._now - arrival.at
        self._outcome.finished += self._now + arrival.hold <= self._last
        self._at(self._now + arrival.hold, partial(self._release, ticket))

    def _give_up(self, number: int, arrival: Arrival, ticket: Ticket) -> None:
        if ticket.granted is None and ticket.refusal is None:
            self._outcome.refusals[number] = self._now - arrival.at
            self._queue.expire(ticket, now=self._now)

    def _release(self, ticket: Ticket) -> None:
        self._queue.release(ticket, now=self._now)


def table() -> str:
    """Compare what was considered, on a simulated clock: the same on every machine."""
    considered: dict[str, Callable[[], AdmissionQueue]] = {
        "first come, first served (`queue_target` off)": first_come,
        "**the library** (0.2)": controlled_delay,
        "the library, 0.05": lambda: controlled_delay(0.05),
        "the library, 1.0": lambda: controlled_delay(1.0),
        "nobody at arrival, only who has waited, 0.2": lambda: unbounded(0.2),
        "CoDel from the start, 0.2": lambda: eager(0.2),
        "newest first while it stands, 0.2": lambda: last_first(0.2),
        "refuse at arrival by the expected wait": at_arrival,
    }
    lines = [
        "# Whom to refuse under overload",
        "",
        f"The queue itself on a simulated clock: {PLACES} places, held for {HOLD:g} s on average, at most",
        f"{MAX_WAITING} waiting, {LENGTH:g} s. Goodput, and what is served within {PATIENCE:g} s, are shares of what",
        "the places can do. The same on every machine: `python -m bench policies`.",
        "",
        "| load | policy | goodput | within 1 s | p50 | p99 | refused at once | refused later, after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in (0.9, 1.2, 2.0, 5.0):
        for name, make in considered.items():
            lines.append(_policy(f"x {load:g}", name, simulate(make(), poisson(load * CAPACITY, LENGTH))))
    return "\n".join([*lines, *_accidents()]) + "\n"


def _policy(load: str, name: str, outcome: Outcome) -> str:
    later = [wait for wait in outcome.refusals.values() if wait > 0]
    mean = f"{len(later)}, {sum(later) / len(later):.2f} s" if later else "0"
    served = LENGTH * CAPACITY
    return (
        f"| {load} | {name} | {outcome.finished / served:.2f} | {outcome.in_patience / served:.2f} | "
        f"{outcome.wait(0.5):.2f} s | {outcome.wait(0.99):.2f} s | {len(outcome.refusals) - len(later)} | {mean} |"
    )


def _accidents() -> list[str]:
    """Count who is refused in a stall and in a burst."""
    stall = [*(Arrival(0.0, TIMEOUT + 1) for _ in range(PLACES)), *poisson(0.4 * CAPACITY, 20.0)]
    queues = {"first come, first served": first_come, "**the library**": controlled_delay}
    rivals = {"CoDel from the start, 0.2": lambda: eager(0.2), "refuse at arrival by the expected wait": at_arrival}
    lines = [
        "",
        f"Places that are held for {TIMEOUT + 1:g} s by a lock, while 0.4 of capacity comes; how many are refused:",
        "",
        "| policy | refused |",
        "|---|---|",
    ]
    for name, make in (queues | rivals).items():
        lines.append(f"| {name} | {len(simulate(make(), iter(stall)).refusals)} |")
    return lines
