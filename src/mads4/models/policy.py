"""The MADS4 policy: agents that decide one after another and hand something small on.

Within a time step, agent i reads its own inputs and what its immediate predecessor handed on (a
message, the action it took), and hands something on to its successor; all agents share the weights,
and gradients of agent i's loss reach agent i - 1 through the message. `_advance` is the one place
where an agent's input is put together and the network is run; `forward` uses it over whole
sequences (S4's convolutional view), `step` over one time step (its recurrent view).

Agents that need not wait for each other run as one batch: over sequences all of them unless there
is a message (actions are known from the data), in a time step all of them if nothing is handed on
within it. Axes: ``B`` batch, ``T`` time, ``N`` agents, or positions in the order of decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.actions import choose_actions, mask_unavailable
from mads4.models.embedding import InputEmbedding
from mads4.models.hand_off import (
    AGENT_ORDERS,
    MESSAGE_TIMES,
    MESSAGES,
    HandOff,
    from_predecessor,
    to_agents,
    to_positions,
)
from mads4.nn.blocks import S4Stack, StackState
from mads4.types import Decision, EnvSpec, PolicyInput, SequenceBatch

Run = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Inputs (rows, …, H) → the stack's output and read-outs of its state, of the same shape."""


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


_Decided = tuple[Tensor, Tensor, Tensor | None, tuple[StackState, ...]]
"""Masked logits (B, N, n_actions), actions (B, N), messages for the next step, S4 states."""


