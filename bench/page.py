"""The page of the documentation about this benchmark, written from results.json and from nothing else.

tests/docs writes it again from the published results and compares: no number in it can drift.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from bench.report import errors, number, ratio
from bench.results import Cell, Results
from bench.subjects import ENDPOINTS, HANDWRITTEN, LIST, OURS, PEERS, TITLES, Peer

Table = Callable[[Results, str], Iterator[str]]
COMPARED, CROWDED = 8, 128  # clients
SAME = 0.03  # ratios closer to 1 than this are noise, and no peer is called faster because of them

HEAD = """---
description: What a request costs with fastapi-database, with the patterns that people copy and with other libraries.
---

<!-- Written by `python -m bench` from bench/results/results.json: do not edit. -->

# Benchmarks

**What you get.** What a request costs the server, and how many it answers, for the patterns that people copy,
for other libraries and for `fastapi-database`: the same three endpoints, the same bytes in the answers,
measured in turns in one run. Cells where a peer is ahead of us are listed too.

![Answered requests per second against clients at once](../assets/throughput.svg)
"""
METHOD = """
## How it is measured

Every peer is an application of its own, written as its own documentation says, in a virtual environment of its
own, with default settings. One uvicorn worker serves it. The load comes from another process over keep-alive
connections: each client sends its next request when it has its answer. The peers take turns, one window each,
and the tables show the median of the windows. CPU is the user and system time of the server process, divided by
its answers. The database server of PostgreSQL is not in it; SQLite is.

Trust ratios within a table. Do not compare the numbers of two runs, or of two machines. The repository has the
whole method (`bench/README.md`), every application with the page that it follows (`bench/apps`) and every
window (`bench/results/results.json`).
"""
TAIL = """
## When it fails

`make bench` measures all of it again, `make bench ARGS=--quick` a part in some minutes. A run stops when two
peers give different answers, and says which. If your numbers tell another story, or a peer is not written as
its documentation says, open an issue with `results.json`.
"""


def replace_between(page: Path, begin: str, end: str, text: str) -> None:
    """Write a text between two marks in a page whose rest is written by hand."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def write_page(results: Results, path: Path) -> None:
    """Write the page."""
    path.write_text(page(results), encoding="utf-8")


