"""Episodes for on-policy training: who is asked for what, and the best of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch

from mads4.config import OnlineTrainerConfig
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import VectorEnv
from mads4.models import SequencePolicy
from mads4.rollout import EpisodeResult, one_thread, rollout
from mads4.rollout.processes import keep_freed_memory
from mads4.rollout.vector import make_vector

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
