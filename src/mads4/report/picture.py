"""The result of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mads4.evaluation.record import Figures, Result, RunRecord
from mads4.report.drawing import (
    FAINT,
    INK,
    draw_bars,
    draw_interval,
    draw_learning,
    grouped,
    leave_empty,
    new_figure,
    quiet,
    write_png,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {
    "random": "#8C959E",
    "data": "#56B4E9",
    "policy": "#0072B2",
    "extra": "#CC79A7",
    "expert": "#009E73",
}  # Okabe and Ito


RESULT_PICTURE = "result.png"
"""Where a run keeps its picture."""


def result_picture(
    record: RunRecord,
    metrics: pd.DataFrame,
    path: Path,
    title: str | None = None,
    extra: Mapping[str, Figures] | None = None,
) -> None:
    """Write a PNG: how the model learned (left) and what it then achieved (right).

    Args:
        record: the run's; absent parts leave their place empty.
        metrics: The run's metrics, as `mads4.logging.read_metrics` returns them.
        path: The PNG to write.
        title: The headline; one that states the result in words is made when absent.
        extra: Further bars by label, for example an ablation's.
    """
    results = record.results(extra)
    height = max(5.4, 3.0 + 0.55 * len(results))
    figure = new_figure(height, title or headline(record), _small_print(record, results))
    learning, returns = figure.subplots(1, 2, width_ratios=(1, 1.15))
    draw_learning(learning, record, metrics)
    _draw_returns(returns, results, record.unit)
    write_png(figure, path)


def headline(record: RunRecord) -> str:
    """Return the result in one sentence, for the highest target return, not the best result.

    Choosing the target by what it achieved would be choosing by online returns.
    """
    evaluations = record.evaluations
    place = record.env.title or record.name or "this run"
    if not evaluations:
        return f"{place}: not evaluated yet"
    reached, won = float(evaluations[0].return_mean or 0.0), evaluations[0].win_rate
    counted = "deliveries" if record.reward == "deliveries" else "return"
    text = f"{place}: {record.policy} reaches {_rounded(reached)} {counted}"
    text += "" if won is None else f" and wins {won:.0%}"
    if record.data.return_mean:
        text += f", {reached / record.data.return_mean:.0%} of the data it learned from"
    return text


def _rounded(value: float) -> str:
    """Return a number with one digit after the point, or two where one would say little."""
    return f"{value:.2f}" if abs(value) < 3.0 else f"{value:.1f}"


def target_figure(record: RunRecord) -> Figure:
    """Return a figure of achieved return against target return."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    quiet(axes)
    evaluations = [one for one in record.evaluations if one.target_return is not None]
    results = [record.result("policy", record.policy, one) for one in evaluations]
    asked = np.array([one.target_return for one in evaluations], dtype=float)
    reached = np.array([one.mean for one in results])
    low, high = record.data.return_min, record.data.return_max
    known = [value for value in (low, high, *asked, *reached) if value is not None]
    limits = (min([0.0, *known]), 1.05 * max([1.0, *known]))
    axes.plot(limits, limits, color=FAINT, linewidth=1, linestyle="--", label="target = achieved")
    if low is not None and high is not None:
        color = _COLORS["data"]
        axes.axvspan(low, high, color=color, alpha=0.16, lw=0, label="returns in the data")
    for result, target in zip(results, asked, strict=True):
        draw_interval(axes, target, result, upright=True)
    label, color = f"{record.policy}, 95% interval", _COLORS["policy"]
    axes.plot(asked, reached, "o", color=color, markersize=7, label=label)
    axes.set(xlim=limits, ylim=limits, xlabel=f"target return: {record.unit}", ylabel="achieved")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def _draw_returns(axes: Axes, results: list[Result], unit: str) -> None:
    """Draw one bar per result, with interval, value and normalized score written beside it."""
    quiet(axes, "What it achieves")
    axes.set_xlabel(unit, color=INK)
    if not results:
        leave_empty(axes, "no results yet")
        return
    texts = []
    for result in results:
        score = "" if result.score is None else f"  score {result.score:.2f}"
        won = "" if result.win_rate is None else f"  won {result.win_rate:.0%}"
        texts.append(f"$\\bf{{{_rounded(result.mean)}}}${score}{won}")
    draw_bars(axes, results, [_COLORS[result.kind] for result in results], texts)
    ends = [value for r in results for value in (r.mean, r.low, r.high) if value is not None]
    axes.set_xlim(min(0.0, 1.1 * min(ends)), 1.45 * max([*ends, 1e-9]))


def _small_print(record: RunRecord, results: list[Result]) -> str:
    """Return what the numbers mean, and where they come from, in two lines."""
    parts = []
    if results:
        parts.append("black lines: 95% interval of the mean (recorded data: standard deviation)")
    if any(result.score is not None for result in results):
        parts.append("score: 0 = random actions, 1 = expert")
    origin = []
    tried = {r.episodes for r in results if r.kind == "policy" and r.episodes}
    if tried:
        origin.append(f"{'/'.join(map(str, sorted(tried)))} evaluation episodes per bar")
    recorded = [r.episodes for r in results if r.kind == "data" and r.episodes]
    if recorded:
        origin.append(f"{recorded[0]} recorded episodes")
    seconds = record.time.get("train_s")
    if seconds is not None:
        origin.append(f"{seconds / 60:.1f} minutes of training")
    if record.train.parameters is not None:
        origin.append(f"{grouped(record.train.parameters)} parameters")
    return " · ".join(parts) + "\n" + " · ".join(origin)
