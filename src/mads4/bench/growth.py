"""How a time grows with the number of agents: a straight line, and an exponent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
