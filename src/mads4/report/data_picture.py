"""What is in a data set, as a picture: returns, lengths and actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mads4.io import atomic_path
from mads4.report.drawing import FAINT, INK, grouped, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILL, _LINE, _MARK = "#56B4E9", "#0072B2", "#D55E00"  # Okabe and Ito

_LEGIBLE = 120
"""Squares up to which percentages fit into them."""


@dataclass(frozen=True)
class DataFacts:
    """What is drawn of a data set of E episodes, N agents and A actions."""

    title: str
    place: str
    """Environment and scenario; empty when they are not known."""
    reward: str
    """Name of the reward definition; empty when it is not known."""
    returns: npt.NDArray[Any]
    """(E,) undiscounted returns, in the order of the data set."""
    lengths: npt.NDArray[Any]
    """(E,) steps."""
    episode_limit: int
    action_counts: npt.NDArray[Any]
    """(N, A) how often each agent took each action."""

    @property
    def one_length(self) -> int | None:
        """The length of all episodes, None where they differ."""
        return int(self.lengths[0]) if self.lengths.min() == self.lengths.max() else None


def data_picture(facts: DataFacts, path: Path) -> None:
    """Write a PNG of a data set.

    Args:
        facts: what there is to see.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    tall = float(np.clip(1.4 + 0.42 * len(facts.action_counts), 2.4, 6.0))
    figure = Figure(figsize=(12.5, 5.0 + tall), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.2, h_pad=0.15)  # type: ignore[union-attr,call-arg]
    figure.suptitle(headline(facts), fontsize=15, fontweight="bold", color=INK)
    grid = figure.add_gridspec(2, 2, height_ratios=(3.4, tall), width_ratios=(1, 1.15))
    _draw_returns(figure.add_subplot(grid[0, 0]), facts)
    _draw_order(figure.add_subplot(grid[0, 1]), facts)
    if facts.one_length is None:
        _draw_lengths(figure.add_subplot(grid[1, 0]), facts)
        _draw_actions(figure.add_subplot(grid[1, 1]), facts)
    else:  # nothing to see in a histogram of one bar
        _draw_actions(figure.add_subplot(grid[1, :]), facts)
    figure.supxlabel(_small_print(facts), fontsize=8.5, color=FAINT)
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png", dpi=130)


def headline(facts: DataFacts) -> str:
    """Return what the data set holds, in a sentence."""
    count, mean = len(facts.returns), float(facts.returns.mean())
    return f"{facts.place or facts.title}: {grouped(count)} episodes, mean return {mean:.2f}"


def _draw_returns(axes: Axes, facts: DataFacts) -> None:
    """Draw the histogram of returns, with the mean and the middle half."""
    _style(axes, "How good it is", "return of an episode", "episodes")
    returns = facts.returns
    axes.hist(returns, bins=_bins(returns), color=_FILL, edgecolor="white", linewidth=0.6)
    axes.locator_params(axis="y", integer=True)
    low, high = np.quantile(returns, (0.25, 0.75))
    axes.axvspan(low, high, color=_LINE, alpha=0.10, lw=0, label="middle half")
    mean = float(returns.mean())
    axes.axvline(mean, color=_MARK, linewidth=2, label=f"mean {mean:.2f}")
    _legend(axes)


def _draw_order(axes: Axes, facts: DataFacts) -> None:
    """Draw the returns in the order of the episodes, which shows whether somebody was learning."""
    _style(axes, "In which order", "episode, in the order of the data set", "return")
    count = len(facts.returns)
    number = np.arange(count)
    faint = float(np.clip(40 / np.sqrt(count) / 4, 0.15, 0.7))
    axes.plot(number, facts.returns, ".", color=_FILL, alpha=faint, markersize=5, label="episode")
    window = max(1, count // 20)
    if count >= 20:
        smooth = np.convolve(facts.returns, np.ones(window) / window, mode="valid")
        middle = np.arange(len(smooth)) + (window - 1) / 2
        words = f"mean of {window} neighbors" if window > 1 else "each"
        axes.plot(middle, smooth, color=_LINE, linewidth=2, label=words)
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: grouped(value))
    axes.set_xlim(-0.01 * count - 0.5, 1.01 * count)
    _legend(axes)


