"""From logits to actions."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_unavailable(logits: Tensor, available_actions: Tensor) -> Tensor:
    """Return logits (..., n_actions) with -inf where an action is unavailable."""
    return logits.masked_fill(~available_actions, -torch.inf)


def choose_actions(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """Return actions (...) from (..., n_actions).

    Args:
        logits: -inf where unavailable.
        uniform: (...) float64 in [0, 1): actions are drawn by inverting the distribution function,
            so that the same number always draws the same action; None takes the likeliest.
    """
    if uniform is None:
        return logits.argmax(dim=-1)
    cumulative = logits.to(torch.float64).softmax(dim=-1).cumsum(dim=-1)
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
    return (cumulative <= threshold).sum(dim=-1)
