"""The soak: many mixed requests, some of which fail and some of whose clients vanish, and what they leave behind.

Memory, objects, descriptors, threads and connections are read inside the server after each twelfth of the run, when all
requests are answered and the garbage collector has run. A leak grows with every request; what is kept once (caches, a
thread, a connection) does not. So the last third is compared to the middle one, after a first third to warm up.

What connections and threads keep, they fill and lose again as they come and go: up to 200 dead weak references to
cursors in each connection of sqlite3, the prepared statements of each connection of asyncpg, some 20 objects in each
thread. That swings by some hundred objects, as a leak of 0.3 for each of 5,000 requests does. So at the end of each
third the server closes its connections and has all of its threads, and what is there then is compared: it is the same,
to the object, where nothing leaks. What grows with a connection would be closed with it; that is looked for within the
last third, and found in a long run.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from statistics import mean
from typing import ClassVar

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

NOISE = {"memory": (25.0, 1_500_000)}
"""Growth that is taken for noise, for each request and once. An object of Python that is left behind by each request is
1, and at least 50 bytes; a session more than 1,000. What the allocator takes, it takes once."""
KEPT = {"objects": (0.02, 8_000)}
"""The same, of what ten connections and forty threads keep while they are there."""
SETTLED_NOISE = {"objects": (0.01, 100)} | dict.fromkeys(("descriptors", "threads", "tasks", "open"), (0.0, 0))
"""The same, where the server has closed its connections: room for code that is run for the first time."""

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
UNHEARD = ("garbage collector", "Exception terminating", "never retrieved", "never awaited")


@dataclass
class Soak:
    """What one run sent, and what was read inside the server after each part of it."""

    requests: int
    statuses: Counter[int] = field(default_factory=Counter[int])
    aborted: int = 0
    readings: list[dict[str, int]] = field(default_factory=list[dict[str, int]])
    settled: list[dict[str, int]] = field(default_factory=list[dict[str, int]])
    """What was read at the end of each third, with connections closed."""
    log: str = ""

    def growth(self, name: str) -> float:
        """Give by how much something grew for each request, from the middle third of the readings to the last."""
        third = len(self.readings) // 3
        middle, last = self.readings[-2 * third : -third], self.readings[-third:]
        apart = self.requests * third / len(self.readings)
        return (mean(one[name] for one in last) - mean(one[name] for one in middle)) / apart

    def growth_of_settled(self, name: str) -> float:
        """Give the same for what is there while connections are closed."""
        _, before, after = self.settled
        return (after[name] - before[name]) / (self.requests / 3)

    def growth_of_kept(self, name: str) -> float:
        """Give the same within the last third, over which connections stay open."""
        first, *_, last = self.readings[-(len(self.readings) // 3) :]
        return (last[name] - first[name]) / (self.requests / 4)

    def complaints(self) -> list[str]:
        """Say what does not hold; nothing where everything does."""
        third = self.requests / 3
        wrong = [f"{number} answers of {status}" for status, number in self.statuses.items() if status not in EXPECTED]
        grown = [
            f"{name} grows by {growth(name):.3f} for each request, {where}"
            for where, growth, noise in (
                ("from third to third", self.growth, NOISE),
                ("with connections open", self.growth_of_kept, KEPT),
                ("with connections closed", self.growth_of_settled, SETTLED_NOISE),
            )
            for name, (each, once) in noise.items()
            if growth(name) > each + once / third
        ]
        kept = [f"{name}: {self._all(name)}" for name in NONE_LEFT if any(self._all(name))]
        return wrong + grown + kept + [f"the log says {words!r}" for words in UNHEARD if words in self.log]

    def table(self) -> Iterator[str]:
        """Show the readings."""
        names = list(self.readings[0])
        yield "| requests | " + " | ".join(names) + " |"
        yield "|---" * (len(names) + 1) + "|"
        for number, reading in enumerate(self.readings, 1):
            sent = self.requests * number // len(self.readings)
            yield f"| {sent:,} | " + " | ".join(f"{reading[name]:,}" for name in names) + " |"
        for number, reading in enumerate(self.settled, 1):
            sent = self.requests * number // len(self.settled)
            yield f"| {sent:,}, closed | " + " | ".join(f"{reading[name]:,}" for name in names) + " |"

    def _all(self, name: str) -> list[int]:
        return [reading[name] for reading in self.readings]


class _Server(Server):
    """A server that is not warmed up: the first third of the run does that."""

    environment: ClassVar[Mapping[str, str]] = {"MALLOC_ARENA_MAX": "1"}  # else glibc keeps memory for each thread

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
        await _settled(server)  # what its threads take, they take once
        for part in range(READINGS):
            share = requests * (part + 1) // READINGS - requests * part // READINGS
            await _send(server.port, share, run, draw)
            run.readings.append(await _at_rest(server))
            if (part + 1) % (READINGS // 3) == 0:
                run.settled.append(await _settled(server))
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
        print(f"memory: {run.growth('memory'):+.4f} bytes for each request, from the middle third to the last")
        print(f"objects: {run.growth_of_settled('objects'):+.4f} for each request, with connections closed")
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


async def _settled(server: _Server) -> dict[str, int]:
    """Read with connections closed, once threads and sockets that were told to end have ended."""
    await asyncio.to_thread(server.ask, http("POST", "/settle"))
    readings = [await _at_rest(server) for _ in range(2)]
    for _ in range(SETTLING):
        if readings[-1] == readings[-2] | {"memory": readings[-1]["memory"]} and not readings[-1]["open"]:
            break
        await asyncio.sleep(0.05)
        readings.append(await _at_rest(server))
    return readings[-1]