class Mads4Policy(nn.Module):
    """A shared S4 network for all agents, with something handed from each agent to the next.

    Args:
        spec: the environment's sizes.
        n_layers: S4 blocks.
        d_model: H, the network's width.
        d_state: N, state size of each of the H state-space models.
        dropout: probability of dropping a channel of a block's contribution, in training.
        message: what is handed on: ``none``, ``output``, ``state`` or ``logits``, see `HandOff`.
        message_dim: features of a message (``output``, ``state``).
        message_time: ``same_step``: agents decide one after another; ``previous_step``: all at
            once, from what predecessors handed on one step earlier (decentralised).
        share_action: hand on the action taken: from the data in training, the sample when acting.
        detach_message: no gradients through messages.
        agent_order: ``fixed`` (by number) or ``random``: drawn for each trajectory in training and
            each episode when acting.
        message_drop: probability that a hand-off is lost, each on its own, in training.
        use_return: condition on the return-to-go.
        use_global_state: feed the global state.
        use_previous_action: feed the agent's own previous action.
        **ssm: options of `mads4.nn.S4Layer`.

    Raises:
        ValueError: an unknown or impossible option.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        n_layers: int = 3,
        d_model: int = 96,
        d_state: int = 96,
        dropout: float = 0.1,
        message: str = "output",
        message_dim: int = 16,
        message_time: str = "same_step",
        share_action: bool = False,
        detach_message: bool = False,
        agent_order: str = "fixed",
        message_drop: float = 0.0,
        use_return: bool = True,
        use_global_state: bool = True,
        use_previous_action: bool = True,
        **ssm: Any,
    ) -> None:
        super().__init__()
        for what, given, allowed in (
            ("message", message, MESSAGES),
            ("message_time", message_time, MESSAGE_TIMES),
            ("agent_order", agent_order, AGENT_ORDERS),
        ):
            if given not in allowed:
                raise ValueError(f"{what}: got '{given}', expected one of {', '.join(allowed)}.")
        self.spec = spec
        self.message_time, self.agent_order = message_time, agent_order
        self.message_drop = message_drop
        self.embedding = InputEmbedding(
            spec,
            d_model,
            use_return=use_return,
            use_state=use_global_state,
            use_previous_action=use_previous_action,
        )
        alone = spec.n_agents == 1
        self.stack = S4Stack(
            d_model, d_state, n_layers, dropout, readout=message == "state" and not alone, **ssm
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, spec.n_actions)
        self.hand_off = HandOff(
            d_model,
            spec.n_actions,
            message="none" if alone else message,
            message_dim=message_dim,
            share_action=share_action and not alone,
            detach_message=detach_message,
        )

    @property
    def waits_in_sequences(self) -> bool:
        """Whether an agent's whole sequence needs its predecessor's to be computed before."""
        return self.hand_off.width > 0

    @property
    def waits_in_steps(self) -> bool:
        """Whether an agent's decision needs its predecessor's of the same step."""
        hands_on = self.hand_off.width > 0 or self.hand_off.action_in is not None
        return hands_on and self.message_time == "same_step"

    def forward(
        self, batch: SequenceBatch, *, order: Tensor | None = None, lost: Tensor | None = None
    ) -> Tensor:
        """Return action logits (B, T, N, n_actions), -inf where unavailable, for whole sequences.

        Sequences start from the zero state; padding at the end changes nothing before it.

        Args:
            batch: trajectories.
            order: (B, N) int64, who decides first, second …; None draws it in training if it is
                random, else takes the order of numbers.
            lost: (B, T, N) bool, hand-offs that do not reach an agent; None draws them in training
                with probability `message_drop`, else loses none.
        """
        if self.training:
            order, lost = self._draw(batch.action, order, lost)
        embedded = self.embedding(
            batch.observation, batch.state, batch.previous_action, batch.return_to_go
        )
        same = self.message_time == "same_step"
        action = to_positions(batch.action if same else batch.previous_action, order, 2)
        logits = self._over_sequences(
            to_positions(embedded, order, 2),
            from_predecessor(action, 2, -1),
            None if lost is None else to_positions(lost, order, 2),
        )
        return mask_unavailable(to_agents(logits, order, 2), batch.available_actions)

    def _draw(
        self, action: Tensor, order: Tensor | None, lost: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Draw what training draws of order and losses, from PyTorch's random stream."""
        batch, _, n_agents = action.shape
        if order is None and self.agent_order == "random":
            order = torch.rand(batch, n_agents, device=action.device).argsort(dim=1)
        if lost is None and self.message_drop > 0.0:
            lost = torch.rand(action.shape, device=action.device) < self.message_drop
        return order, lost

    def _over_sequences(self, embedded: Tensor, action: Tensor, lost: Tensor | None) -> Tensor:
        """Return logits (B, T, N, n_actions) of all positions.

        Args:
            embedded: (B, T, N, H).
            action: (B, T, N) that each one's predecessor hands on.
            lost: (B, T, N) or None.
        """
        kernels = self.stack.kernels(embedded.shape[1])

        def run(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            return self.stack.sequence(inputs, kernels)

        if not self.waits_in_sequences:
            missing = None if lost is None else _as_rows(lost)
            logits, _ = self._advance(_as_rows(embedded), None, _as_rows(action), missing, run)
            batch, steps, n_agents, _ = embedded.shape
            return logits.view(batch, n_agents, steps, -1).transpose(1, 2)
        message: Tensor | None = None
        decided: list[Tensor] = []
        for position, own in enumerate(embedded.unbind(2)):
            missing = None if lost is None else lost[:, :, position]
            logits, message = self._advance(own, message, action[:, :, position], missing, run)
            if self.message_time == "previous_step" and message is not None:
                message = functional.pad(message[:, :-1], (0, 0, 1, 0))
            decided.append(logits)
        return torch.stack(decided, dim=2)

    def _advance(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        lost: Tensor | None,
        run: Run,
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (rows, …, n_actions) and the message (rows, …, M) to hand on.

        Args:
            embedded: (rows, …, H), the agent's own inputs; … is T, or nothing in a single step.
            message: (rows, …, M) read from the predecessor, None for the first agent.
            action: (rows, …) the predecessor's, -1 for none.
            lost: (rows, …), where neither of them arrived.
            run: runs the stack.
        """
        handed = self.hand_off.read(message, action, lost)
        output, readout = run(functional.relu(embedded + handed))
        output = self.norm(output)
        logits = self.head(output)
        return logits, self.hand_off.write(output, readout, logits)

    def initial_state(self, batch: int) -> PolicyState:
        """Return the state of `batch` environments before their first step."""
        weight = self.head.weight
        n_agents = self.spec.n_agents
        groups = (batch,) * n_agents if self.waits_in_steps else (batch * n_agents,)
        message = None
        if self.message_time == "previous_step" and self.hand_off.width:
            message = weight.new_zeros(batch, n_agents, self.hand_off.width)
        return PolicyState(
            stacks=tuple(
                self.stack.initial_state(rows, weight.device, weight.dtype) for rows in groups
            ),
            previous_action=torch.full((batch, n_agents), -1, device=weight.device),
            message=message,
        )

    def step(self, inputs: PolicyInput, state: PolicyState) -> tuple[Decision, PolicyState]:
        """Decide for one time step of B environments; equals `forward` step by step."""
        order = None
        if self.agent_order == "random" and inputs.order_key is not None:
            order = inputs.order_key.argsort(dim=1)
        embedded = self.embedding(
            inputs.observation, inputs.state, state.previous_action, inputs.return_to_go
        )
        now = _Now(
            to_positions(embedded, order, 1),
            to_positions(state.previous_action, order, 1),
            to_positions(inputs.available_actions, order, 1),
            None if inputs.uniform is None else to_positions(inputs.uniform, order, 1),
            None if inputs.message_lost is None else to_positions(inputs.message_lost, order, 1),
        )
        decide = self._one_by_one if self.waits_in_steps else self._all_at_once
        logits, action, message, stacks = decide(now, state)
        action, logits = to_agents(action, order, 1), to_agents(logits, order, 1)
        return Decision(action, logits), PolicyState(stacks, action, message)

    def _one_by_one(self, now: _Now, state: PolicyState) -> _Decided:
        """Let each position decide after what its predecessor handed on in this step."""
        message: Tensor | None = None
        taken = torch.full_like(now.previous_action[:, 0], -1)
        logits, actions, stacks = [], [], []
        for position, stack in enumerate(state.stacks):
            masked, message, after = self.decide(
                now.embedded[:, position],
                message,
                taken,
                None if now.lost is None else now.lost[:, position],
                now.available_actions[:, position],
                stack,
            )
            taken = choose_actions(
                masked, None if now.uniform is None else now.uniform[:, position]
            )
            logits.append(masked)
            actions.append(taken)
            stacks.append(after)
        return torch.stack(logits, 1), torch.stack(actions, 1), None, tuple(stacks)

    def _all_at_once(self, now: _Now, state: PolicyState) -> _Decided:
        """Let all positions decide together, after what was handed on a step earlier."""
        chain = now.previous_action.shape
        message = None
        if state.message is not None:
            message = from_predecessor(state.message, 1, 0.0).flatten(0, 1)
        logits, written, stack = self.decide(
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
        return logits, choose_actions(logits, now.uniform), written, (stack,)

    def decide(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        lost: Tensor | None,
        available_actions: Tensor,
        stack: StackState,
    ) -> tuple[Tensor, Tensor | None, StackState]:
        """Take one time step of agents that do not wait for each other, one in each row.

        Args:
            embedded: (rows, H), each agent's own inputs.
            message: (rows, M) from its predecessor, None where there is none.
            action: (rows,) its predecessor's, -1 for none.
            lost: (rows,), where neither of them arrived; None if they all did.
            available_actions: (rows, n_actions).
            stack: S4 states, (rows, H, N_state) a block.

        Returns:
            Logits (rows, n_actions), -inf where unavailable, the message (rows, M) to hand on if
            there are any, and the S4 states after the step.
        """
        after = stack

        def run(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            nonlocal after
            output, after = self.stack.step(inputs, stack)
            return output, self.stack.read(after)

        logits, written = self._advance(embedded, message, action, lost, run)
        return mask_unavailable(logits, available_actions), written, after

    def reset_rows(self, state: PolicyState, rows: Tensor) -> PolicyState:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        fresh = self.initial_state(len(rows))
        n_rows = len(rows) if self.waits_in_steps else len(rows) * self.spec.n_agents
        per_stack = rows.repeat_interleave(n_rows // len(rows))[:, None, None]
        return PolicyState(
            stacks=tuple(
                tuple(
                    torch.where(per_stack, new, old) for new, old in zip(zeros, stack, strict=True)
                )
                for zeros, stack in zip(fresh.stacks, state.stacks, strict=True)
            ),
            previous_action=torch.where(
                rows[:, None], fresh.previous_action, state.previous_action
            ),
            message=None
            if fresh.message is None or state.message is None
            else torch.where(rows[:, None, None], fresh.message, state.message),
        )


def _as_rows(values: Tensor) -> Tensor:
    """Lay (B, T, N, …) out as (B N, T, …)."""
    return values.transpose(1, 2).flatten(0, 1)


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
