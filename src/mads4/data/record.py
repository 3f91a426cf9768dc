"""Playing episodes with a behavior policy and keeping what happened."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from mads4.behavior.play import Playing, play, play_together
from mads4.behavior.protocol import BehaviorPolicy
from mads4.envs.protocol import BrokenEpisodeError, MultiAgentEnv
from mads4.envs.seeding import environment_seed
from mads4.rollout.vector import VectorEnv
from mads4.types import Episode, IntArray, TimeStep

_RECORDING = int.from_bytes(b"data", "big") << 32
"""Added to the seed, so that no evaluation starts from a recorded episode's warehouse."""


class _Recording(Playing):
    """Episode `index` of the recording `seed`; it depends on these two numbers only."""

    def __init__(self, behavior: BehaviorPolicy, seed: int, index: int) -> None:
        start = environment_seed(_RECORDING + seed, index)
        rng = np.random.default_rng([seed, index])
        super().__init__(behavior, start, rng, f"episode {index} of seed {seed}")
        self._index = index

    def begin(self, env: MultiAgentEnv) -> None:
        super().begin(env)
        self._before: list[TimeStep] = []
        self._actions: list[IntArray] = []
        self._rewards: list[float] = []
        self._terminated = False

    def act(self, now: TimeStep) -> IntArray:
        action = super().act(now)
        self._before.append(_copy(now))
        self._actions.append(action)
        return action

    def follow(self, now: TimeStep) -> bool:
        self._rewards.append(now.reward)
        self._terminated = now.terminated
        return super().follow(now)

    def episode(self) -> Episode:
        """Return all that happened; what the environment did not end is truncated."""
        return Episode(
            observation=np.stack([step.observation for step in self._before]),
            state=np.stack([step.state for step in self._before]),
            available_actions=np.stack([step.available_actions for step in self._before]),
            action=np.stack(self._actions),
            reward=np.array(self._rewards, dtype=np.float32),
            terminated=self._terminated,
            truncated=not self._terminated,
            seed=self._index,
            metrics=self.metrics | self.behavior.metrics(),
        )


def record_episode(env: MultiAgentEnv, behavior: BehaviorPolicy, seed: int, index: int) -> Episode:
    """Play episode `index` of the recording `seed`; it depends on these two numbers only.

    An episode that the environment does not end within the spec's limit is truncated there. One in
    which the environment breaks down is played again.

    Raises:
        UserError: it broke down `mads4.envs.protocol.MAX_ATTEMPTS` times.
    """
    recording = _Recording(behavior, seed, index)
    while True:
        try:
            return play(env, recording).episode()
        except BrokenEpisodeError as error:
            recording.fail(f"an environment {error}")


def _copy(step: TimeStep) -> TimeStep:
    """Return copies in the stored dtypes: an environment may reuse its buffers."""
    state = np.asarray(step.state)
    return TimeStep(
        observation=np.array(step.observation, dtype=np.float32),
        state=np.array(state, dtype=np.uint8 if state.dtype == np.uint8 else np.float32),
        available_actions=np.array(step.available_actions, dtype=np.bool_),
    )


@dataclass(frozen=True)
class Recorder:
    """How to make episodes; picklable when its factories are, so that worker processes get it."""

    make_env: Callable[[], MultiAgentEnv]
    make_behavior: Callable[[], BehaviorPolicy]
    seed: int

    def play(self, indices: Iterable[int]) -> Generator[Episode, None, None]:
        """Yield the episodes `indices`, played one after the other in one environment."""
        env = self.make_env()
        try:
            behavior = self.make_behavior()
            for index in indices:
                yield record_episode(env, behavior, self.seed, index)
        finally:
            env.close()

    def play_together(
        self, vector: VectorEnv, indices: Iterable[int]
    ) -> Generator[Episode, None, None]:
        """Yield the episodes `indices` as they end, played in all rows of `vector` at once."""
        episodes = (_Recording(self.make_behavior(), self.seed, index) for index in indices)
        with closing(vector), closing(play_together(vector, episodes)) as played:
            for recording in played:
                yield recording.episode()
