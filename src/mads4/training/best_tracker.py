"""How a policy stands in online training: its returns, its best, and whether it has fallen."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mads4.rollout import EpisodeResult

Verdict = Literal["best", "degraded", "usual"]

_NUMBERS = (
    *("best_return", "average", "best_average", "best_variance", "lowest"),
    *("environment_steps", "rollbacks"),
)
CHANCE = 4.0
"""Standard errors that a loss must exceed: the best of hundreds of averages was a lucky one, and an
unchanged policy would otherwise be rolled back again and again."""


class BestTracker:
    """Compares policies by the returns of training's own episodes, averaged over iterations.

    Args:
        best_return: best return of a single episode known so far.
        window: iterations that are averaged.
        tolerated: share of the best average that may be lost; None for any.
    """

    def __init__(self, best_return: float, window: int, tolerated: float | None) -> None:
        self.best_return = best_return
        self.average = 0.0
        """Mean return of the latest iterations; after a rollback those before it, until more have
        been played."""
        self.best_average = float("-inf")
        self.best_variance = 0.0
        self.lowest = 0.0
        self.environment_steps = 0
        self.rollbacks = 0
        self._tolerated = tolerated
        self._recent: deque[list[float]] = deque(maxlen=window)

    @property
    def settled(self) -> bool:
        """Whether there are enough iterations to average."""
        return len(self._recent) == self._recent.maxlen

    def update(self, played: Sequence[EpisodeResult]) -> Verdict:
        """Add an iteration's episodes and compare; after a rollback the averaging restarts."""
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
            self.rollbacks += 1
            return "degraded"
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
