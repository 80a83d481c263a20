"""The threads sync sessions work in, apart from AnyIO's forty.

There is a thread for every place, so that no unit ever waits for a thread behind one that waits for the
database. But threads that all want to run Python at once only fight for the interpreter's lock: while the
process is busy computing, two of them get the work done with least CPU (``bench/``), and as soon as it is
not, all of them may run. The thread that ran last runs next: its caches are warm, the others may sleep.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from anyio import CancelScope

from fastapi_database.core.cancellation import (
    finish_despite_cancellation,
    nothing,
    refuse_if_cancelled,
    result_stands,
)
from fastapi_database.core.internals import current_scope, run_as_worker

T = TypeVar("T")

NARROW = 2
"""Threads that run while the process computes."""

BUSY = 0.8
"""Share of one core above which the process is computing rather than waiting for the database."""

LOOK = 0.005
"""Seconds a call waits before it is looked at why."""

PATIENCE = 0.05
"""Seconds after which a waiting call runs whatever the process does."""


@dataclass(slots=True, eq=False)
class _Call:
    """One function to run, and where its result goes."""

    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    scope: CancelScope | None
    since: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        try:
            result, error = run_as_worker(self.function, loop=self.loop, scope=self.scope), None
        except BaseException as raised:  # noqa: BLE001 - it is delivered to whoever waits for the result
            result, error = None, raised
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            self.loop.call_soon_threadsafe(self._deliver, result, error)

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, StopIteration):  # a future can not hold it: https://peps.python.org/pep-0479/
            self.future.set_exception(RuntimeError(f"the function raised {error!r}"))
        else:
            self.future.set_exception(error)


_Inbox = SimpleQueue[_Call | None]


class Threads:
    """Runs functions in at most ``size`` threads, as few at a time as serve best. For any number of event loops."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._limit = min(NARROW, size)
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._idle: list[_Inbox] = []
        self._busy = 0
        self._generation = 0
        self._looked = (0.0, 0.0)

    async def run(self, function: Callable[..., T], /, *args: Any, on_cancel: Callable[[], None] = nothing) -> T:
        """Run a function in a thread, with the caller's context variables, and wait until it is through.

        A cancellation, native or of an AnyIO scope, is delivered after the function has returned: a session must
        never be closed by one thread while another one still works on it. ``on_cancel`` is called when it comes.
        A function that called :func:`let_result_stand` is past cancellation: its result is returned.
        """
        await refuse_if_cancelled()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        call = _Call(functools.partial(context.run, function, *args), loop, future, current_scope())
        with self._lock:
            waits = self._busy >= self._limit
            if waits:
                self._waiting.append(call)
            else:
                self._start(call)
        if waits:
            loop.call_later(LOOK, self._look, call)
        return await finish_despite_cancellation(
            future, on_cancel=on_cancel, stands=functools.partial(result_stands, context)
        )

    def close(self) -> None:
        """Let threads end, busy ones when they are through; a later use starts new ones."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _start(self, call: _Call) -> None:
        self._busy += 1
        if self._idle:
            self._idle.pop().put(call)
            return
        inbox: _Inbox = SimpleQueue()
        inbox.put(call)
        threading.Thread(
            target=self._work, args=(inbox, self._generation), name="fastapi-database", daemon=True
        ).start()

    def _work(self, inbox: _Inbox, generation: int) -> None:
        while (call := inbox.get()) is not None:
            following: _Call | None = call
            del call  # an idle thread must not keep the session and the objects of the request it served last
            while following is not None:
                following.run()
                following = self._next(inbox, generation)

    def _next(self, inbox: _Inbox, generation: int) -> _Call | None:
        with self._lock:
            if self._waiting and self._busy <= self._limit:
                return self._waiting.popleft()
            self._busy -= 1
            if generation == self._generation:
                self._idle.append(inbox)
            else:
                inbox.put(None)  # closed meanwhile
            return None

    def _look(self, call: _Call) -> None:
        """Let more threads run if this call still waits and the process is not busy computing."""
        with self._lock:
            if call not in self._waiting:
                return
            self._limit = self._size if self._share_of_core() < BUSY or _waited(call) > PATIENCE else self._narrow
            while self._waiting and self._busy < self._limit:
                self._start(self._waiting.popleft())
            waits = call in self._waiting
        if waits:
            call.loop.call_later(LOOK, self._look, call)

    @property
    def _narrow(self) -> int:
        return min(NARROW, self._size)

    def _share_of_core(self) -> float:
        now, used = time.monotonic(), time.process_time()
        before, used_before = self._looked
        if now - before < LOOK / 2:  # several calls look at once: too short a time to tell
            return 1.0
        self._looked = (now, used)
        return (used - used_before) / (now - before)


def _waited(call: _Call) -> float:
    return time.monotonic() - call.since
