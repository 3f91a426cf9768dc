"""One line of the agents' results, and the growth of each policy's times, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.agents import DECISION, TRANSFORMERS
from harness.rows import aligned, short


@dataclass(frozen=True)
class AgentRow:
    """The measurements of one cell; None where there is none, with the reason in `note`.

    The field names are the columns of the CSV file.
    """

    case: str
    policy: str
    parameterization: str
    device: str
    agents: int
    steps: int
    """Trajectories' length, or time steps before a decision."""
    batch: int
    """Trajectories, or environments."""
    channels: int
    state: int
    parameters: int | None = None
    ms: float | None = None
    """Median of a training step or a decision."""
    ms_min: float | None = None
    ms_p10: float | None = None
    ms_p90: float | None = None
    runs: int | None = None
    in_products: float | None = None
    """Median over the control's."""
    over_none: float | None = None
    """Median over that of agents without messages."""
    agent_steps_per_second: float | None = None
    peak_mib: float | None = None
    """Of a training step, above the memory held before."""
    remembered_kib: float | None = None
    """State of one environment between two decisions."""
    control_ms: float | None = None
    control_gflops: float | None = None
    note: str = ""


_WIDTHS = (8, 24, 4, 5, 4, 9, 17, 9, 11, 7, 12, 12)
_HEADINGS = (
    *("case", "policy", "n", "T", "B", "ms", "(p10 - p90)", "x none", "agent-steps", "MiB"),
    *("KiB kept/env", "in products"),
)
_LEFT = 2


def headings() -> str:
    """Return the line above the text rows."""
    return aligned(_HEADINGS, _WIDTHS, _LEFT)


def to_text(row: AgentRow) -> str:
    """Return a row as one line; ``agent-steps`` are those of a second."""
    start = (row.case, row.policy, str(row.agents), str(row.steps), str(row.batch))
    if row.ms is None:
        return f"{aligned(start, _WIDTHS, _LEFT)}  {row.note}"
    rate = row.agent_steps_per_second
    cells = (
        *start,
        short(row.ms),
        f"({short(row.ms_p10)} - {short(row.ms_p90)})",
        short(row.over_none),
        "" if rate is None else f"{rate:,.0f}",
        short(row.peak_mib),
        short(row.remembered_kib),
        short(row.in_products),
    )
    return f"{aligned(cells, _WIDTHS, _LEFT)}  {row.note}".rstrip()


def curves(rows: Sequence[AgentRow]) -> dict[tuple[str, str, int, int], list[AgentRow]]:
    """Group measured rows that differ in n only: (case, policy, T, B) → rows by rising n.

    A decision of S4 costs the same at any time step: its rows are those of the earliest one.
    """
    grouped: dict[tuple[str, str, int, int], list[AgentRow]] = {}
    for row in rows:
        if row.ms is not None:
            key = (row.case, row.policy, row.steps, row.batch)
            grouped.setdefault(key, []).append(row)
    return {key: sorted(found, key=lambda row: row.agents) for key, found in grouped.items()}


@dataclass(frozen=True)
class Growth:
    """A fit of milliseconds over agents n."""

    constant_ms: float
    """a of a + b n."""
    per_agent_ms: float
    """b of a + b n."""
    largest_error: float
    """Largest distance from the line, as a share of what was measured."""
    exponent: float
    """p of c · n^p over all n: below 1 as long as the constant matters."""
    last_exponent: float
    """The same between the two largest n: 1 where growth is linear and the constant is past."""


def fit(agents: Sequence[int], milliseconds: Sequence[float]) -> Growth | None:
    """Fit times over numbers of agents, by relative error; None with fewer than three."""
    if len(agents) < 3:
        return None
    n, ms = np.asarray(agents, dtype=np.float64), np.asarray(milliseconds, dtype=np.float64)
    weighted = np.stack([np.ones_like(n), n], axis=1) / ms[:, None]
    constant, slope = np.linalg.lstsq(weighted, np.ones_like(n), rcond=None)[0]
    steps_n, steps_ms = np.diff(np.log(n)), np.diff(np.log(ms))
    return Growth(
        constant_ms=float(constant),
        per_agent_ms=float(slope),
        largest_error=float(np.abs((constant + slope * n) / ms - 1.0).max()),
        exponent=float(np.polyfit(np.log(n), np.log(ms), 1)[0]),
        last_exponent=float(steps_ms[-1] / steps_n[-1]),
    )


def growth(rows: Sequence[AgentRow]) -> list[dict[str, Any]]:
    """Return the fit of each curve of at least three n, as JSON takes it.

    It uses the fastest runs: other load on the machine only adds to a time.
    """
    fits = []
    for (case, policy, steps, batch), curve in curves(rows).items():
        times = [row.ms_min for row in curve if row.ms_min is not None]
        found = fit([row.agents for row in curve], times)
        if found is not None:
            about = {"case": case, "policy": policy, "steps": steps, "batch": batch}
            fits.append(about | asdict(found))
    return fits


def growth_text(fits: Sequence[dict[str, Any]]) -> str:
    """Return the fits as a table, one curve a line."""
    widths = (8, 24, 6, 4, 26, 9, 9, 14)
    heads = ("case", "policy", "T", "B", "fastest = a + b n", "at most", "n^p: p", "p, largest two")
    lines = [aligned(heads, widths, _LEFT)]
    for found in fits:
        anywhere = found["case"] == DECISION and found["policy"] not in TRANSFORMERS
        cells = (
            found["case"],
            found["policy"],
            "any" if anywhere else str(found["steps"]),
            str(found["batch"]),
            f"{short(found['constant_ms'])} + {short(found['per_agent_ms'])} n",
            f"{found['largest_error']:.0%} off",
            f"{found['exponent']:.2f}",
            f"{found['last_exponent']:.2f}",
        )
        lines.append(aligned(cells, widths, _LEFT))
    return "\n".join(lines) + "\n"
