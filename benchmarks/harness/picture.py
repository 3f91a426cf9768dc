"""The rows of a benchmark as curves: time against length, or a step's time against the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.rows import Row
from mads4.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {
    "torch": "#0072b2",
    "keops": "#e69f00",
    "cuda": "#009e73",
    "auto": "#56b4e9",
    "compiled": "#cc79a7",
    "reference": "#7f7f7f",
}
"""Okabe and Ito's palette for color-blind readers."""

_LINES = {"diagonal": ("-", "o"), "dplr": ("--", "s")}
_PARTS = {"forward": "forward", "forward_backward": "forward + backward"}


def draw(rows: Sequence[Row], path: Path, title: str) -> bool:
    """Draw the measured rows as a PNG file, atomically.

    One row of panels for each case and batch (a step: for each case), one column each for forward
    and forward + backward, a color for each backend and a line style for each parameterization.
    Bands reach from the 10th to the 90th percentile.

    Args:
        rows: Of one benchmark; those without a time are left out.
        path: Where to write.
        title: Above all panels.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.forward_ms is not None]
    if not measured:
        return False
    axis = "batch" if measured[0].case.startswith("step") else "length"
    panels = list(dict.fromkeys(_panel(row, axis) for row in measured))
    parts = [part for part in _PARTS if any(_time(row, part) is not None for row in measured)]
    size = (1.5 + 5.0 * len(parts), 1.2 + 3.8 * len(panels))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(panels), len(parts), squeeze=False)
    for line, panel in enumerate(panels):
        here = [row for row in measured if _panel(row, axis) == panel]
        for column, part in enumerate(parts):
            _curves(grid[line, column], here, part, axis)
            grid[line, column].set_title(f"{panel}: {_PARTS[part]}", fontsize=10)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png")
    return True


def _panel(row: Row, axis: str) -> str:
    if axis == "batch" or row.case == "kernel":
        return row.case
    return f"{row.case}, batch {row.batch}"


def _time(row: Row, part: str) -> float | None:
    value: float | None = getattr(row, f"{part}_ms")
    return value


def _curves(axes: Axes, rows: Sequence[Row], part: str, axis: str) -> None:
    shown = [row for row in rows if _time(row, part) is not None]
    for backend, parameterization in dict.fromkeys(
        (row.backend, row.parameterization) for row in shown
    ):
        curve = sorted(
            (r for r in shown if (r.backend, r.parameterization) == (backend, parameterization)),
            key=lambda row: int(getattr(row, axis)),
        )
        places = [int(getattr(row, axis)) for row in curve]
        style, marker = _LINES[parameterization]
        color = _COLORS.get(backend, "black")
        axes.plot(
            places,
            [getattr(row, f"{part}_ms") for row in curve],
            linestyle=style,
            marker=marker,
            markersize=4,
            color=color,
            label=f"{backend}, {parameterization}",
        )
        low, high = ([getattr(row, f"{part}_ms_{end}") for row in curve] for end in ("p10", "p90"))
        axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    _decorate(axes, sorted({int(getattr(row, axis)) for row in shown}), axis)


def _decorate(axes: Axes, places: Sequence[int], axis: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("length L" if axis == "length" else "batch B")
    axes.set_ylabel("milliseconds (median)")
    axes.grid(True, which="major", alpha=0.35)
    axes.grid(True, which="minor", alpha=0.12)
