"""Stopping a statement from outside, while it is certain whose it is.

A request to cancel names a connection, not a statement. Sent a moment too late it would hit whoever has the connection
by then. So a connection is not given back to its pool while such a request is on its way.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress

from fastapi_database.engines.internals import await_only, current_greenlet

_PATIENCE = 5.0  # seconds; whoever sends the request gives up before that


class Interruption:
    """Belongs to one unit's use of one connection; used by the unit and by whoever stops it, in any thread."""

    __slots__ = ("_lock", "_over", "_sent", "uncertain")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._sent: Future[None] | None = None
        self.uncertain = False
        """Whether a request may still be on its way: nobody else may have the connection then."""

    def begin(self) -> bool:
        """Say that a request to cancel is about to be sent; False when the connection is no longer the unit's."""
        with self._lock:
            if self._over or self._sent is not None:
                return False
            self._sent = Future()
            return True

    def end(self) -> None:
        """Say that the request has reached the server, or never will."""
        with self._lock:
            sent, self._sent = self._sent, None
        if sent is not None:
            sent.set_result(None)

    def give_back(self) -> None:
        """Wait for a request that is on its way; none is sent from now on."""
        with self._lock:
            self._over = True
            sent = self._sent
        if sent is None:
            return
        if current_greenlet() is not None:
            await_only(_done(sent))
        else:
            with suppress(TimeoutError):  # its event loop was closed
                sent.result(_PATIENCE)


async def _done(sent: Future[None]) -> None:
    """Wait without being interrupted: the connection would be lost on its way to the pool."""
    waiting = asyncio.wrap_future(sent)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait({waiting}, timeout=_PATIENCE)
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            break
    task = asyncio.current_task()
    if cancelled is not None and task is not None:
        # Delivered at the next await, as the same one: who counts, as asyncio.timeout does, must not see another.
        task.uncancel()
        task.cancel(*cancelled.args)
