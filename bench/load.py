"""A closed loop of keep-alive clients over raw HTTP/1.1: each sends its next request when it has its answer.

No client library: the load process must stay far cheaper than the server that it measures. The clock decides, not
the server: after the window nothing more is sent, what is still on its way is awaited as long as answers keep
coming, and whatever is left then counts as unanswered. A stalled server can not stall the benchmark.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SWEEP = 0.1  # seconds between two looks for requests that are out of time
PATIENCE = 2.5  # seconds since the last answer; a disk that is slow to sync has been seen to take 1.4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How long to press; all in seconds."""

    ramp: float  # the clients arrive one after the other
    warmup: float  # all are there, nothing is counted yet
    window: float  # counted
    timeout: float  # of one request


@dataclass(kw_only=True)
class Tally:
    """What one window saw."""

    seconds: float = 0.0
    cpu_seconds: float | None = None
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    timed_out: int = 0
    broken: int = 0
    unanswered: int = 0

    @property
    def answered(self) -> int:
        """Answers of any status within the window."""
        return self.statuses.total()

    @property
    def good(self) -> int:
        """Answers below 300 within the window."""
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)

    @property
    def errors(self) -> int:
        """Requests that got no 2xx: another status, a time-out, a closed connection, or no answer at all."""
        return self.answered - self.good + self.timed_out + self.broken + self.unanswered

    def percentile(self, share: float) -> float | None:
        """Return a latency in seconds; a request without an answer counts with the time it had waited."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Load:
    """The clients of one measurement."""

    def __init__(self, port: int, requests: Iterator[bytes], clients: int, shape: Shape) -> None:
        self.requests = requests
        self.sending = True
        self._port = port
        self._count = clients
        self._shape = shape
        self._tally = Tally()
        self._counting = False
        self._last_answer = 0.0
        self._clients: list[Client] = []
        self._reconnecting: set[asyncio.Task[None]] = set()

    async def run(self, cpu: Callable[[], float | None]) -> Tally:
        """Press for the warm-up and the window; `cpu` reads the server's CPU seconds so far."""
        await asyncio.gather(*(self._connect() for _ in range(self._count)))
        self._last_answer = time.perf_counter()
        await self._ramp()
        await self._sleep(self._shape.warmup)

        cpu_before, started, self._counting = cpu(), time.perf_counter(), True
        await self._sleep(self._shape.window)
        self._counting = self.sending = False
        self._tally.seconds = time.perf_counter() - started
        cpu_after = cpu()
        if cpu_before is not None and cpu_after is not None:
            self._tally.cpu_seconds = cpu_after - cpu_before

        await self._drain()
        return self._tally

    def answered(self, client: "Client", status: int) -> None:
        """Count an answer and send the next request."""
        self._last_answer = time.perf_counter()
        if self._counting:
            self._tally.statuses[status] += 1
            self._tally.latencies.append(self._last_answer - client.sent)
        if self.sending:
            client.send()

    def lost(self, client: "Client") -> None:
        """Take the place of a connection that the server closed.

        A server may close a connection between two requests (uvicorn does after a 500): whoever had just sent
        the next one sends it again. Closed on the first request, or within an answer, is an error.
        """
        again = client.waiting and client.untouched
        self._tally.broken += self._counting and client.waiting and not again
        self._replace(client, sent=client.sent if again else None)

    def _replace(self, client: "Client", *, sent: float | None = None) -> None:
        self._clients.remove(client)
        if self.sending:
            task = asyncio.ensure_future(self._connect_and_send(sent))
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)

    async def _ramp(self) -> None:
        """Let the clients come one after the other, evenly over the ramp: nobody needs a thundering start."""
        started = time.perf_counter()
        for number, client in enumerate(list(self._clients)):
            due = started + self._shape.ramp * number / len(self._clients)
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            client.send()

    async def _connect(self) -> "Client":
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self._port)
        self._clients.append(client)
        return client

    async def _connect_and_send(self, sent: float | None) -> None:
        client = await self._connect()
        if self.sending:
            client.send(sent)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, and give up requests that are out of time."""
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            await asyncio.sleep(min(SWEEP, end - now))
            overdue = time.perf_counter() - self._shape.timeout
            for client in [client for client in self._clients if client.waiting and client.sent < overdue]:
                if self._counting:
                    self._tally.timed_out += 1
                    self._tally.latencies.append(self._shape.timeout)
                client.abandon()
                self._replace(client)

    async def _drain(self) -> None:
        """Wait while answers keep coming, then count what is left."""
        while any(client.waiting for client in self._clients):
            if time.perf_counter() - self._last_answer > PATIENCE:
                break
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._reconnecting, return_exceptions=True)
        now = time.perf_counter()
        for client in self._clients:
            if client.waiting:
                self._tally.unanswered += 1
                self._tally.latencies.append(now - client.sent)
            client.abandon()


class Client(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, load: Load) -> None:
        self.sent = 0.0
        self.waiting = False
        self._load = load
        self._answers = 0
        self._abandoned = False
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @property
    def untouched(self) -> bool:
        """Whether the server, having answered on this connection before, has not begun to answer again."""
        return self._answers > 0 and not self._received

    def send(self, sent: float | None = None) -> None:
        """Send the next request; its time runs from `sent` when it was sent in vain before."""
        self.sent = time.perf_counter() if sent is None else sent
        self.waiting = True
        self._transport.write(next(self._load.requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if (status := complete(self._received)) is not None:
            self._received = b""
            self.waiting = False
            self._answers += 1
            self._load.answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._abandoned:
            self._load.lost(self)

    def abandon(self) -> None:
        """Close without caring for an answer."""
        self._abandoned = True
        self._transport.abort()


def complete(received: bytes) -> int | None:
    """Return the status once the whole answer is there. Every peer answers with a content-length."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return int(head[9:12]) if len(body) >= int(length) else None
