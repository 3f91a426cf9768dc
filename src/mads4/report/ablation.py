"""What the agents' chain is worth (`mads4 probe`): tables for the console, and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mads4.evaluation.record import EnvFigures, Result
from mads4.report.drawing import FAINT, INK, draw_bars, new_figure, quiet, write_png
from mads4.report.table import interval
from mads4.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

PROBE_FILE, PROBE_PICTURE = "probe.json", "probe.png"
"""Where an analysis keeps its numbers and its picture."""

SECTIONS = {
    "message_loss": "messages dropped",
    "cut": "the chain cut",
    "order": "who decides first",
}

_INTACT, _DISTURBED = "#0072B2", "#E69F00"

_LEGIBLE = 12
"""Agents up to which numbers fit into the squares."""


def probe_tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Yield `rich` tables of ``probe.json``: returns under each disturbance, then gradients."""
    yield _returns(result)
    yield _gradients(result)


def relative_gradients(result: Mapping[str, Any]) -> FloatArray:
    """Return the gradients' norms (N, N) as shares of what reaches each agent's own input.

    A row is NaN where nothing reaches the agent's own input either.
    """
    norm = np.asarray(result["gradient"]["norm"], dtype=np.float64)
    own = np.diag(norm)[:, None]
    return np.divide(norm, own, out=np.full_like(norm, np.nan), where=own > 0)


def place(result: Mapping[str, Any]) -> str:
    """Return the environment in words."""
    return _env(result).title or str(result.get("name", "policy"))


def _env(result: Mapping[str, Any]) -> EnvFigures:
    return EnvFigures.model_validate(result.get("env") or {})


