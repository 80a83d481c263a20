"""The picture of the README: throughput and errors against the number of clients, drawn from results.json.

At most five lines: the copied pattern, careful SQLAlchemy and ours. bars.py has everybody.
Its background is transparent and its colours have contrast on white and on near-black alike; lines carry
their names, so that nobody has to match colours with a legend.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import Cell, Results
from bench.subjects import GREY, LIST, PEERS, TITLES, Peer

Lines = dict[Peer, list[Cell]]


def draw_lines(results: Results, target: Path) -> bool:
    """Draw GET /users: on the left the throughput, on the right the share of requests without a 2xx.

    The answer is whether GET /users was measured at all.
    """
    measured = {cell.database for cell in results.cells if cell.endpoint == LIST.name}
    if not measured:
        return False
    database = next(name for name in TITLES if name in measured)
    title = f"{LIST.title} on {TITLES[database]}, FastAPI with one uvicorn worker"
    lines = {peer: _cells(results, database, peer) for peer in PEERS if peer.everywhere}
    with mpl.rc_context(style()):
        figure = Figure(figsize=(10, 4.2))
        throughput, errors = figure.subplots(1, 2, width_ratios=(1.75, 1))
        _frame(throughput, results.clients(), "answered requests per second")
        _throughput(throughput, lines)
        _frame(errors, results.clients(), "requests without a 2xx answer, %")
        _errors(errors, lines)
        figure.suptitle(title, x=0.012, ha="left", fontsize=11)
        figure.subplots_adjust(left=0.055, right=0.985, top=0.82, bottom=0.13, wspace=0.6)
        save(figure, target, title)
    return True


def _throughput(axes: Axes, lines: Lines) -> None:
    top = 1.06 * max(cell.requests_per_second for cells in lines.values() for cell in cells)
    axes.set_ylim(-0.04 * top, top)
    ends: list[tuple[Cell, Peer]] = []
    for peer, cells in lines.items():
        x, y = [cell.clients for cell in cells], [cell.requests_per_second for cell in cells]
        axes.plot(x, y, color=peer.colour, marker="o")
        failed = [cell for cell in cells if cell.failed]
        x, y = [cell.clients for cell in failed], [cell.requests_per_second for cell in failed]
        axes.plot(x, y, color=peer.colour, marker="x", markersize=11, markeredgewidth=2.5, linestyle="")
        ends += [(cell, peer) for cell in cells[-1:]]
    _label_ends(axes, ends, gap=0.065 * top)


def _label_ends(axes: Axes, ends: Iterable[tuple[Cell, Peer]], *, gap: float) -> None:
    """Write the names beside the ends of the lines, pushed apart where the lines meet."""
    y = float("-inf")
    for cell, peer in sorted(ends, key=lambda end: end[0].requests_per_second):
        y = max(cell.requests_per_second, y + gap)
        end = (cell.clients, y)
        axes.annotate(peer.label, end, (9, 0), textcoords="offset points", va="center", color=peer.colour)


def _errors(axes: Axes, lines: Lines) -> None:
    axes.set_ylim(-4, 106)
    failing: list[Peer] = []
    for peer, cells in lines.items():
        x, y = [cell.clients for cell in cells], [100 * cell.failed / cell.sent for cell in cells]
        axes.plot(x, y, color=peer.colour, marker="o")
        failing += [peer] * any(y)
    for row, peer in enumerate(failing):
        axes.text(0.04, 0.86 - 0.075 * row, peer.label, color=peer.colour, transform=axes.transAxes)
    quiet = "the others: none" if failing else "none"
    axes.text(0.04, 0.09, quiet, transform=axes.transAxes)


def _frame(axes: Axes, clients: list[int], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, [str(number) for number in clients])
    axes.minorticks_off()
    axes.set_xlabel("clients at once")
    axes.grid(axis="y", linewidth=0.6, alpha=0.35)
    axes.spines[["top", "right"]].set_visible(False)


def _cells(results: Results, database: str, peer: Peer) -> list[Cell]:
    found = (results.find(database, LIST.name, clients, peer.name) for clients in results.clients())
    return [cell for cell in found if cell is not None]


def save(figure: Figure, target: Path, title: str) -> None:
    """Write a figure so that the same results give the same file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Title": title, "Date": None, "Creator": None}
    figure.savefig(target, format="svg", transparent=True, metadata=metadata)


def style() -> dict[Any, Any]:
    """Return the settings of matplotlib that the pictures share."""
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    return dict.fromkeys(ink, GREY) | {
        "svg.fonttype": "none",  # text stays text: searchable, and in the reader's own font
        "svg.hashsalt": "throughput",
        "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
        "font.size": 9.5,
        "lines.linewidth": 2,
        "lines.markersize": 4,
    }
