"""The threads sync sessions work in, apart from AnyIO's forty.

There is a thread for every place, so that no unit ever waits for a thread behind one that waits for the
database. But threads that all want to run Python at once only fight for the interpreter's lock: while the
process is busy computing, two of them get the work done with least CPU (``bench/``), and as soon as it is
not, all of them may run. The thread that ran last runs next: its caches are warm, the others may sleep.

A thread that waits for a place, or for something else with its connection given back, is set :meth:`aside`: it
holds nothing that others need, so another one may run meanwhile. The same is done for AnyIO's threads, in which
``def`` endpoints of plain routers run.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from anyio import CancelScope

from fastapi_database.core.cancellation import nothing, refuse_if_cancelled, result_stands
from fastapi_database.core.internals import add_worker_threads, current_scope, loop_of_worker, run_as_worker

T = TypeVar("T")

NARROW = 2
"""Threads that run while the process computes."""

BUSY = 0.8
"""Share of one core above which the process is computing rather than waiting for the database."""

LOOK = 0.005
"""Seconds between looks at what the process does, while calls wait or more threads run than these."""

PATIENCE = 0.05
"""Seconds after which a running call is not one of the two any more: others must not wait behind a slow one."""

SPARE = 400
"""Threads that may be set aside for slow other work; one more keeps its turn. Ten times AnyIO's forty: a thread costs
some 50 kB of memory, and who has more to wait for at once wants ``async def``."""


@dataclass(slots=True, eq=False)
class _Call:
    """One function to run, and where its result goes."""

    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    scope: CancelScope | None
    wake: asyncio.Future[None]
    """Done when the call is; another one takes its place when a cancellation ends the wait for it."""
    done: bool = False
    value: Any = None
    error: BaseException | None = None
    started: float = 0.0
    left: bool = False
    """Whether its thread is through with it."""

    def run(self) -> None:
        try:
            value, error = run_as_worker(self.function, loop=self.loop, scope=self.scope), None
        except BaseException as raised:  # noqa: BLE001 - it is delivered to whoever waits for the result
            value, error = None, raised
        self.hand_back(value, error)
        del error  # its traceback has this frame: do not leave the cycle to the garbage collector

    def hand_back(self, value: Any, error: BaseException | None) -> None:
        """Have the value returned, or the error raised, where the function was to be run."""
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            self.loop.call_soon_threadsafe(self._deliver, value, error)

    def _deliver(self, value: Any, error: BaseException | None) -> None:
        self.done, self.value, self.error = True, value, error
        if not self.wake.done():
            self.wake.set_result(None)

    def result(self) -> Any:
        """Give what the function returned or raise what it raised, once: an error must not be kept by what it holds."""
        error, self.error = self.error, None
        try:
            if isinstance(error, StopIteration):
                # A coroutine can not raise it: https://peps.python.org/pep-0479/
                raise RuntimeError(f"the function raised {error!r}")  # noqa: TRY004
            if error is not None:
                raise error
        finally:
            del error
        return self.value

    async def finished(self) -> None:
        """Wait until the function is through, whatever is cancelled meanwhile."""
        with CancelScope(shield=True):
            while not self.done:
                self.wake = self.loop.create_future()
                with suppress(asyncio.CancelledError):
                    await self.wake


_Inbox = SimpleQueue[_Call | None]


class _Worker(threading.Thread):
    """One of our threads, which knows whose it is and what it runs."""

    def __init__(self, owner: Threads, inbox: _Inbox, generation: int) -> None:
        super().__init__(target=owner.work, args=(self, inbox, generation), name="fastapi-database", daemon=True)
        self.owner = owner
        self.call: _Call | None = None


class Threads:
    """Runs functions in at most ``size`` threads, as few at a time as serve best. For any number of event loops."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._narrow = min(NARROW, size)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have no threads: at first, and in a forked child, where only the one that forked lives on."""
        self._limit = self._narrow
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._running: set[_Call] = set()
        self._idle: list[_Inbox] = []
        self._aside: set[_Call] = set()  # for slow other work
        self._lent: dict[int, bool] = {}  # threads of AnyIO that are set aside, and whether for slow other work
        self._generation = 0
        self._looked = (0.0, 0.0)
        self._looking: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    async def run(
        self, function: Callable[..., T], /, *args: Any, on_cancel: Callable[[], None] = nothing, always: bool = False
    ) -> T:
        """Run a function in a thread, with the caller's context variables, and wait until it is through.

        A cancellation, native or of an AnyIO scope, is delivered after the function has returned: a session must
        never be closed by one thread while another one still works on it. ``on_cancel`` is called when it comes.
        A function that called :func:`let_result_stand` is past cancellation: its result is returned. One that has to
        run ``always``, as a rollback has, is not refused for a cancellation that came before.
        """
        if not always:
            await refuse_if_cancelled()
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        call = _Call(functools.partial(context.run, function, *args), loop, current_scope(), loop.create_future())
        with self._lock:
            if self._has_room():
                self._start(call)
            else:
                if not self._looking:
                    self._looked = (time.monotonic(), time.process_time())  # what it did before does not count
                self._waiting.append(call)
                self._look_later(loop)
        try:
            await call.wake
        except asyncio.CancelledError:
            on_cancel()
            await call.finished()
            if not result_stands(context):
                call.value = call.error = None  # its traceback may have what the call has
                raise
        result: T = call.result()
        return result

    @contextmanager
    def aside(self, *, spare: int | None = None) -> Generator[None]:
        """Count this thread, one of ours or of AnyIO's, not among those that run while the block waits for something.

        With ``spare``, for slow other work, only while fewer than so many are. Waits for nothing, neither for a turn
        at the end of the block nor for the event loop. Does nothing in any other thread, and in an inner block. The
        block may end in another thread, or after the function has returned.
        """
        worker = threading.current_thread()
        if isinstance(worker, _Worker):
            call = worker.call
            with worker.owner.set_aside(call, spare=spare) if call is not None else nullcontext():
                yield
            return
        loop = loop_of_worker()
        with self._one_more(loop, spare=spare) if loop is not None else nullcontext():
            yield

    @contextmanager
    def set_aside(self, call: _Call, *, spare: int | None) -> Generator[None]:
        """Count a call that runs in one of these threads not among them; see :meth:`aside`."""
        with self._lock:
            counted = call in self._running and (spare is None or len(self._aside) < spare)
            if counted:
                self._running.remove(call)
                if spare is not None:
                    self._aside.add(call)
                while self._waiting and self._has_room():
                    self._start(self._waiting.popleft())
        try:
            yield
        finally:
            if counted:
                with self._lock:
                    self._aside.discard(call)
                    if not call.left:
                        self._take(call)

    @contextmanager
    def _one_more(self, loop: asyncio.AbstractEventLoop, *, spare: int | None) -> Generator[None]:
        """Let another thread of AnyIO's run while one waits."""
        thread = threading.get_ident()
        with self._lock:
            lent = thread not in self._lent and (spare is None or sum(self._lent.values()) < spare)
            if lent:
                self._lent[thread] = spare is not None
        if not lent:
            yield
            return
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(add_worker_threads, 1)
        try:
            yield
        finally:
            with self._lock:
                del self._lent[thread]
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(add_worker_threads, -1)

    def close(self) -> None:
        """Let threads end, busy ones when they are through; a later use starts new ones."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _has_room(self) -> bool:
        running = len(self._running)
        if running < self._limit:
            return True
        if running >= self._size:
            return False
        recent = time.monotonic() - PATIENCE
        return sum(call.started > recent for call in self._running) < self._limit

    def _start(self, call: _Call) -> None:
        self._take(call)
        if self._idle:
            self._idle.pop().put(call)
            return
        inbox: _Inbox = SimpleQueue()
        inbox.put(call)
        try:
            _Worker(self, inbox, self._generation).start()
        except RuntimeError as error:  # the system has no thread left
            self._running.remove(call)
            call.hand_back(None, error)

    def _take(self, call: _Call) -> None:
        call.started = time.monotonic()
        self._running.add(call)

    def work(self, worker: _Worker, inbox: _Inbox, generation: int) -> None:
        """Run what comes in, in a thread of its own, until it is told to end."""
        while (call := inbox.get()) is not None:
            following: _Call | None = call
            del call  # an idle thread must not keep the session and the objects of the request it served last
            while following is not None:
                worker.call = following
                following.run()
                worker.call = None
                following = self._next(following, inbox, generation)

    def _next(self, done: _Call, inbox: _Inbox, generation: int) -> _Call | None:
        with self._lock:
            self._running.discard(done)  # not there when a block that set it aside was not left
            done.left = True
            if self._limit > self._narrow:
                self._look()  # nobody may wait by now, and who is many computes with many
            if self._waiting and self._has_room():
                call = self._waiting.popleft()
                self._take(call)
                return call
            if generation == self._generation and len(self._idle) < self._size:
                self._idle.append(inbox)
            else:
                inbox.put(None)  # closed meanwhile, or one of those that ran for others set aside
            return None

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have each loop whose calls wait look at what the process did meanwhile; any of them may be closed."""
        if loop not in self._looking:
            self._looking.add(loop)
            loop.call_later(LOOK, self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let more threads run if calls still wait and the process is not busy computing."""
        with self._lock:
            self._looking.discard(loop)
            if self._waiting:
                self._look()
            while self._waiting and self._has_room():
                self._start(self._waiting.popleft())
            if self._waiting:
                self._look_later(loop)

    def _look(self) -> None:
        """Set how many may run by what the process did since the last look."""
        now, (before, used_before) = time.monotonic(), self._looked
        if now - before < LOOK / 2:  # another loop has looked, and timers may come a little early
            return
        used = time.process_time()
        self._looked = (now, used)
        self._limit = self._narrow if used - used_before > BUSY * (now - before) else self._size
