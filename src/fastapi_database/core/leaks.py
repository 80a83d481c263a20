"""Who holds a connection for too long, and who never gives it back: told once in the log, with the lines.

One thread for each ``Database``, started with its first unit of work. It sleeps until the oldest place that is held
becomes too old, so it costs nothing while nobody is late. It holds the ``Database`` weakly, and ends with it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from queue import Empty, SimpleQueue

from fastapi_database.core.admission import Admission
from fastapi_database.core.queue import Owner, Ticket

logger = logging.getLogger("fastapi_database")

_AFTER_A_FAILURE = 30.0  # seconds until the next look

_Inbox = SimpleQueue[Ticket | None]
"""Places of units that were collected, or None to end. Its ``put`` may be called by a finaliser at any moment."""


def overdue(
    held: Sequence[Ticket], reported: Collection[int], *, after: float, now: float
) -> tuple[list[Ticket], float]:
    """Choose whose hold is to be reported, and say how many seconds later somebody may be due.

    A place that is taken later than now can not be due before ``after`` seconds have passed.
    """
    waiting = [ticket for ticket in held if ticket.granted is not None and ticket.number not in reported]
    ages = {ticket.number: now - (ticket.granted or now) for ticket in waiting}
    due = [ticket for ticket in waiting if ages[ticket.number] >= after]
    younger = [after - age for age in ages.values() if age < after]
    return due, min([after, *younger])


class Leaks:
    """Watches the places of one ``Database``. ``after`` is in seconds; None reports only what was never given back."""

    def __init__(
        self,
        admission: Admission,
        *,
        after: float | None,
        line_of: Callable[[Owner], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._after = after
        self._line_of = line_of
        self._clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Watch nothing: at first, and in a forked child, where the thread is not."""
        self.watching = False
        self._lock = threading.Lock()
        self._inbox: _Inbox = SimpleQueue()
        self._reported: set[int] = set()

    def start(self) -> None:
        """Watch from now on; a second call does nothing."""
        with self._lock:
            if self.watching:
                return
            self.watching = True
            inbox, this = self._inbox, weakref.ref(self)
            weakref.finalize(self, inbox.put, None).atexit = False
            threading.Thread(target=_watch, args=(inbox, this), name="fastapi-database watch", daemon=True).start()

    def close(self) -> None:
        """End the thread; a later use starts another."""
        with self._lock:
            if self.watching:
                self.watching = False
                self._inbox.put(None)
                self._inbox = SimpleQueue()

    def abandoned(self, ticket: Ticket) -> None:
        """Take the place of a unit that nobody can finish any more. Called by a finaliser: it waits for nothing."""
        self._inbox.put(ticket)

    def give_back(self, ticket: Ticket) -> None:
        """Report a unit that was never finished, and let the next have its place."""
        if ticket in self._admission.holders():
            logger.error(
                "%s was never finished: its session was thrown away after %.2f s, and the garbage collector has found "
                "it. It was rolled back, and its place goes to the next. Write `with db.begin() as session:`, which "
                "ends the unit whatever happens [unit-dropped]",
                _named(ticket.owner),
                self._clock() - (ticket.granted or self._clock()),
            )
        self._admission.release(ticket)

    def look(self) -> float | None:
        """Report who holds a place for too long; give the seconds until the next look, None when there is none."""
        if self._after is None:
            return None
        held = self._admission.holders()
        due, wait = overdue(held, self._reported, after=self._after, now=self._clock())
        for ticket in due:
            here = self._line_of(ticket.owner)
            logger.warning(
                "%s holds a connection for %.2f s now (hold_warning=%g)%s. Nobody else can use it meanwhile: do slow "
                "other work before the first statement or after the unit, and make slow statements shorter "
                "[held-too-long]",
                _named(ticket.owner),
                self._clock() - (ticket.granted or self._clock()),
                self._after,
                "" if here is None else f"; it is in {here}",
            )
        self._reported = {ticket.number for ticket in held if ticket.number in self._reported or ticket in due}
        return wait


def _watch(inbox: _Inbox, watched: weakref.ref[Leaks]) -> None:
    wait: float | None = 0.0
    while True:
        try:
            ticket = inbox.get(timeout=wait)
        except Empty:
            leaks = watched()
        else:
            leaks = watched()
            if ticket is None:
                return
            if leaks is not None:
                leaks.give_back(ticket)
        if leaks is None:
            return
        wait = _safely(leaks)
        del leaks


def _safely(leaks: Leaks) -> float | None:
    try:
        return leaks.look()
    except Exception:
        logger.exception("a look at who holds connections failed; nobody else is affected")
        return _AFTER_A_FAILURE


def _named(owner: Owner) -> str:
    return f"{owner} ({owner.location})" if owner.location else str(owner)
