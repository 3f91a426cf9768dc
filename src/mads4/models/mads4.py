"""The MADS4 policy: agents that decide one after another and send each other something small.

Within a time step, agent i reads its own inputs and what its immediate predecessor sent (a message,
the action it took), and sends something to its successor; all agents share the weights, and
gradients of agent i's loss reach agent i - 1 through the message. `Mads4Policy.advance` is the one
place where an agent's input is put together and the network is run; `sequence` uses it over whole
sequences (S4's convolutional view), `step` over one time step (its recurrent view), both by way of
`mads4.models.chain`.

Agents that need not wait for each other run as one batch: over sequences all of them unless there
is a message (actions are known from the data), in a time step all of them if nothing is sent
within it. Axes: ``B`` batch, ``T`` time, ``N`` agents, or positions in the order of decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mads4.errors import UserError
from mads4.models.base import (
    MODELS,
    NetworkSettings,
    PolicySequence,
    SequencePolicy,
    mask_unavailable,
    no_action,
)
from mads4.models.chain import run_sequences, run_step
from mads4.models.communication import MessageChannel
from mads4.models.state import State
from mads4.nn.blocks import S4Stack, StackOutput, StackState
from mads4.nn.ssm import TRAINABLE
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
        if self.parameterization == "dplr":
            if self.discretization == "zoh":
                problems.append(
                    f"{where}.discretization: 'zoh' does not go with "
                    f"{where}.parameterization=dplr; use {where}.discretization=bilinear"
                )
            if self.initialization != "legs":
                problems.append(
                    f"{where}.initialization: '{self.initialization}' does not go with "
                    f"{where}.parameterization=dplr; use {where}.initialization=legs"
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
class Advanced:
    """Result of running the network once; … is T, or nothing in a single step."""

    logits: Tensor
    """(rows, …, n_actions)."""
    latent: Tensor
    """(rows, …, H), the normalized network output."""
    message: Tensor | None
    """(rows, …, M) to send."""
    state: StackState | None
    """S4 states afterwards, if `run` returned them."""


class Mads4Policy(SequencePolicy):
    """A shared S4 network for all agents, with something sent from each agent to the next.

    Args:
        spec: the environment's sizes.
        backend: who computes the S4 kernels, see `mads4.nn.S4Layer`.
        mixing: of the blocks' channels, see `mads4.nn.S4Stack`.
        trainable: state-space parameters that receive gradients.
        **options: fields of `Mads4Config`.

    Raises:
        ValueError: an unknown or impossible option.
    """

    channel: MessageChannel

    def __init__(
        self,
        spec: EnvSpec,
        *,
        backend: str = "auto",
        mixing: str = "gelu",
        trainable: Sequence[str] = TRAINABLE,
        **options: Any,
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
            trainable=trainable,
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
        """Whether an agent's whole sequence needs its predecessor's to be computed before."""
        return self.channel.width > 0

    @property
    def waits_in_steps(self) -> bool:
        """Whether an agent's decision needs its predecessor's of the same step."""
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
        found = run_sequences(self, batch, order, dropped, state, return_state)
        return replace(found, logits=mask_unavailable(found.logits, batch.available_actions))

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

    def advance(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        dropped: Tensor | None,
        run: Callable[[Tensor], StackOutput],
    ) -> Advanced:
        """Put an agent's input together, run the network, and write its message.

        Args:
            embedded: (rows, …, H), the agent's own inputs; … is T, or nothing in a single step.
            message: (rows, …, M) from the predecessor, None for the first agent.
            action: (rows, …) the predecessor's, -1 for none.
            dropped: (rows, …), where neither of them arrived.
            run: runs the stack.
        """
        output = run(functional.relu(embedded + self.channel.read(message, action, dropped)))
        latent = self.norm(output.y)
        logits = self.head(latent)
        outgoing = self.channel.write(latent, output.readout, logits)
        return Advanced(logits, latent, outgoing, output.state)

    def decide(
        self,
        embedded: Tensor,
        message: Tensor | None,
        action: Tensor | None,
        dropped: Tensor | None,
        available_actions: Tensor,
        stack: StackState,
    ) -> tuple[Tensor, Tensor | None, StackState]:
        """Take one time step of agents that do not wait for each other, one in each row.

        Args:
            embedded: (rows, H), each agent's own inputs.
            message: (rows, M) from its predecessor, None where there is none.
            action: (rows,) its predecessor's, -1 for none.
            dropped: (rows,), where neither of them arrived; None if they all did.
            available_actions: (rows, n_actions).
            stack: S4 states, (rows, H, N_state) a block.

        Returns:
            Logits (rows, n_actions), -inf where unavailable, the message (rows, M) to send if
            there are any, and the S4 states after the step.
        """

        def run(inputs: Tensor) -> StackOutput:
            output, after = self.stack.step(inputs, stack)
            return StackOutput(output, self.stack.read(after), after)

        now = self.advance(embedded, message, action, dropped, run)
        assert now.state is not None, "a step returns the state"
        return mask_unavailable(now.logits, available_actions), now.message, now.state

    def initial_state(self, batch: int) -> State:
        """Return the state of `batch` environments before their first step.

        A dictionary: ``stacks``, the S4 states, (B, H, N_state) a block for each position where
        agents wait for each other within a step, else (B, N, H, N_state) a block;
        ``previous_action`` (B, N) by agent; ``message`` (B, N, M) by position, what each sent in
        the last step, None unless it is read a step later.
        """
        weight, n_agents = self.head.weight, self.spec.n_agents
        message = None
        if self.message_delay and self.channel.width:
            message = weight.new_zeros(batch, n_agents, self.channel.width)
        rows = batch if self.waits_in_steps else batch * n_agents
        positions = [
            self.stack.initial_state(rows, weight.device, weight.dtype)
            for _ in range(n_agents if self.waits_in_steps else 1)
        ]
        return {
            "stacks": tuple(positions)
            if self.waits_in_steps
            else tuple(block.view(batch, n_agents, *block.shape[1:]) for block in positions[0]),
            "previous_action": no_action(batch, self.spec, weight.device),
            "message": message,
        }

    def step(self, inputs: PolicyInput, state: State) -> tuple[PolicyOutput, State]:
        """Decide for one time step of B environments; equals `forward` step by step."""
        return run_step(self, inputs, state)

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
        return self.decide(embedded.squeeze(1), *received, None, available, memory)

    def exportable(self) -> SequencePolicy:
        """Return a copy with discretized systems for constants; see `SequencePolicy.exportable`."""
        made = super().exportable()
        assert isinstance(made, Mads4Policy)
        made.stack = self.stack.frozen()
        return made.to("cpu", torch.float32).eval().requires_grad_(False)
