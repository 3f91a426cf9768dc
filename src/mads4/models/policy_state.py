"""What the policy remembers between two time steps, and what its two views make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.nn.blocks import StackState


@dataclass(frozen=True)
class PolicyState:
    """What the policy remembers of B environments between two steps."""

    stacks: tuple[StackState, ...]
    """S4 states of each position, (B, H, N_state) a block; one entry for all, (B · N, …), where
    nobody waits for anybody within a step."""
    previous_action: Tensor
    """(B, N) int64 by agent, -1 before the first step."""
    message: Tensor | None
    """(B, N, M) by position, what each wrote at the last step; None unless read a step later."""

    def detach(self) -> PolicyState:
        """Return the state as something given: no gradient flows back into what led to it."""
        return PolicyState(
            tuple(tuple(values.detach() for values in stack) for stack in self.stacks),
            self.previous_action,
            None if self.message is None else self.message.detach(),
        )

    def select(self, rows: Tensor) -> PolicyState:
        """Return the state of the environments `rows` (B',) int64."""
        batch = len(self.previous_action)

        def pick(values: Tensor) -> Tensor:
            return values.view(batch, -1, *values.shape[1:])[rows].flatten(0, 1)

        return PolicyState(
            tuple(tuple(map(pick, stack)) for stack in self.stacks),
            self.previous_action[rows],
            None if self.message is None else self.message[rows],
        )


def join(states: Sequence[PolicyState]) -> PolicyState:
    """Return the state of all environments of `states`, one after the other."""
    messages = [state.message for state in states if state.message is not None]
    return PolicyState(
        tuple(
            tuple(torch.cat(blocks) for blocks in zip(*stacks, strict=True))
            for stacks in zip(*(state.stacks for state in states), strict=True)
        ),
        torch.cat([state.previous_action for state in states]),
        torch.cat(messages) if messages else None,
    )


def where(rows: Tensor, chosen: PolicyState, other: PolicyState) -> PolicyState:
    """Return `chosen` for the environments where `rows` (B,) is True, else `other`."""

    def pick(new: Tensor, old: Tensor) -> Tensor:
        which = rows.repeat_interleave(len(new) // len(rows))
        return torch.where(which.view(-1, *[1] * (new.ndim - 1)), new, old)

    return PolicyState(
        tuple(
            tuple(map(pick, new, old)) for new, old in zip(chosen.stacks, other.stacks, strict=True)
        ),
        pick(chosen.previous_action, other.previous_action),
        None
        if chosen.message is None or other.message is None
        else pick(chosen.message, other.message),
    )


def by_position(stacks: Sequence[StackState], n_agents: int) -> list[StackState]:
    """Return the S4 states of each position, (B, …) a block, however they are kept."""
    if len(stacks) == n_agents:
        return list(stacks)
    split = [values.view(-1, n_agents, *values.shape[1:]).unbind(1) for values in stacks[0]]
    return [tuple(blocks) for blocks in zip(*split, strict=True)]


def in_rows(stacks: Sequence[StackState]) -> StackState:
    """Return the S4 states of all positions in one batch, (B · N, …) a block."""
    if len(stacks) == 1:
        return stacks[0]
    return tuple(torch.stack(blocks, 1).flatten(0, 1) for blocks in zip(*stacks, strict=True))
