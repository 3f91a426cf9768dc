"""How a policy stands in online training: its returns, its best, and whether it has fallen."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mads4.rollout import EpisodeResult

Verdict = Literal["best", "fallen", "usual"]

_NUMBERS = (
    *("best_return", "average", "best_average", "best_variance", "lowest"),
    *("environment_steps", "falls"),
)
CHANCE = 4.0
"""Standard errors that a fall is larger than: the best of hundreds of averages was a lucky one, and
a policy that stays as it is would otherwise fall again and again."""


class BestTracker:
    """Judges by the returns of training's own episodes, averaged over some iterations.

    Args:
        best_return: best return of a single episode known so far.
        smoothing: iterations that are averaged.
        tolerated: share of the best average that may be lost; None for any.
    """

    def __init__(self, best_return: float, smoothing: int, tolerated: float | None) -> None:
        self.best_return = best_return
        self.average = 0.0
        """Mean return of the latest iterations; after a fall those that were judged, until more
        have been played."""
        self.best_average = float("-inf")
        self.best_variance = 0.0
        self.lowest = 0.0
        self.environment_steps = 0
        self.falls = 0
        self._tolerated = tolerated
        self._recent: deque[list[float]] = deque(maxlen=smoothing)

    @property
    def settled(self) -> bool:
        """Whether there are enough iterations to average."""
        return len(self._recent) == self._recent.maxlen

    def judge(self, played: Sequence[EpisodeResult]) -> Verdict:
        """Take in an iteration's episodes; after a fall the averaging begins anew."""
        returns = [one.episode_return for one in played]
        self.environment_steps += sum(one.length for one in played)
        self.best_return = max(self.best_return, *returns)
        self.lowest = min(returns)
        self._recent.append(returns)
        pooled = np.concatenate(self._recent)
        self.average = float(pooled.mean())
        variance = float(pooled.var()) / len(pooled)
        if not self.settled:
            return "usual"
        if self.average > self.best_average:
            self.best_average, self.best_variance = self.average, variance
            return "best"
        allowed = float("inf") if self._tolerated is None else self._tolerated
        chance = CHANCE * (variance + self.best_variance) ** 0.5
        if self.best_average - self.average > max(allowed * abs(self.best_average), chance):
            self._recent.clear()
            self.falls += 1
            return "fallen"
        return "usual"

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "recent": list(self._recent)}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in _NUMBERS:
            setattr(self, name, values[name])
        self._recent.clear()
        self._recent.extend(values["recent"])
