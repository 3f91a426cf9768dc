"""The agents' chain in both views: over whole sequences, and over one time step.

Positions are the agents in the order in which they decide. Where agents have to wait for their
predecessors, positions run one after another, else all of them as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mads4.models.base import PolicySequence, choose_actions
from mads4.models.communication import from_predecessor, to_agents, to_positions
from mads4.models.state import State
from mads4.nn.blocks import StackOutput, StackState
from mads4.types import PolicyInput, PolicyOutput, SequenceBatch

if TYPE_CHECKING:
    from mads4.models.mads4 import Mads4Policy


TOKENS = 1 << 16
"""Time steps of all rows that run as one batch. Twice as many took 1.8 times as long each: what
passes from layer to layer no longer fits the caches (64 agents, 4 × 500 steps, 96 channels)."""


@dataclass(frozen=True)
class _Inputs:
    """Whole sequences, by position."""

    embedded: Tensor
    """(B, T, N, H)."""
    action: Tensor
    """(B, T, N) of the predecessor, -1 for none."""
    dropped: Tensor | None
    """(B, T, N)."""
    state: State | None
    return_state: bool


@dataclass(frozen=True)
class _Outputs:
    """Whole sequences, by position."""

    logits: Tensor
    latent: Tensor
    stacks: tuple[StackState, ...] | StackState
    """As `Mads4Policy.initial_state` describes them; empty unless requested."""
    message: Tensor | None
    """(B, N, M) sent in the last step."""


def run_sequences(
    policy: Mads4Policy,
    batch: SequenceBatch,
    order: Tensor | None,
    dropped: Tensor | None,
    state: State | None,
    return_state: bool,
) -> PolicySequence:
    """Return logits (not masked) and latents of a batch; see `Mads4Policy.sequence`."""
    embedded = policy.embedding(
        batch.observation, batch.state, batch.previous_action, batch.return_to_go
    )
    sent_action = batch.previous_action if policy.message_delay else batch.action
    inputs = _Inputs(
        to_positions(embedded, order, 2),
        from_predecessor(to_positions(sent_action, order, 2), 2, -1),
        None if dropped is None else to_positions(dropped, order, 2),
        state,
        return_state,
    )
    run = _sequences_in_order if policy.waits_in_sequences else _sequences_at_once
    outputs = run(policy, inputs)
    after = None
    if return_state:
        after = {
            "stacks": outputs.stacks,
            "previous_action": batch.action[:, -1],
            "message": outputs.message if policy.message_delay else None,
        }
    return PolicySequence(
        to_agents(outputs.logits, order, 2), to_agents(outputs.latent, order, 2), after
    )


def _sequences_at_once(policy: Mads4Policy, inputs: _Inputs) -> _Outputs:
    """Run the sequences of all positions as one batch, or as few as fit the processor's caches."""
    kernels = policy.stack.kernels(inputs.embedded.shape[1])
    batch, steps, n_agents, _ = inputs.embedded.shape
    before: StackState = ()
    if inputs.state is not None:
        stacks = inputs.state["stacks"]
        stacks = _together(stacks) if policy.waits_in_steps else stacks
        before = tuple(block.flatten(0, 1) for block in stacks)
    embedded, action = _as_rows(inputs.embedded), _as_rows(inputs.action)
    dropped = None if inputs.dropped is None else _as_rows(inputs.dropped)
    parts, size = [], max(1, TOKENS // steps)
    for first in range(0, batch * n_agents, size):
        some = slice(first, first + size)
        start = tuple(values[some] for values in before) or None

        def run(values: Tensor, start: StackState | None = start) -> StackOutput:
            return policy.stack.sequence(values, kernels, start, inputs.return_state)

        missing = None if dropped is None else dropped[some]
        parts.append(policy.advance(embedded[some], None, action[some], missing, run))

    def by_agent(values: list[Tensor]) -> Tensor:
        return _joined(values).view(batch, n_agents, steps, -1).transpose(1, 2)

    after = [part.state for part in parts if part.state is not None]
    blocks = [_by_agent(_joined(rows), n_agents) for rows in zip(*after, strict=True)]
    logits, latent = ([getattr(part, name) for part in parts] for name in ("logits", "latent"))
    stacks = _apart(blocks) if policy.waits_in_steps else tuple(blocks)
    return _Outputs(by_agent(logits), by_agent(latent), stacks, None)


def _sequences_in_order(policy: Mads4Policy, inputs: _Inputs) -> _Outputs:
    """Run the sequences of one position after the other: each reads its predecessor's messages."""
    kernels = policy.stack.kernels(inputs.embedded.shape[1])
    state = inputs.state
    before: Sequence[StackState | None] = [None] * inputs.embedded.shape[2]
    if state is not None:
        before = state["stacks"] if policy.waits_in_steps else _apart(state["stacks"])
    message: Tensor | None = None
    logits, latents, after, sent = [], [], [], []
    for position, own in enumerate(inputs.embedded.unbind(2)):

        def run(values: Tensor, start: StackState | None = before[position]) -> StackOutput:
            return policy.stack.sequence(values, kernels, start, inputs.return_state)

        dropped = None if inputs.dropped is None else inputs.dropped[:, :, position]
        advanced = policy.advance(own, message, inputs.action[:, :, position], dropped, run)
        message = advanced.message
        assert message is not None, "only agents that send messages are waited for"
        sent.append(message[:, -1])
        if policy.message_delay:
            first = torch.zeros_like(message[:, :1])
            if state is not None and state["message"] is not None:
                first = state["message"][:, position].unsqueeze(1)
            message = torch.cat([first, message[:, :-1]], dim=1)
        logits.append(advanced.logits)
        latents.append(advanced.latent)
        if advanced.state is not None:
            after.append(advanced.state)
    return _Outputs(
        torch.stack(logits, dim=2),
        torch.stack(latents, dim=2),
        tuple(after) if policy.waits_in_steps else _together(after),
        torch.stack(sent, dim=1),
    )


@dataclass(frozen=True)
class _Step:
    """One time step, by position."""

    embedded: Tensor
    """(B, N, H)."""
    previous_action: Tensor
    """(B, N)."""
    available_actions: Tensor
    """(B, N, n_actions)."""
    uniform: Tensor | None
    """(B, N)."""
    dropped: Tensor | None
    """(B, N)."""
    action: Tensor | None
    """(B, N) given actions; None to choose."""


_Decided = tuple[Tensor, Tensor, Tensor | None, tuple[StackState, ...] | StackState]
"""Masked logits (B, N, n_actions), actions (B, N), messages for the next step, S4 states."""


def run_step(policy: Mads4Policy, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
    """Decide for one time step of B environments; see `Mads4Policy.step`."""
    order = None
    if policy.agent_order == "random" and inputs.order_key is not None:
        order = inputs.order_key.argsort(dim=1)
    previous_action = state["previous_action"]
    embedded = policy.embedding(
        inputs.observation, inputs.state, previous_action, inputs.return_to_go
    )

    def arranged(values: Tensor | None) -> Tensor | None:
        return None if values is None else to_positions(values, order, 1)

    now = _Step(
        to_positions(embedded, order, 1),
        to_positions(previous_action, order, 1),
        to_positions(inputs.available_actions, order, 1),
        arranged(inputs.uniform),
        arranged(inputs.message_dropped),
        arranged(inputs.action),
    )
    decide = _step_in_order if policy.waits_in_steps else _step_at_once
    logits, action, message, stacks = decide(policy, now, state)
    action, logits = to_agents(action, order, 1), to_agents(logits, order, 1)
    after = {"stacks": stacks, "previous_action": action, "message": message}
    return PolicyOutput(action, logits), after


def _step_in_order(policy: Mads4Policy, now: _Step, state: State) -> _Decided:
    """Let each position decide after what its predecessor sent in this step."""
    message: Tensor | None = None
    sent_action = torch.full_like(now.previous_action[:, 0], -1)
    logits, actions, stacks = [], [], []
    for position, stack in enumerate(state["stacks"]):
        masked, message, after = policy.decide(
            now.embedded[:, position],
            message,
            sent_action,
            None if now.dropped is None else now.dropped[:, position],
            now.available_actions[:, position],
            stack,
        )
        if now.action is None:
            uniform = None if now.uniform is None else now.uniform[:, position]
            sent_action = choose_actions(masked, uniform)
        else:
            sent_action = now.action[:, position]
        logits.append(masked)
        actions.append(sent_action)
        stacks.append(after)
    return torch.stack(logits, 1), torch.stack(actions, 1), None, tuple(stacks)


def _step_at_once(policy: Mads4Policy, now: _Step, state: State) -> _Decided:
    """Let all positions decide together, after what was sent a step earlier."""
    chain = now.previous_action.shape
    message = None
    if state["message"] is not None:
        message = from_predecessor(state["message"], 1, 0.0).flatten(0, 1)
    logits, outgoing, stack = policy.decide(
        now.embedded.flatten(0, 1),
        message,
        from_predecessor(now.previous_action, 1, -1).flatten(),
        None if now.dropped is None else now.dropped.flatten(),
        now.available_actions.flatten(0, 1),
        tuple(block.flatten(0, 1) for block in state["stacks"]),
    )
    logits = logits.view(*chain, -1)
    sent = None if outgoing is None else outgoing.view(*chain, -1)
    action = choose_actions(logits, now.uniform) if now.action is None else now.action
    return logits, action, sent, tuple(_by_agent(block, chain[1]) for block in stack)


def _apart(blocks: Sequence[Tensor]) -> tuple[StackState, ...]:
    """Return each position's S4 states, (B, …) a block, from (B, N, …) a block."""
    return tuple(zip(*(block.unbind(1) for block in blocks), strict=True))


def _together(positions: Sequence[StackState]) -> StackState:
    """Undo `_apart`."""
    return tuple(torch.stack(blocks, 1) for blocks in zip(*positions, strict=True))


def _by_agent(rows: Tensor, n_agents: int) -> Tensor:
    """View (B · N, …) as (B, N, …)."""
    return rows.view(-1, n_agents, *rows.shape[1:])


def _joined(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(tuple(values))


def _as_rows(values: Tensor) -> Tensor:
    """Lay (B, T, N, …) out as (B N, T, …)."""
    return values.transpose(1, 2).flatten(0, 1)
