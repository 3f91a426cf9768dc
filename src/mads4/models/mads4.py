"""The MADS4 policy: agents that decide one after another and send each other something small.

Within a time step, agent i reads its own inputs and what its immediate predecessor sent (a message,
the action it took), and sends something to its successor; all agents share the weights, and
gradients of agent i's loss reach agent i - 1 through the message. `Mads4Policy.run_rows` is the
network of one agent; `mads4.models.chain` applies it to all agents, over whole sequences (S4's
convolutional view) and over one time step (its recurrent view).

Axes: ``B`` batch, ``T`` time, ``N`` agents, or positions in the order of decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mads4.errors import UserError
from mads4.models import chain
from mads4.models.base import (
    MODELS,
    NetworkSettings,
    PolicySequence,
    SequencePolicy,
    mask_unavailable,
)
from mads4.models.communication import MessageChannel
from mads4.models.state import State
from mads4.nn.blocks import S4Stack, StackOutput, StackState
from mads4.settings import Positive, Rate, Share
from mads4.types import EnvSpec, PolicyInput, PolicyOutput, SequenceBatch

SSM_OPTIONS = {
    *("parameterization", "discretization", "initialization"),
    *("n_ssm", "dt_min", "dt_max", "stateless"),
}
"""Fields of `Mads4Config` that are options of `mads4.nn.S4Layer`."""


@MODELS.register("mads4")
class Mads4Config(NetworkSettings):
    """Multi-Agent Decision S4: S4 blocks, agents that decide one after another."""

    name: Literal["mads4"] = "mads4"
    """Policy architecture."""
    n_layers: Positive = 3
    """Number of S4 blocks."""
    d_model: Positive = 96
    """Width H of a block, in features."""
    d_state: Annotated[int, Field(ge=2, multiple_of=2)] = 96
    """State size N of each feature's state-space model; even."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of dropping a block's channel, for a whole trajectory, in training."""
    parameterization: Literal["diagonal", "dplr"] = "diagonal"
    """Form of the state matrix A: diagonal, or diagonal plus low rank (HiPPO-LegS)."""
    discretization: Literal["zoh", "bilinear"] = "zoh"
    """From continuous to discrete time: zero-order hold or bilinear."""
    initialization: Literal["legs", "lin", "inv", "random", "real"] = "legs"
    """Initial diagonal A; real: real modes instead of conjugate pairs. dplr: legs."""
    n_ssm: Positive | None = None
    """Independent pairs of A and B, a divisor of d_model; null for one per channel."""
    dt_min: Rate = 0.001
    """Smallest initial step size, in units of one environment step."""
    dt_max: Rate = 0.1
    """Largest initial step size, in units of one environment step."""
    stateless: bool = False
    """Cut the blocks' memory: the same network, seeing one time step."""
    message: Literal["none", "output", "state", "logits"] = "output"
    """What an agent sends: nothing, its output, read-outs of its S4 state, or its logits."""
    message_dim: Positive = 16
    """Width of the message, in features (output, state)."""
    message_delay: Literal[0, 1] = 0
    """Steps until a message is read: 0, agents decide one after another; 1, all at once."""
    autoregressive: bool = False
    """Condition on the action that the predecessor took, too."""
    detach_message: bool = False
    """Stop gradients at messages."""
    agent_order: Literal["fixed", "random"] = "fixed"
    """Who decides first: by number, or drawn for each trajectory and each episode."""
    message_dropout: Share = 0.0
    """Probability of dropping what an agent receives from its predecessor, in training."""

    def build(self, spec: EnvSpec, kernel_backend: str) -> Mads4Policy:
        """Return a freshly initialized policy."""
        try:
            return Mads4Policy(spec, backend=kernel_backend, **self.model_dump(exclude={"name"}))
        except ValueError as error:
            raise UserError(f"model: {error}") from error

    def problems(self, where: str) -> list[str]:
        """Return one line for each combination of values that cannot work."""
        problems = []
        for option, needed in (("discretization", "bilinear"), ("initialization", "legs")):
            given = getattr(self, option)
            if self.parameterization == "dplr" and given != needed:
                problems.append(
                    f"{where}.{option}: '{given}' does not go with "
                    f"{where}.parameterization=dplr; use {where}.{option}={needed}"
                )
        if self.n_ssm is not None and self.d_model % self.n_ssm:
            problems.append(
                f"{where}.n_ssm: got {self.n_ssm}, which does not divide "
                f"{where}.d_model {self.d_model}"
            )
        if self.dt_min > self.dt_max:
            problems.append(
                f"{where}.dt_min: got {self.dt_min}, above {where}.dt_max {self.dt_max}"
            )
        return problems


@dataclass(frozen=True)
class AgentOutput:
    """Output of the network for one agent in each row; … is T, or nothing in a single step."""

    logits: Tensor
    """(rows, …, n_actions)."""
    latent: Tensor
    """(rows, …, H), the normalized network output."""
    message: Tensor | None
    """(rows, …, M) to send."""
    state: StackState | None
    """S4 states afterwards, if the stack returned them."""


