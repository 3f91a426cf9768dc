"""One agent on its own: the recurrent step of the policy as a function of tensors only.

What an agent needs at each step is what `Agent.inputs` lists: its own observation, action and
memory, the return still asked for, what its predecessor handed on, and the global state if the
policy was trained with it. With ``model.use_global_state=false`` nothing is left that is not the
agent's own or its predecessor's: such agents are truly decentralized. (The return-to-go is a
number that whoever measures the team's reward makes known, or the operator's constant wish.)

``message_time=same_step`` means that an agent waits for its predecessor's message of this step;
with ``previous_step`` it takes the one of the step before, and all act at the same time. The
program is the same in both cases.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mads4.models.policy import Mads4Policy
from mads4.nn.frozen import freeze


@dataclass(frozen=True)
class Port:
    """An input or output of an agent's program; the first axis of all is the batch."""

    name: str
    """An output ``x_out`` is meant for the input ``x``, of the agent or of its successor."""
    shape: tuple[int, ...]
    """Without the batch."""
    dtype: str = "float32"
    initial: int = 0
    """What an input is filled with before the first step, or where there is no predecessor."""

    def tensor(self, batch: int) -> Tensor:
        """Return the input before the first step, (`batch`, …)."""
        return torch.full((batch, *self.shape), self.initial, dtype=getattr(torch, self.dtype))


class Agent(nn.Module):
    """The step of one agent: what it perceives and remembers → logits, message, new memory.

    It consists of the policy's own parts and takes the step that `Mads4Policy.decide` defines, in
    float32, with the inputs normalized as in training and discretized systems for constants.

    Args:
        policy: whose parts are copied, whatever its precision.
        number: which agent this is; None for a program that serves all and is told by an input.

    Raises:
        ValueError: if there is no agent of that number.
    """

    def __init__(self, policy: Mads4Policy, number: int | None = None) -> None:
        super().__init__()
        if number is not None and not 0 <= number < policy.spec.n_agents:
            raise ValueError(f"agent {number} is not one of 0 … {policy.spec.n_agents - 1}")
        self.number = number
        self.policy = copy.deepcopy(policy)
        self.policy.stack = freeze(policy.stack)
        self.policy.to("cpu", torch.float32).eval().requires_grad_(False)
        self.inputs = tuple(_inputs(policy, number))
        self.outputs = tuple(_outputs(policy))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the values of `outputs` from those of `inputs`, in their order."""
        given = {port.name: value for port, value in zip(self.inputs, inputs, strict=True)}
        unused = given["observation"].new_zeros(0)

        def alone(name: str) -> Tensor:
            return given[name].unsqueeze(1) if name in given else unused

        number = self.number
        embedded = self.policy.embedding(
            alone("observation"),
            alone("global_state"),
            alone("previous_action"),
            given.get("return_to_go", unused),
            alone("agent") if number is None else torch.tensor([number]),
        )
        logits, message, memory = self.policy.decide(
            embedded.squeeze(1),
            given.get("message"),
            given.get("predecessor_action"),
            None,
            given["available_actions"],
            given["memory"].unbind(1),
        )
        written = () if message is None else (message,)
        return (logits, *written, torch.stack(memory, dim=1))


def _inputs(policy: Mads4Policy, number: int | None) -> Iterator[Port]:
    """Yield what an agent of this policy is given."""
    spec, embedding, hand_off = policy.spec, policy.embedding, policy.hand_off
    yield Port("observation", (spec.obs_dim,))
    if embedding.state is not None:
        yield Port("global_state", (spec.state_dim,))
    if embedding.previous_action is not None:
        yield Port("previous_action", (), "int64", initial=-1)
    if embedding.return_to_go is not None:
        yield Port("return_to_go", ())
    if hand_off.width:
        yield Port("message", (hand_off.width,))
    if hand_off.action_in is not None:
        yield Port("predecessor_action", (), "int64", initial=-1)
    if number is None:
        yield Port("agent", (), "int64")
    yield Port("memory", _memory_shape(policy))
    yield Port("available_actions", (spec.n_actions,), "bool", initial=1)


def _outputs(policy: Mads4Policy) -> Iterator[Port]:
    """Yield what it gives; unavailable actions have logits of -inf."""
    yield Port("logits", (policy.spec.n_actions,))
    if policy.hand_off.width:
        yield Port("message_out", (policy.hand_off.width,))
    yield Port("memory_out", _memory_shape(policy))


def _memory_shape(policy: Mads4Policy) -> tuple[int, ...]:
    """Return (blocks, H, N) of the S4 states."""
    states = policy.stack.initial_state(1)
    return (len(states), *states[0].shape[1:])
