"""The MADS4 policy: agents that decide one after another and hand something small on.

Within a time step, agent i reads its own inputs and what its immediate predecessor handed on (a
message, the action it took), and hands something on to its successor; all agents share the weights,
and gradients of agent i's loss reach agent i - 1 through the message. `Mads4Policy.advance` is the
one place where an agent's input is put together and the network is run; `forward` and `sequence`
use it over whole sequences (S4's convolutional view, `sequence_view`), `step` over one time step
(its recurrent view, `step_view`).

Agents that need not wait for each other run as one batch: over sequences all of them unless there
is a message (actions are known from the data), in a time step all of them if nothing is handed on
within it. Axes: ``B`` batch, ``T`` time, ``N`` agents, or positions in the order of decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mads4.models.actions import mask_unavailable
from mads4.models.base import SequencePolicy
from mads4.models.communication import AGENT_ORDERS, MESSAGE_TIMES, MESSAGES, MessageChannel
from mads4.models.embedding import InputEmbedding
from mads4.models.policy_state import PolicyState, where
from mads4.models.sequence_view import PolicySequence, run_sequences
from mads4.models.step_view import run_step
from mads4.nn.blocks import S4Stack, StackOutput, StackState
from mads4.types import EnvSpec, PolicyInput, PolicyOutput, SequenceBatch


@dataclass(frozen=True)
class Advanced:
    """What running the network once gives; … is T, or nothing in a single step."""

    logits: Tensor
    """(rows, …, n_actions)."""
    latent: Tensor
    """(rows, …, H), the normalized network output."""
    message: Tensor | None
    """(rows, …, M) to hand on."""
    state: StackState | None
    """S4 states afterwards, if `run` returned them."""


class Mads4Policy(SequencePolicy):
    """A shared S4 network for all agents, with something handed from each agent to the next.

    Args:
        spec: the environment's sizes.
        n_layers: S4 blocks.
        d_model: H, the network's width.
        d_state: N, state size of each of the H state-space models.
        dropout: probability of dropping a channel of a block's contribution, in training.
        message: ``none``, ``output``, ``state`` or ``logits``, see `MessageChannel`.
        message_dim: features of a message (``output``, ``state``).
        message_time: ``same_step``: agents decide one after another; ``previous_step``: all at
            once, from what predecessors handed on one step earlier (decentralized).
        share_action: hand on the action taken: from the data in training, the sample when acting.
        detach_message: no gradients through messages.
        agent_order: ``fixed`` (by number) or ``random``: drawn for each trajectory in training and
            each episode when acting.
        message_drop: probability that a hand-off is lost, each on its own, in training.
        use_return: condition on the return-to-go.
        use_global_state: feed the global state.
        use_previous_action: feed the agent's own previous action.
        normalization: ``shared`` or ``per_agent``, see `InputEmbedding`.
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
        normalization: str = "shared",
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
        self.latent_dim = d_model
        self.message_time, self.agent_order = message_time, agent_order
        self.message_drop = message_drop
        self.embedding = InputEmbedding(
            spec,
            d_model,
            use_return=use_return,
            use_state=use_global_state,
            use_previous_action=use_previous_action,
            normalization=normalization,
        )
        alone = spec.n_agents == 1
        self.stack = S4Stack(
            d_model, d_state, n_layers, dropout, readout=message == "state" and not alone, **ssm
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, spec.n_actions)
        self.hand_off = MessageChannel(
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
        """Return action logits (B, T, N, n_actions); see `SequencePolicy.forward`."""
        if self.training:
            order, lost = self.draw(batch.action, order, lost)
        return self.sequence(batch, order=order, lost=lost).logits

    def sequence(
        self,
        batch: SequenceBatch,
        *,
        order: Tensor | None = None,
        lost: Tensor | None = None,
        state: PolicyState | None = None,
        return_state: bool = False,
    ) -> PolicySequence:
        """Return what the policy makes of sequences; see `SequencePolicy.sequence`."""
        found = run_sequences(self, batch, order, lost, state, return_state)
        return replace(found, logits=mask_unavailable(found.logits, batch.available_actions))

    def draw(
        self, action: Tensor, order: Tensor | None = None, lost: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the order and losses of a training step; see `SequencePolicy.draw`."""
        batch, _, n_agents = action.shape
        if order is None and self.agent_order == "random":
            order = torch.rand(batch, n_agents, device=action.device).argsort(dim=1)
        if lost is None and self.message_drop > 0.0:
            lost = torch.rand(action.shape, device=action.device) < self.message_drop
        return order, lost

    def advance(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        lost: Tensor | None,
        run: Callable[[Tensor], StackOutput],
    ) -> Advanced:
        """Put an agent's input together, run the network, and write what is handed on.

        Args:
            embedded: (rows, …, H), the agent's own inputs; … is T, or nothing in a single step.
            message: (rows, …, M) read from the predecessor, None for the first agent.
            action: (rows, …) the predecessor's, -1 for none.
            lost: (rows, …), where neither of them arrived.
            run: runs the stack.
        """
        handed = self.hand_off.read(message, action, lost)
        output = run(functional.relu(embedded + handed))
        latent = self.norm(output.y)
        logits = self.head(latent)
        written = self.hand_off.write(latent, output.readout, logits)
        return Advanced(logits, latent, written, output.state)

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

    def step(self, inputs: PolicyInput, state: PolicyState) -> tuple[PolicyOutput, PolicyState]:
        """Decide for one time step of B environments; equals `forward` step by step."""
        return run_step(self, inputs, state)

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

        def run(inputs: Tensor) -> StackOutput:
            output, after = self.stack.step(inputs, stack)
            return StackOutput(output, self.stack.read(after), after)

        now = self.advance(embedded, message, action, lost, run)
        assert now.state is not None, "a step returns the state"
        return mask_unavailable(now.logits, available_actions), now.message, now.state

    def reset_rows(self, state: PolicyState, rows: Tensor) -> PolicyState:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        return where(rows, self.initial_state(len(rows)), state)
