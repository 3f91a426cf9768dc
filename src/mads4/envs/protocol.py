"""What an environment, and a behavior policy beside it, must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mads4.types import EnvSpec, IntArray, TimeStep

MAX_ATTEMPTS = 3
"""Maximum number of attempts at an episode that breaks or kills its process."""


class BrokenEpisodeError(Exception):
    """A simulator failed, so that the current episode is invalid.

    Raised by an environment's `reset` or `step`. The episode is discarded and restarted with
    `reset`, which must work. The message follows "an environment".
    """


@runtime_checkable
class MultiAgentEnv(Protocol):
    """A cooperative environment with a fixed number of agents and discrete actions."""

    @property
    def spec(self) -> EnvSpec:
        """Sizes, reward definition and version."""
        ...

    def reset(self, seed: int) -> TimeStep:
        """Start an episode. The same seed and actions give the same trajectory, bit for bit."""
        ...

    def step(self, actions: IntArray) -> TimeStep:
        """Execute one action per agent, ``actions`` (N,), and return what follows."""
        ...

    def render(self) -> npt.NDArray[np.uint8]:
        """Return a picture of the current state, (height, width, 3) uint8."""
        ...

    def close(self) -> None:
        """Release processes, windows and files."""
        ...


def env_spec(make_env: Callable[[], MultiAgentEnv]) -> EnvSpec:
    """Return the spec of the environments that `make_env` makes."""
    with closing(make_env()) as env:
        return env.spec


class BehaviorPolicy(Protocol):
    """Chooses all agents' actions, with access to the environment's internals if it needs them.

    It runs in the process of its environment, for instance a worker. Data sets are recorded with
    behavior policies; evaluations use them as baselines.
    """

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode in `env`, which has just been reset; all randomness comes from `rng`."""
        ...

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,) for the environment's current state, available ones only.

        Args:
            now: the last time step. The environment may have executed other actions than those
                returned before.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return metrics of this episode to be stored, such as its share of noise."""
        return {}
