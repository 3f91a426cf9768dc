"""Finished episodes, and the time steps of running ones, kept until these end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.envs.vector import SharedBuffers
from mads4.types import BoolArray, Episode, FloatArray, IntArray, TimeStep


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode."""

    index: int
    """k: all of the episode's randomness derives from (seed, k)."""
    episode_return: float
    """Undiscounted sum of team rewards."""
    length: int
    metrics: dict[str, float]
    """Sums over the episode of the environment's metrics."""
    restarts: int = field(default=0, compare=False)
    """How often it was played again because its worker process was lost, or it broke."""
    episode: Episode | None = field(default=None, compare=False, repr=False)
    """All time steps, if the episode was recorded."""
    target_return: float = field(default=0.0, compare=False)
    """The initial return-to-go that the policy was conditioned on."""
    order_key: npt.NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    """(N,) as in `PolicyInput.order_key`."""


@dataclass(frozen=True)
class StepArrays:
    """What R environments show at one time step; copies."""

    observation: FloatArray
    """(R, N, obs_dim)."""
    state: npt.NDArray[Any]
    """(R, N or 1, state_dim)."""
    available_actions: BoolArray
    """(R, N, n_actions)."""

    @classmethod
    def of(cls, buffers: SharedBuffers, rows: slice) -> StepArrays:
        """Return what `buffers` show of `rows`."""
        observation, available = buffers.observation[rows], buffers.available_actions[rows]
        return cls(observation.copy(), buffers.states(rows), available.copy())

    @classmethod
    def of_one(cls, now: TimeStep) -> StepArrays:
        """Return what one environment shows, in the dtypes of `SharedBuffers`."""
        state = np.asarray(now.state)
        return cls(
            np.array(now.observation, dtype=np.float32)[None],
            np.array(state, dtype=np.uint8 if state.dtype == np.uint8 else np.float32)[None],
            np.array(now.available_actions, dtype=np.bool_)[None],
        )


class EpisodeRecorder:
    """Records R environments that are stepped together, but begin and end episodes on their own.

    Whole time steps are kept, so that a step costs nothing for each environment; an episode is cut
    out when it ends, and steps that no running episode needs are dropped.
    """

    def __init__(self, rows: int) -> None:
        self._steps: list[StepArrays] = []
        self._actions: list[IntArray] = []
        self._rewards: list[FloatArray] = []
        self._dropped = 0
        self._began = np.zeros(rows, dtype=np.int64)

    def begin(self, row: int) -> None:
        """Let an episode of `row` begin with the next step."""
        self._began[row] = self._dropped + len(self._steps)

    def add(self, step: StepArrays, action: IntArray) -> None:
        """Keep a time step and the actions (R, N) chosen for it, before they are executed."""
        self._steps.append(step)
        self._actions.append(action)

    def add_reward(self, reward: FloatArray) -> None:
        """Keep the rewards (R,) of the step that was added last."""
        self._rewards.append(reward)

    def episode(
        self,
        row: int,
        *,
        terminated: bool,
        index: int,
        metrics: Mapping[str, float],
        last: TimeStep,
    ) -> Episode:
        """Return the episode of `row` that the last step ended; it is truncated or terminated.

        Args:
            row: of an environment.
            terminated: whether the task itself ended.
            index: the episode's number.
            metrics: its sums.
            last: the time step after the last action.
        """
        first = int(self._began[row]) - self._dropped
        steps = self._steps[first:]
        return Episode(
            observation=np.stack([step.observation[row] for step in steps]),
            state=np.stack([step.state[row] for step in steps]),
            available_actions=np.stack([step.available_actions[row] for step in steps]),
            action=np.stack([action[row] for action in self._actions[first:]]),
            reward=np.array([reward[row] for reward in self._rewards[first:]], dtype=np.float32),
            terminated=terminated,
            truncated=not terminated,
            seed=index,
            metrics=dict(metrics),
            last_observation=last.observation,
            last_state=last.state,
            last_available_actions=last.available_actions,
        )

    def trim(self, running: BoolArray) -> None:
        """Drop the steps before the episodes of the rows (R,) that are running."""
        end = self._dropped + len(self._steps)
        first = int(self._began[running].min(initial=end))
        for kept in (self._steps, self._actions, self._rewards):
            del kept[: first - self._dropped]
        self._dropped = first
