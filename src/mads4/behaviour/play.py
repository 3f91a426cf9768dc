"""Episodes with a behaviour policy: one after the other in an environment, or many at once."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mads4.behaviour.protocol import Behaviour
from mads4.envs.board import IDLE, RESET, STEP
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import VectorEnv
from mads4.types import IntArray, TimeStep

TOGETHER = 32
"""Episodes at a time in environments that are stepped in one call."""


@dataclass(frozen=True)
class Outcome:
    """How an episode went."""

    episode_return: float
    """Undiscounted sum of team rewards."""
    length: int
    metrics: dict[str, float]
    """Sums over the episode of the environment's metrics."""


class Playing:
    """An episode that is being played, and what is kept of it: the outcome.

    Args:
        behaviour: who plays.
        seed: of the environment's reset.
        rng: all randomness of the behaviour.
    """

    def __init__(self, behaviour: Behaviour, seed: int, rng: np.random.Generator) -> None:
        self.behaviour = behaviour
        self.seed = seed
        self.metrics: dict[str, float] = {}
        self._rng = rng
        self._total, self._length = 0.0, 0

    def begin(self, env: MultiAgentEnv) -> None:
        """Let the behaviour begin in `env`, which has been reset."""
        self.behaviour.reset(env, self._rng)
        self._limit = env.spec.episode_limit

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,) that follow what is seen."""
        return np.array(self.behaviour.act(now), dtype=np.int64)

    def follow(self, now: TimeStep) -> bool:
        """Take in what came of the actions; return whether the episode is over."""
        self._total += now.reward
        self._length += 1
        for name, increment in now.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(increment)
        return now.done or self._length >= self._limit

    @property
    def outcome(self) -> Outcome:
        """How it went so far."""
        return Outcome(self._total, self._length, self.metrics)


PlayingT = TypeVar("PlayingT", bound=Playing)


def play(env: MultiAgentEnv, episode: PlayingT) -> PlayingT:
    """Play until the environment ends the episode, or its spec's limit is reached."""
    now = env.reset(episode.seed)
    episode.begin(env)
    over = now.done
    while not over:
        now = env.step(episode.act(now))
        over = episode.follow(now)
    return episode


def play_episode(
    env: MultiAgentEnv, behaviour: Behaviour, seed: int, rng: np.random.Generator
) -> Outcome:
    """Play one episode, of which only the outcome is kept; see `Playing`."""
    return play(env, Playing(behaviour, seed, rng)).outcome


def play_together(
    vector: VectorEnv, episodes: Iterable[PlayingT]
) -> Generator[PlayingT, None, None]:
    """Yield `episodes` as they end, played in the rows of environments that are many.

    Args:
        vector: made by `mads4.envs.vector.together`.
        episodes: taken when a row is free; each with a behaviour of its own.
    """
    board, everyone = vector.board, slice(0, len(vector.board.order))
    waiting, running = iter(episodes), dict[int, PlayingT]()
    while True:
        board.order[:] = IDLE
        for row in range(everyone.stop):
            episode = running.get(row) or next(waiting, None)
            if episode is None:
                continue
            if row in running:
                board.order[row] = STEP
                board.action[row] = episode.act(board.time_step(row))
            else:
                running[row] = episode
                board.order[row], board.seed[row] = RESET, episode.seed
        if not running:
            return
        vector.send(everyone)
        vector.wait(everyone)
        for row, episode in list(running.items()):
            if board.order[row] == RESET:
                env = vector.env(row)
                if env is None:
                    raise ValueError("behaviours play in environments of this process only")
                episode.begin(env)
            elif episode.follow(board.time_step(row)):
                episode.metrics = dict(vector.metrics(row))
                yield running.pop(row)
