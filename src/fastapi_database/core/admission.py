"""Who may hold a connection, and who waits: the queue of ``core/queue.py`` with a clock, a lock and a deadline."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from math import inf
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

from fastapi_database.core.cancellation import nothing
from fastapi_database.core.internals import await_only, running_loop
from fastapi_database.core.queue import AdmissionQueue, Owner, Ticket
from fastapi_database.engines.deadlines import Deadline
from fastapi_database.errors import DeadlineExceeded, QueueFull, QueueShed, QueueTimeout, Unavailable

Refusal = Unavailable | DeadlineExceeded
"""What a request is told that did not get a place or a connection."""

_NAMED = 3  # of those who hold places, so many are named in an error


class Refusals:
    """The places and connections that one request was refused.

    Code that swallows a refusal (an auth dependency with a wide ``except``) must not turn it into an answer of its own.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._by_owner: dict[Refusal, object] = {}
        self.over = False
        """True once the request has ended."""
        self.no_connection: Unavailable | None = None
        """What to tell the client where its code swallows that there was no connection, for another reason."""
        self.begun: WeakSet[Any] | None = None
        """The async units that its code opened with ``db.begin()``, until they are freed."""

    @property
    def errors(self) -> list[Refusal]:
        """What was refused and not granted later, in order."""
        return list(self._by_owner)

    def note(self, error: Refusal, owner: object) -> None:
        """Note a refusal; without an ``owner`` until :meth:`claim` tells it. After the end nothing is noted."""
        if self.over:
            return
        if not self._by_owner:
            self._on_first()
        self._by_owner[error] = owner

    def claim(self, owner: object) -> Refusal | None:
        """Give the last refusal to a unit that never got a connection: those without an owner are its own."""
        self._by_owner = {error: known or owner for error, known in self._by_owner.items()}
        return next(reversed(self._by_owner), None)

    def forget(self, owner: object) -> None:
        """Take back what an owner was refused: it tried again, and got a place."""
        if self._by_owner:
            self._by_owner = {error: one for error, one in self._by_owner.items() if one != owner}

    def begins(self, unit: Any) -> None:
        """Note an async unit that code of the request opens besides the request's own."""
        if not self.over:
            self.begun = self.begun or WeakSet()
            self.begun.add(unit)

    def end(self) -> None:
        """Let go of the request: it has ended, and what was begun in its context has this for as long as it lives.

        That are the tasks it started, and the connections to the database that it opened: event loops keep the context
        in which a connection was opened.
        """
        self.over = True
        self.begun = self.no_connection = None
        self._on_first = nothing
        self._by_owner = {}


REFUSALS: ContextVar[Refusals | None] = ContextVar("fastapi_database_refusals", default=None)
"""In the context of a request: what it was refused. None elsewhere."""


def refused(error: Refusal, *, owner: object = None) -> None:
    """Note in the context of a request, if this is one, that the database was not to be had."""
    refusals = REFUSALS.get()
    if refusals is not None:
        refusals.note(error, owner)


def no_connection(error: Unavailable) -> None:
    """Note in the context of a request, if this is one, what to tell if it goes on as if it had a connection."""
    refusals = REFUSALS.get()
    if refusals is not None and not refusals.over:
        refusals.no_connection = error


def admitted(owner: object) -> None:
    """Note in the context of a request, if this is one, that an owner got a place, maybe after it was refused one."""
    refusals = REFUSALS.get()
    if refusals is not None:
        refusals.forget(owner)


class _Lock:
    """A lock whose holder does, after it has let go, what a finaliser could not wait for.

    The garbage collector may close an abandoned generator at any moment, in the middle of a block that holds this lock
    too; the unit in it then ends in that very thread.
    """

    __slots__ = ("_lock", "_returned", "_settle")

    def __init__(self, returned: SimpleQueue[Ticket], settle: Callable[[], None]) -> None:
        self._lock, self._returned, self._settle = threading.Lock(), returned, settle

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if not self._returned.empty():
            self.settle()

    def settle(self) -> None:
        """Take back what is returned, unless somebody has the lock, who will."""
        while not self._returned.empty() and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()


