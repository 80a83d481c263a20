"""Open load: requests come by a schedule, whether or not those before have been answered.

A closed loop slows down with the server that it presses; the world does not. Time runs from when a request was due, not
from when it was sent, so a client that falls behind makes no answer look fast; it says itself how far it was behind. As
many connections are opened as there are requests on their way.

`python -m bench.openloop PORT PATH RATExSECONDS…` presses from a process of its own and prints what became of each
request, as JSON.
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from bench.load import complete

ROOT = Path(__file__).parent.parent
REST = 2.0  # seconds after which a connection is not used again: uvicorn closes it after five
TIMEOUT = 35.0  # seconds that clients wait after the last was due: longer than SQLAlchemy's own 30
AT_ONCE = 50  # requests that are sent one after the other by a client that is behind, before it reads answers


@dataclass(frozen=True, kw_only=True)
class Phase:
    """So many requests a second, evenly, for so many seconds."""

    rate: float
    seconds: float


@dataclass(slots=True)
class Sent:
    """One request; seconds."""

    due: float
    """From the start of the load."""
    behind: float = 0.0
    """How much later than that it was sent."""
    status: int = 0
    """0: no answer."""
    seconds: float = math.inf
    """From when it was due until it was answered."""

    @property
    def good(self) -> bool:
        """Whether it was answered with a 2xx."""
        return 200 <= self.status < 300


def percentile(values: Sequence[float], share: float) -> float:
    """Give a percentile; of nothing it is infinite."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf


def schedule(phases: Sequence[Phase]) -> Iterator[float]:
    """Give the moments at which requests are due, in seconds from the start."""
    start = 0.0
    for phase in phases:
        yield from (start + number / phase.rate for number in range(int(phase.rate * phase.seconds)))
        start += phase.seconds


def press_from_outside(port: int, path: str, phases: Sequence[Phase]) -> list[Sent]:
    """Press from a process of its own, which nothing in this one can hold up."""
    shape = [f"{phase.rate:g}x{phase.seconds:g}" for phase in phases]
    command = [sys.executable, "-m", "bench.openloop", str(port), path, *shape]
    patience = sum(phase.seconds for phase in phases) + TIMEOUT + 60.0
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=patience)
    return [Sent(*one) for one in json.loads(done.stdout)]


async def press(port: int, path: str, phases: Sequence[Phase]) -> list[Sent]:
    """Send a request by a schedule; whoever has no answer TIMEOUT seconds after the last was due has none."""
    load = _Load(port, f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
    started = time.perf_counter()
    for due in schedule(phases):
        while (ahead := started + due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        load.send(Sent(due, -ahead), started)
        if len(load.sent) % AT_ONCE == 0:
            await asyncio.sleep(0)
    deadline = time.perf_counter() + TIMEOUT
    while load.on_their_way and time.perf_counter() < deadline:
        await asyncio.sleep(0.02)
    await load.close()
    return load.sent


class _Load:
    """The connections, and the requests that went over them."""

    def __init__(self, port: int, request: bytes) -> None:
        self.request = request
        self.sent: list[Sent] = []
        self.on_their_way = 0
        self.idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._port = port
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, sent: Sent, started: float) -> None:
        self.sent.append(sent)
        self.on_their_way += 1
        if self.idle and time.perf_counter() - self.idle[-1].rested < REST:
            self.idle.pop().send(sent, started)
        else:
            task = asyncio.ensure_future(self._open_and_send(sent, started))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def close(self) -> None:
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0)

    def lost(self, connection: "_Connection") -> None:
        self._all.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    async def _open_and_send(self, sent: Sent, started: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError:
            self.on_their_way -= 1
            return
        self._all.add(connection)
        connection.send(sent, started)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, load: _Load) -> None:
        self.rested = 0.0
        self._load = load
        self._received = b""
        self._waiting: tuple[Sent, float] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, sent: Sent, started: float) -> None:
        self._waiting = (sent, started)
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        status = complete(self._received)
        if status is None or self._waiting is None:
            return
        sent, started = self._waiting
        self.rested = time.perf_counter()
        sent.status, sent.seconds = status, self.rested - started - sent.due
        self._received, self._waiting = b"", None
        self._load.on_their_way -= 1
        self._load.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting = None
            self._load.on_their_way -= 1
        self._load.lost(self)

    def abort(self) -> None:
        self._transport.abort()


def main(arguments: Sequence[str]) -> None:
    """Press as the arguments say."""
    port, path, *shape = arguments
    pairs = [one.split("x") for one in shape]
    phases = [Phase(rate=float(rate), seconds=float(seconds)) for rate, seconds in pairs]
    sent = asyncio.run(press(int(port), path, phases))
    json.dump([astuple(one) for one in sent], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
