"""The pure ASGI middleware that finishes the request's units before the first byte of the answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_database.core.admission import REFUSALS, Refusals
from fastapi_database.core.cancellation import ThreadsFirst
from fastapi_database.core.unit import AsyncUnit
from fastapi_database.web import internals, problems
from fastapi_database.web.clients import Client
from fastapi_database.web.refusals import RefusalLog
from fastapi_database.web.units import SAFE_METHODS, SCOPE_KEY, RequestUnits

logger = logging.getLogger("fastapi_database")

SWITCHING_PROTOCOLS = 101


class AnswerReplaced(BaseException):
    """Stops the body and the background tasks of an answer that was replaced by an error.

    Not an ``Exception``: no handler of the application may catch it on its way to the middleware.
    """


class Startable(Protocol):
    """What the middleware needs of an installation."""

    def start(self) -> None:
        """Prepare for the first request; a second call does nothing."""

    def serve(self) -> None:
        """Note that requests are being answered."""


class DatabaseMiddleware:
    """Owns the units of each request from its first byte to its last."""

    def __init__(self, app: ASGIApp, *, installation: Startable) -> None:
        self._app = app
        self._installation: Startable | None = installation
        self._log = RefusalLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if self._installation is not None:  # the first request: a mounted application has no lifespan to do it in
            self._installation.start()
            self._installation.serve()
            self._installation = None
        conversation = _Conversation(self._app, scope, receive, send, log=self._log)
        token = REFUSALS.set(conversation.refusals)
        try:
            await conversation.run()
        finally:
            conversation.refusals.end()
            REFUSALS.reset(token)


class _Conversation:
    """One request or WebSocket."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, log: RefusalLog) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._unhandled: Exception | None = None
        # A mounted application may have the middleware too; then the units are shared.
        self._outermost = SCOPE_KEY not in scope
        self._units: RequestUnits = scope.setdefault(SCOPE_KEY, RequestUnits(scope, log=log))
        self._request = ThreadsFirst(self._call(), holds=self._units.has_sync_session)
        self.refusals = Refusals(on_first=self._units.watch)
        self._giving_up: asyncio.Task[None] | None = None
        if self._outermost and scope.get("method") in SAFE_METHODS:
            client = self._units.client = Client(receive, on_leaving=self._give_up)
            self._receive = client.receive

    async def run(self) -> None:
        units = self._units
        try:
            await self._request
        except BaseException as error:
            if _is_replacement(error):
                if self._unhandled is not None:
                    raise self._unhandled from None
                return
            units.fail(error)
            if self._started and isinstance(error, Exception):
                # The traceback is the server's to log: the exception goes on to it.
                logger.error("%s failed after its answer had begun: %r", units, error)  # noqa: TRY400
            raise
        finally:
            try:
                try:
                    if units.pending:
                        await units.abandon()
                finally:
                    if self.refusals.begun:
                        await self._roll_back_left_behind(list(self.refusals.begun))
            finally:
                if self._outermost:
                    if units.client is not None:
                        units.client.close()
                    if self._giving_up is not None:
                        self._giving_up.cancel()
                    units.close()

    async def _roll_back_left_behind(self, begun: list[AsyncUnit]) -> None:
        """End what a stream was in the middle of when its client went away; tasks that go on keep what they have."""
        for unit in begun:
            if unit.left_behind:
                await unit.afinish(commit=False)

    def _give_up(self) -> None:
        """Cancel what the database does for a client that has gone away; what it asked for is over then."""
        units = self._units
        if not self._started and (units.pending or not units.units):  # without one it waits for its turn
            units.gone = True
            logger.warning("%s: its client went away; what it asked the database for is cancelled", units)
            self._giving_up = asyncio.get_running_loop().create_task(units.interrupt())

    async def _call(self) -> None:
        await self._app(self._scope, self._receive, self._forward)

    async def _forward(self, message: Message) -> None:
        self._request.deliver()  # nobody waits for this answer any more
        if not self._started:
            status = _status(message)
            if status is not None:
                self._started = True
                if self.refusals.errors or self._units.unsettled:
                    await self._finish(status)
                elif self._units.units:
                    self._units.end()
        await self._send(message)

    async def _finish(self, status: int) -> None:
        """Finish the units; when the commit fails, send the error in place of this answer."""
        try:
            commit = self._units.commits(status) and not self._swallowed(status)
            await self._units.finish(commit=commit)
            self._raise_swallowed(status)
        except Exception as error:
            if error is self._units.error:  # its handler has made this very answer
                return
            if self._scope["type"] == "websocket":
                raise
            self._started = False  # nothing was sent of the answer that is not to be
            if status >= 500:
                raise
            await self._answer_instead(error)
            raise AnswerReplaced from error

    def _raise_swallowed(self, status: int) -> None:
        """Raise the first of them."""
        if swallowed := self._swallowed(status):
            raise swallowed[0]

    def _swallowed(self, status: int) -> list[Exception]:
        """Give the errors that the application swallowed and answered as something they are not, such as a 401."""
        if status >= 500:
            return []
        swallowed: list[Exception] = [unit.fatal for unit in self._units.units.values() if unit.fatal is not None]
        if status >= 400:
            swallowed += self.refusals.errors
        return [] if self._units.error in swallowed else swallowed

    async def _answer_instead(self, error: Exception) -> None:
        self._units.fail(error)
        handler = internals.exception_handler(self._scope, error)
        if handler is None and problems.covers(error):
            handler = problems.answer  # a mounted application without our handlers
        if handler is None:
            self._unhandled = error
            return
        request = Request(self._scope, self._receive)
        response: Any  # what the application's handler gives: a Response, if it is sane
        if internals.is_coroutine(handler):
            response = await handler(request, error)
        else:
            response = await run_in_threadpool(handler, request, error)
        await response(self._scope, self._receive, self._deliver)

    async def _deliver(self, message: Message) -> None:
        self._started = True
        await self._send(message)


def _status(message: Message) -> int | None:
    """Give the status an ASGI message starts the answer with, or None for any other message."""
    kind = message["type"]
    if kind in {"http.response.start", "websocket.http.response.start"}:
        status: int = message["status"]
        return status
    if kind == "websocket.accept":
        return SWITCHING_PROTOCOLS
    return 403 if kind == "websocket.close" else None  # refused before it was accepted


def _is_replacement(error: BaseException) -> bool:
    """Recognise our own signal, also inside the group a task group of the application makes of it."""
    if isinstance(error, BaseExceptionGroup):
        inner: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return all(_is_replacement(one) for one in inner)
    return isinstance(error, AnswerReplaced)
