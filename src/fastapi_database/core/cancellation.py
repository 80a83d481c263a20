"""Cancellation that waits for threads: no thread closes a session on which another one still works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from fastapi_database.core.internals import in_shielded_scope

T = TypeVar("T")


def nothing() -> None:
    """Do nothing: nobody wants to hear of it."""


_STANDS: ContextVar[bool] = ContextVar("fastapi_database_stands", default=False)


def let_result_stand() -> None:
    """Say in a thread that what it did is durable: its result is told, whatever was cancelled meanwhile."""
    _STANDS.set(True)


def result_stands(context: Context) -> bool:
    """Tell whether :func:`let_result_stand` was called in a context."""
    return context.get(_STANDS, False)


async def refuse_if_cancelled() -> None:
    """Deliver a cancellation that is due, before something is begun that would have to be finished."""
    await checkpoint_if_cancelled()
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)  # a native one that was kept by ThreadsFirst


async def finish_despite_cancellation(future: asyncio.Future[T]) -> T:
    """Wait for a future to be done; then deliver a cancellation that came meanwhile."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if future.cancelled():
            raise
        with anyio.CancelScope(shield=True):
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what the caller hears of
        raise


async def finish_shielded(work: Coroutine[Any, Any, Any]) -> Any:
    """Await something to its end, shielded from AnyIO's cancellation from the moment on when it has to wait.

    What waits for nothing pays for no cancel scope: most units that only read end without a word to the database.
    """
    try:
        awaited = work.send(None)
    except StopIteration as done:
        return done.value
    with anyio.CancelScope(shield=True):
        return await _Rest(work, awaited)


class _Rest:
    """Awaits the rest of a coroutine that waits for something."""

    __slots__ = ("_awaited", "_work")

    def __init__(self, work: Coroutine[Any, Any, Any], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        awaited = self._awaited
        thrown: BaseException | None = None
        try:
            while True:
                try:
                    yield awaited
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                    thrown = error
                awaited = self._work.send(None) if thrown is None else self._work.throw(thrown)
                thrown = None
        except StopIteration as done:
            return done.value
        finally:
            thrown = None  # its traceback has this frame: do not leave the cycle to the garbage collector


class ThreadsFirst:
    """Awaits a request; a native cancellation of it waits for the worker thread the request is in.

    AnyIO shields the wait for a thread from its own cancel scopes. ``asyncio.timeout``, ``wait_for`` and
    ``Task.cancel`` leave it, while the thread goes on: the exits of dependencies and the rollback would then use
    the thread's session in other threads. So while ``holds()``, the task waits at a gate of its own instead of at
    the thread's future; the cancellation is delivered where the request awaits next.
    """

    def __init__(self, request: Coroutine[Any, Any, None], *, holds: Callable[[], bool]) -> None:
        self.request = request
        self._holds = holds
        self._kept: tuple[Any, ...] | None = None  # the arguments of a cancellation that waits

    def __await__(self) -> Generator[Any, Any, None]:
        thrown: BaseException | None = None
        try:
            while True:
                awaited = self.request.send(None) if thrown is None else self.request.throw(thrown)
                thrown = None
                try:
                    if self._kept is None and not self._holds():
                        yield awaited
                    else:
                        yield from self._wait(awaited)
                except BaseException as error:  # noqa: BLE001 - it is the request's to handle
                    thrown = error
        except StopIteration:
            self.deliver()
        except Exception:
            self.deliver()
            raise
        finally:
            thrown = None  # its traceback has this frame: do not leave the cycle to the garbage collector

    def deliver(self) -> None:
        """Raise the cancellation that waits, if there is one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            raise asyncio.CancelledError(*kept)

    def _wait(self, awaited: asyncio.Future[Any] | None) -> Generator[Any, Any, None]:
        """Suspend the task until what the request awaits is done; None is a mere turn of the loop."""
        if awaited is not None and self._holds() and in_shielded_scope():
            yield from self._hold(awaited)
            return
        if self._kept is not None and (awaited is None or not awaited.cancel(*self._kept)):
            self.deliver()
        self._kept = None
        yield awaited

    def _hold(self, awaited: asyncio.Future[Any]) -> Generator[Any, Any, None]:
        loop = asyncio.get_running_loop()
        while not awaited.done():
            gate: asyncio.Future[None] = loop.create_future()
            open_gate = _opener(gate)
            awaited.add_done_callback(open_gate)
            try:
                yield from gate
            except asyncio.CancelledError as error:
                self._kept = error.args
                awaited.remove_done_callback(open_gate)


def _opener(gate: asyncio.Future[None]) -> Callable[[object], None]:
    def open_gate(_: object) -> None:
        if not gate.done():
            gate.set_result(None)

    return open_gate
