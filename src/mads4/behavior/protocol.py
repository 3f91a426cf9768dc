"""What a behavior policy, which records data, must be able to do."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mads4.envs.protocol import MultiAgentEnv
from mads4.types import IntArray, TimeStep


class BehaviorPolicy(Protocol):
    """Chooses all agents' actions, with access to the environment's internals if it needs them."""

    def reset(self, env: MultiAgentEnv, rng: np.random.Generator) -> None:
        """Start an episode in `env`; all randomness comes from `rng`."""
        ...

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,) for the environment's present state, available ones only.

        Args:
            now: what the environment showed last. The environment may have executed other
                actions than those returned before.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return what is worth storing of how this episode was made."""
        ...
