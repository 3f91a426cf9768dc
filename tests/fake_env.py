"""Small environments that tests and their worker processes can import; free of torch."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mads4.envs.protocol import BrokenEpisodeError
from mads4.envs.vector import Supervision
from mads4.errors import UserError
from mads4.types import EnvSpec, IntArray, TimeStep

SPEC = EnvSpec(
    name="fake",
    scenario="matching",
    n_agents=2,
    obs_dim=5,
    state_dim=3,
    n_actions=4,
    episode_limit=14,
    reward="matches",
)


def first_to_claim(marker: Path) -> bool:
    """Create the file `marker`; False if it is there, also if another process was a bit faster."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class MatchingEnv:
    """Each agent is shown a number and is paid for answering with it; episodes differ in length.

    Options:
        fail_at: raise in the step of this number (a bug in a user's environment).
        endless: never end.
        masked: not every action is available.
    """

    def __init__(
        self,
        fail_at: int | None = None,
        endless: bool = False,
        masked: bool = True,
        **spec: Any,
    ) -> None:
        self.spec = replace(SPEC, **spec)
        self._fail_at, self._endless, self._masked = fail_at, endless, masked

    def reset(self, seed: int) -> TimeStep:
        self._rng = np.random.default_rng(seed)
        self._limit = int(self._rng.integers(3, self.spec.episode_limit + 1))
        self._time = 0
        return self._now(0.0)

    def step(self, actions: IntArray) -> TimeStep:
        self._time += 1
        if self._time == self._fail_at:
            raise ZeroDivisionError("a bug in the user's environment")
        return self._now(float((actions == self._shown).sum()))

    def _now(self, reward: float) -> TimeStep:
        n, actions = self.spec.n_agents, self.spec.n_actions
        self._shown = self._rng.integers(actions, size=n)
        observation = np.zeros((n, self.spec.obs_dim), np.float32)
        observation[np.arange(n), self._shown] = 1.0
        observation[:, -1] = self._rng.random(n)
        available = self._rng.random((n, actions)) < (0.7 if self._masked else 1.0)
        available[np.arange(n), self._shown] = True
        ended = not self._endless and self._time == self._limit
        cut = self._limit == self.spec.episode_limit
        return TimeStep(
            observation=observation,
            state=self._rng.integers(0, 2, (1, self.spec.state_dim), dtype=np.uint8),
            available_actions=available,
            reward=reward,
            terminated=ended and not cut,
            truncated=ended and cut,
            metrics={"matches": reward},
        )

    def render(self) -> np.ndarray:
        return np.full((24, 32, 3), self._time % 256, np.uint8)

    def close(self) -> None:
        pass


class TroubledEnv(MatchingEnv):
    """Goes wrong in the episode that is reset with `seed`, `times` times.

    `how`: ``kill`` ends the process, ``hang`` sleeps, ``bug`` and ``refuse`` raise.
    `at`: the step, from 1; 0 for the reset.
    """

    def __init__(self, how: str, seed: int, folder: str, times: int = 1, at: int = 2) -> None:
        super().__init__()
        self._how, self._bad_seed, self._folder = how, seed, folder
        self._times, self._at = times, at

    def reset(self, seed: int) -> TimeStep:
        self._seed = seed
        self._go_wrong(0)
        return super().reset(seed)

    def step(self, actions: IntArray) -> TimeStep:
        self._go_wrong(self._time + 1)
        return super().step(actions)

    def _go_wrong(self, at: int) -> None:
        if self._seed != self._bad_seed or at != self._at:
            return
        lives = (Path(self._folder, f"trouble-{life}") for life in range(self._times))
        if not any(map(first_to_claim, lives)):
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._how == "hang":
            time.sleep(1000.0)
        if self._how == "refuse":
            raise UserError("no such scenario")
        raise ZeroDivisionError("a bug in the environment")


class FatalEnv(MatchingEnv):
    """Can be made in the process `pid` only; any other it takes down."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        if os.getpid() != pid:
            os._exit(3)


class HangingParent(MatchingEnv):
    """Starts a process and hangs."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def reset(self, seed: int) -> TimeStep:
        simulator = subprocess.Popen(["sleep", "1000"])
        Path(self._folder, str(simulator.pid)).touch()
        time.sleep(1000.0)
        return super().reset(seed)


class FragileEnv(MatchingEnv):
    """Breaks in the second step of the first two episodes that are begun in it."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = 0

    def reset(self, seed: int) -> TimeStep:
        self._begun += 1
        return super().reset(seed)

    def step(self, actions: IntArray) -> TimeStep:
        if self._begun <= 2 and self._time == 1:
            raise BrokenEpisodeError("broke")
        return super().step(actions)


class SupervisedEnvs:
    """Makes environments and asks for supervision."""

    supervision = Supervision(processes=3, pause=0.0)

    def __call__(self) -> MatchingEnv:
        return MatchingEnv()


@dataclass(frozen=True)
class DeadlyEnvs:
    """Makes environments that die in the episode of `seed`, twice."""

    seed: int
    folder: str
    supervision: Supervision

    def __call__(self) -> TroubledEnv:
        return TroubledEnv("kill", self.seed, self.folder, times=2)
