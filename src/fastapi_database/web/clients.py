"""A client that goes away before it is answered, noticed without taking a message from the application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import Message, Receive

from fastapi_database.core.cancellation import nothing

WATCH_AFTER = 0.5
"""Seconds a request may take before its client is watched. Most are over by then, and pay for a timer only."""


class Client:
    """The client of one request, as far as ``receive`` tells of it.

    The application gets every message that it would have got without us, in order. Until the client is watched, its
    calls go straight to the server. From then on one task of ours asks the server, and whoever in the application asks
    is given what the task was told. A body is never read ahead of the application: it may be large.
    """

    def __init__(self, receive: Receive, *, on_leaving: Callable[[], None]) -> None:
        self._receive = receive
        self._on_leaving = on_leaving
        self._ahead: deque[Message] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._asked_by_application = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watched = False
        self._in_body = False
        """Whether a part of the body was read, and not the last."""
        self._through = False
        """Whether the last part of the body was read."""
        self._over = False

    async def receive(self) -> Message:
        """Give the application its next message."""
        while not self._ahead:
            if self._asking is not None:
                await asyncio.wait({self._asking})
                continue
            self._asked_by_application += 1
            try:
                message = await self._receive()
                self._note(message)
            finally:  # who only has a look cancels its call at once
                self._asked_by_application -= 1
                self._look()
            return message
        return self._ahead.popleft()

    def watch(self) -> None:
        """Watch the client from :data:`WATCH_AFTER` on. A second call does nothing."""
        if self._timer is None and not self._watched:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin)

    def close(self) -> None:
        """Stop watching: the request is over. Forgets who wanted to know: each would keep the other alive."""
        self._over = self._watched = True
        self._on_leaving = nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()

    def _begin(self) -> None:
        self._watched = True
        self._timer = None
        self._look()

    def _look(self) -> None:
        """Ask the server, unless somebody does, all is heard, or a body is the application's to read."""
        if self._watched and not (self._over or self._in_body or self._asking or self._asked_by_application):
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        try:
            message = await self._receive()
        except Exception:  # noqa: BLE001 - the application is told when it asks itself
            self._over = True
            return
        finally:
            self._asking = None
        self._ahead.append(message)
        self._note(message)
        self._look()

    def _note(self, message: Message) -> None:
        if message["type"] == "http.request":
            self._in_body = bool(message.get("more_body"))
            # After the last part of a body nothing comes but the end; who says it again would say so for ever.
            self._over = self._over or self._through
            self._through = not self._in_body
        elif message["type"] == "http.disconnect" and not self._over:
            self._over = True
            self._on_leaving()