class Admission:
    """The queue with a clock and a lock: places for async callers and for threads.

    Both ways in wait at most ``timeout`` seconds. A cancelled wait gives up its claim. ``aside`` surrounds the wait of
    a thread, which others must not wait for: they may hold the very place it waits for.
    """

    def __init__(
        self,
        *,
        places: int,
        max_waiting: int,
        timeout: float,
        single_writer: bool,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
        target: float = inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_queue = functools.partial(
            AdmissionQueue, places=places, max_waiting=max_waiting, single_writer=single_writer, target=target
        )
        self._timeout = timeout
        self._aside = aside
        self._clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have all places free and nobody waiting: at first, and in a forked child."""
        self._queue = self._make_queue()
        self._returned: SimpleQueue[Ticket] = SimpleQueue()
        self._lock = _Lock(self._returned, self._settle)
        self.admitted = 0
        self.refused = 0
        self.shed = 0
        self.timed_out = 0

    @property
    def in_use(self) -> int:
        """Places held now."""
        return len(self._queue.held)

    @property
    def waiting(self) -> int:
        """Claims that wait now."""
        return self._queue.waiting

    def try_acquire(self, *, owner: Owner) -> Ticket | None:
        """Take a place if one is free now; never waits, and never goes before those who do."""
        with self._lock:
            if self._queue.waiting or len(self._queue.held) >= self._queue.places:
                return None
            return self._request(writer=False, owner=owner)

    async def acquire_async(
        self,
        *,
        writer: bool,
        owner: Owner,
        deadline: Deadline | None = None,
        on_wait: Callable[[], None] = nothing,
    ) -> Ticket:
        """Wait for a place on the event loop; ``on_wait`` is called first where one has to wait.

        Raises :class:`QueueFull` at once, or when a claim of higher priority takes the last room to wait,
        :class:`QueueShed` in a line that stands, at once or when it has waited too long, :class:`QueueTimeout` after
        the time-out, and :class:`DeadlineExceeded` where the unit's own time is over before.
        """
        ticket, future = self._claim(writer=writer, owner=owner)
        if future is not None:
            on_wait()
            await self._wait(ticket, future, deadline)
        return self._admit(ticket)

    def acquire_in_greenlet(self, *, writer: bool, owner: Owner, deadline: Deadline | None = None) -> Ticket:
        """Wait for a place in SQLAlchemy's greenlet, which is left only where one has to wait; otherwise the same."""
        ticket, future = self._claim(writer=writer, owner=owner)
        if future is not None:
            await_only(self._wait(ticket, future, deadline))
        return self._admit(ticket)

    def _claim(self, *, writer: bool, owner: Owner) -> tuple[Ticket, asyncio.Future[None] | None]:
        """Claim a place on the event loop; with a future where one has to :meth:`_wait` for it."""
        future: asyncio.Future[None] | None = None
        with self._lock:
            ticket = self._request(writer=writer, owner=owner)
            if ticket.granted is None:
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                ticket.wake = _waker(loop, future)
        return ticket, future

    async def _wait(self, ticket: Ticket, future: asyncio.Future[None], deadline: Deadline | None) -> None:
        """Wait until a claim has its place, or was refused."""
        # Not asyncio.timeout(): a timer that wakes as a place does is all that a refusal has to pay for.
        timer = future.get_loop().call_later(self._patience(deadline), _wake, future)
        try:
            await future
        except BaseException:
            self.release(ticket)
            raise
        finally:
            timer.cancel()
        if ticket.granted is None and ticket.refusal is None:
            self._give_up(ticket, deadline)

    def acquire_blocking(self, *, writer: bool, owner: Owner, deadline: Deadline | None = None) -> Ticket:
        """Wait for a place in a thread; the same errors as :meth:`acquire_async`."""
        ready = threading.Event()
        with self._lock:
            ticket = self._request(writer=writer, owner=owner)
            if ticket.granted is None:
                ticket.wake = _setter(ready)
        if ticket.granted is None:
            try:
                with self._aside():
                    in_time = ready.wait(self._patience(deadline))
                if not in_time:
                    self._give_up(ticket, deadline)
            except BaseException:
                self.release(ticket)
                raise
        return self._admit(ticket)

    def upgrade_blocking(self, ticket: Ticket, *, deadline: Deadline | None = None) -> None:
        """Wait in a thread for the writer's place, for a unit that holds a place and now writes."""
        ready = threading.Event()
        with self._lock:
            if self._queue.upgrade(ticket, now=self._clock()):
                return
            ticket.wake = _setter(ready)
        try:
            with self._aside():
                in_time = ready.wait(self._patience(deadline))
            if in_time:
                return
        except BaseException:
            with self._lock:
                self._queue.abandon_upgrade(ticket)
            raise
        with self._lock:
            if self._queue.abandon_upgrade(ticket):
                self.timed_out += 1
                message = self._explain(ticket, "could not start writing", self._patience(deadline))
                if deadline is not None and not deadline.left:
                    raise DeadlineExceeded(message)
                raise QueueTimeout(message, retry_after=self._queue.retry_after(writer=True, now=self._clock()))

    def holders(self) -> list[Ticket]:
        """Give the claims that hold a place now."""
        with self._lock:
            return list(self._queue.held)

    def release(self, ticket: Ticket) -> None:
        """Give the place back. Never blocks, never raises; a second call does nothing.

        Where another thread is at the queue, or this one in whose middle a finaliser runs, it is taken back there.
        """
        self._returned.put(ticket)
        self._lock.settle()

    def _settle(self) -> None:
        while not self._returned.empty():
            self._queue.release(self._returned.get(), now=self._clock())

    def _patience(self, deadline: Deadline | None) -> float:
        return self._timeout if deadline is None else min(self._timeout, deadline.left)

    def _request(self, *, writer: bool, owner: Owner) -> Ticket:
        try:
            ticket = self._queue.request(writer=writer, owner=owner, now=self._clock())
        except QueueFull:
            self.refused += 1
            raise
        except QueueShed:
            self.shed += 1
            raise
        ticket.request = REFUSALS.get()
        return ticket

    def _admit(self, ticket: Ticket) -> Ticket:
        if ticket.refusal is not None:
            if isinstance(ticket.refusal, QueueShed):
                self.shed += 1
            else:
                self.refused += 1
            raise ticket.refusal
        self.admitted += 1
        return ticket

    def _give_up(self, ticket: Ticket, deadline: Deadline | None) -> None:
        with self._lock:
            if ticket.granted is not None or ticket.refusal is not None:  # between the deadline and this lock
                return
            message = self._explain(ticket, "no connection", self._clock() - ticket.requested)
            self._queue.expire(ticket, now=self._clock())
            self.timed_out += 1
            retry_after = self._queue.retry_after(writer=ticket.writer, now=self._clock())
        if deadline is not None and not deadline.left:
            raise DeadlineExceeded(message)
        raise QueueTimeout(message, retry_after=retry_after)

    def _explain(self, ticket: Ticket, what: str, waited: float) -> str:
        queue = self._queue
        has_place = ticket.granted is not None or len(queue.held) < queue.places
        writing = queue.writing if has_place else None
        in_the_way = list(queue.held) if writing is None else [writing]
        held = ""
        if in_the_way:
            place = "held by" if writing is None else "the writer's place is held by"
            held = f"; {place} {_holders(in_the_way, self._clock())}"
        return (
            f"{what} after {waited:.2f} s (max_connections {queue.places}, in use {len(queue.held)}, "
            f"waiting {queue.waiting}{held}). {_advice(ticket, in_the_way, to_write=writing is not None)}"
        )


def _holders(tickets: Iterable[Ticket], now: float) -> str:
    """Name those who have held their place longest, and for how long."""
    longest = sorted((ticket.granted or now, ticket.number, ticket.owner) for ticket in tickets)
    named = ", ".join(
        f"{owner}{f' ({owner.location})' if owner.location else ''} for {now - since:.2f} s"
        for since, _, owner in longest[:_NAMED]
    )
    others = len(longest) - _NAMED
    return named if others <= 0 else f"{named}, and {others} more"


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


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _waker(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> Callable[[], bool]:
    def wake() -> bool:
        # A place is often given back on the loop that waits for it; the self-pipe is needed only across threads.
        if running_loop() is loop:
            _wake(future)
            return True
        try:
            loop.call_soon_threadsafe(_wake, future)
        except RuntimeError:  # closed, while the claim waited
            return False
        return True

    return wake
