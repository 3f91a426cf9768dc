"""Losses, targets and statistics as pure functions, averaged over real agent-steps.

Behavior cloning; proximal policy optimization (Schulman et al. 2017, the clipped objective, and
2016, generalized advantage estimation), per agent as in MAPPO (Yu et al. 2022); TD(λ) and softmax
weights for critics on recorded data. Axes: ``B`` batch, ``T`` time, ``N`` agents.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def behavior_cloning(
    logits: Tensor, action: Tensor, available_actions: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean cross-entropy (nats per agent-step) and accuracy over real agent-steps.

    Args:
        logits: (B, T, N, A), -inf where an action is unavailable.
        action: (B, T, N) int64, the recorded actions. Agent-steps whose recorded action is marked
            unavailable cannot be explained by any policy and are left out.
        available_actions: (B, T, N, A) bool.
        mask: (B, T) bool, True on real steps.
    """
    possible = chosen(available_actions, action)
    counted = mask.unsqueeze(-1) & possible
    weight = counted.to(logits.dtype)
    total = weight.sum().clamp(min=1.0)
    target = action.masked_fill(~counted, -100)
    loss = functional.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="sum")
    with torch.no_grad():
        accuracy = ((logits.argmax(dim=-1) == action) & counted).sum() / total
    return loss / total, accuracy


def advantages(
    reward: Tensor, value: Tensor, length: Tensor, terminated: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalized advantage estimates (B, T, N), 0 after an episode's end.

    A truncated episode bootstraps from the critic's value of its last observation; a terminated
    one does not bootstrap.

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


def chosen(values: Tensor, action: Tensor) -> Tensor:
    """Return the values (B, T, N) of actions (B, T, N) from those of all, (B, T, N, n_actions)."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of (B, T, N) over the real steps (B, T)."""
    weight = mask.unsqueeze(-1).expand_as(values)
    kept = torch.where(weight, values, 0.0)
    return kept.sum() / weight.sum().clamp(min=1)


def log_probabilities(logits: Tensor, action: Tensor) -> Tensor:
    """Return log π(action) (B, T, N) from logits (B, T, N, n_actions), -inf where unavailable."""
    return chosen(logits.log_softmax(-1), action)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float, mask: Tensor) -> Tensor:
    """Return PPO's clipped surrogate objective, to be maximized (2017, equation 7), a scalar.

    Args:
        ratio: (B, T, N) probability of each agent's action now over that when it was drawn.
        advantage: (B, T, N).
        clip: ε, the clip range of the ratio around 1.
        mask: (B, T).
    """
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return masked_mean(torch.minimum(ratio * advantage, clipped * advantage), mask)


def clipped_value_loss(
    value: Tensor, before: Tensor, target: Tensor, clip: float | None, mask: Tensor
) -> Tensor:
    """Return the squared error of values, clipped to within `clip` of the old values.

    Args:
        value: (B, T, N), like the others in units of the targets' spread.
        before: values when the episodes were played ("old values").
        target: λ-returns.
        clip: clip range; None for none.
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


def kl_divergence(logits: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of KL(softmax(logits) ‖ softmax(other)), in nats; both -inf at the same."""
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    known = log_p.isfinite()
    gap = torch.where(known, log_p, 0.0) - torch.where(known, log_q, 0.0)
    return masked_mean((log_p.exp() * gap).sum(-1), mask)


def td_lambda(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    follows: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Return TD(λ) targets (B, T) of a value of recorded actions, and where they are defined.

    ``y_t = r_t + γ ((1 - λ) V_{t+1} + λ y_{t+1})`` (the recursive λ-return, Sutton and Barto 2018,
    section 12.8), and ``y_t = r_t`` where the episode terminated. Where row t + 1 has no target
    itself, because it is a bootstrap row or has no successor, ``y_{t+1}`` is ``V_{t+1}``. So the
    ends of windows and truncated episodes bootstrap from the value of what followed them (Pardo et
    al. 2018, "Time limits in reinforcement learning"), if the batch has a bootstrap row for it. A
    row without a successor in the batch has no target.

    Args:
        reward: (B, T) of the team.
        value: (B, T) without gradient: Q of the recorded joint actions, and what a bootstrap row is
            worth; other rows do not matter.
        terminated: (B, T) bool, True on a last real step whose task ended.
        follows: (B, T) bool, True where row t + 1 is the true successor, be it the bootstrap row.
        mask: (B, T) bool, True on real steps.
        gamma: discount of a step.
        lam: λ, from 0 (one step) to 1 (whole returns).
    """
    target = torch.zeros_like(value)
    valid = torch.zeros_like(mask)
    for t in reversed(range(value.shape[1])):
        target[:, t] = reward[:, t]
        valid[:, t] = mask[:, t] & terminated[:, t]
        if t + 1 < value.shape[1]:
            on = mask[:, t] & follows[:, t] & ~terminated[:, t]
            later = torch.where(valid[:, t + 1], target[:, t + 1], value[:, t + 1])
            bootstrap = (1.0 - lam) * value[:, t + 1] + lam * later
            target[:, t] += torch.where(on, gamma * bootstrap, 0.0)
            valid[:, t] |= on
    return torch.where(valid, target, 0.0), valid


def batch_softmax(values: Tensor, temperature: float, mask: Tensor) -> Tensor:
    """Return ``n · softmax(values / temperature)`` over the n real entries: weights of mean 1.

    Args:
        values: any shape.
        temperature: β.
        mask: of the same shape, True on real entries; elsewhere weights are 0.
    """
    flat = (values / temperature).masked_fill(~mask, -torch.inf).flatten()
    return (flat.softmax(0) * mask.sum()).view_as(values).masked_fill(~mask, 0.0)
