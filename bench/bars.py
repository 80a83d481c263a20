"""The picture of all peers: CPU of the server per request as bars, drawn from results.json.

One row of panels per database, one panel per endpoint; sync peers above, async peers below, ours in colour.
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.chart import save, style
from bench.page import COMPARED
from bench.results import Cell, Results
from bench.subjects import BY_NAME, ENDPOINTS, OURS, PEERS, TITLES, Endpoint

TITLE = f"CPU of the server per request, microseconds, {COMPARED} clients (less is better)"
GAP = 0.7  # between the sync and the async peers, in bars


def draw_bars(results: Results, target: Path) -> bool:
    """Draw the bars. The answer is whether anything was measured at the number of clients that is compared."""
    databases = [one for one in TITLES if any(_cells(results, one, endpoint) for endpoint in ENDPOINTS)]
    if not databases:
        return False
    with mpl.rc_context(style() | {"font.size": 8.5}):
        figure = Figure(figsize=(10, 0.6 + 3.1 * len(databases)))
        panels = figure.subplots(len(databases), len(ENDPOINTS), squeeze=False)
        places = _places(results)
        for row, database in zip(panels, databases, strict=True):
            for axes, endpoint in zip(row, ENDPOINTS, strict=True):
                axes.set_title(f"{TITLES[database]}, {endpoint.title}", loc="left", fontsize=9)
                _bars(axes, _cells(results, database, endpoint), places, named=axes is row[0])
        figure.suptitle(TITLE, x=0.012, ha="left", fontsize=11)
        figure.subplots_adjust(left=0.19, right=0.97, top=1 - 0.75 / figure.get_figheight(), bottom=0.03, wspace=0.12)
        figure.subplots_adjust(hspace=0.16)
        save(figure, target, TITLE)
    return True


def _bars(axes: Axes, cells: list[Cell], places: dict[str, float], *, named: bool) -> None:
    longest = max((cell.cpu_us or 0 for cell in cells), default=1)
    axes.set_xlim(0, 1.25 * longest)
    axes.set_ylim(max(places.values()) + 0.7, -0.7)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.set_yticks(list(places.values()), [BY_NAME[name].label if named else "" for name in places])
    axes.tick_params(length=0)
    for cell in cells:
        ours = cell.peer in OURS.values()
        if cell.cpu_us is None:
            continue
        colour, place = BY_NAME[cell.peer].colour, places[cell.peer]
        axes.barh(place, cell.cpu_us, height=0.72, color=colour, alpha=1.0 if ours else 0.55)
        axes.text(cell.cpu_us + 0.02 * longest, place, f"{cell.cpu_us:,.0f}", va="center", fontsize=8)


def _places(results: Results) -> dict[str, float]:
    """Return the height of each peer that was measured: in the same place in every panel."""
    there = {cell.peer for cell in results.cells if cell.clients == COMPARED}
    peers = [peer for peer in PEERS if peer.name in there]
    return {peer.name: number + GAP * (peer.mode == "async") for number, peer in enumerate(peers)}


def _cells(results: Results, database: str, endpoint: Endpoint) -> list[Cell]:
    found = (results.find(database, endpoint.name, COMPARED, peer.name) for peer in PEERS)
    return [cell for cell in found if cell is not None]
