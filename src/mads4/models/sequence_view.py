"""The policy over whole sequences: S4's convolutional view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mads4.models.communication import from_predecessor, to_agents, to_positions
from mads4.models.policy_state import PolicyState, by_position, in_rows
from mads4.nn.blocks import StackOutput, StackState
from mads4.types import SequenceBatch

if TYPE_CHECKING:
    from mads4.models.policy import Mads4Policy


TOKENS = 1 << 16
"""Time steps of all rows that run as one batch. Twice as many took 1.8 times as long each: what
passes from layer to layer no longer fits the caches (64 agents, 4 × 500 steps, 96 channels)."""


@dataclass(frozen=True)
class PolicySequence:
    """What a policy makes of whole sequences, by agent."""

    logits: Tensor
    """(B, T, N, n_actions), before unavailable actions are masked."""
    latent: Tensor
    """(B, T, N, H), the normalized network output: what is decided from."""
    state: PolicyState | None
    """After the last step, padding included; None if not asked for."""


@dataclass(frozen=True)
class _Inputs:
    """Whole sequences, by position."""

    embedded: Tensor
    """(B, T, N, H)."""
    action: Tensor
    """(B, T, N) that each one's predecessor hands on, -1 for none."""
    lost: Tensor | None
    """(B, T, N)."""
    state: PolicyState | None
    return_state: bool


@dataclass(frozen=True)
class _Outputs:
    """Whole sequences, by position."""

    logits: Tensor
    latent: Tensor
    stacks: tuple[StackState, ...]
    """As `PolicyState` keeps them; empty if not asked for."""
    message: Tensor | None
    """(B, N, M) written at the last step."""


def run_sequences(
    policy: Mads4Policy,
    batch: SequenceBatch,
    order: Tensor | None,
    lost: Tensor | None,
    state: PolicyState | None,
    return_state: bool,
) -> PolicySequence:
    """Return what `policy` makes of a batch; see `Mads4Policy.sequence`."""
    embedded = policy.embedding(
        batch.observation, batch.state, batch.previous_action, batch.return_to_go
    )
    same = policy.message_time == "same_step"
    action = to_positions(batch.action if same else batch.previous_action, order, 2)
    inputs = _Inputs(
        to_positions(embedded, order, 2),
        from_predecessor(action, 2, -1),
        None if lost is None else to_positions(lost, order, 2),
        state,
        return_state,
    )
    run = _one_by_one if policy.waits_in_sequences else _all_at_once
    outputs = run(policy, inputs)
    later = None
    if return_state:
        message = outputs.message if policy.message_time == "previous_step" else None
        later = PolicyState(outputs.stacks, batch.action[:, -1], message)
    return PolicySequence(
        to_agents(outputs.logits, order, 2), to_agents(outputs.latent, order, 2), later
    )


def _all_at_once(policy: Mads4Policy, inputs: _Inputs) -> _Outputs:
    """Run the sequences of all positions as one batch, or as few as fit the processor's caches."""
    kernels = policy.stack.kernels(inputs.embedded.shape[1])
    batch, steps, n_agents, _ = inputs.embedded.shape
    before = () if inputs.state is None else in_rows(inputs.state.stacks)
    embedded, action = _as_rows(inputs.embedded), _as_rows(inputs.action)
    lost = None if inputs.lost is None else _as_rows(inputs.lost)
    parts, size = [], max(1, TOKENS // steps)
    for first in range(0, batch * n_agents, size):
        some = slice(first, first + size)
        start = tuple(values[some] for values in before) or None

        def run(values: Tensor, start: StackState | None = start) -> StackOutput:
            return policy.stack.sequence(values, kernels, start, inputs.return_state)

        missing = None if lost is None else lost[some]
        parts.append(policy.advance(embedded[some], None, action[some], missing, run))

    def by_agent(values: list[Tensor]) -> Tensor:
        return _joined(values).view(batch, n_agents, steps, -1).transpose(1, 2)

    stacks: tuple[StackState, ...] = ()
    after = [part.state for part in parts if part.state is not None]
    if after:
        stacks = (tuple(map(_joined, zip(*after, strict=True))),)
        if policy.waits_in_steps:
            stacks = tuple(by_position(stacks, n_agents))
    logits, latent = ([getattr(part, name) for part in parts] for name in ("logits", "latent"))
    return _Outputs(by_agent(logits), by_agent(latent), stacks, None)


def _one_by_one(policy: Mads4Policy, inputs: _Inputs) -> _Outputs:
    """Run the sequences of one position after the other: each reads its predecessor's messages."""
    kernels = policy.stack.kernels(inputs.embedded.shape[1])
    n_agents = inputs.embedded.shape[2]
    state, later = inputs.state, policy.message_time == "previous_step"
    before = [None] * n_agents if state is None else by_position(state.stacks, n_agents)
    message: Tensor | None = None
    logits, latents, stacks, written = [], [], [], []
    for position, own in enumerate(inputs.embedded.unbind(2)):

        def run(values: Tensor, start: StackState | None = before[position]) -> StackOutput:
            return policy.stack.sequence(values, kernels, start, inputs.return_state)

        lost = None if inputs.lost is None else inputs.lost[:, :, position]
        advanced = policy.advance(own, message, inputs.action[:, :, position], lost, run)
        message = advanced.message
        assert message is not None, "only agents that write messages are waited for"
        written.append(message[:, -1])
        if later:
            first = torch.zeros_like(message[:, :1])
            if state is not None and state.message is not None:
                first = state.message[:, position].unsqueeze(1)
            message = torch.cat([first, message[:, :-1]], dim=1)
        logits.append(advanced.logits)
        latents.append(advanced.latent)
        stacks.append(advanced.state)
    after = tuple(stack for stack in stacks if stack is not None)
    if after and not policy.waits_in_steps:
        after = (in_rows(after),)
    return _Outputs(
        torch.stack(logits, dim=2),
        torch.stack(latents, dim=2),
        after,
        torch.stack(written, dim=1),
    )


def _joined(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(tuple(values))


def _as_rows(values: Tensor) -> Tensor:
    """Lay (B, T, N, …) out as (B N, T, …)."""
    return values.transpose(1, 2).flatten(0, 1)
