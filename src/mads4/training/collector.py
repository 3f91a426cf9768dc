"""Playing the episodes of on-policy training, one iteration at a time or one ahead."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mads4.algorithms.mappo import Weights
from mads4.config import OnlineTrainerConfig
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import VectorEnv
from mads4.models import SequencePolicy
from mads4.rollout import EpisodeResult, one_thread, rollout
from mads4.rollout.processes import keep_freed_memory
from mads4.rollout.vector import make_vector
from mads4.types import PolicyInput, PolicyOutput

STREAM = 0x0A11E
"""Keeps the episodes of training apart from those of data and evaluations of the same seed."""


class Collector:
    """Plays episodes with the policy as it is; episode k depends on (seed, k) and the policy only.

    Nothing of an environment outlives an iteration, so that exact resume needs but the number of
    the next episode.

    Args:
        make_env: makes one environment; picklable.
        config: how many episodes at a time, in which processes, and what they are asked for.
        seed: of the run.
        device: where the policy computes.
    """

    def __init__(
        self,
        make_env: Callable[[], MultiAgentEnv],
        config: OnlineTrainerConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self._make_env = make_env
        self._config = config
        self._seed = int(np.random.SeedSequence([seed, STREAM]).generate_state(1)[0])
        self._device = device
        self._envs: VectorEnv | None = None

    def play(
        self, policy: SequencePolicy, iteration: int, best_return: float
    ) -> list[EpisodeResult]:
        """Return an iteration's recorded episodes, in the order of their numbers.

        Args:
            policy: in evaluation mode.
            iteration: from 0.
            best_return: best return known; what is asked for follows from it.
        """
        count = self._config.episodes
        with one_thread():
            episodes = rollout(
                policy,
                self._environments(),
                count,
                seed=self._seed,
                first=iteration * count,
                target_return=lambda k: self._target(k, best_return),
                device=self._device,
                record=True,
            )
            return sorted(episodes, key=lambda played: played.index)

    def close(self) -> None:
        """End the environments and their processes."""
        if self._envs is not None:
            with closing(self._envs):
                self._envs = None

    def _environments(self) -> VectorEnv:
        """Return the environments, made when they are first needed."""
        if self._envs is None:
            keep_freed_memory()
            config = self._config
            self._envs = make_vector(
                self._make_env,
                min(config.num_envs, config.episodes),
                workers=config.num_workers,
                timeout=config.worker_timeout,
            )
        return self._envs

    def _target(self, episode: int, best_return: float) -> float:
        """Return episode k's target return: a factor of the best, less a uniform spread."""
        highest = self._config.target_return_scale * best_return
        drawn = np.random.default_rng([self._seed, episode, 2]).random()
        return float(highest - abs(highest) * self._config.target_return_spread * drawn)


@dataclass(frozen=True)
class Turn:
    """An iteration's episodes, and who played them."""

    policy: SequencePolicy
    """As it played; nothing has been learned since."""
    weights: Weights
    """Of all networks when it began."""
    played: list[EpisodeResult]


class AsyncCollector:
    """Plays the next iteration with a copy of the policy; `take` waits for it.

    What it computes on the CPU it does with one thread: other cores step the environments.

    Args:
        collector: plays; not to be used elsewhere between `begin` and `take`.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._thread = ThreadPoolExecutor(1, "player", _use_one_core)
        self._left = threading.Event()
        self._pending: tuple[SequencePolicy, Weights, Future[list[EpisodeResult]]] | None = None

    @property
    def weights(self) -> Weights | None:
        """Those that are playing; None where nothing has begun."""
        return None if self._pending is None else self._pending[1]

    def begin(
        self, policy: SequencePolicy, weights: Weights, iteration: int, best_return: float
    ) -> None:
        """Start to play `iteration` with what `weights` makes of a copy of `policy`."""
        acting = copy.deepcopy(policy)
        acting.load_state_dict(weights["policy"])
        player: Any = _Leaving(acting, self._left)
        future = self._thread.submit(self._collector.play, player, iteration, best_return)
        self._pending = acting, weights, future

    def take(self) -> Turn:
        """Return what was begun; raises what went wrong in it."""
        assert self._pending is not None, "nothing has begun"
        policy, weights, future = self._pending
        self._pending = None
        return Turn(policy, weights, future.result())

    def close(self) -> None:
        """Abandon the rollout at its next time step."""
        self._left.set()
        self._thread.shutdown(cancel_futures=True)


def _use_one_core() -> None:
    """Let what this thread computes have one CPU thread."""
    torch.get_num_threads()  # a thread's first question sets its number to the process's
    torch.set_num_threads(1)


class _GivenUpError(Exception):
    """Ends a rollout whose result is not needed."""


@dataclass(frozen=True)
class _Leaving:
    """A policy that stops acting once `left` is set."""

    policy: SequencePolicy = field(repr=False)
    left: threading.Event

    def initial_state(self, batch: int) -> Any:
        return self.policy.initial_state(batch)

    def step(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        if self.left.is_set():
            raise _GivenUpError
        return self.policy.step(inputs, state)

    def reset_rows(self, state: Any, rows: torch.Tensor) -> Any:
        return self.policy.reset_rows(state, rows)
