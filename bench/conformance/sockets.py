"""Clients that stay: answers held open, bodies that nobody reads, WebSockets. On bare streams, as rude as needed."""

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from bench.conformance.served import Request, Served

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def held_open(served: Served, paths: Sequence[str], *, within: float) -> AsyncIterator[int]:
    """Open one answer per path at once, read the head of each and hold it; yields how many were 200 in time."""
    opened = [asyncio.create_task(_open(served, path)) for path in paths]
    done, late = await asyncio.wait(opened, timeout=within)
    try:
        yield sum(not task.exception() and task.result()[0] == 200 for task in done)
    finally:
        for task in late:
            task.cancel()
        for task in done:
            if not task.exception():
                task.result()[1].transport.abort()
        await asyncio.gather(*late, return_exceptions=True)


@asynccontextmanager
async def unread(served: Served, path: str, n: int) -> AsyncIterator[None]:
    """Send `n` requests and read nothing of their answers."""
    sockets = []
    try:
        for _ in range(n):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sockets.append(one)
            await asyncio.to_thread(one.connect, ("127.0.0.1", served.port))
            one.sendall(Request("GET", served.url(path)).encode())
        yield
    finally:
        for one in sockets:
            one.close()


class WebSocket:
    """A client of RFC 6455, as far as short texts need it."""

    def __init__(self, streams: Streams) -> None:
        self._reader, self._writer = streams

    @classmethod
    async def open(cls, served: Served, path: str) -> "WebSocket":
        """Connect; ConnectionError when the server does not switch protocols."""
        streams = await asyncio.open_connection("127.0.0.1", served.port)
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key}
        streams[1].write(Request("GET", served.url(path), headers=headers | {"Sec-WebSocket-Version": "13"}).encode())
        head = await streams[0].readuntil(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            streams[1].transport.abort()
            raise ConnectionError(head.splitlines()[0].decode())
        return cls(streams)

    async def ask(self, message: str) -> str:
        """Send a text and read the text that answers it."""
        data, mask = message.encode(), os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self._writer.write(bytes([0x81, 0x80 | len(data)]) + mask + masked)
        kind, length = await self._reader.readexactly(2)
        body = await self._reader.readexactly(length)
        if kind != 0x81:
            raise ConnectionError(f"the server closed the socket: {body!r}")
        return body.decode()

    def close(self) -> None:
        """Go away without a word."""
        self._writer.transport.abort()


async def _open(served: Served, path: str) -> tuple[int, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(Request("GET", served.url(path)).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1), 2)  # the body has begun
    except BaseException:
        writer.transport.abort()
        raise
    return int(head.split()[1]), writer
