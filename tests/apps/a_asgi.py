"""Requests to an application in this process, message by message: what a server in another process does not show."""

import asyncio
import json as jsonlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI

Headers = Iterable[tuple[str, str]]


@dataclass
class Reply:
    """What an application sent for one request, byte for byte."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    error: BaseException | None = None
    """What the application raised after, or instead of, its answer."""

    @property
    def comparable(self) -> tuple[int, list[tuple[bytes, bytes]], bytes, str]:
        """Everything that two applications which answer the same have in common."""
        return self.status, self.headers, self.body, repr(type(self.error))

    def json(self) -> Any:
        return jsonlib.loads(self.body)


async def ask(
    app: Any,
    method: str,
    target: str,
    *,
    json: object = None,
    content: bytes = b"",
    headers: Headers = (),
    at_start: Callable[[], None] | None = None,
) -> Reply:
    """Send one request and wait for the application to return, which is after its background tasks.

    `at_start` is called at `http.response.start`, on the event loop: nothing else of the application that runs on
    the loop can go on before it returns.
    """
    if json is not None:
        content = jsonlib.dumps(json).encode()
        headers = [*headers, ("content-type", "application/json")]
    parts = urlsplit(target)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [
            (b"host", b"testserver"),
            (b"content-length", str(len(content)).encode()),
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
        "state": {},
    }
    messages: Iterator[Any] = iter([{"type": "http.request", "body": content, "more_body": False}])
    reply = Reply()

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()  # the client stays until the application is done
        return message

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not reply.status, "the answer began twice"
            reply.status, reply.headers = message["status"], list(message["headers"])
            if at_start is not None:
                at_start()
        elif message["type"] == "http.response.body":
            reply.body += message.get("body", b"")

    try:
        await app(scope, receive, send)
    except Exception as error:
        reply.error = error
    return reply


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[FastAPI]:
    """Run the application's lifespan around a block."""
    async with app.router.lifespan_context(app):
        yield app