class Mads4Policy(SequencePolicy):
    """A shared S4 network for all agents; each sends a message or its action to the next one.

    Args:
        spec: the environment's sizes.
        backend: of the S4 kernels, see `mads4.nn.S4Layer`.
        mixing: of the blocks' channels, see `mads4.nn.S4Stack`.
        **options: fields of `Mads4Config`.

    Raises:
        ValueError: an unknown or impossible option.
    """

    channel: MessageChannel

    def __init__(
        self, spec: EnvSpec, *, backend: str = "auto", mixing: str = "gelu", **options: Any
    ) -> None:
        super().__init__()
        config = Mads4Config(**options)
        self.spec, self.latent_dim = spec, config.d_model
        self.message_delay, self.agent_order = config.message_delay, config.agent_order
        self.message_dropout = config.message_dropout
        self.embedding = config.embedding(spec, config.d_model)
        alone = spec.n_agents == 1
        self.stack = S4Stack(
            config.d_model,
            config.d_state,
            config.n_layers,
            config.dropout,
            mixing,
            readout=config.message == "state" and not alone,
            backend=backend,
            **config.model_dump(include=SSM_OPTIONS),
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, spec.n_actions)
        self.channel = MessageChannel(
            config.d_model,
            spec.n_actions,
            message="none" if alone else config.message,
            message_dim=config.message_dim,
            autoregressive=config.autoregressive and not alone,
            detach_message=config.detach_message,
        )

    @property
    def waits_in_sequences(self) -> bool:
        """Whether agents run one after another over sequences, else as one batch."""
        return self.channel.width > 0

    @property
    def waits_in_steps(self) -> bool:
        """Whether agents run one after another within a time step, else as one batch."""
        return self.channel.is_open and self.message_delay == 0

    def sequence(
        self,
        batch: SequenceBatch,
        *,
        order: Tensor | None = None,
        dropped: Tensor | None = None,
        state: State | None = None,
        return_state: bool = False,
    ) -> PolicySequence:
        """Return logits and latents of sequences; see `SequencePolicy.sequence`."""
        return chain.run_sequences(self, batch, order, dropped, state, return_state)

    def draw(
        self, action: Tensor, order: Tensor | None = None, dropped: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the order and dropped messages of a training step; see `SequencePolicy.draw`."""
        batch, _, n_agents = action.shape
        if order is None and self.agent_order == "random":
            order = torch.rand(batch, n_agents, device=action.device).argsort(dim=1)
        if dropped is None and self.message_dropout > 0.0:
            dropped = torch.rand(action.shape, device=action.device) < self.message_dropout
        return order, dropped

    def run_rows(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        dropped: Tensor | None,
        stack: Callable[[Tensor], StackOutput],
    ) -> AgentOutput:
        """Combine an agent's inputs, run the network, and write its message.

        Args:
            embedded: (rows, …, H), the agent's own inputs; … is T, or nothing in a single step.
            message: (rows, …, M) from the predecessor, None for the first agent.
            action: (rows, …) of the predecessor, -1 for none; None if it is not sent.
            dropped: (rows, …), True where neither of them arrived; None if they all did.
            stack: applies the S4 stack, in either view.
        """
        output = stack(functional.relu(embedded + self.channel.read(message, action, dropped)))
        latent = self.norm(output.y)
        logits = self.head(latent)
        outgoing = self.channel.write(latent, output.readout, logits)
        return AgentOutput(logits, latent, outgoing, output.state)

    def step_rows(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        dropped: Tensor | None,
        available_actions: Tensor,
        state: StackState,
    ) -> tuple[Tensor, Tensor | None, StackState]:
        """Take one time step of an agent in each row.

        Args:
            embedded: (rows, H), see `run_rows`.
            message: (rows, M), likewise.
            action: (rows,), likewise.
            dropped: (rows,), likewise.
            available_actions: (rows, n_actions).
            state: S4 states, (rows, H, N_state) a block.

        Returns:
            Logits (rows, n_actions), -inf where unavailable; the message (rows, M) to send, None
            without; and the S4 states after the step.
        """

        def stack(inputs: Tensor) -> StackOutput:
            output, after = self.stack.step(inputs, state)
            return StackOutput(output, self.stack.read(after), after)

        output = self.run_rows(embedded, message, action, dropped, stack)
        assert output.state is not None, "a step returns the state"
        return mask_unavailable(output.logits, available_actions), output.message, output.state

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` environments before their first step; see `chain`."""
        return chain.initial_state(self, batch)

    def step(self, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
        """Select the actions of one time step; see `SequencePolicy.step`."""
        return chain.run_step(self, inputs, state)

    def agent_memory(self, state: State, number: int) -> State:
        """Return one agent's S4 states, (B, H, N_state) a block, where agents decide in order."""
        if self.waits_in_steps:
            return state["stacks"][number]
        return tuple(block[:, number] for block in state["stacks"])

    def agent_step(
        self, inputs: Mapping[str, Tensor], agent: Tensor, memory: State
    ) -> tuple[Tensor, Tensor | None, State]:
        """Take the step of one agent; see `SequencePolicy.agent_step`."""
        unused = inputs["observation"].new_zeros(0)

        def alone(name: str) -> Tensor:
            return inputs[name].unsqueeze(1) if name in inputs else unused

        embedded = self.embedding(
            alone("observation"),
            alone("global_state"),
            alone("previous_action"),
            inputs.get("return_to_go", unused),
            agent if agent.ndim == 0 else agent.unsqueeze(1),
        )
        received = (inputs.get("message"), inputs.get("predecessor_action"))
        available = inputs["available_actions"]
        return self.step_rows(embedded.squeeze(1), *received, None, available, memory)

    def exportable(self) -> SequencePolicy:
        """Return a copy with discretized systems for constants; see `SequencePolicy.exportable`."""
        made = super().exportable()
        assert isinstance(made, Mads4Policy)
        made.stack = self.stack.frozen()
        return made.to("cpu", torch.float32).eval().requires_grad_(False)
