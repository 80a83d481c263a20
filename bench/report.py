"""The tables of RESULTS.md."""

from collections.abc import Iterator
from pathlib import Path

from bench.results import Cell, Results
from bench.subjects import BY_NAME, COPIED, ENDPOINTS, HANDWRITTEN, LABELS, TITLES


def write_tables(results: Results, path: Path) -> None:
    """Write the Markdown file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_lines(results)) + "\n")


def _lines(results: Results) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield "Written by `python -m bench`. The method is in [README.md](../README.md), every window in"
    yield "[results.json](results.json). Trust ratios within a table, not numbers between two runs."
    yield ""
    yield from _circumstances(results.circumstances)
    for database in dict.fromkeys(cell.database for cell in results.cells):
        for endpoint in ENDPOINTS:
            rows = [cell for cell in results.cells if (cell.database, cell.endpoint) == (database, endpoint.name)]
            if rows:
                yield ""
                yield f"## {TITLES[database]}, {endpoint.title}"
                yield ""
                yield from _table(results, rows)


def _circumstances(facts: dict[str, object], indent: str = "") -> Iterator[str]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}- {name}:"
            yield from _circumstances(value, indent + "  ")
        else:
            yield f"{indent}- {name}: {value}"


def _table(results: Results, rows: list[Cell]) -> Iterator[str]:
    yield "| clients | peer | 2xx/s | p50 ms | p99 ms | errors | CPU µs | CPU ÷ copied | ÷ hand-written | memory MB |"
    yield "|--:|---|--:|--:|--:|---|--:|--:|--:|--:|"
    for cell in rows:
        columns = (
            str(cell.clients),
            LABELS[cell.peer],
            f"{cell.requests_per_second:,.0f}",
            number(cell.p50_ms, 1),
            ("≥ " if "no answer" in cell.errors else "") + number(cell.p99_ms, 1),
            errors(cell),
            number(cell.cpu_us, 0),
            ratio(cell, results.beside(cell, COPIED)),
            ratio(cell, results.beside(cell, HANDWRITTEN[BY_NAME[cell.peer].mode])),
            number(cell.memory_mb, 0),
        )
        yield f"| {' | '.join(columns)} |"


def errors(cell: Cell) -> str:
    """Return the share of the requests without a 2xx, and their kinds."""
    if not cell.failed:
        return "0"
    kinds = ", ".join(f"{count} {kind}" for kind, count in cell.errors.items())
    stalled = f"; stalled in {cell.stalled_windows} of {len(cell.windows)}" if cell.stalled_windows else ""
    return f"**{cell.failed / cell.sent:.0%}** ({kinds}{stalled})"


def ratio(cell: Cell, other: Cell | None) -> str:
    """Return how much CPU a request costs, as a multiple of the other's."""
    if other is None or other.cpu_us is None or cell.cpu_us is None:
        return "-"
    return f"{cell.cpu_us / other.cpu_us:.2f}"


def number(value: float | None, digits: int) -> str:
    """Return a number for a table."""
    return "-" if value is None else f"{value:,.{digits}f}"
