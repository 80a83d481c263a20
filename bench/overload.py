"""Overload: from half to five times what the database can do, by a schedule, in several applications.

The database is the limit, not the process: a statement sleeps in it for 0.1 s, on one of five connections. With one of
20 ms the fivefold is 1,250 requests a second, which two CPUs that also send them and run PostgreSQL can hardly receive.
Every load presses a fresh server, after a calm and before another.
"""

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.openloop import Phase, Sent, percentile, press
from bench.page import replace_between
from bench.postgresql import postgresql

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- the table: written by `python -m bench overload` -->", "<!-- the end of the table -->"
STATEMENT = 0.1  # seconds
CAPACITY = 5 / STATEMENT  # requests a second, on five connections
PATIENCE = 1.0  # seconds after which whoever asked has gone, in one of the columns
LOADS = (0.5, 1.0, 2.0, 5.0)
PAST = 2.0  # the first of the loads that are more than can be done
SHORT = 8.0  # seconds that the others are pressed for at most
CALM = Phase(rate=0.5 * CAPACITY, seconds=3.0)
AFTER = Phase(rate=0.4 * CAPACITY, seconds=6.0)
TICKS = os.sysconf("SC_CLK_TCK")
REJECTIONS = Phase(rate=400.0, seconds=2.0)
TURNS = 5  # of rejections and of a route without a database
START = 60.0  # seconds that a server may take to start


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One application with its settings."""

    name: str
    label: str
    app: str
    path: str
    colour: str


SUBJECTS = (
    Subject(name="tutorial", label="tutorial's pattern", app="overload_tutorial", path="/sync", colour="#d1495b"),
    Subject(name="async", label="ours, async", app="overload_ours", path="/async", colour="#2f8fd8"),
    Subject(name="sync", label="ours, sync", app="overload_ours", path="/sync", colour="#1f9d61"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One subject under one load; rates are per second, times in seconds."""

    subject: str
    load: float
    offered: float
    goodput: float
    in_patience: float
    refused: float
    lost: float
    p50: float
    p99: float
    behind: float
    """The p99 of how late requests were sent: where a client falls behind, the machine was too busy."""
    starved: float
    """The share of the time that the server's event loop could run and had no CPU to run on."""
    cpu: float
    megabytes: float
    recovery: float | None


def main(*, seconds: float, directory: Path, chart: Path | None, page: Path | None = None) -> None:
    """Measure each load past capacity for so many seconds; write the table and, where there is a place, the others."""
    directory.mkdir(parents=True, exist_ok=True)
    with postgresql() as url:
        rejection = _rejection(url)
        print(
            f"CPU of a rejection: {rejection[0]:.0f} us, of a route without a database: {rejection[1]:.0f} us",
            flush=True,
        )
        rows = [_measure(subject, load, url, seconds) for load in LOADS for subject in SUBJECTS]
    found = {"seconds": seconds, "rejection_us": rejection, "rows": [_written(row) for row in rows]}
    (directory / "overload.json").write_text(json.dumps(found, indent=1) + "\n")
    (directory / "OVERLOAD.md").write_text(table(rows, rejection, seconds))
    print(f"Table: {directory / 'OVERLOAD.md'}")
    if page is not None:
        replace_between(page, BEGIN, END, short_table(rows))
    if chart is not None:
        from bench.goodput import draw_goodput

        draw_goodput(rows, chart)
        print(f"Chart: {chart}")


def _written(row: Row) -> dict[str, object]:
    """Give a row as JSON has it, which knows no infinity: nobody was answered."""
    return {name: None if value == math.inf else value for name, value in asdict(row).items()}


def read(file: Path) -> list[Row]:
    """Give the rows of a run that was written down."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return [Row(**{**row, **{name: math.inf for name in ("p50", "p99") if row[name] is None}}) for row in rows]


def short_table(rows: Sequence[Row]) -> str:
    """Write down, for the documentation, what each application answered under each load."""
    heads = [f"{one.label}: {what}" for one in SUBJECTS for what in ("answered", "refused", "lost")]
    lines = [f"| offered | {' | '.join(heads)} |", f"|--:|{'--:|' * len(heads)}"]
    for load in LOADS:
        of = {row.subject: row for row in rows if row.load == load}
        found = [value for one in SUBJECTS for value in (of[one.name].goodput, of[one.name].refused, of[one.name].lost)]
        lines.append(f"| {of[SUBJECTS[0].name].offered:.0f} | {' | '.join(f'{value:.0f}' for value in found)} |")
    return "\n".join(lines)


def peak(rows: Sequence[Row], subject: str) -> float:
    """Give the best goodput of a subject under any load."""
    return max(row.goodput for row in rows if row.subject == subject)


def _measure(subject: Subject, load: float, url: str, seconds: float) -> Row:
    seconds = seconds if load >= PAST else min(seconds, SHORT)
    pressing = Phase(rate=load * CAPACITY, seconds=seconds)
    with _served(subject.app, url, WORK=f"{STATEMENT}") as (port, pid):
        asyncio.run(press(port, subject.path, [Phase(rate=20, seconds=0.5)]))  # the code is warm
        most = [0.0]
        watching = _watch_memory(pid, most)
        cpu, starved, started = _cpu_seconds(pid), _starved_seconds(pid), time.monotonic()
        sent = asyncio.run(press(port, subject.path, [CALM, pressing, AFTER]))
        elapsed = time.monotonic() - started
        cpu, starved = _cpu_seconds(pid) - cpu, _starved_seconds(pid) - starved
        watching.set()
    start, end = CALM.seconds, CALM.seconds + seconds
    due = [one for one in sent if start <= one.due < end]
    admitted = [one.seconds for one in due if one.good]
    answered = [one for one in sent if start <= one.due + one.seconds < end]
    calm = percentile([one.seconds for one in sent if 1.0 <= one.due < start], 0.99)
    row = Row(
        subject=subject.name,
        load=load,
        offered=len(due) / seconds,
        goodput=sum(one.good for one in answered) / seconds,
        in_patience=sum(one.good and one.seconds <= PATIENCE for one in answered) / seconds,
        refused=sum(one.status == 503 for one in answered) / seconds,
        lost=sum(one.status not in {200, 503} for one in due) / seconds,
        p50=percentile(admitted, 0.5),
        p99=percentile(admitted, 0.99),
        behind=percentile([one.behind for one in due], 0.99),
        starved=starved / elapsed,
        cpu=cpu / elapsed,
        megabytes=most[0],
        recovery=_recovery(sent, end, calm),
    )
    print(f"{subject.label:24} x {load:<4g} goodput {row.goodput:6.1f}, p99 {row.p99:.2f}", flush=True)
    return row


def _recovery(sent: Sequence[Sent], end: float, calm: float) -> float | None:
    """Give the seconds after the load dropped until a second's p99 is at most twice that of before; None: never."""
    for step in (number * 0.25 for number in range(int((AFTER.seconds - 1.0) / 0.25))):
        window = [one.seconds for one in sent if end + step <= one.due < end + step + 1.0]
        if percentile(window, 0.99) <= 2 * max(calm, 0.05):
            return step
    return None


