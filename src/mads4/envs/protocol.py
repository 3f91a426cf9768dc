"""What an environment must be able to do; everything outside `mads4.envs` uses only this."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mads4.types import EnvSpec, IntArray, TimeStep

MAX_ATTEMPTS = 3
"""How often an episode may break, or bring down its process, before it is given up."""


class BrokenEpisodeError(Exception):
    """A simulator failed, so that the running episode says nothing about whoever plays it.

    Raised by an environment's `reset` or `step`. The episode is thrown away and played again, from
    its beginning; the environment must be able to begin it. The message follows "an environment".
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
        """Return a picture of the present moment, (height, width, 3) uint8."""
        ...

    def close(self) -> None:
        """Release processes, windows and files."""
        ...


EnvOptions = dict[str, Any]
