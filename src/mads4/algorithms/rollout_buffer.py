"""The rollout buffer: played episodes as segments, with old probabilities, values and advantages.

Everything that the update compares with, old probabilities, latents, the states at which segments
begin, is computed once after the episodes have been played, in the convolutional view, which equals
the recurrent view in which they were played. So a rollout needs nothing but the Policy protocol,
and a buffer is whole episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mads4.algorithms.losses import advantages, log_probabilities
from mads4.models import SequencePolicy
from mads4.models.critic import Critic
from mads4.models.state import State, join, select
from mads4.rollout import EpisodeResult
from mads4.types import SequenceBatch


@dataclass(frozen=True)
class Episodes:
    """E recorded episodes, each with one more row for what followed its last action.

    ``T`` is the longest episode's number of steps.
    """

    batch: SequenceBatch
    """(E, T + 1, …); the mask is True on real steps only."""
    reward: Tensor
    """(E, T) of the team."""
    length: Tensor
    """(E,) int64."""
    terminated: Tensor
    """(E,) bool."""
    order: Tensor | None
    """(E, N) int64, who decided first, second …; None for the order of numbers."""

    @classmethod
    def of(cls, played: Sequence[EpisodeResult], random_order: bool) -> Episodes:
        """Return recorded episodes as tensors.

        Args:
            played: from `rollout(record=True)`.
            random_order: whether the policy drew each episode's order.
        """
        rows = [_rows(one) for one in played]
        steps = max(len(row["action"]) for row in rows)
        stacked = {
            name: torch.from_numpy(np.stack([_padded(row[name], steps) for row in rows]))
            for name in rows[0]
        }
        reward = stacked["reward"]
        stacked["available_actions"][~stacked["mask"]] = True
        keys = [one.order_key for one in played if one.order_key is not None]
        order = torch.from_numpy(np.stack(keys)).argsort(1) if random_order else None
        return cls(
            SequenceBatch(**stacked),
            reward[:, :-1],
            torch.tensor([one.length for one in played]),
            torch.tensor([bool(one.episode and one.episode.terminated) for one in played]),
            order,
        )

    def to(self, device: torch.device) -> Episodes:
        """Return the episodes on `device`."""
        order = None if self.order is None else self.order.to(device)
        return Episodes(
            self.batch.to(device),
            self.reward.to(device),
            self.length.to(device),
            self.terminated.to(device),
            order,
        )


def _rows(played: EpisodeResult) -> dict[str, Any]:
    """Return one episode's arrays (length + 1, …), those of a `SequenceBatch`."""
    episode = played.episode
    assert episode is not None and episode.last_observation is not None, "the rollout has to record"
    last = episode.last_observation, episode.last_state, episode.last_available_actions
    observation, state, available = (np.asarray(values)[None] for values in last)
    length = episode.length
    taken = np.concatenate([[0.0], np.cumsum(episode.reward, dtype=np.float64)])
    no_action = np.full_like(episode.action[:1], -1)
    return {
        "observation": np.concatenate([episode.observation, observation]),
        "state": np.concatenate([episode.state, state]),
        "available_actions": np.concatenate([episode.available_actions, available]),
        "action": np.concatenate([episode.action, np.zeros_like(episode.action[:1])]),
        "previous_action": np.concatenate([no_action, episode.action]),
        "return_to_go": (played.target_return - taken).astype(np.float32),
        "reward": np.append(episode.reward, np.float32(0.0)),
        "terminated": (np.arange(length + 1) == length - 1) & bool(episode.terminated),
        "follows": np.arange(length + 1) < length,
        "mask": np.arange(length + 1) < length,
    }


def _padded(values: Any, steps: int) -> Any:
    """Return `values` (≤ steps, …) with zeros up to `steps`."""
    missing = steps - len(values)
    return np.pad(values, [(0, missing), *[(0, 0)] * (values.ndim - 1)]) if missing else values


@dataclass(frozen=True)
class Experience:
    """Segments of L steps, one in each of R rows, and what the policy that played thought."""

    batch: SequenceBatch
    """(R, L, …)."""
    order: Tensor | None
    """(R, N)."""
    state: State | None
    """At the beginning of each segment; None if all are whole episodes."""
    logits: Tensor
    """(R, L, N, n_actions) of the policy that played."""
    log_probability: Tensor
    """(R, L, N) of the actions taken."""
    reference: Tensor | None
    """(R, L, N, n_actions), logits of the pretrained policy."""
    latent: Tensor
    """(R, L, N, H) of the step before."""
    value: Tensor
    """(R, L, N), in the reward's units."""
    advantage: Tensor
    """(R, L, N), zero mean and unit variance over real agent-steps."""
    value_target: Tensor
    """(R, L, N), in the reward's units."""

    def __len__(self) -> int:
        """Return R."""
        return len(self.value)

    def select(self, rows: Tensor) -> Experience:
        """Return the segments `rows` (R',) int64."""

        def pick(value: Any) -> Any:
            if isinstance(value, SequenceBatch):
                return SequenceBatch(
                    **{f.name: getattr(value, f.name)[rows] for f in fields(value)}
                )
            return select(value, rows)

        return Experience(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})