def _returns(result: Mapping[str, Any]) -> Table:
    from rich.table import Table

    episodes = result["message_loss"][0]["episodes"]
    table = Table(
        title=f"{place(result)}: what the agents' chain is worth",
        caption=f"{_env(result).unit()}, {episodes} episodes with target return "
        f"{result['target_return']:g}; change: from the undisturbed policy, on the same episodes",
        caption_style="dim",
    )
    table.add_column("disturbance", no_wrap=True)
    for heading in ("return", "95% interval", "change", "95% interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, title in SECTIONS.items():
        table.add_section()
        table.add_row(title, style="bold")
        for values in result[name]:
            table.add_row(
                f"  {values['label']}",
                f"{values['return_mean']:.2f}",
                interval(*values["return_ci95"]),
                f"{values['change_mean']:+.2f}",
                "{:+.2f} to {:+.2f}".format(*values["change_ci95"]),
            )
    return table


def _gradients(result: Mapping[str, Any]) -> Table:
    from rich.table import Table

    shares = relative_gradients(result)
    table = Table(
        title="how much of each agent's gradient reaches its predecessors",
        caption="norms relative to the gradient at the agent's own input (last column)",
        caption_style="dim",
    )
    table.add_column("loss of", no_wrap=True)
    for agent in range(len(shares)):
        table.add_column(f"at agent {agent}", justify="right")
    table.add_column("own", justify="right")
    for agent, (row, norm) in enumerate(zip(shares, result["gradient"]["norm"], strict=True)):
        cells = [f"{value:.1%}" if i <= agent else "" for i, value in enumerate(row)]
        table.add_row(f"agent {agent}", *cells, f"{norm[agent]:.3g}")
    return table


def probe_picture(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of ``probe.json``: returns under each disturbance, and the gradients.

    Args:
        result: what ``probe.json`` holds.
        path: the PNG to write.
    """
    most = max(len(result["cut"]), len(result["order"]))
    height = max(8.5, 5.5 + 0.55 * most)
    figure = new_figure(height, headline(result), _small_print(result))
    (losses, cuts), (orders, gradients) = figure.subplots(2, 2)
    ends = _ends(result)
    _draw_losses(losses, result["message_loss"], ends)
    _draw_bars(cuts, result["cut"], "… and with the chain cut", ends)
    _draw_bars(orders, result["order"], "… and in other orders of deciding", ends)
    _draw_gradients(gradients, result)
    write_png(figure, path)


def headline(result: Mapping[str, Any]) -> str:
    """Return in one sentence what the policy loses without its chain, or with a part of it."""
    intact, worst = result["message_loss"][0], result["message_loss"][-1]
    lost = (
        "all messages dropped"
        if _probability(worst) == 1.0
        else f"{_probability(worst):.0%} of messages dropped"
    )
    return (
        f"{place(result)}: return {intact['return_mean']:.1f} as trained, "
        f"{worst['return_mean']:.1f} with {lost}"
    )


def _probability(entry: Mapping[str, Any]) -> float:
    """Return the probability that a message is dropped, the same for all agents."""
    return float(entry["drop"][0])


def _ends(result: Mapping[str, Any]) -> tuple[float, float]:
    """Return limits that all returns and their intervals fit into."""
    values = [end for name in SECTIONS for one in result[name] for end in one["return_ci95"]]
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.06 * max(high - low, 1e-9)
    return low - room * (low < 0), high + room


def _draw_losses(
    axes: Axes, points: Sequence[Mapping[str, Any]], ends: tuple[float, float]
) -> None:
    """Draw the return against the probability that a message is dropped."""
    quiet(axes, "Return with messages dropped at random")
    probability = np.array([_probability(one) for one in points])
    mean = np.array([one["return_mean"] for one in points])
    reach = np.abs(np.array([one["return_ci95"] for one in points]).T - mean)
    style: dict[str, Any] = {"capsize": 4, "linewidth": 1.8, "ecolor": INK, "elinewidth": 1.3}
    axes.errorbar(probability, mean, yerr=reach, fmt="o-", color=_DISTURBED, **style)
    axes.axhline(mean[0], color=_INTACT, linestyle="--", linewidth=1.2)
    axes.set(xlabel="share of messages dropped", ylabel="return", ylim=ends)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _draw_bars(
    axes: Axes, entries: Sequence[Mapping[str, Any]], title: str, ends: tuple[float, float]
) -> None:
    """Draw one bar for each entry, the first of which is the undisturbed policy."""
    quiet(axes, title)
    results = [
        Result("policy", one["label"], one["return_mean"], *one["return_ci95"]) for one in entries
    ]
    colors = [_INTACT] + [_DISTURBED] * (len(entries) - 1)
    draw_bars(axes, results, colors, [f"{result.mean:.1f}" for result in results])
    axes.set_xlim(ends[0], ends[1] + 0.1 * (ends[1] - ends[0]))
    axes.axvline(results[0].mean, color=_INTACT, linestyle="--", linewidth=1.2)


def _draw_gradients(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the lower triangle of relative gradient norms."""
    shares = relative_gradients(result)
    count = len(shares)
    axes.set_title("Gradient that reaches each predecessor", loc="left", fontsize=12, color=INK)
    above = np.triu(np.ones_like(shares, dtype=bool), k=1)
    drawn = np.ma.masked_where(above | np.isnan(shares), shares)
    axes.imshow(drawn, cmap="Blues", vmin=0.0, vmax=max(1.0, float(np.nanmax([1.0, *shares.flat]))))
    if count <= _LEGIBLE:
        for row, column in zip(*np.nonzero(~above), strict=True):
            share = shares[row, column]
            color = "white" if share > 0.6 else INK
            text = "–" if np.isnan(share) else f"{share:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=color)
        axes.set_xticks(range(count), [str(agent) for agent in range(count)])
        axes.set_yticks(range(count), [str(agent) for agent in range(count)])
    axes.set_xlabel("input of agent", color=INK)
    axes.set_ylabel("loss of agent", color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=FAINT, length=0)


def _small_print(result: Mapping[str, Any]) -> str:
    """Return what the numbers mean, in two lines."""
    episodes = result["message_loss"][0]["episodes"]
    return (
        f"return: {_env(result).unit()}, {episodes} episodes, the same for all, target return "
        f"{result['target_return']:g} · blue: as trained · black lines: 95% interval of the mean\n"
        "gradients: norm relative to the gradient at the agent's own input, "
        f"{result['gradient']['episodes']} episodes"
    )
