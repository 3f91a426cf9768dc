"""The result of a run as a picture for somebody who does not read logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mads4.io import atomic_path
from mads4.report import summary as read
from mads4.report.learning import draw_learning
from mads4.report.style import FAINT, INK, grouped, leave_empty, quiet

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
    summary: Mapping[str, Any],
    metrics: pd.DataFrame,
    path: Path,
    title: str | None = None,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a PNG: how the model learned (left) and what it then achieved (right).

    Args:
        summary: The run's ``summary.json``; absent parts leave their place empty.
        metrics: The run's metrics, as `mads4.logging.read_metrics` returns them.
        path: The PNG to write.
        title: The headline; one that states the result in words is made when absent.
        extra: Further bars by label, each like an entry of ``eval``, for example an ablation.
    """
    from matplotlib.figure import Figure

    results = read.results(summary, extra)
    height = max(5.0, 2.6 + 0.55 * len(results))
    figure = Figure(figsize=(12.5, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.12)  # type: ignore[union-attr,call-arg]
    figure.suptitle(title or headline(summary), fontsize=15, fontweight="bold", color=INK)
    learning, returns = figure.subplots(1, 2, width_ratios=(1, 1.15))
    draw_learning(learning, summary, metrics)
    _draw_returns(returns, results, read.unit(summary))
    figure.supxlabel(_small_print(summary, results), fontsize=8.5, color=FAINT)
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png", dpi=130)


def headline(summary: Mapping[str, Any]) -> str:
    """Return the result in one sentence: of the highest return asked for, not the best one.

    Choosing the target by what it achieved would be choosing by online returns.
    """
    evaluations = read.targets(summary)
    place = read.scenario(summary) or str(summary.get("name", "this run"))
    if not evaluations:
        return f"{place}: not evaluated yet"
    reached = float(evaluations[0]["return_mean"])
    counted = "deliveries" if read.reward_definition(summary) == "deliveries" else "return"
    text = f"{place}: {read.policy_name(summary)} reaches {_rounded(reached)} {counted}"
    won = read.number(evaluations[0], "win_rate")
    text += "" if won is None else f" and wins {won:.0%}"
    data_mean = read.number(read.section(summary, "data"), "return_mean")
    if data_mean:
        text += f", {reached / data_mean:.0%} of the data it learned from"
    return text


def _rounded(value: float) -> str:
    """Return a number with one digit after the point, or two where one would say little."""
    return f"{value:.2f}" if abs(value) < 3.0 else f"{value:.1f}"


def target_figure(summary: Mapping[str, Any]) -> Figure:
    """Return a figure of achieved return against the return that was asked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    quiet(axes)
    evaluations = [part for part in read.targets(summary) if part.get("target_return") is not None]
    asked = np.array([float(part["target_return"]) for part in evaluations])
    reached = np.array([float(part["return_mean"]) for part in evaluations])
    data = read.section(summary, "data")
    low, high = read.number(data, "return_min"), read.number(data, "return_max")
    known = [value for value in (low, high, *asked, *reached) if value is not None]
    limits = (min([0.0, *known]), 1.05 * max([1.0, *known]))
    axes.plot(limits, limits, color=FAINT, linewidth=1, linestyle="--", label="as asked")
    if low is not None and high is not None:
        color = _COLORS["data"]
        axes.axvspan(low, high, color=color, alpha=0.16, lw=0, label="returns in the data")
    for result, target in zip(_policies(summary), asked, strict=True):
        _whisker(axes, target, result, upright=True)
    label, color = f"{read.policy_name(summary)}, 95% interval", _COLORS["policy"]
    axes.plot(asked, reached, "o", color=color, markersize=7, label=label)
    axes.set(xlim=limits, ylim=limits, xlabel=f"asked for: {read.unit(summary)}", ylabel="achieved")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def _policies(summary: Mapping[str, Any]) -> list[read.Result]:
    """Return the policy's results that have a target, in the order of `read.targets`."""
    return [
        read.statistics(summary, "policy", read.policy_name(summary), part)
        for part in read.targets(summary)
        if part.get("target_return") is not None
    ]


def _draw_returns(axes: Axes, results: list[read.Result], unit: str) -> None:
    """Draw one bar per result, with interval, value and normalized score written beside it."""
    quiet(axes, "What it achieves")
    axes.set_xlabel(unit, color=INK)
    if not results:
        leave_empty(axes, "no results yet")
        return
    positions = list(range(len(results)))[::-1]
    for position, result in zip(positions, results, strict=True):
        axes.barh(position, result.mean, height=0.62, color=_COLORS[result.kind])
        _whisker(axes, position, result, upright=False)
        end = max(result.mean, result.high or result.mean, 0.0)
        score = "" if result.score is None else f"  score {result.score:.2f}"
        score += "" if result.win_rate is None else f"  won {result.win_rate:.0%}"
        axes.annotate(
            f"$\\bf{{{_rounded(result.mean)}}}${score}", (end, position), (6, 0),
            textcoords="offset points", va="center", color=INK, fontsize=10.5,
        )  # fmt: skip
    axes.set_yticks(positions, [result.label for result in results], fontsize=10.5)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    ends = [value for r in results for value in (r.mean, r.low, r.high) if value is not None]
    axes.set_xlim(min(0.0, 1.1 * min(ends)), 1.45 * max([*ends, 1e-9]))
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=INK, linewidth=0.8)


def _whisker(axes: Axes, position: float, result: read.Result, upright: bool) -> None:
    """Draw the interval around a mean, when there is one."""
    if result.low is None or result.high is None:
        return
    reach = np.array([[result.mean - result.low], [result.high - result.mean]])
    style: dict[str, Any] = {"color": INK, "capsize": 4, "linewidth": 1.3, "fmt": "none"}
    if upright:
        axes.errorbar([position], [result.mean], yerr=reach, **style)
    else:
        axes.errorbar([result.mean], [position], xerr=reach, **style)


def _small_print(summary: Mapping[str, Any], results: list[read.Result]) -> str:
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
    seconds = read.number(read.section(summary, "time"), "train_s")
    if seconds is not None:
        origin.append(f"{seconds / 60:.1f} minutes of training")
    parameters = read.number(read.section(summary, "train"), "parameters")
    if parameters is not None:
        origin.append(f"{grouped(parameters)} parameters")
    return " · ".join(parts) + "\n" + " · ".join(origin)
