"""Who may hold a connection, and who waits: a pure queue under a thin shell.

A *place* is the right to hold one connection. There are as many places as connections may be open, so
whoever has a place never waits for the pool. On SQLite there is one *writer's place* besides: a unit
that writes takes both in one step, so that nobody holds one of them while waiting for the other, and
units that only read pass by those who wait to write.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from fastapi_database.core.internals import running_loop
from fastapi_database.errors import QueueFull, QueueTimeout, Unavailable


class Refusals:
    """The places and connections that one request was refused.

    Code that swallows a refusal (an auth dependency with a wide ``except``) must not turn it into an answer of its own.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._by_owner: dict[Unavailable, object] = {}
        self.over = False
        """True once the request has been answered; tasks it started may still have this in their context."""

    @property
    def errors(self) -> list[Unavailable]:
        """What was refused and not granted later, in order."""
        return list(self._by_owner)

    def note(self, error: Unavailable, owner: object) -> None:
        """Note a refusal; without an ``owner`` until :meth:`claim` tells it."""
        if not self._by_owner:
            self._on_first()
        self._by_owner[error] = owner

    def claim(self, owner: object) -> Unavailable | None:
        """Give the last refusal to a unit that never got a connection: those without an owner are its own."""
        self._by_owner = {error: known or owner for error, known in self._by_owner.items()}
        return next(reversed(self._by_owner), None)

    def forget(self, owner: object) -> None:
        """Take back what an owner was refused: it tried again, and got a place."""
        if self._by_owner:
            self._by_owner = {error: one for error, one in self._by_owner.items() if one != owner}


REFUSALS: ContextVar[Refusals | None] = ContextVar("fastapi_database_refusals", default=None)
"""In the context of a request: what it was refused. None elsewhere."""


def refused(error: Unavailable, *, owner: object = None) -> None:
    """Note in the context of a request, if this is one, that the database was not to be had."""
    refusals = REFUSALS.get()
    if refusals is not None:
        refusals.note(error, owner)


def admitted(owner: object) -> None:
    """Note in the context of a request, if this is one, that an owner got a place, maybe after it was refused one."""
    refusals = REFUSALS.get()
    if refusals is not None:
        refusals.forget(owner)


def _nobody() -> bool:
    """Wake nobody: the place was granted before anyone had to wait."""
    return True


@dataclass(slots=True, eq=False)
class Ticket:
    """One claim to a place. Made by :meth:`AdmissionQueue.request`, given back by ``release``."""

    writer: bool
    owner: object
    """Whoever holds the place; its ``str`` stands in messages."""
    requested: float
    number: int
    request: object = None
    """The request whose context the place was claimed in, if it was one."""
    granted: float | None = None
    upgrading: bool = False
    wake: Callable[[], bool] = _nobody
    """Tells whoever waits that the place is granted; False when nobody is left to hear it."""


class AdmissionQueue:
    """First come, first served, with a bound. No clock, no lock, no I/O: the shell brings those.

    Every method that may grant places calls ``wake`` of the tickets it granted, in order. A place that nobody takes
    any more, because the event loop that waited was closed, goes to the next.
    """

    def __init__(self, *, places: int, max_waiting: int, single_writer: bool) -> None:
        self.places = places
        self.max_waiting = max_waiting
        self.single_writer = single_writer
        self.held: dict[Ticket, None] = {}
        self._writing: Ticket | None = None
        self._readers: deque[Ticket] = deque()
        self._writers: deque[Ticket] = deque()
        self._upgrades: deque[Ticket] = deque()
        self._next = 0

    @property
    def writing(self) -> Ticket | None:
        """The holder of the writer's place."""
        return self._writing

    @property
    def waiting(self) -> int:
        """How many claims wait for a place."""
        return len(self._readers) + len(self._writers)

    def request(self, *, writer: bool, owner: object, now: float) -> Ticket:
        """Claim a place; it is granted at once when one is free, else the claim waits its turn."""
        self._next += 1
        ticket = Ticket(writer=writer and self.single_writer, owner=owner, requested=now, number=self._next)
        line = self._writers if ticket.writer else self._readers
        if not line and len(self.held) < self.places and not (ticket.writer and self._writer_taken()):
            self._grant(ticket, now)
            return ticket
        if self.waiting >= self.max_waiting:
            raise QueueFull(
                f"{self.waiting} requests wait for one of {self.places} connections already, which is max_waiting"
            )
        line.append(ticket)
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
            self.abandon_upgrade(ticket)
            self._take_back(ticket)
        elif ticket.granted is None:
            line = self._writers if ticket.writer else self._readers
            if ticket in line:
                line.remove(ticket)
        self._serve(now)

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

    def _serve(self, now: float) -> None:
        # A holder that waits to write comes first: it keeps a place from the others until it has written.
        if self._writing is None and self._upgrades:
            ticket = self._upgrades.popleft()
            ticket.upgrading = False
            ticket.writer = True
            self._writing = ticket
            ticket.wake()
        while len(self.held) < self.places and (line := self._next_line()):
            ticket = line.popleft()
            self._grant(ticket, now)
            if not ticket.wake():
                self._take_back(ticket)

    def _next_line(self) -> deque[Ticket] | None:
        writers = self._writers if self._writers and not self._writer_taken() else None
        if writers and self._readers:
            return writers if writers[0].number < self._readers[0].number else self._readers
        return writers or self._readers or None