@torch.no_grad()
def assess(
    episodes: Episodes,
    policy: SequencePolicy,
    critic: Critic,
    reference: SequencePolicy | None,
    *,
    segment: int | None,
    gamma: float,
    lam: float,
) -> Experience:
    """Return the episodes in segments, with all that an update compares with.

    Args:
        episodes: played by `policy` as it is now.
        policy: in evaluation mode.
        critic: gives the values.
        reference: the pretrained policy, or None.
        segment: steps of a segment; None for whole episodes.
        gamma: discount of a step.
        lam: λ of the generalized advantage estimation.
    """
    steps = episodes.reward.shape[1]
    length = min(segment or steps, steps)
    stride = length if length < steps else steps + 1  # whole episodes need no state in between
    logits, latent, states = _run(policy, episodes, stride)
    before = torch.cat([torch.zeros_like(latent[:, :1]), latent[:, :-1]], dim=1)
    value = _values(critic, episodes.batch, before, stride)
    advantage = advantages(episodes.reward, value, episodes.length, episodes.terminated, gamma, lam)
    mask = episodes.batch.mask[:, :steps]
    parts = {
        "logits": logits,
        "log_probability": log_probabilities(logits, episodes.batch.action),
        "reference": None if reference is None else _run(reference, episodes, stride)[0],
        "latent": before,
        "value": value,
        "advantage": _standardized(advantage, mask),
        "value_target": advantage + value[:, :-1],
    }
    starts = range(0, steps, length)
    order = episodes.order
    cut: dict[str, Any] = {
        name: None if values is None else _segments(values, starts, length)
        for name, values in parts.items()
    }
    found = Experience(
        batch=SequenceBatch(
            **{
                f.name: _segments(
                    getattr(episodes.batch, f.name), starts, length, f.name == "available_actions"
                )
                for f in fields(SequenceBatch)
            }
        ),
        order=None if order is None else order.repeat(len(starts), 1),
        state=join(states) if len(starts) > 1 else None,
        **cut,
    )
    real = found.batch.mask.any(dim=1)
    return found if bool(real.all()) else found.select(real.nonzero().squeeze(1))


def _run(
    policy: SequencePolicy, episodes: Episodes, length: int
) -> tuple[Tensor, Tensor, list[State]]:
    """Return logits and latents (E, T + 1, …), and the states at which segments begin."""
    batch = episodes.batch
    total = batch.action.shape[1]
    state = policy.initial_state(len(batch.action))
    logits, latents, states = [], [], []
    for start in range(0, total, length):
        states.append(state)
        part = _steps(batch, start, length)
        more = start + length < total
        found = policy.sequence(part, order=episodes.order, state=state, return_state=more)
        logits.append(found.logits)
        latents.append(found.latent)
        if found.state is not None:
            state = found.state
    begun = len(range(0, total - 1, length))
    return torch.cat(logits, dim=1), torch.cat(latents, dim=1), states[:begun]


def _values(critic: Critic, batch: SequenceBatch, before: Tensor, length: int) -> Tensor:
    """Return values (E, T + 1, N), `length` steps at a time, which saves memory."""
    parts = [
        critic(_steps(batch, start, length), before[:, start : start + length])
        for start in range(0, before.shape[1], length)
    ]
    return critic.value.restore(torch.cat(parts, dim=1))


def _steps(batch: SequenceBatch, start: int, length: int) -> SequenceBatch:
    return batch.map(lambda values: values[:, start : start + length])


def _segments(values: Tensor, starts: range, length: int, fill: float = 0.0) -> Tensor:
    """Cut (E, ≥ T, …) into segments (S · E, length, …), the first ones of all episodes first."""
    missing = starts[-1] + length - values.shape[1]
    if missing > 0:
        padding = values.new_full((len(values), missing, *values.shape[2:]), fill)
        values = torch.cat([values, padding], dim=1)
    return torch.cat([values[:, start : start + length] for start in starts])


def _standardized(advantage: Tensor, mask: Tensor) -> Tensor:
    """Return advantages (E, T, N) with zero mean and unit variance over the real steps."""
    real = advantage[mask]
    scaled = (advantage - real.mean()) / real.std(correction=0).clamp(min=1e-6)
    return torch.where(mask.unsqueeze(-1), scaled, 0.0)
