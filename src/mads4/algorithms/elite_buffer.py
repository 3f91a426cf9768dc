"""Behavior cloning mixed into online training: from the data, and from the best own episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mads4.algorithms.losses import behavior_cloning
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler
from mads4.models import SequencePolicy
from mads4.rollout import EpisodeResult
from mads4.types import EnvSpec, Episode, SequenceBatch

STRIDE = 1 << 20
"""More optimizer steps than an iteration has: numbers batches apart."""


class EliteBuffer:
    """Batches for behavior cloning; returns-to-go are always those that were achieved.

    Args:
        spec: of the environment.
        data: recorded data, None for none.
        batch_size: trajectories per batch, from the data and from own episodes by turns.
        size: best own episodes to keep; 0 for none.
        seed: decides, with the step, what a batch contains.
    """

    def __init__(
        self, spec: EnvSpec, data: Dataset | None, batch_size: int, size: int, seed: int
    ) -> None:
        self._spec = spec
        self._batch_size = batch_size
        self._size = size
        self._seed = seed
        self._data = None if data is None else SequenceSampler(data, batch_size, seed=seed)
        self._best: list[Episode] = []
        self._own: SequenceSampler | None = None

    def keep(self, played: Sequence[EpisodeResult]) -> None:
        """Keep the best of these episodes and of those kept before; the earlier one of equals."""
        if self._size == 0:
            return
        candidates = [*self._best, *(one.episode for one in played if one.episode is not None)]
        ranked = sorted(candidates, key=lambda episode: -episode.episode_return)[: self._size]
        if [id(episode) for episode in ranked] != [id(episode) for episode in self._best]:
            self._set(ranked)

    def _set(self, episodes: list[Episode]) -> None:
        self._best = episodes
        data = Dataset.from_episodes(self._spec, episodes)
        self._own = SequenceSampler(data, self._batch_size, seed=self._seed)

    def batch(self, step: int, epoch: int, number: int) -> SequenceBatch | None:
        """Return what to clone from in an optimizer step, or None; data and own by turns."""
        sources = [source for source in (self._data, self._own) if source is not None]
        if not sources:
            return None
        index = step * STRIDE + epoch * (STRIDE >> 8) + number
        return sources[(step + epoch + number) % len(sources)].batch(index)

    def loss(self, policy: SequencePolicy, batch: SequenceBatch) -> Tensor:
        """Return the cross-entropy of the recorded actions, in nats per agent-step.

        Where a policy's order is random, it is drawn from PyTorch's random stream.
        """
        order, _ = policy.draw(batch.action)
        loss, _ = behavior_cloning(
            policy(batch, order=order), batch.action, batch.available_actions, batch.mask
        )
        return loss

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the kept episodes as tensors and plain values."""
        return [
            {
                "observation": torch.from_numpy(np.array(episode.observation)),
                "state": torch.from_numpy(np.array(episode.state)),
                "available_actions": torch.from_numpy(np.array(episode.available_actions)),
                "action": torch.from_numpy(np.array(episode.action)),
                "reward": torch.from_numpy(np.array(episode.reward)),
                "terminated": episode.terminated,
                "truncated": episode.truncated,
                "seed": episode.seed,
                "metrics": dict(episode.metrics),
            }
            for episode in self._best
        ]

    def load_state_dict(self, values: Sequence[dict[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        if values:
            self._set([_episode(one) for one in values])


def _episode(values: Mapping[str, Any]) -> Episode:
    """Return a kept episode as it was."""
    arrays: dict[str, Any] = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }
    return Episode(**arrays)
