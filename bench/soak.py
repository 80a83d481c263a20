"""The soak: many mixed requests, some of which fail and some of whose clients vanish, and what they leave behind.

Memory, objects, descriptors, threads and connections are read inside the server after each tenth of the run, when all
requests are answered and the garbage collector has run. A leak grows with every request; what is kept once (caches, a
thread, a connection) does not. So the last third is compared to the middle one, after a first third to warm up.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from statistics import mean

from bench.database import DATABASES
from bench.server import Server
from bench.subjects import Peer, http

PEER = Peer(name="soak", label="soak", mode="sync")
READINGS = 12
CLIENTS = 16
ABORTS = 0.02
ERRORS = 0.02
ABORTED_WITHIN = 0.02  # seconds: within the time that a request takes here
PATIENCE = 60.0  # seconds for one answer
SETTLING = 200  # looks at the server, 0.05 s apart, until it is at rest after the last abort

NOISE = {"memory": (25.0, 1_500_000), "objects": (0.02, 100)}
"""Growth that is taken for noise, for each request and once. An object of Python that is left behind by each request is
1, and at least 50 bytes; a session more than 1,000. What the allocator and the caches take, they take once."""

FORMS = [f"/{kind}/{router}" for kind in ("sync", "async") for router in ("own", "plain")]
ORDINARY = [
    *(http("GET", f"{form}/users") for form in FORMS),
    *(http("POST", f"{form}/users/{number}") for number, form in enumerate(FORMS, 2)),
    *(http("GET", f"{form}/released") for form in FORMS),
    *(http("GET", f"/async/{router}/{path}") for router in ("own", "plain") for path in ("stream", "events")),
]
FAILING = [
    *(http("GET", f"{form}/unknown") for form in FORMS),
    *(http("POST", f"{form}/conflict") for form in FORMS),
]
EXPECTED = {200, 404, 409}
NONE_LEFT = ("sessions", "in_use", "waiting", "checked_out")
BOUNDED = ("descriptors", "threads", "tasks", "open")
BOUND = 5  # one more of them now and then is opened once, and kept
UNHEARD = ("garbage collector", "Exception terminating", "never retrieved", "never awaited")


@dataclass
class Soak:
    """What one run sent, and what was read inside the server after each part of it."""

    requests: int
    statuses: Counter[int] = field(default_factory=Counter[int])
    aborted: int = 0
    readings: list[dict[str, int]] = field(default_factory=list[dict[str, int]])
    log: str = ""

    def growth(self, name: str) -> float:
        """Give by how much something grew for each request, from the middle third of the readings to the last."""
        third = len(self.readings) // 3
        middle, last = self.readings[-2 * third : -third], self.readings[-third:]
        apart = self.requests * third / len(self.readings)
        return (mean(one[name] for one in last) - mean(one[name] for one in middle)) / apart

    def complaints(self) -> list[str]:
        """Say what does not hold; nothing where everything does."""
        half = len(self.readings) // 2
        wrong = [f"{number} answers of {status}" for status, number in self.statuses.items() if status not in EXPECTED]
        grown = [
            f"{name} grows by {self.growth(name):.3f} for each request"
            for name, (each, once) in NOISE.items()
            if self.growth(name) > each + once / (self.requests / 3)
        ]
        kept = [f"{name}: {self._all(name)}" for name in NONE_LEFT if any(self._all(name))]
        more = [
            f"{name} still grows: {self._all(name)}"
            for name in BOUNDED
            if min(self._all(name)[half:]) > max(self._all(name)[:half]) + BOUND
        ]
        return wrong + grown + kept + more + [f"the log says {words!r}" for words in UNHEARD if words in self.log]

    def table(self) -> Iterator[str]:
        """Show the readings."""
        names = list(self.readings[0])
        yield "| requests | " + " | ".join(names) + " |"
        yield "|---" * (len(names) + 1) + "|"
        for number, reading in enumerate(self.readings, 1):
            sent = self.requests * number // len(self.readings)
            yield f"| {sent:,} | " + " | ".join(f"{reading[name]:,}" for name in names) + " |"

    def _all(self, name: str) -> list[int]:
        return [reading[name] for reading in self.readings]


class _Server(Server):
    """A server that is not warmed up: the first third of the run does that."""

    def log(self) -> str:
        """Return all that the server wrote to standard error."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _warm_up(self) -> None:
        pass


async def soak(url: str, requests: int, *, seed: int = 1) -> Soak:
    """Start a server on a database that is prepared, send it so many requests, and end it."""
    server = _Server(PEER, url)
    run = Soak(requests)
    draw = _Draw(Random(seed))
    await server.start()
    try:
        for part in range(READINGS):
            share = requests * (part + 1) // READINGS - requests * part // READINGS
            await _send(server.port, share, run, draw)
            run.readings.append(await _at_rest(server))
        run.log = server.log()
    finally:
        await server.stop()
    return run


def main(requests: int, databases: list[str]) -> None:
    """Run, print, and leave with an error when something grows or is left."""
    failed = False
    for database in databases:
        with DATABASES[database]() as made:
            run = asyncio.run(soak(made.prepare(PEER), requests))
        print(f"\n{database}: {requests:,} requests, {run.aborted:,} aborted, {dict(run.statuses)}\n")
        print("\n".join(run.table()))
        for name in ("memory", "objects"):
            print(f"{name}: {run.growth(name):+.4f} for each request, from the middle third to the last")
        for complaint in run.complaints():
            failed = True
            print(f"NOT HELD: {complaint}")
    if failed:
        raise SystemExit(1)


class _Draw:
    """Says what is sent next, and who vanishes when."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._ordinary, self._failing = cycle(ORDINARY), cycle(FAILING)

    def next(self) -> tuple[bytes, float | None]:
        """Give a request, and the seconds after which its client vanishes, if it does."""
        drawn = self._random.random()
        if drawn < ERRORS:
            return next(self._failing), None
        if drawn < ERRORS + ABORTS:
            return next(self._ordinary), self._random.random() * ABORTED_WITHIN
        return next(self._ordinary), None


async def _send(port: int, number: int, run: Soak, draw: _Draw) -> None:
    left = iter(range(number))

    async def client() -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:  # one iterator for all clients
            request, vanishes = draw.next()
            if vanishes is not None:
                run.aborted += 1
                streams[1].write(request)
                await asyncio.sleep(vanishes)
                streams[1].transport.abort()
                streams = await asyncio.open_connection("127.0.0.1", port)
            else:
                run.statuses[await _exchange(streams, request)] += 1
        streams[1].close()
        with suppress(OSError):
            await streams[1].wait_closed()

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())


async def _exchange(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> int:
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(PATIENCE):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in head:
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        elif b"transfer-encoding: chunked" in head:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
    return int(head.split()[1])


async def _at_rest(server: _Server) -> dict[str, int]:
    """Read inside the server, once whoever vanished is forgotten."""
    reading: dict[str, int] = {}
    for _ in range(SETTLING):
        reading = json.loads((await asyncio.to_thread(server.ask, http("GET", "/inside")))[2])
        if reading["in_use"] == reading["checked_out"] == reading["waiting"] == reading["sessions"] == 0:
            break
        await asyncio.sleep(0.05)
    return reading
