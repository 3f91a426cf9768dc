"""What the agents' chain is worth, as tables for the console."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mads4.report import summary as read
from mads4.report.table import interval
from mads4.types import FloatArray

if TYPE_CHECKING:
    from rich.table import Table

PROBE_FILE = "probe.json"
"""Where an analysis keeps its numbers."""

SECTIONS = {
    "message_loss": "hand-offs lost",
    "cut": "the chain cut",
    "order": "who decides first",
}


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
    return read.scenario(result) or str(result.get("name", "policy"))


def _returns(result: Mapping[str, Any]) -> Table:
    from rich.table import Table

    episodes = result["message_loss"][0]["episodes"]
    table = Table(
        title=f"{place(result)}: what the agents' chain is worth",
        caption=f"{read.unit(result)}, {episodes} episodes asked for {result['target_return']:g}; "
        "change: from the undisturbed policy, on the same episodes",
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
