"""The policy over one time step: S4's recurrent view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mads4.models.actions import choose_actions
from mads4.models.communication import from_predecessor, to_agents, to_positions
from mads4.models.policy_state import PolicyState
from mads4.nn.blocks import StackState
from mads4.types import PolicyInput, PolicyOutput

if TYPE_CHECKING:
    from mads4.models.policy import Mads4Policy


@dataclass(frozen=True)
class _Now:
    """One time step, by position."""

    embedded: Tensor
    """(B, N, H)."""
    previous_action: Tensor
    """(B, N)."""
    available_actions: Tensor
    """(B, N, n_actions)."""
    uniform: Tensor | None
    """(B, N)."""
    lost: Tensor | None
    """(B, N)."""
    action: Tensor | None
    """(B, N) given actions; None to choose."""


_Decided = tuple[Tensor, Tensor, Tensor | None, tuple[StackState, ...]]
"""Masked logits (B, N, n_actions), actions (B, N), messages for the next step, S4 states."""


def run_step(
    policy: Mads4Policy, inputs: PolicyInput, state: PolicyState
) -> tuple[PolicyOutput, PolicyState]:
    """Decide for one time step of B environments; see `Mads4Policy.step`."""
    order = None
    if policy.agent_order == "random" and inputs.order_key is not None:
        order = inputs.order_key.argsort(dim=1)
    embedded = policy.embedding(
        inputs.observation, inputs.state, state.previous_action, inputs.return_to_go
    )

    def arranged(values: Tensor | None) -> Tensor | None:
        return None if values is None else to_positions(values, order, 1)

    now = _Now(
        to_positions(embedded, order, 1),
        to_positions(state.previous_action, order, 1),
        to_positions(inputs.available_actions, order, 1),
        arranged(inputs.uniform),
        arranged(inputs.message_lost),
        arranged(inputs.action),
    )
    decide = _one_by_one if policy.waits_in_steps else _all_at_once
    logits, action, message, stacks = decide(policy, now, state)
    action, logits = to_agents(action, order, 1), to_agents(logits, order, 1)
    return PolicyOutput(action, logits), PolicyState(stacks, action, message)


def _one_by_one(policy: Mads4Policy, now: _Now, state: PolicyState) -> _Decided:
    """Let each position decide after what its predecessor handed on in this step."""
    message: Tensor | None = None
    taken = torch.full_like(now.previous_action[:, 0], -1)
    logits, actions, stacks = [], [], []
    for position, stack in enumerate(state.stacks):
        masked, message, after = policy.decide(
            now.embedded[:, position],
            message,
            taken,
            None if now.lost is None else now.lost[:, position],
            now.available_actions[:, position],
            stack,
        )
        if now.action is None:
            uniform = None if now.uniform is None else now.uniform[:, position]
            taken = choose_actions(masked, uniform)
        else:
            taken = now.action[:, position]
        logits.append(masked)
        actions.append(taken)
        stacks.append(after)
    return torch.stack(logits, 1), torch.stack(actions, 1), None, tuple(stacks)


def _all_at_once(policy: Mads4Policy, now: _Now, state: PolicyState) -> _Decided:
    """Let all positions decide together, after what was handed on a step earlier."""
    chain = now.previous_action.shape
    message = None
    if state.message is not None:
        message = from_predecessor(state.message, 1, 0.0).flatten(0, 1)
    logits, written, stack = policy.decide(
        now.embedded.flatten(0, 1),
        message,
        from_predecessor(now.previous_action, 1, -1).flatten(),
        None if now.lost is None else now.lost.flatten(),
        now.available_actions.flatten(0, 1),
        state.stacks[0],
    )
    logits = logits.view(*chain, -1)
    if written is not None:
        written = written.view(*chain, -1)
    action = choose_actions(logits, now.uniform) if now.action is None else now.action
    return logits, action, written, (stack,)
