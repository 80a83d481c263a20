"""The picture of overload: goodput against the load that is offered."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.chart import save, style
from bench.overload import CAPACITY, LOADS, PATIENCE, SUBJECTS, Row

PANELS = {
    "goodput": "answered with a 2xx, per second",
    "in_patience": f"answered with a 2xx within {PATIENCE:g} s, per second",
}


def draw_goodput(rows: Sequence[Row], target: Path) -> None:
    """Draw goodput against offered load: on the left whatever is answered, on the right what is answered in time."""
    with mpl.rc_context(style()):
        figure = Figure(figsize=(10, 4.2))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (value, title) in zip(panels, PANELS.items(), strict=True):
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("offered load, times what the database can do")
            axes.set_xscale("log")
            axes.set_xticks(LOADS, [f"{load:g}" for load in LOADS])
            axes.minorticks_off()
            axes.grid(axis="y", linewidth=0.6, alpha=0.35)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_ylim(-0.04 * CAPACITY, 1.12 * CAPACITY)
            for subject in SUBJECTS:
                line = [row for row in rows if row.subject == subject.name]
                x, y = [row.load for row in line], [getattr(row, value) for row in line]
                axes.plot(x, y, color=subject.colour, marker="o", label=subject.label)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=len(SUBJECTS), frameon=False)
        figure.subplots_adjust(left=0.055, right=0.985, top=0.82, bottom=0.13, wspace=0.1)
        save(figure, target, "Goodput under overload")
