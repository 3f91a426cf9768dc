"""What the pictures have in common, and the panel of learning curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mads4.evaluation.record import Result, RunRecord
from mads4.io import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINES = "#26323D", "#6B7784", "#D9DEE3"
_TRAINING, _VALIDATION, _BEST, _EVALUATION = "#E69F00", "#0072B2", "#D55E00", "#009E73"
_RING: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 2, "markersize": 12}
_WIDTH = 12.5
"""Of a picture, in inches."""


def grouped(value: float) -> str:
    """Return a whole number with its digits in groups of three."""
    return f"{value:,.0f}".replace(",", " ")


def new_figure(height: float, headline: str, small_print: str) -> Figure:
    """Return an empty figure of `height` inches with a title and a footer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.2, h_pad=0.15)  # type: ignore[union-attr,call-arg]
    figure.suptitle(headline, fontsize=15, fontweight="bold", color=INK)
    figure.supxlabel(small_print, fontsize=8.5, color=FAINT)
    return figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png", dpi=130)


def leave_empty(axes: Axes, why: str) -> None:
    """Replace empty axes by a sentence."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", color=FAINT, fontsize=11, transform=axes.transAxes)


def quiet(axes: Axes, title: str = "") -> None:
    """Give axes a title and a light frame."""
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINES)
    axes.tick_params(colors=FAINT)
    axes.grid(color=LINES, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_bars(
    axes: Axes, results: Sequence[Result], colors: Sequence[str], texts: Sequence[str]
) -> None:
    """Draw a bar for each result from the top down, with its interval, and a text behind it."""
    positions = list(range(len(results)))[::-1]
    axes.barh(positions, [result.mean for result in results], height=0.62, color=colors)
    for position, result, text in zip(positions, results, texts, strict=True):
        draw_interval(axes, position, result, upright=False)
        end = max(result.mean, result.mean if result.high is None else result.high, 0.0)
        style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": INK}
        axes.annotate(text, (end, position), (6, 0), **style)
    axes.set_yticks(positions, [result.label for result in results])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.axvline(0.0, color=INK, linewidth=0.8)


def draw_interval(axes: Axes, position: float, result: Result, upright: bool) -> None:
    """Draw the interval around a mean, if there is one."""
    if result.low is None or result.high is None:
        return
    reach = np.array([[result.mean - result.low], [result.high - result.mean]])
    style: dict[str, Any] = {"color": INK, "capsize": 4, "linewidth": 1.3, "fmt": "none"}
    if upright:
        axes.errorbar([position], [result.mean], yerr=reach, **style)
    else:
        axes.errorbar([result.mean], [position], xerr=reach, **style)


def draw_learning(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw how a run learned, offline or online, and mark the best checkpoint.

    The legend stands below the axes, where it hides no curve.
    """
    quiet(axes, "How it learned")
    draw = _draw_returns if "online/return_mean" in metrics else _draw_losses
    draw(axes, record, metrics)
    handles, labels = axes.get_legend_handles_labels()
    if "eval/return_mean" in metrics:
        beside = axes.twinx()
        _draw_evaluations(beside, record, metrics)
        more, names = beside.get_legend_handles_labels()
        handles, labels = handles + more, labels + names
    if handles:
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
        axes.legend(handles, labels, frameon=False, fontsize=10, ncols=2, **place)


def _draw_evaluations(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw the periodic evaluations against the x-axis of training, on an axis of their own."""
    rows = metrics[metrics["eval/return_mean"].notna()]
    online = "online/environment_steps" in metrics
    steps = rows["online/environment_steps"] if online else rows["step"]
    label = "periodic evaluation (selects nothing)"
    axes.plot(steps, rows["eval/return_mean"], "s--", color=_EVALUATION, markersize=4, label=label)
    axes.set_ylabel("\n".join(textwrap.wrap(f"evaluation: {record.unit}", 48)), color=_EVALUATION)
    axes.tick_params(colors=_EVALUATION)
    axes.spines[:].set_visible(False)


def _draw_returns(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw the returns of online training's own episodes against the steps they took."""
    rows = metrics[metrics["online/return_mean"].notna()]
    steps, average = rows["online/environment_steps"], rows["online/return_average"]
    axes.plot(steps, rows["online/return_mean"], color=_TRAINING, alpha=0.35, linewidth=0.9)
    axes.plot(steps, average, color=_VALIDATION, linewidth=2, label="moving average of returns")
    mean = record.data.return_mean
    if mean is not None:
        style: dict[str, Any] = {"color": FAINT, "linestyle": "--", "linewidth": 1.2}
        axes.axhline(mean, label="mean of the recorded data", **style)
    best = rows[rows["step"] == record.train.best_step]
    if not best.empty:
        at = best["online/environment_steps"].iloc[0], best["online/return_average"].iloc[0]
        axes.plot(*at, "o", color=_BEST, label=f"best checkpoint: {at[1]:.1f}", **_RING)
    axes.set_xlabel("environment steps", color=INK)
    axes.set_ylabel("\n".join(["return in training", *textwrap.wrap(record.unit, 48)]))
    low = min(0.0, float(rows["online/return_mean"].min()))
    axes.set_ylim(low, 1.08 * max(float(rows["online/return_mean"].max()), mean or 0.0, 1e-9))
    axes.xaxis.set_major_formatter(lambda value, _: grouped(value))
    axes.locator_params(axis="x", nbins=5)


def _draw_losses(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw training and validation loss against training steps."""
    training, validation = _loss(metrics, validation=False), _loss(metrics, validation=True)
    drawn = [losses for _, losses in filter(None, (training, validation))]
    if not drawn:
        leave_empty(axes, "no losses were recorded")
        return
    axes.set_xlabel("training steps", color=INK)
    axes.set_ylabel("loss: cross-entropy of the recorded actions\n(lower is better)")
    if training is not None:
        window = max(1, len(training[1]) // 25)
        smooth = training[1].rolling(window, min_periods=1, center=True).mean()
        axes.plot(*training, color=_TRAINING, alpha=0.3, linewidth=0.8)
        axes.plot(training[0], smooth, color=_TRAINING, linewidth=2, label="training loss")
    if validation is not None:
        style: dict[str, Any] = {"color": _VALIDATION, "linewidth": 2, "markersize": 3.5}
        axes.plot(*validation, "o-", label="validation loss", **style)
        steps, losses = (np.asarray(part, dtype=float) for part in validation)
        best = record.train.best_step
        index = int(losses.argmin() if best is None else np.abs(steps - best).argmin())
        label = f"best checkpoint: step {grouped(steps[index])}, loss {losses[index]:.3f}"
        axes.plot(steps[index], losses[index], "o", color=_BEST, label=label, **_RING)
    top = max(float(losses.iloc[len(losses) // 50 :].max()) for losses in drawn)
    axes.set_ylim(0, 1.08 * top)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: grouped(value))


def _loss(metrics: pd.DataFrame, validation: bool) -> tuple[pd.Series, pd.Series] | None:
    """Return steps and values of the training or validation loss, None if it is not recorded."""
    names = [
        name
        for name in map(str, metrics.columns)
        if name.endswith("loss") and ("validation" in name) == validation
    ]
    if not names or metrics[names[0]].dropna().empty:
        return None
    rows = metrics[["step", names[0]]].dropna()
    return rows["step"], rows[names[0]]
