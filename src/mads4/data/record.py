"""Playing one episode with a behaviour policy and keeping what happened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np

from mads4.behaviour.protocol import Behaviour
from mads4.envs.protocol import MultiAgentEnv
from mads4.seeding import environment_seed
from mads4.types import Episode, TimeStep

_RECORDING = int.from_bytes(b"data", "big") << 32
"""Added to the seed, so that no evaluation starts from a recorded episode's warehouse."""


def record_episode(env: MultiAgentEnv, behaviour: Behaviour, seed: int, index: int) -> Episode:
    """Play episode `index` of the recording `seed`; it depends on these two numbers only.

    An episode that the environment does not end within the spec's limit is truncated there.
    """
    now = env.reset(environment_seed(_RECORDING + seed, index))
    behaviour.reset(env, np.random.default_rng([seed, index]))
    before: list[TimeStep] = []
    actions, rewards = [], []
    metrics: defaultdict[str, float] = defaultdict(float)
    for _ in range(env.spec.episode_limit):
        action = np.array(behaviour.act(now), dtype=np.int64)
        before.append(_copy(now))
        now = env.step(action)
        actions.append(action)
        rewards.append(now.reward)
        for name, increment in now.metrics.items():
            metrics[name] += float(increment)
        if now.done:
            break
    return Episode(
        observation=np.stack([step.observation for step in before]),
        state=np.stack([step.state for step in before]),
        available_actions=np.stack([step.available_actions for step in before]),
        action=np.stack(actions),
        reward=np.array(rewards, dtype=np.float32),
        terminated=now.terminated,
        truncated=not now.terminated,
        seed=index,
        metrics=dict(metrics) | behaviour.metrics(),
    )


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
    make_behaviour: Callable[[], Behaviour]
    seed: int

    def play(self, indices: Iterable[int]) -> Generator[Episode, None, None]:
        """Yield the episodes `indices`, played one after the other in one environment."""
        env = self.make_env()
        try:
            behaviour = self.make_behaviour()
            for index in indices:
                yield record_episode(env, behaviour, self.seed, index)
        finally:
            env.close()
