"""One episode with a behaviour policy, of which only the outcome is kept: pilots and baselines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mads4.behaviour.protocol import Behaviour
from mads4.envs.protocol import MultiAgentEnv


@dataclass(frozen=True)
class Outcome:
    """How an episode went."""

    episode_return: float
    """Undiscounted sum of team rewards."""
    length: int
    metrics: dict[str, float]
    """Sums over the episode of the environment's metrics."""


def play_episode(
    env: MultiAgentEnv, behaviour: Behaviour, seed: int, rng: np.random.Generator
) -> Outcome:
    """Play until the environment ends the episode, or its spec's limit is reached.

    Args:
        env: where to play.
        behaviour: who plays.
        seed: of the environment's reset.
        rng: all randomness of the behaviour.
    """
    now = env.reset(seed)
    behaviour.reset(env, rng)
    total, length = 0.0, 0
    metrics: dict[str, float] = {}
    while not now.done and length < env.spec.episode_limit:
        now = env.step(behaviour.act(now))
        total += now.reward
        length += 1
        for name, increment in now.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + float(increment)
    return Outcome(total, length, metrics)
