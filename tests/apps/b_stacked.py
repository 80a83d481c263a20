"""Starlette's `BaseHTTPMiddleware`, as many times as a request asks for in the header `Stacked`."""

from fastapi import FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

MOST = 4


class Stacked:
    """One of them, for the requests that ask for so many."""

    def __init__(self, app: ASGIApp, number: int) -> None:
        self._without = app
        self._with = BaseHTTPMiddleware(app, dispatch=pass_on)
        self._number = number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = dict(scope.get("headers", ())).get(b"stacked", b"0")
        await (self._with if int(wanted) >= self._number else self._without)(scope, receive, send)


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def stack(app: FastAPI) -> None:
    """Let requests of an application ask for up to four."""
    for number in range(1, MOST + 1):
        app.add_middleware(Stacked, number=number)
