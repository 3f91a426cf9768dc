"""The chain of agents in both views: over whole sequences, and over one time step.

A position is an agent's place in the order of decisions. Where agents need their predecessors'
output, positions run one after another, else all of them as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mads4.models.base import PolicySequence, choose_actions, mask_unavailable, no_action
from mads4.models.communication import from_predecessor, to_agents, to_positions
from mads4.models.state import State
from mads4.nn.blocks import StackOutput, StackState
from mads4.types import PolicyInput, PolicyOutput, SequenceBatch

if TYPE_CHECKING:
    from mads4.models.mads4 import Mads4Policy


TOKENS = 1 << 16
"""Time steps, over all rows, that run as one batch. With twice as many each took 1.8 times as long,
because activations no longer fit the caches (64 agents, 4 × 500 steps, 96 channels)."""


def initial_state(policy: Mads4Policy, batch: int) -> State:
    """Return the state of `batch` environments before their first step.

    A dictionary: ``stacks``, the S4 states, (B, H, N_state) a block for each position where
    agents run one after another within a step, else (B, N, H, N_state) a block;
    ``previous_action`` (B, N) by agent; ``message`` (B, N, M) by position, what each sent in
    the last step, None unless it is read a step later.
    """
    weight, n_agents, width = policy.head.weight, policy.spec.n_agents, policy.channel.width
    stacks: tuple[StackState, ...] | StackState
    if policy.waits_in_steps:
        stacks = tuple(policy.stack.initial_state(batch) for _ in range(n_agents))
    else:
        rows = policy.stack.initial_state(batch * n_agents)
        stacks = tuple(_by_agent(block, n_agents) for block in rows)
    delayed = policy.message_delay and width
    return {
        "stacks": stacks,
        "previous_action": no_action(batch, policy.spec, weight.device),
        "message": weight.new_zeros(batch, n_agents, width) if delayed else None,
    }


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
    """As in `initial_state`; empty unless requested."""
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
    """Return logits and latents of a batch; see `Mads4Policy.sequence`."""
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
    logits = mask_unavailable(to_agents(outputs.logits, order, 2), batch.available_actions)
    return PolicySequence(logits, to_agents(outputs.latent, order, 2), after)


def _sequences_at_once(policy: Mads4Policy, inputs: _Inputs) -> _Outputs:
    """Run the sequences of all positions as one batch, or as few as fit the processor's caches."""
    kernels = policy.stack.kernels(inputs.embedded.shape[1])
    batch, steps, n_agents, _ = inputs.embedded.shape
    before: StackState = ()
    if inputs.state is not None:
        blocks = inputs.state["stacks"]
        blocks = _stacked(blocks) if policy.waits_in_steps else blocks
        before = tuple(block.flatten(0, 1) for block in blocks)
    embedded, action = _as_rows(inputs.embedded), _as_rows(inputs.action)
    dropped = None if inputs.dropped is None else _as_rows(inputs.dropped)
    parts, size = [], max(1, TOKENS // steps)
    for first in range(0, batch * n_agents, size):
        rows = slice(first, first + size)
        start = tuple(values[rows] for values in before) or None

        def stack(values: Tensor, start: StackState | None = start) -> StackOutput:
            return policy.stack.sequence(values, kernels, start, inputs.return_state)

        lost = None if dropped is None else dropped[rows]
        parts.append(policy.run_rows(embedded[rows], None, action[rows], lost, stack))

    def by_agent(values: list[Tensor]) -> Tensor:
        return _joined(values).view(batch, n_agents, steps, -1).transpose(1, 2)

    after = [part.state for part in parts if part.state is not None]
    final = [_by_agent(_joined(values), n_agents) for values in zip(*after, strict=True)]
    logits, latent = ([getattr(part, name) for part in parts] for name in ("logits", "latent"))
    stacks = _per_position(final) if policy.waits_in_steps else tuple(final)
    return _Outputs(by_agent(logits), by_agent(latent), stacks, None)


def _sequences_in_order(policy: Mads4Policy, inputs: _Inputs) -> _Outputs:
    """Run the sequences of one position after the other: each reads its predecessor's messages."""
    kernels = policy.stack.kernels(inputs.embedded.shape[1])
    state = inputs.state
    before: Sequence[StackState | None] = [None] * inputs.embedded.shape[2]
    if state is not None:
        before = state["stacks"] if policy.waits_in_steps else _per_position(state["stacks"])
    message: Tensor | None = None
    logits, latents, after, sent = [], [], [], []
    for position, own in enumerate(inputs.embedded.unbind(2)):

        def stack(values: Tensor, start: StackState | None = before[position]) -> StackOutput:
            return policy.stack.sequence(values, kernels, start, inputs.return_state)

        dropped = None if inputs.dropped is None else inputs.dropped[:, :, position]
        output = policy.run_rows(own, message, inputs.action[:, :, position], dropped, stack)
        message = output.message
        assert message is not None, "agents without messages run as one batch"
        sent.append(message[:, -1])
        if policy.message_delay:
            first = torch.zeros_like(message[:, :1])
            if state is not None and state["message"] is not None:
                first = state["message"][:, position].unsqueeze(1)
            message = torch.cat([first, message[:, :-1]], dim=1)
        logits.append(output.logits)
        latents.append(output.latent)
        if output.state is not None:
            after.append(output.state)
    return _Outputs(
        torch.stack(logits, dim=2),
        torch.stack(latents, dim=2),
        tuple(after) if policy.waits_in_steps else _stacked(after),
        torch.stack(sent, dim=1),
    )


_Decision = tuple[Tensor, Tensor, Tensor | None, tuple[StackState, ...] | StackState]
"""Masked logits (B, N, n_actions), actions (B, N), messages for the next step, S4 states."""


def run_step(policy: Mads4Policy, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
    """Select the actions of one time step of B environments; see `Mads4Policy.step`."""
    order, previous_action = None, state["previous_action"]
    embedded = policy.embedding(
        inputs.observation, inputs.state, previous_action, inputs.return_to_go
    )
    if policy.agent_order == "random" and inputs.order_key is not None:
        order = inputs.order_key.argsort(dim=1)
        names = ("available_actions", "uniform", "message_dropped", "action")
        given = {name: getattr(inputs, name) for name in names}
        arranged = {k: to_positions(v, order, 1) for k, v in given.items() if v is not None}
        inputs = replace(inputs, **arranged)
    decide = _step_in_order if policy.waits_in_steps else _step_at_once
    own = to_positions(embedded, order, 1), to_positions(previous_action, order, 1)
    logits, action, message, stacks = decide(policy, inputs, *own, state)
    action, logits = to_agents(action, order, 1), to_agents(logits, order, 1)
    after = {"stacks": stacks, "previous_action": action, "message": message}
    return PolicyOutput(action, logits), after


def _step_in_order(
    policy: Mads4Policy,
    inputs: PolicyInput,
    embedded: Tensor,
    previous_action: Tensor,
    state: State,
) -> _Decision:
    """Select actions one position after the other: each reads what its predecessor sent.

    Arguments are by position: `embedded` (B, N, H), `previous_action` (B, N).
    """
    message: Tensor | None = None
    sent_action = torch.full_like(previous_action[:, 0], -1)
    logits, actions, stacks = [], [], []
    for position, stack in enumerate(state["stacks"]):
        masked, message, after = policy.step_rows(
            embedded[:, position],
            message,
            sent_action,
            _at(inputs.message_dropped, position),
            inputs.available_actions[:, position],
            stack,
        )
        if inputs.action is None:
            sent_action = choose_actions(masked, _at(inputs.uniform, position))
        else:
            sent_action = inputs.action[:, position]
        logits.append(masked)
        actions.append(sent_action)
        stacks.append(after)
    return torch.stack(logits, 1), torch.stack(actions, 1), None, tuple(stacks)


def _step_at_once(
    policy: Mads4Policy,
    inputs: PolicyInput,
    embedded: Tensor,
    previous_action: Tensor,
    state: State,
) -> _Decision:
    """Select the actions of all positions together, given what was sent one step before."""
    chain, dropped = previous_action.shape, inputs.message_dropped
    message = None
    if state["message"] is not None:
        message = from_predecessor(state["message"], 1, 0.0).flatten(0, 1)
    logits, outgoing, stack = policy.step_rows(
        embedded.flatten(0, 1),
        message,
        from_predecessor(previous_action, 1, -1).flatten(),
        None if dropped is None else dropped.flatten(),
        inputs.available_actions.flatten(0, 1),
        tuple(block.flatten(0, 1) for block in state["stacks"]),
    )
    logits = logits.view(*chain, -1)
    sent = None if outgoing is None else outgoing.view(*chain, -1)
    action = inputs.action
    if action is None:
        action = choose_actions(logits, inputs.uniform)
    return logits, action, sent, tuple(_by_agent(block, chain[1]) for block in stack)


def _at(values: Tensor | None, position: int) -> Tensor | None:
    return None if values is None else values[:, position]


def _per_position(blocks: Sequence[Tensor]) -> tuple[StackState, ...]:
    """Split S4 states, (B, N, …) a block, into each position's, (B, …) a block."""
    return tuple(zip(*(block.unbind(1) for block in blocks), strict=True))


def _stacked(positions: Sequence[StackState]) -> StackState:
    """Undo `_per_position`."""
    return tuple(torch.stack(blocks, 1) for blocks in zip(*positions, strict=True))


def _by_agent(rows: Tensor, n_agents: int) -> Tensor:
    """View (B · N, …) as (B, N, …)."""
    return rows.view(-1, n_agents, *rows.shape[1:])


def _joined(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(tuple(values))


def _as_rows(values: Tensor) -> Tensor:
    """Reshape (B, T, N, …) to (B N, T, …)."""
    return values.transpose(1, 2).flatten(0, 1)
