"""One run: every peer in every cell, side by side, so that what disturbs the machine disturbs all of them.

A cell is a database, an endpoint and a number of clients. Most peers are measured at two numbers of clients only: the
whole run must stay short enough to be made again. Within a cell the peers take turns, one window each, as often
as there are repetitions, and three times as often where the CPU is compared; the cell shows the median of a peer's
windows and the sum of its errors.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import product

from bench import environments
from bench.answers import check_same_answers
from bench.database import DATABASES, Databases
from bench.load import Load, Shape
from bench.results import Cell, Results, Window, circumstances
from bench.server import Server
from bench.subjects import LABELS, TITLES, WITHOUT_A_TWIN, Endpoint, Peer

COMPARED = 8
"""The number of clients at which the CPU per request is compared. It is noisy: there the peers have more windows."""
MORE = 3.5
FOR_ALL = (COMPARED, 128)
"""The numbers of clients at which every peer is measured: where the CPU is compared, and where pools and threads are
not enough for everybody."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    peers: tuple[Peer, ...]
    databases: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    clients: tuple[int, ...]
    repetitions: int
    shape: Shape
    everybody: bool
    """Measure all peers at all numbers of clients, not only those that have a line in the picture."""

    def cells(self, kind: str) -> list[tuple[Endpoint, int, tuple[Peer, ...]]]:
        """Return what is measured on a database, in order: the endpoint, the clients, and who takes part."""
        found = []
        for endpoint, clients in product(self.endpoints, self.clients):
            peers = tuple(peer for peer in self.on(kind) if self.everybody or peer.everywhere or clients in FOR_ALL)
            if peers:
                found.append((endpoint, clients, peers))
        return found

    def on(self, kind: str) -> tuple[Peer, ...]:
        """Return the peers that run on a database."""
        return tuple(peer for peer in self.peers if kind not in peer.not_on)

    def windows(self, clients: int) -> int:
        """Return how many windows each peer has in a cell."""
        return round(self.repetitions * (MORE if clients == COMPARED else 1))

    def method(self) -> dict[str, object]:
        """Return what results.json says about the method."""
        load = "closed loop of keep-alive clients in another process"
        windows = {"windows per cell and peer": self.repetitions, f"at {COMPARED} clients": self.windows(COMPARED)}
        return {"load": load} | windows | asdict(self.shape)

    def not_applicable(self) -> dict[str, str]:
        """Return what was asked for and can not be measured, with the reason."""
        reasons = {
            f"{peer.label} on {TITLES[kind]}": peer.not_on[kind]
            for peer in self.peers
            for kind in self.databases
            if kind in peer.not_on
        }
        return reasons | WITHOUT_A_TWIN


async def measure(plan: Plan) -> Results:
    """Run the plan and print each cell as it is done."""
    cells: list[Cell] = []
    facts: dict[str, object] = {}
    versions = {peer.label: environments.describe(peer.environment) for peer in plan.peers}
    total, number = sum(len(plan.cells(kind)) for kind in plan.databases), 0
    for kind in plan.databases:
        print(f"\n{kind}: starting the database and {len(plan.on(kind))} servers", flush=True)
        with DATABASES[kind]() as databases:
            async with _servers(plan.on(kind), databases) as servers:
                check_same_answers(servers)
                print("all peers answer the same bytes", flush=True)
                for endpoint, clients, peers in plan.cells(kind):
                    number += 1
                    print(f"\n[{number}/{total}] {kind}, {endpoint.title}, clients: {clients}", flush=True)
                    taking_part = [server for server in servers if server.peer in peers]
                    windows = await _take_turns(plan, databases, taking_part, endpoint, clients)
                    cells += [_shown(_cell(kind, endpoint, clients, peer, windows[peer])) for peer in peers]
            facts[kind] = databases.facts()
    python = ", ".join(dict.fromkeys(one["python"] for one in versions.values()))
    surroundings = circumstances() | {"python": python, "peers": versions, "databases": facts, "method": plan.method()}
    return Results(circumstances=surroundings | {"not applicable": plan.not_applicable()}, cells=cells)


@asynccontextmanager
async def _servers(peers: Sequence[Peer], databases: Databases) -> AsyncIterator[list[Server]]:
    servers: list[Server] = []
    try:
        for peer in peers:
            servers.append(Server(peer, databases.prepare(peer)))
            await servers[-1].start()
        yield servers
    finally:
        for server in servers:
            await server.stop()


async def _take_turns(
    plan: Plan, databases: Databases, servers: list[Server], endpoint: Endpoint, clients: int
) -> dict[Peer, list[Window]]:
    windows: dict[Peer, list[Window]] = {server.peer: [] for server in servers}
    for repetition in range(plan.windows(clients)):
        stalled: list[Server] = []
        first = repetition % len(servers)
        for server in servers[first:] + servers[:first]:
            databases.reset(server.peer)
            load = Load(server.port, endpoint.stream(), clients, plan.shape)
            tally = await load.run(server.cpu_seconds)
            windows[server.peer].append(Window.of(tally, server.resident_megabytes()))
            if tally.unanswered:
                stalled.append(server)
        await asyncio.gather(*(server.replace() for server in stalled))
    return windows


def _cell(kind: str, endpoint: Endpoint, clients: int, peer: Peer, windows: list[Window]) -> Cell:
    return Cell.of(database=kind, endpoint=endpoint.name, clients=clients, peer=peer.name, windows=windows)


def _shown(cell: Cell) -> Cell:
    p99 = "-" if cell.p99_ms is None else f"{cell.p99_ms:,.0f} ms"
    cpu = "-" if cell.cpu_us is None else f"{cell.cpu_us:,.0f} µs"
    numbers = f"{cell.requests_per_second:>8,.0f} 2xx/s   p99 {p99:>9}   CPU {cpu:>9}"
    errors = ", ".join(f"{kind}: {count}" for kind, count in cell.errors.items())
    print(f"    {LABELS[cell.peer]:<27}{numbers}   {errors}".rstrip(), flush=True)
    return cell
