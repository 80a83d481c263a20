"""The threads sync sessions work in: one for every place, so that no unit ever waits for a thread."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

import anyio

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A pool of threads apart from AnyIO's forty: database work and other sync routes never starve each other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread, with the caller's context variables, and wait until it is through.

        A cancellation, native or of an AnyIO scope, is delivered after the function has returned: a session must
        never be closed by one thread while another one still works on it.
        """
        pool = self._pool
        if pool is None:
            pool = self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="fastapi-database")
        context = contextvars.copy_context()

        def call() -> T:
            return context.run(function, *args, **kwargs)

        return await finish_despite_cancellation(asyncio.get_running_loop().run_in_executor(pool, call))

    def close(self) -> None:
        """Let the threads end; a later use starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


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
