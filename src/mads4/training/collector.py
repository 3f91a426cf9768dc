"""Collecting the episodes of on-policy training, in turn with learning or in parallel with it."""

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
"""Separates the episodes of training from those of data and evaluations of the same seed."""


class Collector:
    """Collects episodes with a policy; episode k depends on (seed, k) and the policy only.

    No environment keeps state from one iteration to the next, so that exact resume needs only the
    number of the next episode.

    Args:
        make_env: makes one environment; picklable.
        config: number of episodes and processes, and the target returns.
        seed: of the run.
        device: of the policy.
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

    def collect(
        self, policy: SequencePolicy, iteration: int, best_return: float
    ) -> list[EpisodeResult]:
        """Return an iteration's recorded episodes, in the order of their numbers.

        Args:
            policy: in evaluation mode.
            iteration: from 0.
            best_return: best return so far, which the target returns are relative to.
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
            return sorted(episodes, key=lambda result: result.index)

    def close(self) -> None:
        """End the environments and their processes."""
        if self._envs is not None:
            with closing(self._envs):
                self._envs = None

    def _environments(self) -> VectorEnv:
        """Return the environments, created at the first call."""
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
        """Return episode k's target return: a multiple of the best, minus a uniform spread."""
        highest = self._config.target_return_scale * best_return
        drawn = np.random.default_rng([self._seed, episode, 2]).random()
        return float(highest - abs(highest) * self._config.target_return_spread * drawn)


@dataclass(frozen=True)
class Rollout:
    """The episodes of one iteration, and the policy that collected them."""

    policy: SequencePolicy
    """With the weights that acted."""
    weights: Weights
    """Of all networks at the start."""
    episodes: list[EpisodeResult]


class AsyncCollector:
    """Collects the next iteration with a copy of the policy; `result` waits for it.

    The policy computes with one CPU thread: other cores step the environments.

    Args:
        collector: not to be used elsewhere between `start` and `result`.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._thread = ThreadPoolExecutor(1, "collector", _use_one_core)
        self._stopped = threading.Event()
        self._pending: tuple[SequencePolicy, Weights, Future[list[EpisodeResult]]] | None = None

    @property
    def weights(self) -> Weights | None:
        """Those that are acting; None where no iteration has been started."""
        return None if self._pending is None else self._pending[1]

    def start(
        self, policy: SequencePolicy, weights: Weights, iteration: int, best_return: float
    ) -> None:
        """Start to collect `iteration` with a copy of `policy` that has these weights."""
        acting = copy.deepcopy(policy)
        acting.load_state_dict(weights["policy"])
        stoppable: Any = _StoppablePolicy(acting, self._stopped)
        future = self._thread.submit(self._collector.collect, stoppable, iteration, best_return)
        self._pending = acting, weights, future

    def result(self) -> Rollout:
        """Return the iteration that was started; raises the exception that ended it, if any."""
        assert self._pending is not None, "no iteration has been started"
        policy, weights, future = self._pending
        self._pending = None
        return Rollout(policy, weights, future.result())

    def close(self) -> None:
        """Abandon the rollout at its next time step."""
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)


def _use_one_core() -> None:
    """Limit PyTorch to one CPU thread in this thread."""
    torch.get_num_threads()  # a thread's first call sets its number to the process's
    torch.set_num_threads(1)


class _StoppedError(Exception):
    """Ends a rollout whose result is not needed."""


@dataclass(frozen=True)
class _StoppablePolicy:
    """A policy that stops acting once `stopped` is set."""

    policy: SequencePolicy = field(repr=False)
    stopped: threading.Event

    def initial_state(self, batch: int) -> Any:
        return self.policy.initial_state(batch)

    def step(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        if self.stopped.is_set():
            raise _StoppedError
        return self.policy.step(inputs, state)

    def reset_rows(self, state: Any, rows: torch.Tensor) -> Any:
        return self.policy.reset_rows(state, rows)