def _rejection(url: str) -> tuple[float, float]:
    """Give the CPU of a rejection and of a route without a database, in microseconds, the medians of turns."""
    costs: dict[str, list[float]] = {"/sync": [], "/nothing": []}
    with _served("overload_ours", url, WORK="120", MAX_WAITING="0") as (port, pid), _held(port):
        for _ in range(TURNS):
            for path, found in costs.items():
                before = _cpu_seconds(pid)
                sent = asyncio.run(press(port, path, [REJECTIONS]))
                found.append((_cpu_seconds(pid) - before) / len(sent) * 1e6)
                statuses = {one.status for one in sent}
                if statuses != {503 if path == "/sync" else 200}:
                    raise RuntimeError(f"{path} was answered with {statuses}")
    rejection, nothing = (sorted(found)[TURNS // 2] for found in costs.values())
    return rejection, nothing


@contextmanager
def _held(port: int) -> Iterator[None]:
    """Have requests hold every connection: one after the other, until one is refused."""
    with ExitStack() as held:
        while True:
            one = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.settimeout(1.0)
            one.sendall(b"GET /sync HTTP/1.1\r\nhost: bench\r\n\r\n")
            with suppress(TimeoutError):
                if one.recv(12) == b"HTTP/1.1 503":
                    break
        yield


@contextmanager
def _served(app: str, url: str, **env: str) -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"bench.apps.{app}:app", "--port", str(port), "--no-access-log"]
    surroundings = {**os.environ, "BENCH_DATABASE_URL": url, **env}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--backlog", "4096"], cwd=ROOT, env=surroundings, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START
            while not _accepts(port):
                if time.monotonic() > deadline or process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"the server of {app} did not start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _watch_memory(pid: int, most: list[float]) -> threading.Event:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
            most[0] = max(most[0], int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6)

    threading.Thread(target=watch, daemon=True).start()
    return done


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _starved_seconds(pid: int) -> float:
    """Give how long the thread of the event loop has waited for a CPU so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def table(rows: Sequence[Row], rejection: tuple[float, float], seconds: float) -> str:
    """Write down what was measured."""
    labels = {subject.name: subject.label for subject in SUBJECTS}
    lines = [
        "# Overload",
        "",
        f"Open loop. {CAPACITY:g} requests a second are what the database can do (`pg_sleep({STATEMENT:g})`, 5",
        "connections).",
        f"{seconds:g} s of each load from {PAST:g} on, {min(seconds, SHORT):g} s of the others,",
        f"after {CALM.seconds:g} s at half of capacity and before {AFTER.seconds:g} s at 0.4.",
        "Requests per second, times in ms. What the columns mean: [README](../README.md#overload).",
        "",
        f"| load | application | offered | goodput | of its peak | within {PATIENCE:g} s | refused | other errors "
        "| p50 | p99 | normal after | CPU | MB | behind | starved |",
        f"|{'---|' * 15}",
    ]
    for row in rows:
        cells = (
            f"x {row.load:g}",
            labels[row.subject],
            f"{row.offered:.0f}",
            f"{row.goodput:.0f}",
            f"{row.goodput / (peak(rows, row.subject) or 1.0):.2f}",
            *(f"{value:.0f}" for value in (row.in_patience, row.refused, row.lost)),
            *("-" if math.isinf(value) else f"{1000 * value:.0f}" for value in (row.p50, row.p99)),
            f"not in {AFTER.seconds - 1:g} s" if row.recovery is None else f"{row.recovery:g} s",
            f"{row.cpu:.2f}",
            f"{row.megabytes:.0f}",
            f"{1000 * row.behind:.0f}",
            f"{row.starved:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"CPU of a request that is refused: {rejection[0]:.0f} µs; of a route without a database beside it: "
        f"{rejection[1]:.0f} µs ({rejection[0] / rejection[1]:.1f} x).",
    ]
    return "\n".join(lines) + "\n"
