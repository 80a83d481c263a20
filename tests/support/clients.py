"""HTTP clients for the tests: real sockets, many at once, as rude as clients can be.

Written on bare asyncio streams: an ordinary client costs more processor time per request than the server
under test, and there may be two cores for both. A request without an answer is an `Answer` of status 0.
"""

import asyncio
import json as jsonlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

LINGER_ZERO = struct.pack("ii", 1, 0)


class Answer(NamedTuple):
    """What came back for one request; `seconds` from the first byte sent to the last byte read.

    Without an answer the status is 0 and the body says why.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    seconds: float

    def json(self) -> Any:
        """Decode the body."""
        return jsonlib.loads(self.body)


@dataclass(frozen=True)
class Request:
    """One request: a method, a URL, and a body where `json` is not None."""

    method: str
    url: str
    json: object = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    def encode(self) -> bytes:
        """Give the bytes that go over the wire."""
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        body = b"" if self.json is None else jsonlib.dumps(self.json).encode()
        headers = {"Host": parts.netloc, **self.headers}
        if self.json is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{self.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """One keep-alive connection, opened by its first request."""

    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether the next request goes over the connection of the last."""
        return self._streams is not None

    async def send(self, request: Request, *, timeout: float = 60.0) -> Answer:
        """Send a request and read its whole answer, within `timeout` seconds."""
        start = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                status, headers, body = await self._exchange(request)
        except (OSError, EOFError, TimeoutError) as error:
            self.abort()
            return Answer(0, httpx.Headers(), repr(error).encode(), time.perf_counter() - start)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body, time.perf_counter() - start)

    def close(self) -> None:
        """Say goodbye properly."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    def abort(self) -> None:
        """Reset the connection: the server reads an error, not an end."""
        if self._streams is not None:
            reset_when_closed(self._streams[1].get_extra_info("socket"))
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, request: Request) -> tuple[int, httpx.Headers, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*request.address)
        reader, writer = self._streams
        writer.write(request.encode())
        await writer.drain()
        status, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        if request.method == "HEAD" or status in {204, 304}:
            return status, headers, b""
        return status, headers, await _read_body(reader, headers)


def burst(url: str | Callable[[int], str], n: int, **options: Any) -> list[Answer]:
    """Send `n` requests from an event loop of its own; see `send_burst`."""
    return asyncio.run(send_burst(url, n, **options))


async def send_burst(
    url: str | Callable[[int], str],
    n: int,
    *,
    concurrency: int = 1,
    method: str = "GET",
    json: object | Callable[[int], object] = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> list[Answer]:
    """Send `n` requests over `concurrency` keep-alive connections and give the answers in order.

    `url` and `json` may be functions of the number of the request. `timeout` is seconds for each of them.
    """

    def request(number: int) -> Request:
        target = url(number) if callable(url) else url
        return Request(method, target, json(number) if callable(json) else json, headers or {})

    answers: dict[int, Answer] = {}
    numbers = iter(range(n))

    async def client() -> None:
        connection = Connection()
        for number in numbers:  # one iterator for all clients: each number is taken once
            answers[number] = await connection.send(request(number), timeout=timeout)
        connection.close()

    async with asyncio.TaskGroup() as clients:
        for _ in range(min(concurrency, n)):
            clients.create_task(client())
    return [answers[number] for number in range(n)]


def statuses(answers: Iterable[Answer]) -> Counter[int]:
    """Count answers by status."""
    return Counter(answer.status for answer in answers)


def keep_alive(*requests: Request, timeout: float = 60.0) -> list[Answer]:
    """Send requests one after the other on one connection, which must stay open between them.

    After an answer that closes it, the rest are answers of status 0.
    """

    async def talk() -> list[Answer]:
        connection = Connection()
        answers: list[Answer] = []
        for request in requests:
            if answers and not connection.is_open:
                answers.append(_NOT_SENT)
            else:
                answers.append(await connection.send(request, timeout=timeout))
        connection.close()
        return answers

    return asyncio.run(talk())


def abort_after(request: Request, seconds: float) -> bytes:
    """Send a request, read for so many seconds, reset the connection, and give what had come."""
    return asyncio.run(send_and_abort(request, seconds))


async def send_and_abort(request: Request, seconds: float) -> bytes:
    """Do the work of `abort_after` in a running event loop."""
    reader, writer = await asyncio.open_connection(*request.address)
    received = bytearray()
    try:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(seconds):
                writer.write(request.encode())
                while chunk := await reader.read(65536):
                    received += chunk
                await asyncio.Event().wait()  # the answer ended early: stay until the time has come
    finally:
        reset_when_closed(writer.get_extra_info("socket"))
        writer.transport.abort()
    return bytes(received)


def abort_burst(requests: Sequence[tuple[Request, float]], *, concurrency: int) -> list[bytes]:
    """Send many requests, `concurrency` at a time, and abort each after its own number of seconds."""

    async def send_all() -> list[bytes]:
        places = asyncio.Semaphore(concurrency)

        async def one(request: Request, seconds: float) -> bytes:
            async with places:
                return await send_and_abort(request, seconds)

        return await asyncio.gather(*(one(request, seconds) for request, seconds in requests))

    return asyncio.run(send_all())


@contextmanager
def held_open(
    request: Request, n: int, *, read_head: bool = True, timeout: float = 60.0
) -> Iterator[list[socket.socket]]:
    """Keep `n` clients in the middle of an answer: a stream that nobody reads further.

    Yields their sockets, each after the head of its answer; without `read_head` nothing is read at all.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(request.address, timeout)) for _ in range(n)]
        for one in sockets:
            one.sendall(request.encode())
        for one in sockets if read_head else ():
            _skip_head(one)
        yield sockets


def reset_when_closed(connection: socket.socket) -> None:
    """Make closing this socket send a reset instead of an orderly end; one that is closed already stays as it is."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


_NOT_SENT = Answer(0, httpx.Headers(), b"not sent: the server had closed the connection", 0.0)


def _skip_head(connection: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)  # one by one: what follows the head is the test's to read
        if not byte:
            raise ConnectionError(f"the server closed the connection after {head!r}")
        head += byte


def _parse_head(head: bytes) -> tuple[int, httpx.Headers]:
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = [line.partition(":")[::2] for line in lines]
    return int(first.split()[1]), httpx.Headers([(name, value.strip()) for name, value in pairs])


async def _read_body(reader: asyncio.StreamReader, headers: httpx.Headers) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        return await _read_chunks(reader)
    return await reader.read()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := await _read_size(reader):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return bytes(body)


async def _read_size(reader: asyncio.StreamReader) -> int:
    line = await reader.readuntil(b"\r\n")  # unlike readline it raises when the connection ended
    return int(line, 16)
