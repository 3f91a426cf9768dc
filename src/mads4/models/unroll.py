"""Whole sequences in the recurrent view, one time step after the other, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from mads4.models.base import SequencePolicy
from mads4.models.policy_state import PolicyState
from mads4.nn.cache import kept_for_one_graph
from mads4.types import PolicyInput, SequenceBatch


def unroll(
    policy: SequencePolicy,
    batch: SequenceBatch,
    order: Tensor | None = None,
    state: PolicyState | None = None,
) -> Tensor:
    """Return the logits of `SequencePolicy.sequence`, (B, T, N, n_actions), step by step.

    The same function and the same gradients as the convolutional view's, T times in a row: what
    online training does without S4's convolution, and what proves that both views agree.

    Args:
        policy: any.
        batch: trajectories, or segments of them; the recorded actions are the ones executed.
        order: (B, N) int64, who decides first, second …; None for the order of numbers.
        state: left by what came before; None for the beginning.
    """
    key = None if order is None else order.argsort(dim=1).to(torch.float64)
    now = policy.initial_state(len(batch.action)) if state is None else state
    logits = []
    with kept_for_one_graph(policy):
        for t in range(batch.action.shape[1]):
            inputs = PolicyInput(
                observation=batch.observation[:, t],
                state=batch.state[:, t],
                available_actions=batch.available_actions[:, t],
                return_to_go=batch.return_to_go[:, t],
                uniform=None,
                order_key=key,
                action=batch.action[:, t],
            )
            decision, now = policy.step(inputs, now)
            logits.append(decision.logits)
    return torch.stack(logits, dim=1)
