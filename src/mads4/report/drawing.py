"""What the pictures have in common, and the panel of learning curves."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from mads4.evaluation.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

INK, FAINT, LINES = "#26323D", "#6B7784", "#D9DEE3"
_TRAINING, _HELD_OUT, _BEST, _PLAYED = "#E69F00", "#0072B2", "#D55E00", "#009E73"
_RING: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 2, "markersize": 12}


def grouped(value: float) -> str:
    """Return a whole number with its digits in groups of three."""
    return f"{value:,.0f}".replace(",", " ")


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


def draw_learning(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw how a run learned, offline or online, and mark the best checkpoint."""
    quiet(axes, "How it learned")
    if "eval/return_mean" in metrics:
        _draw_evaluations(axes.twinx(), record, metrics)
    if "online/return_mean" in metrics:
        _draw_returns(axes, record, metrics)
    else:
        _draw_losses(axes, record, metrics)


def _draw_evaluations(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw the periodic evaluations against the x-axis of training, on an axis of their own."""
    rows = metrics[metrics["eval/return_mean"].notna()]
    online = "online/environment_steps" in metrics
    steps = rows["online/environment_steps"] if online else rows["step"]
    label = "return in the environment (not used to choose)"
    axes.plot(steps, rows["eval/return_mean"], "s--", color=_PLAYED, markersize=4, label=label)
    axes.set_ylabel("\n".join(textwrap.wrap(f"evaluation: {record.unit}", 48)), color=_PLAYED)
    axes.tick_params(colors=_PLAYED)
    axes.spines[["top", "left", "bottom"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10, loc="lower left")


def _draw_returns(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw the returns of online training's own episodes against the steps they took."""
    rows = metrics[metrics["online/return_mean"].notna()]
    steps = rows["online/environment_steps"]
    axes.plot(steps, rows["online/return_mean"], color=_TRAINING, alpha=0.35, linewidth=0.9)
    average = rows["online/return_average"]
    axes.plot(steps, average, color=_HELD_OUT, linewidth=2, label="average of the latest episodes")
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
    axes.legend(frameon=False, fontsize=10, loc="lower right")


def _draw_losses(axes: Axes, record: RunRecord, metrics: pd.DataFrame) -> None:
    """Draw training and held-out loss against training steps."""
    axes.set_xlabel("training steps", color=INK)
    axes.set_ylabel("error in predicting the recorded actions\n(cross-entropy, lower is better)")
    training = _loss(metrics, held_out=False)
    held_out = _loss(metrics, held_out=True)
    if training is None and held_out is None:
        leave_empty(axes, "no losses were recorded")
        return
    if training is not None:
        window = max(1, len(training[1]) // 25)
        smooth = training[1].rolling(window, min_periods=1, center=True).mean()
        axes.plot(*training, color=_TRAINING, alpha=0.3, linewidth=0.8)
        axes.plot(training[0], smooth, color=_TRAINING, linewidth=2, label="on the training data")
    if held_out is not None:
        label = "on episodes it never saw"
        axes.plot(*held_out, "o-", color=_HELD_OUT, linewidth=2, markersize=3.5, label=label)
        _mark_best(axes, record, held_out)
    drawn = [losses for _, losses in filter(None, (training, held_out))]
    top = max(float(losses.iloc[len(losses) // 50 :].max()) for losses in drawn)
    axes.set_ylim(0, 1.08 * top)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: grouped(value))
    axes.legend(frameon=False, fontsize=10, loc="upper right")


def _loss(metrics: pd.DataFrame, held_out: bool) -> tuple[pd.Series, pd.Series] | None:
    """Return steps and values of the (held-out) loss, None when it was not recorded."""
    names = [
        name
        for name in map(str, metrics.columns)
        if name.endswith("loss") and ("validation" in name) == held_out
    ]
    if not names or metrics[names[0]].dropna().empty:
        return None
    rows = metrics[["step", names[0]]].dropna()
    return rows["step"], rows[names[0]]


def _mark_best(axes: Axes, record: RunRecord, held_out: tuple[pd.Series, pd.Series]) -> None:
    """Ring the held-out loss at the checkpoint that is evaluated."""
    steps, losses = (np.asarray(part, dtype=float) for part in held_out)
    best_step = record.train.best_step
    index = int(losses.argmin() if best_step is None else np.abs(steps - best_step).argmin())
    step, loss = steps[index], losses[index]
    axes.plot(step, loss, "o", color=_BEST, **_RING)
    text = f"best checkpoint: step {grouped(step)}, error {loss:.3f}"
    axes.annotate(
        text,
        (step, loss),
        (0.98, 0.78),
        textcoords="axes fraction",
        ha="right",
        color=_BEST,
        arrowprops={"arrowstyle": "-", "color": _BEST, "shrinkB": 7},
    )