class Admission:
    """The queue with a clock and a lock: places for async callers and for threads.

    Both ways in wait at most ``timeout`` seconds. A cancelled wait gives up its claim.
    """

    def __init__(
        self,
        *,
        places: int,
        max_waiting: int,
        timeout: float,
        single_writer: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = AdmissionQueue(places=places, max_waiting=max_waiting, single_writer=single_writer)
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self.admitted = 0
        self.refused = 0
        self.timed_out = 0

    @property
    def in_use(self) -> int:
        """Places held now."""
        return len(self._queue.held)

    @property
    def waiting(self) -> int:
        """Claims that wait now."""
        return self._queue.waiting

    def try_acquire(self, *, owner: object) -> Ticket | None:
        """Take a place if one is free now; never waits, and never goes before those who do."""
        with self._lock:
            if self._queue.waiting or len(self._queue.held) >= self._queue.places:
                return None
            return self._request(writer=False, owner=owner)

    async def acquire_async(self, *, writer: bool, owner: object) -> Ticket:
        """Wait for a place on the event loop.

        Raises :class:`QueueFull` at once and :class:`QueueTimeout` at the deadline.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] | None = None
        with self._lock:
            ticket = self._request(writer=writer, owner=owner)
            if ticket.granted is None:
                future = loop.create_future()
                ticket.wake = _waker(loop, future)
        if future is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await future
            except TimeoutError:
                self._give_up(ticket)
            except BaseException:
                self.release(ticket)
                raise
        self.admitted += 1
        return ticket

    def acquire_blocking(self, *, writer: bool, owner: object) -> Ticket:
        """Wait for a place in a thread; the same errors as :meth:`acquire_async`."""
        ready = threading.Event()
        with self._lock:
            ticket = self._request(writer=writer, owner=owner)
            if ticket.granted is None:
                ticket.wake = _setter(ready)
        if ticket.granted is None:
            try:
                if not ready.wait(self._timeout):
                    self._give_up(ticket)
            except BaseException:
                self.release(ticket)
                raise
        self.admitted += 1
        return ticket

    def upgrade_blocking(self, ticket: Ticket) -> None:
        """Wait in a thread for the writer's place, for a unit that holds a place and now writes."""
        ready = threading.Event()
        with self._lock:
            if self._queue.upgrade(ticket, now=self._clock()):
                return
            ticket.wake = _setter(ready)
        try:
            if ready.wait(self._timeout):
                return
        except BaseException:
            with self._lock:
                self._queue.abandon_upgrade(ticket)
            raise
        with self._lock:
            if self._queue.abandon_upgrade(ticket):
                self.timed_out += 1
                raise QueueTimeout(self._explain(ticket, "could not start writing", self._timeout))

    def release(self, ticket: Ticket) -> None:
        """Give the place back. Never blocks, never raises; a second call does nothing."""
        with self._lock:
            self._queue.release(ticket, now=self._clock())

    def _request(self, *, writer: bool, owner: object) -> Ticket:
        try:
            ticket = self._queue.request(writer=writer, owner=owner, now=self._clock())
        except QueueFull:
            self.refused += 1
            raise
        ticket.request = REFUSALS.get()
        return ticket

    def _give_up(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.granted is not None:  # granted between the deadline and this lock: it is ours
                return
            message = self._explain(ticket, "no connection", self._clock() - ticket.requested)
            self._queue.release(ticket, now=self._clock())
            self.timed_out += 1
        raise QueueTimeout(message)

    def _explain(self, ticket: Ticket, what: str, waited: float) -> str:
        queue = self._queue
        has_place = ticket.granted is not None or len(queue.held) < queue.places
        writing = queue.writing if has_place else None
        in_the_way = list(queue.held) if writing is None else [writing]
        held = ""
        if in_the_way and in_the_way[0].granted is not None:
            since = self._clock() - in_the_way[0].granted
            place = "longest" if writing is None else "the writer's place"
            held = f"; {place} held for {since:.2f} s by {in_the_way[0].owner}"
        return (
            f"{what} after {waited:.2f} s (max_connections {queue.places}, in use {len(queue.held)}, "
            f"waiting {queue.waiting}{held}). {_advice(ticket, in_the_way, to_write=writing is not None)}"
        )


def _advice(ticket: Ticket, in_the_way: list[Ticket], *, to_write: bool) -> str:
    if ticket.request is not None and any(one.request is ticket.request for one in in_the_way):
        what = "the writer's place" if to_write else "one of them"
        return (
            f"The request that waits holds {what} itself: do all of its work in the session it has, or call db.begin() "
            "after the answer, in a background task"
        )
    if to_write:
        return "This database takes one writer at a time: make the slow one shorter"
    return (
        "Requests hold connections longer than they come in: make the slow one shorter, or raise max_connections if "
        "the database has room"
    )


def _setter(ready: threading.Event) -> Callable[[], bool]:
    def wake() -> bool:
        ready.set()
        return True

    return wake


def _waker(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], bool]:
    def grant() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> bool:
        # A place is often given back on the loop that waits for it; the self-pipe is needed only across threads.
        if running_loop() is loop:
            grant()
            return True
        try:
            loop.call_soon_threadsafe(grant)
        except RuntimeError:  # closed, while the claim waited
            return False
        return True

    return wake