def page(results: Results) -> str:
    """Return the page that belongs to the results."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    yield HEAD
    yield _surroundings(results)
    yield ""
    yield f"## CPU per request, {COMPARED} clients at once"
    yield ""
    yield "![CPU per request for every peer](../assets/peers.svg)"
    yield ""
    yield "Microseconds of the server's CPU, and in brackets the multiple of what careful SQLAlchemy costs in the same"
    yield "mode without any library (`Session` in `def` endpoints, `AsyncSession` in `async def` endpoints)."
    yield from _each_database(results, _cpu_table)
    yield ""
    yield f"## Answers, {CROWDED} clients at once"
    yield ""
    yield f"2xx answers per second to {LIST.title}, latencies, and requests that got no 2xx."
    yield from _each_database(results, _crowd_table)
    yield ""
    yield "## Where a peer is ahead of us"
    yield ""
    yield from _ahead(results)
    yield from _not_applicable(results)
    yield METHOD.rstrip("\n")
    yield TAIL.rstrip("\n")


def _surroundings(results: Results) -> str:
    facts = results.circumstances
    packages = facts["packages"]
    assert isinstance(packages, dict)
    names = ("fastapi", "sqlalchemy", "psycopg", "asyncpg", "aiosqlite", "uvicorn")
    versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
    measured = f"Measured on {facts['date']} with Python {facts['python']}, {facts['cpus']} CPUs, {versions}."
    libraries = ", ".join(_libraries(facts))
    return f"{measured} The libraries: {libraries}." if libraries else measured


def _libraries(facts: dict[str, object]) -> Iterator[str]:
    """Name each library once, with the version that was installed."""
    installed = facts.get("peers", {})
    assert isinstance(installed, dict)
    for library in dict.fromkeys(peer.environment.replace("_", "-") for peer in PEERS if peer.environment):
        versions = [one[library] for one in installed.values() if library in one]
        yield from (f"{library} {version}" for version in versions[:1])


def _each_database(results: Results, table: Table) -> Iterator[str]:
    for database, title in TITLES.items():
        lines = list(table(results, database))
        if lines:
            yield ""
            yield f"### {title}" if table is _cpu_table else f"### {title} under {CROWDED} clients"
            yield ""
            yield from lines


def _cpu_table(results: Results, database: str) -> Iterator[str]:
    rows = []
    for peer in _measured(results, database, COMPARED):
        cells = [results.find(database, endpoint.name, COMPARED, peer.name) for endpoint in ENDPOINTS]
        values = [_cpu(cell, cell and results.beside(cell, HANDWRITTEN[peer.mode])) for cell in cells]
        rows.append(f"| {_label(peer)} | {peer.mode} | {' | '.join(values)} |")
    if rows:
        yield f"| peer | mode | {' | '.join(endpoint.title for endpoint in ENDPOINTS)} |"
        yield "|---|---|--:|--:|--:|"
        yield from rows


def _crowd_table(results: Results, database: str) -> Iterator[str]:
    rows = []
    for peer in _measured(results, database, CROWDED):
        if cell := results.find(database, LIST.name, CROWDED, peer.name):
            p99 = ("≥ " if "no answer" in cell.errors else "") + number(cell.p99_ms, 0)
            numbers = (f"{cell.requests_per_second:,.0f}", number(cell.p50_ms, 0), p99, errors(cell))
            rows.append(f"| {_label(peer)} | {peer.mode} | {' | '.join(numbers)} |")
    if rows:
        yield "| peer | mode | 2xx/s | p50 ms | p99 ms | errors |"
        yield "|---|---|--:|--:|--:|---|"
        yield from rows


def _cpu(cell: Cell | None, other: Cell | None) -> str:
    if cell is None or cell.cpu_us is None:
        return "-"
    return number(cell.cpu_us, 0) + ("" if other is None else f" ({ratio(cell, other)})")


def _label(peer: Peer) -> str:
    return f"**{peer.label}**" if peer.name in OURS.values() else peer.label


def _ahead(results: Results) -> Iterator[str]:
    """List every number by which somebody is better than ours in the same mode."""
    rows = []
    for database, endpoint, clients in product(TITLES, ENDPOINTS, results.clients()):
        for peer in _measured(results, database, clients):
            cell = results.find(database, endpoint.name, clients, peer.name)
            ours = cell and results.beside(cell, OURS[peer.mode])
            if cell is None or ours is None or cell is ours or cell.failed:
                continue
            place = f"{TITLES[database]}, {endpoint.title} | {clients} | {peer.label}"
            rows += [f"| {place} | {advantage} |" for advantage in _advantages(cell, ours)]
    if not rows:
        yield "In no cell of this run: nobody needs less CPU, answers more or has a shorter p99 than ours in the same"
        yield f"mode, by more than {SAME:.0%}."
        return
    yield f"Compared with ours in the same mode, by more than {SAME:.0%}: CPU per request at {COMPARED} clients,"
    yield f"answers per second at any number, p99 from {CROWDED} clients on. Where its requests failed, it is not."
    yield ""
    yield "| cell | clients | peer | in what | peer | ours |"
    yield "|---|--:|---|---|--:|--:|"
    yield from rows


def _advantages(cell: Cell, ours: Cell) -> Iterator[str]:
    if cell.clients == COMPARED and cell.cpu_us and ours.cpu_us and cell.cpu_us < (1 - SAME) * ours.cpu_us:
        yield f"CPU per request, µs | {number(cell.cpu_us, 0)} | {number(ours.cpu_us, 0)}"
    if cell.requests_per_second > (1 + SAME) * ours.requests_per_second:
        yield f"2xx/s | {cell.requests_per_second:,.0f} | {ours.requests_per_second:,.0f}"
    if cell.clients >= CROWDED and cell.p99_ms and ours.p99_ms and cell.p99_ms < (1 - SAME) * ours.p99_ms:
        yield f"p99, ms | {number(cell.p99_ms, 0)} | {number(ours.p99_ms, 0)}"


def _not_applicable(results: Results) -> Iterator[str]:
    reasons = results.circumstances.get("not applicable", {})
    assert isinstance(reasons, dict)
    if reasons:
        yield ""
        yield "## Not applicable"
        yield ""
        yield from (f"- {what}: {reason}." for what, reason in reasons.items())


def _measured(results: Results, database: str, clients: int) -> list[Peer]:
    there = {cell.peer for cell in results.cells if (cell.database, cell.clients) == (database, clients)}
    return [peer for peer in PEERS if peer.name in there]
