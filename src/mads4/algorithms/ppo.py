"""Proximal policy optimization as pure functions, averaged over real agent-steps.

Schulman et al. 2017 (clipped objective) and 2016 (generalized advantage estimation), per agent as
in MAPPO (Yu et al. 2022). Axes: ``B`` batch, ``T`` time, ``N`` agents.
"""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    reward: Tensor, value: Tensor, length: Tensor, terminated: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalized advantage estimates (B, T, N), 0 after an episode's end.

    An episode that was cut is worth what the critic expects of its last observation; one that
    ended by itself is worth nothing beyond its last reward.

    Args:
        reward: (B, T) of the team.
        value: (B, T + 1, N) in the reward's units; that of step ``length`` is of what followed the
            last action.
        length: (B,) int64, real steps, at most T.
        terminated: (B,) bool.
        gamma: discount of a step.
        lam: λ, from 0 (one step, biased) to 1 (whole returns, noisy).
    """
    steps = reward.shape[1]
    result = torch.zeros_like(value[:, :-1])
    following = torch.zeros_like(value[:, 0])
    for t in reversed(range(steps)):
        last = length == t + 1
        bootstrap = torch.where((last & terminated).unsqueeze(-1), 0.0, value[:, t + 1])
        delta = reward[:, t, None] + gamma * bootstrap - value[:, t]
        carried = torch.where(last.unsqueeze(-1), 0.0, gamma * lam * following)
        following = torch.where((length > t).unsqueeze(-1), delta + carried, 0.0)
        result[:, t] = following
    return result


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (B, T, N) over the real steps (B, T)."""
    weight = mask.unsqueeze(-1).expand_as(values)
    kept = torch.where(weight, values, 0.0)
    return kept.sum() / weight.sum().clamp(min=1)


def log_probabilities(logits: Tensor, action: Tensor) -> Tensor:
    """Return log π(action) (B, T, N) from logits (B, T, N, n_actions), -inf where unavailable."""
    return logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float, mask: Tensor) -> Tensor:
    """Return the clipped surrogate to be maximized (2017, equation 7), a scalar.

    Args:
        ratio: (B, T, N) probability of each agent's action now over that when it was drawn.
        advantage: (B, T, N).
        clip: ε; nothing is gained by moving a ratio further than this from 1.
        mask: (B, T).
    """
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return masked_mean(torch.minimum(ratio * advantage, clipped * advantage), mask)


def clipped_value_loss(
    value: Tensor, before: Tensor, target: Tensor, clip: float | None, mask: Tensor
) -> Tensor:
    """Return the squared error of values, which may move `clip` from where they were.

    Args:
        value: (B, T, N), like the others in units of the targets' spread.
        before: values when the episodes were played.
        target: what they should have been.
        clip: largest useful change of a value; None for any.
        mask: (B, T).
    """
    error = (value - target).square()
    if clip is not None:
        moved = before + (value - before).clamp(-clip, clip)
        error = torch.maximum(error, (moved - target).square())
    return masked_mean(error, mask)


def entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean entropy, in nats, over available actions."""
    log_p = logits.log_softmax(-1)
    # Masked before the product: the gradient of 0 · inf would be no number.
    bounded = torch.where(log_p.isfinite(), log_p, 0.0)
    return masked_mean(-(log_p.exp() * bounded).sum(-1), mask)


def divergence(logits: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of KL(softmax(logits) ‖ softmax(other)), in nats; both -inf at the same."""
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    known = log_p.isfinite()
    gap = torch.where(known, log_p, 0.0) - torch.where(known, log_q, 0.0)
    return masked_mean((log_p.exp() * gap).sum(-1), mask)
