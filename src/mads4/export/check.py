"""Comparison of an exported agent with its policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mads4.export.agent import Agent
from mads4.models import SequencePolicy
from mads4.models.state import leaves
from mads4.types import PolicyInput

AgentStep = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""An agent's step: inputs by name → outputs by name."""

STEPS = 12
BATCH = 3


@torch.no_grad()
def largest_difference(policy: SequencePolicy, agent: Agent, program: AgentStep) -> float:
    """Return the largest difference of `program` from `policy` over a few steps of random inputs.

    Every agent is a program with its own memory, and programs exchange messages only, so that
    errors accumulate; the actions are the policy's. Logits and memories are compared, relative to
    their largest value where that exceeds 1. The result is infinite where other actions are masked,
    NaN where a program returns that.

    Args:
        policy: of any precision; it is compared in that of the program, float32.
        agent: the exported agent; it computes the agents that `program` does not serve.
        program: the file as read back.
    """
    policy = copy.deepcopy(policy).to("cpu", torch.float32).eval()
    n_agents, delay = policy.spec.n_agents, policy.message_delay
    served = [number for number in range(n_agents) if agent.number in (None, number)]
    others = agent if agent.number is None else Agent(policy)
    given = [
        {port.name: port.tensor(BATCH) for port in (agent if k in served else others).inputs}
        for k in range(n_agents)
    ]
    outgoing: list[Tensor | None] = [None] * n_agents
    state = policy.initial_state(BATCH)
    worst = torch.zeros(())
    for inputs in random_inputs(policy):
        output, following = policy.step(inputs, state)
        sent_action = state["previous_action"] if delay else output.action
        incoming = list(outgoing) if delay else outgoing
        for number, own in enumerate(given):
            new = _observed(inputs, number)
            new["previous_action"] = state["previous_action"][:, number]
            if number:
                new["predecessor_action"] = sent_action[:, number - 1]
                message = incoming[number - 1]
                if message is not None:
                    new["message"] = message
            own.update({name: value for name, value in new.items() if name in own})
            result = program(own) if number in served else _agent_step(others, own)
            memory = [result[f"{port.name}_out"] for port in agent.memory]
            own.update({port.name: value for port, value in zip(agent.memory, memory, strict=True)})
            outgoing[number] = result.get("message_out")
            if number in served:
                expected = policy.agent_memory(following, number)
                pairs = zip(
                    [result["logits"], *memory],
                    [output.logits[:, number], *leaves(expected)],
                    strict=True,
                )
                for value, wanted in pairs:
                    worst = torch.maximum(worst, _relative_difference(value, wanted))
        state = following
    return float(worst)


def _observed(inputs: PolicyInput, number: int) -> dict[str, Tensor]:
    """Return the inputs of agent `number` that do not come from agents."""
    batch, n_agents = inputs.observation.shape[:2]
    return {
        "observation": inputs.observation[:, number],
        "global_state": inputs.state[:, number if inputs.state.shape[1] == n_agents else 0],
        "return_to_go": inputs.return_to_go,
        "agent": torch.full((batch,), number),
        "available_actions": inputs.available_actions[:, number],
    }


def _agent_step(agent: Agent, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of an agent that was not exported, by name."""
    values = agent(*[given[port.name] for port in agent.inputs])
    return {port.name: value for port, value in zip(agent.outputs, values, strict=True)}


def random_inputs(policy: SequencePolicy) -> Iterator[PolicyInput]:
    """Yield `STEPS` time steps of `BATCH` environments, distributed like the training data."""
    spec, embedding = policy.spec, policy.embedding
    generator = torch.Generator().manual_seed(0)

    def normal(mean: Tensor, std: Tensor, rows: int) -> Tensor:
        noise = torch.randn(BATCH, rows, mean.shape[-1], generator=generator)
        return mean + std * noise

    for _ in range(STEPS):
        uniform = torch.rand(BATCH, spec.n_agents, generator=generator, dtype=torch.float64)
        available = torch.rand(BATCH, spec.n_agents, spec.n_actions, generator=generator) < 0.6
        available[..., 0] |= ~available.any(-1)
        states = spec.n_agents if spec.state_per_agent else 1
        yield PolicyInput(
            observation=normal(
                embedding.observation_mean, embedding.observation_std, spec.n_agents
            ),
            state=normal(embedding.state_mean, embedding.state_std, states),
            available_actions=available,
            return_to_go=embedding.return_scale * torch.rand(BATCH, generator=generator),
            uniform=uniform,
        )


def _relative_difference(value: Tensor, expected: Tensor) -> Tensor:
    """Return the largest difference; equal infinities are no difference."""
    finite = expected[expected.isfinite()].float()
    scale = finite.abs().amax().clamp(min=1.0) if finite.numel() else torch.ones(())
    difference = torch.where(value == expected, 0.0, (value - expected).abs().float())
    return difference.amax() / scale
