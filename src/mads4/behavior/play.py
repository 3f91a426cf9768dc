"""Episodes with a behavior policy: one after the other in an environment, or many at once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from mads4.behavior.protocol import BehaviorPolicy
from mads4.envs.protocol import MAX_ATTEMPTS, MultiAgentEnv
from mads4.errors import UserError
from mads4.rollout.shared_buffers import IDLE, RESET, STEP
from mads4.rollout.vector import VectorEnv, WorkerLost
from mads4.types import EnvSpec, IntArray, TimeStep

TOGETHER = 32
"""Episodes at a time in environments that are stepped in one call."""

_LOG = logging.getLogger(__name__)


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
        behavior: who plays.
        seed: of the environment's reset.
        rng: all randomness of the behavior; kept as it is, so that the episode can begin again.
        name: what it is called when it fails.
    """

    def __init__(
        self,
        behavior: BehaviorPolicy,
        seed: int,
        rng: np.random.Generator,
        name: str = "an episode",
    ) -> None:
        self.behavior = behavior
        self.seed = seed
        self.metrics: dict[str, float] = {}
        self._rng, self._name = rng, name
        self._total, self._length = 0.0, 0
        self._failures = 0

    def begin(self, env: MultiAgentEnv) -> None:
        """Let the behavior begin in `env`, which has been reset; forget what was played before."""
        self.metrics = {}
        self._total, self._length = 0.0, 0
        self.behavior.reset(env, copy.deepcopy(self._rng))
        self._limit = env.spec.episode_limit

    def fail(self, reason: str, blamed: bool = True) -> None:
        """Report that what was played came to nothing; count it if the episode is `blamed`.

        Raises:
            UserError: it has failed `MAX_ATTEMPTS` times.
        """
        self._failures += blamed
        if self._failures >= MAX_ATTEMPTS:
            raise UserError(
                f"{_capital(self._name)} has failed {MAX_ATTEMPTS} times (the last time {reason}). "
                "If the environment is merely slow and has env.supervision, raise its "
                "reset_timeout and step_timeout."
            )
        _LOG.warning("%s; playing %s again.", _capital(reason), self._name)

    def act(self, now: TimeStep) -> IntArray:
        """Return the actions (N,) that follow what is seen."""
        return np.array(self.behavior.act(now), dtype=np.int64)

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
    env: MultiAgentEnv, behavior: BehaviorPolicy, seed: int, rng: np.random.Generator
) -> Outcome:
    """Play one episode, of which only the outcome is kept; see `Playing`."""
    return play(env, Playing(behavior, seed, rng)).outcome


def play_together(
    vector: VectorEnv, episodes: Iterable[PlayingT]
) -> Generator[PlayingT, None, None]:
    """Yield `episodes` as they end, played in all rows of `vector` at once.

    Episodes that are lost are played again. Of environments in other processes the behaviors see
    the spec alone.

    Args:
        vector: whose rows play.
        episodes: taken when a row is free; each with a behavior of its own.

    Raises:
        UserError: an episode has failed `MAX_ATTEMPTS` times, or its behavior looks into an
            environment that is in another process.
    """
    board, everyone = vector.board, slice(0, len(vector.board.order))
    waiting, running, begun = iter(episodes), dict[int, PlayingT](), set[int]()
    while True:
        board.order[:] = IDLE
        for row in range(everyone.stop):
            episode = running.get(row) or next(waiting, None)
            if episode is None:
                continue
            if row in begun:
                board.order[row] = STEP
                board.action[row] = episode.act(board.time_step(row))
            else:
                running[row] = episode
                board.order[row], board.seed[row] = RESET, episode.seed
        if not running:
            return
        vector.send(everyone)
        lost = _lost(vector.wait(everyone), running)
        begun -= lost
        for row, episode in list(running.items()):
            if row in lost:
                continue
            if row not in begun:
                env = vector.env(row)
                elsewhere = cast(MultiAgentEnv, _Elsewhere(vector.spec))
                episode.begin(elsewhere if env is None else env)
                begun.add(row)
            elif episode.follow(board.time_step(row)):
                episode.metrics = dict(vector.metrics(row))
                begun.remove(row)
                yield running.pop(row)


def _lost(losses: Iterable[WorkerLost], running: dict[int, PlayingT]) -> set[int]:
    """Tell the episodes that were lost; return all rows that begin anew."""
    lost = set[int]()
    for loss in losses:
        lost.update(loss.rows)
        for row in running.keys() & set(loss.rows):
            running[row].fail(f"{loss.who} {loss.reason}", blamed=row in loss.blamed)
    return lost


class _Elsewhere:
    """All that a behavior sees of an environment in another process: its spec."""

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec

    def __getattr__(self, name: str) -> object:
        raise UserError(
            f"The behavior looks into the environment (for its '{name}'), which plays in another "
            "process. Use one that needs to see the spec only: dataset.behavior_policy=random."
        )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
