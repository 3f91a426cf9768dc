"""A tiny environment and behaviors that worker processes can import; also a script that records.

``python recording_fakes.py PATH EPISODES SEED WORKERS DELAY`` records a data set.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fake_env import first_to_claim
from mads4.data.collect import collect
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode, IntArray, TimeStep

SPEC = EnvSpec(
    name="fake",
    scenario="walk",
    n_agents=2,
    obs_dim=3,
    state_dim=4,
    n_actions=3,
    episode_limit=12,
    reward="steps",
)


class WalkEnv:
    """Two walkers; the episode ends with luck when both choose action 2, or else at the limit."""

    spec = SPEC

    def reset(self, seed: int) -> TimeStep:
        self._rng = np.random.default_rng(seed)
        self._time = 0
        # One buffer that is written to again and again: recordings must copy it.
        self._observation = self._rng.random((2, 3)).astype(np.float32)
        return self._now(0.0, False)

    def step(self, actions: IntArray) -> TimeStep:
        self._time += 1
        self._observation += self._rng.random((2, 3)).astype(np.float32) + actions[:, None]
        lucky = bool((actions == 2).all()) and self._rng.random() < 0.5
        return self._now(float(actions.sum()), lucky)

    def _now(self, reward: float, terminated: bool) -> TimeStep:
        available = np.ones((2, 3), bool)
        available[0, self._time % 2] = False
        return TimeStep(
            observation=self._observation,
            state=self._rng.integers(0, 2, (1, 4), dtype=np.uint8),
            available_actions=available,
            reward=reward,
            terminated=terminated,
            truncated=not terminated and self._time == SPEC.episode_limit,
            metrics={"walked": 1.0} if self._time else {},
        )

    def render(self) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def close(self) -> None:
        pass


@dataclass
class Wanderer:
    """Random available actions; `delay` seconds per episode; leaves its process id in `pids`."""

    delay: float = 0.0
    pids: str = ""

    def reset(self, env: WalkEnv, rng: np.random.Generator) -> None:
        time.sleep(self.delay)
        self._rng, self._noise, self._time = rng, float(rng.random()), 0
        if self.pids:
            Path(self.pids, str(os.getpid())).touch()

    def act(self, now: TimeStep) -> IntArray:
        first = self._rng.choice([1 - self._time % 2, 2])
        self._time += 1
        return np.array([first, self._rng.integers(3)])

    def metrics(self) -> dict[str, float]:
        return {"noise": self._noise}


@dataclass
class Deadly(Wanderer):
    """Kills its own process, by SIGKILL, in the first `lives` episodes it is asked for."""

    folder: str = ""
    lives: int = 1

    def reset(self, env: WalkEnv, rng: np.random.Generator) -> None:
        super().reset(env, rng)
        for life in range(self.lives):
            if first_to_claim(Path(self.folder, f"died-{life}")):
                os.kill(os.getpid(), signal.SIGKILL)


class Faulty(Wanderer):
    def act(self, now: TimeStep) -> IntArray:
        raise ZeroDivisionError("a bug in the behavior")


class Refusing(Wanderer):
    def act(self, now: TimeStep) -> IntArray:
        raise UserError("no such scenario")


@dataclass(frozen=True)
class Make:
    """A picklable factory of behaviors."""

    kind: type[Wanderer]
    options: tuple[tuple[str, object], ...] = ()

    def __call__(self) -> Wanderer:
        return self.kind(**dict(self.options))  # type: ignore[arg-type]


def make_episode(
    rng: np.random.Generator, length: int, spec: EnvSpec = SPEC, index: int = 0
) -> Episode:
    """An episode of random content that fits `spec`; every third has nothing after its end."""
    n = spec.n_agents
    state_agents = n if spec.state_per_agent else 1
    if spec.state_encoding == "default":
        state = rng.integers(0, 2, (length, state_agents, spec.state_dim), dtype=np.uint8)
    else:
        state = rng.normal(size=(length, state_agents, spec.state_dim)).astype(np.float32)
    action = rng.integers(0, spec.n_actions, (length, n))
    available = rng.random((length, n, spec.n_actions)) < 0.5
    np.put_along_axis(available, action[..., None], True, axis=-1)
    terminated = bool(rng.integers(2))
    return Episode(
        observation=rng.normal(size=(length, n, spec.obs_dim)).astype(np.float32),
        state=state,
        available_actions=available,
        action=action,
        reward=rng.normal(size=length).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        seed=index,
        metrics={"noise": float(rng.random())} if index % 2 else {"deliveries": 1.0},
        **(make_last(spec, state.dtype, index) if index % 3 else {}),  # type: ignore[arg-type]
    )


def make_last(spec: EnvSpec, state_dtype: np.dtype, index: int) -> dict[str, np.ndarray]:
    """Random content of what follows an episode's last step; an agent has one action at least."""
    rng, n = np.random.default_rng([index, 99]), spec.n_agents
    available = rng.random((n, spec.n_actions)) < 0.5
    available[np.arange(n), rng.integers(0, spec.n_actions, n)] = True
    return {
        "last_observation": rng.normal(size=(n, spec.obs_dim)).astype(np.float32),
        "last_state": rng.integers(0, 2, (n if spec.state_per_agent else 1, spec.state_dim)).astype(
            state_dtype
        ),
        "last_available_actions": available,
    }


def make_episodes(count: int, seed: int = 0, spec: EnvSpec = SPEC) -> list[Episode]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, spec.episode_limit + 1, count)
    return [make_episode(rng, int(length), spec, k) for k, length in enumerate(lengths)]


if __name__ == "__main__":
    path, episodes, seed, workers, delay, pids = sys.argv[1:]
    collect(
        WalkEnv,
        Make(Wanderer, (("delay", float(delay)), ("pids", pids))),
        int(episodes),
        int(seed),
        path,
        behavior={"kind": "wanderer"},
        workers=int(workers),
        flush_seconds=0.0,
    )
