"""A single agent: the step of a policy as a function of tensors.

`Agent.inputs` lists the inputs of a step: the agent's observation, previous action and memory, the
return-to-go, the incoming message, and the global state if the policy was trained with it. With
``model.use_global_state=false`` all of them are the agent's own or its predecessor's: execution is
fully decentralized. (The return-to-go is the target return minus the team's rewards so far, so the
rewards have to be observed.)

With ``message_delay=0`` an agent waits for its predecessor's message of this step; with 1 it reads
that of the step before, and all act at the same time. The program is the same in both cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mads4.errors import UserError
from mads4.models.base import SequencePolicy
from mads4.models.state import leaves, unflatten


@dataclass(frozen=True)
class Port:
    """An input or output of an agent's program; the first axis of all is the batch."""

    name: str
    """An output ``x_out`` feeds the input ``x``, of the agent or of its successor."""
    shape: tuple[int, ...]
    """Without the batch."""
    dtype: str = "float32"
    initial: int = 0
    """Value of an input before the first step, or where there is no predecessor."""

    def tensor(self, batch: int) -> Tensor:
        """Return the input before the first step, (`batch`, …)."""
        return torch.full((batch, *self.shape), self.initial, dtype=getattr(torch, self.dtype))


class Agent(nn.Module):
    """The step of one agent: inputs and memory → logits, outgoing message, new memory.

    Computes `SequencePolicy.agent_step` in float32, with the inputs normalized as in training.
    Every tensor of the memory is a port of its own, ``memory_0``, ``memory_1``, …

    Args:
        policy: a copy of it is used, whatever its precision.
        number: which agent this is; None for a program that serves all and takes it as an input.

    Raises:
        ValueError: if there is no agent of that number.
        UserError: the policy does not define the step of a single agent.
    """

    def __init__(self, policy: SequencePolicy, number: int | None = None) -> None:
        super().__init__()
        if number is not None and not 0 <= number < policy.spec.n_agents:
            raise ValueError(f"agent {number} is not one of 0 … {policy.spec.n_agents - 1}")
        self.number = number
        self.policy = policy.exportable()
        try:
            memory = policy.agent_memory(policy.initial_state(1), 0)
        except NotImplementedError:
            raise UserError(
                f"A {type(policy).__name__} cannot be exported: it does not define agent_memory "
                "and agent_step (see mads4.models.SequencePolicy)."
            ) from None
        self._memory = memory
        self.memory = tuple(
            Port(f"memory_{k}", tuple(leaf.shape[1:]), _dtype(leaf))
            for k, leaf in enumerate(leaves(memory))
        )
        self.inputs = tuple(self._inputs())
        self.outputs = tuple(self._outputs())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the values of `outputs` from those of `inputs`, in their order."""
        given = {port.name: value for port, value in zip(self.inputs, inputs, strict=True)}
        agent = given["agent"] if self.number is None else torch.tensor(self.number)
        memory = unflatten(self._memory, [given[port.name] for port in self.memory])
        logits, message, memory = self.policy.agent_step(given, agent, memory)
        return (logits, *(() if message is None else (message,)), *leaves(memory))

    def _inputs(self) -> Iterator[Port]:
        spec, channel, reads = self.policy.spec, self.policy.channel, self.policy.optional_inputs
        yield Port("observation", (spec.obs_dim,))
        if "global_state" in reads:
            yield Port("global_state", (spec.state_dim,))
        if "previous_action" in reads:
            yield Port("previous_action", (), "int64", initial=-1)
        if "return_to_go" in reads:
            yield Port("return_to_go", ())
        if channel is not None and channel.width:
            yield Port("message", (channel.width,))
        if channel is not None and channel.autoregressive:
            yield Port("predecessor_action", (), "int64", initial=-1)
        if self.number is None:
            yield Port("agent", (), "int64")
        yield from self.memory
        yield Port("available_actions", (spec.n_actions,), "bool", initial=1)

    def _outputs(self) -> Iterator[Port]:
        """Yield what the program returns; unavailable actions have logits of -inf."""
        channel = self.policy.channel
        yield Port("logits", (self.policy.spec.n_actions,))
        if channel is not None and channel.width:
            yield Port("message_out", (channel.width,))
        for port in self.memory:
            yield Port(f"{port.name}_out", port.shape, port.dtype)


def _dtype(values: Tensor) -> str:
    return "float32" if values.is_floating_point() else str(values.dtype).removeprefix("torch.")
