"""The agents' results as curves: times and memory against the number of agents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.agents import DECISION, MESSAGES_OF, TRAINING, TRANSFORMERS
from harness.agents_rows import AgentRow, curves
from mads4.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"none": "#7f7f7f", "output": "#0072b2", "state": "#009e73", "logits": "#e69f00"}
"""Message → color, from Okabe and Ito's palette for color-blind readers."""

_TRANSFORMER_COLORS = ("#d55e00", "#cc79a7")
_TIME_STYLES = (":", "--", "-")
"""A transformer's decisions at the last three lengths, the latest drawn in full."""

_COLUMNS = 4


def draw(rows: Sequence[AgentRow], path: Path, title: str) -> bool:
    """Draw the measured rows as a PNG file, atomically.

    First a training step for each length and its memory at the longest, then a decision for each
    number of environments, against the time step, and the memory it leaves. A color for each
    message, dashes where it is delayed by a step, triangles where it contains the action; bands are
    from the 10th to the 90th percentile.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.ms is not None]
    if not measured:
        return False
    panels = [*_training_panels(measured), *_decision_panels(measured)]
    lines = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(20.0, 1.6 + 4.2 * lines), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False).flatten()
    for axes, (words, column, unit, shown) in zip(grid, panels, strict=False):
        _panel(axes, shown, column)
        axes.set_title(words, fontsize=10)
        axes.set_ylabel(unit)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    _legend(figure, list(grid[: len(panels)]))
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png")
    return True


_Panel = tuple[str, str, str, list[AgentRow]]
"""Title, column of the rows, unit, rows."""


def _training_panels(rows: Sequence[AgentRow]) -> list[_Panel]:
    rows = [row for row in rows if row.case == TRAINING]
    panels: list[_Panel] = []
    lengths = sorted({row.steps for row in rows})
    for steps in lengths:
        here = [row for row in rows if row.steps == steps]
        words = f"training step, {here[0].batch} x {steps} environment steps"
        panels.append((words, "ms", "milliseconds", here))
    if any(row.peak_mib for row in rows):
        here = [row for row in rows if row.steps == lengths[-1]]
        words = f"peak memory of a training step, {here[0].batch} x {lengths[-1]}"
        panels.append((words, "peak_mib", "MiB", here))
    return panels


def _decision_panels(rows: Sequence[AgentRow]) -> list[_Panel]:
    rows = [row for row in rows if row.case == DECISION]
    over_agents = [row for row in rows if row.policy in TRANSFORMERS or row.steps == 0]
    panels: list[_Panel] = []
    for batch in sorted({row.batch for row in over_agents}):
        here = [row for row in over_agents if row.batch == batch]
        words = f"decision of all agents in {_environments(batch)}"
        panels.append((words, "ms", "milliseconds", here))
    if not over_agents:
        return panels
    few, one = min(row.agents for row in rows), min(row.batch for row in rows)
    later = [row for row in rows if row.steps and (row.agents, row.batch) == (few, one)]
    if later:
        words = f"decision as an episode goes on, {few} agents in {_environments(one)}"
        panels.append((words, "steps", "milliseconds", later))
    kept = [row for row in over_agents if row.batch == one]
    panels.append(("state between decisions", "remembered_kib", "KiB per environment", kept))
    return panels


def _environments(batch: int) -> str:
    return f"{batch} environment{'s' if batch > 1 else ''}"


def _panel(axes: Axes, rows: Sequence[AgentRow], column: str) -> None:
    """Draw `column` against n; for ``steps``, milliseconds against the time step."""
    if column == "steps":
        for policy in dict.fromkeys(row.policy for row in rows):
            one = sorted((r for r in rows if r.policy == policy), key=lambda row: row.steps)
            _curve(axes, one, "steps", "ms", _style(policy))
        _decorate(axes, sorted({row.steps for row in rows}), "time step t")
        return
    times = sorted({row.steps for row in rows if row.case == DECISION and row.steps})
    for (case, policy, steps, _), curve in curves(rows).items():
        style = _style(policy)
        if case == DECISION and policy in TRANSFORMERS:
            place = max(0, len(_TIME_STYLES) - len(times)) + times.index(steps)
            style["linestyle"] = _TIME_STYLES[min(place, len(_TIME_STYLES) - 1)]
            style["label"] = f"{policy}, decision at t = {steps}"
        _curve(axes, curve, "agents", column, style)
    _decorate(axes, sorted({row.agents for row in rows}), "agents n")


def _style(policy: str) -> dict[str, str]:
    if policy in TRANSFORMERS:
        color = _TRANSFORMER_COLORS[TRANSFORMERS.index(policy)]
        return {"color": color, "linestyle": "-", "marker": "x", "label": policy}
    options = MESSAGES_OF[policy]
    return {
        "color": _COLORS[options["message"]],
        "linestyle": "--" if options["message_delay"] else "-",
        "marker": "^" if options["autoregressive"] else "o",
        "label": f"S4, {policy}",
    }


def _curve(
    axes: Axes, curve: Sequence[AgentRow], across: str, column: str, style: dict[str, str]
) -> None:
    shown = [row for row in curve if getattr(row, column) is not None]
    if not shown:
        return
    places = [getattr(row, across) for row in shown]
    values = [getattr(row, column) for row in shown]
    axes.plot(places, values, markersize=4, linewidth=1.4, **style)  # type: ignore[arg-type]
    if column == "ms":
        low, high = ([getattr(row, f"ms_{end}") for row in shown] for end in ("p10", "p90"))
        axes.fill_between(places, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _decorate(axes: Axes, places: Sequence[int], words: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(words)
    axes.grid(True, which="major", alpha=0.35)
    axes.grid(True, which="minor", alpha=0.12)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Explain every line once, below all panels."""
    known: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            known.setdefault(label, handle)
    figure.legend(
        list(known.values()),
        list(known),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
