"""Losses as pure functions of logits and data, normalized by what is real."""

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
    possible = available_actions.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    counted = mask.unsqueeze(-1) & possible
    weight = counted.to(logits.dtype)
    total = weight.sum().clamp(min=1.0)
    target = action.masked_fill(~counted, -100)
    loss = functional.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="sum")
    with torch.no_grad():
        accuracy = ((logits.argmax(dim=-1) == action) & counted).sum() / total
    return loss / total, accuracy