def _draw_lengths(axes: Axes, facts: DataFacts) -> None:
    """Draw the histogram of lengths."""
    lengths = facts.lengths
    _style(axes, "How long it lasts", "steps of an episode", "episodes")
    axes.hist(lengths, bins=_bins(lengths), color=_FILL, edgecolor="white", linewidth=0.6)
    axes.locator_params(axis="y", integer=True)
    mean = float(lengths.mean())
    axes.axvline(mean, color=_MARK, linewidth=2, label=f"mean {mean:.1f}")
    limit = f"limit {grouped(facts.episode_limit)}"
    axes.axvline(facts.episode_limit, color=FAINT, linewidth=1.5, linestyle="--", label=limit)
    _legend(axes)


def _draw_actions(axes: Axes, facts: DataFacts) -> None:
    """Draw how often each agent takes each action, as squares."""
    from matplotlib.colors import LinearSegmentedColormap

    counts = facts.action_counts
    agents, actions = counts.shape
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    legible, most = counts.size <= _LEGIBLE, float(share.max())
    title = "What the agents do" + ("" if legible else f" (darkest: {most:.0%})")
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    shades = LinearSegmentedColormap.from_list("shades", ("#F4F8FB", _FILL, _LINE))
    axes.imshow(share, cmap=shades, vmin=0, vmax=max(most, 0.5) if legible else most, aspect="auto")
    axes.set_xlabel("action", color=INK)
    axes.set_ylabel("agent", color=INK)
    axes.set_xticks(np.arange(0, actions, -(-actions // 18)))
    axes.set_yticks(np.arange(0, agents, -(-agents // 18)))
    axes.tick_params(colors=FAINT, length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(1, actions) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, agents) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2 if legible else 0.5)
    axes.tick_params(which="minor", length=0)
    if not legible:
        return
    for (agent, action), value in np.ndenumerate(share):
        color = "white" if value > 0.7 * max(most, 0.5) else INK
        words = "0" if value == 0 else "<1%" if value < 0.005 else f"{value:.0%}"
        axes.text(action, agent, words, ha="center", va="center", color=color, fontsize=9.5)


def _bins(values: npt.NDArray[Any]) -> list[float]:
    """Return edges of a histogram's bins; whole numbers are never divided unevenly."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [low - 0.5, high + 0.5]
    if np.array_equal(values, np.round(values)):
        step = int(np.ceil((high - low + 1) / 50))  # each bin as many whole numbers
        return [float(edge) for edge in np.arange(low - 0.5, high + step, step)]
    count = int(np.clip(np.sqrt(len(values)), 10, 50))
    return [float(edge) for edge in np.linspace(low, high, count + 1)]


def _small_print(facts: DataFacts) -> str:
    """Return the details below."""
    returns, (agents, actions) = facts.returns, facts.action_counts.shape
    every = facts.one_length
    limit = " (the limit)" if every == facts.episode_limit else ""
    parts = [
        *([facts.title] if facts.place else []),
        f"{grouped(facts.lengths.sum())} steps"
        + ("" if every is None else f", {grouped(every)} in every episode{limit}"),
        f"{agents} agents, {actions} actions each",
        f"returns {returns.min():.2f} to {returns.max():.2f}, standard deviation "
        f"{returns.std():.2f}",
    ]
    if facts.reward:
        parts.append(f"reward: {facts.reward}")
    return " · ".join(parts)


def _legend(axes: Axes) -> None:
    """Explain the lines above the picture, where nothing is hidden."""
    axes.legend(
        frameon=False,
        fontsize=9.5,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.1,
        labelcolor=INK,
    )


def _style(axes: Axes, title: str, across: str, up: str) -> None:
    quiet(axes, title)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
