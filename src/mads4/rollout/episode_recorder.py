"""What a group of environments showed and did, kept until its episodes end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.types import BoolArray, Episode, FloatArray, IntArray


@dataclass(frozen=True)
class Round:
    """One time step of R environments; arrays that nobody writes to any more."""

    observation: FloatArray
    """(R, N, obs_dim)."""
    state: npt.NDArray[Any]
    """(R, N or 1, state_dim)."""
    available_actions: BoolArray
    """(R, N, n_actions)."""
    action: IntArray
    """(R, N)."""


class EpisodeRecorder:
    """Records R environments that run in step, whose episodes begin and end on their own.

    Whole rounds are kept, so that a step costs nothing for each environment; an episode is cut out
    when it ends, and rounds that no running episode needs are dropped.
    """

    def __init__(self, rows: int) -> None:
        self._rounds: list[Round] = []
        self._rewards: list[FloatArray] = []
        self._dropped = 0
        self._began = np.zeros(rows, dtype=np.int64)

    def begin(self, row: int) -> None:
        """Let an episode of `row` begin with the next round."""
        self._began[row] = self._dropped + len(self._rounds)

    def add(self, moment: Round) -> None:
        """Keep a time step, before it is executed."""
        self._rounds.append(moment)

    def reward(self, reward: FloatArray) -> None:
        """Keep what the time step added last has earned, (R,)."""
        self._rewards.append(reward)

    def episode(
        self, row: int, *, terminated: bool, index: int, metrics: Mapping[str, float]
    ) -> Episode:
        """Return the episode of `row` that the last round ended."""
        first = int(self._began[row]) - self._dropped
        rounds = self._rounds[first:]
        return Episode(
            observation=np.stack([moment.observation[row] for moment in rounds]),
            state=np.stack([moment.state[row] for moment in rounds]),
            available_actions=np.stack([moment.available_actions[row] for moment in rounds]),
            action=np.stack([moment.action[row] for moment in rounds]),
            reward=np.array([reward[row] for reward in self._rewards[first:]], dtype=np.float32),
            terminated=terminated,
            truncated=not terminated,
            seed=index,
            metrics=dict(metrics),
        )

    def trim(self, running: BoolArray) -> None:
        """Forget what was before the episodes of the rows (R,) that run."""
        end = self._dropped + len(self._rounds)
        first = int(self._began[running].min(initial=end))
        del self._rounds[: first - self._dropped], self._rewards[: first - self._dropped]
        self._dropped = first
