"""Bursts of random actions: recorded data then cover states that a learner's errors reach."""

from __future__ import annotations

import numpy as np

from mads4.behavior.registry import register
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.types import IntArray, TimeStep

BURST = 3.0
"""Mean length of a burst of random actions, in steps."""


class Noisy:
    """An expert whose agents, each by itself, sometimes act at random for a few steps.

    How often varies from episode to episode, so that one data set holds good and bad episodes:
    the share of random actions is drawn uniformly from ``[low, high]`` at each reset. The
    executed, not the intended, actions are what a recorder stores, and the expert's recoveries
    from the mistakes are part of the data.

    Args:
        expert: the policy that is disturbed.
        low: smallest share of random actions, in [0, 1].
        high: largest share; 1 makes a purely random policy possible.
    """

    def __init__(self, expert: BehaviorPolicy, low: float, high: float) -> None:
        self._expert = expert
        self._range = (low, high)

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode with a share of its own."""
        self._expert.reset(env, rng)
        self._rng = rng
        self.rate = float(rng.uniform(*self._range))
        self._bursting = rng.random(env.spec.n_agents) < self.rate

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,), the expert's or, within a burst, random ones."""
        intended = self._expert.act(now)
        n_agents = len(intended)
        chosen = np.where(self._bursting, random_actions(now, self._rng), intended)
        # a two-state Markov chain whose stationary share of bursts is the rate
        stop = 1.0 / BURST
        start = min(1.0, stop * self.rate / max(1.0 - self.rate, 1e-9))
        stop = stop if start < 1.0 else (1.0 - self.rate) / max(self.rate, 1e-9)
        draw = self._rng.random(n_agents)
        self._bursting = np.where(self._bursting, draw >= stop, draw < start)
        return chosen

    def metrics(self) -> dict[str, float]:
        """Return the episode's share of random actions."""
        return self._expert.metrics() | {"noise": self.rate}


def random_actions(now: TimeStep, rng: np.random.Generator) -> IntArray:
    """Return for each agent (N,) one of its available actions, all with the same probability."""
    available = now.available_actions
    rank = (rng.random(len(available)) * available.sum(axis=1)).astype(np.int64)
    chosen: IntArray = np.argmax(available.cumsum(axis=1) > rank[:, None], axis=1)
    return chosen


@register("random")
class Random(BehaviorPolicy):
    """Random actions, uniform over those available (a `BehaviorPolicy`)."""

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode."""
        self._rng = rng

    def act(self, now: TimeStep) -> IntArray:
        """Return random actions (N,)."""
        return random_actions(now, self._rng)
