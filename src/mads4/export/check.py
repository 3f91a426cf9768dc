"""An exported agent beside the policy that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mads4.models import Mads4Policy, PolicyState
from mads4.models.agent import Agent
from mads4.types import PolicyInput

Player = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""An agent's step: inputs by name → outputs by name."""

STEPS = 12
BATCH = 3


@torch.no_grad()
def largest_difference(policy: Mads4Policy, agent: Agent, program: Player) -> float:
    """Return by how much `program` departs from `policy` over a few steps on random inputs.

    All agents are played by programs that exchange messages only and keep their own memories, so
    that departures may add up; the actions taken are the policy's. Compared are logits and
    memories, relative to their largest value where that exceeds 1. Infinite where other actions
    are masked, NaN where a program returns that.

    Args:
        policy: in whatever precision; it plays in that of the program, float32.
        agent: what was exported; it stands in for those whom `program` does not serve.
        program: what came of it.
    """
    policy = copy.deepcopy(policy).to("cpu", torch.float32).eval()
    chain = Chain(policy, agent, program)
    state = policy.initial_state(BATCH)
    worst = torch.zeros(())
    for inputs in random_inputs(policy):
        decision, following = policy.step(inputs, state)
        same = policy.message_time == "same_step"
        told = decision.action if same else state.previous_action
        memories = _memories(policy, following)
        for number, output in chain.step(inputs, state.previous_action, told):
            worst = torch.maximum(worst, _apart(output["logits"], decision.logits[:, number]))
            worst = torch.maximum(worst, _apart(output["memory_out"], memories[number]))
        state = following
    return float(worst)


class Chain:
    """The agents of `BATCH` environments, each with a memory of its own."""

    def __init__(self, policy: Mads4Policy, agent: Agent, program: Player) -> None:
        self._served = [
            number
            for number in range(policy.spec.n_agents)
            if agent.number is None or agent.number == number
        ]
        self._players = [
            program if number in self._served else _in_python(Agent(policy), number)
            for number in range(policy.spec.n_agents)
        ]
        self._same_step = policy.message_time == "same_step"
        self._given = [
            {port.name: port.tensor(BATCH) for port in agent.inputs} for _ in self._players
        ]
        self._said: list[Tensor | None] = [None] * len(self._players)

    def step(
        self, inputs: PolicyInput, previous_action: Tensor, told: Tensor
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Let all agents decide; yield number and outputs of those that `program` serves.

        Args:
            inputs: what they perceive.
            previous_action: (B, N), their own.
            told: (B, N), the actions that each one's successor is told of.
        """
        heard = self._said if self._same_step else list(self._said)
        for number, play in enumerate(self._players):
            given = self._given[number]
            new = _perceived(inputs, number)
            new["previous_action"] = previous_action[:, number]
            if number:
                new["predecessor_action"] = told[:, number - 1]
                message = heard[number - 1]
                if message is not None:
                    new["message"] = message
            given.update({name: value for name, value in new.items() if name in given})
            output = play(given)
            given["memory"] = output["memory_out"]
            self._said[number] = output.get("message_out")
            if number in self._served:
                yield number, output


def _perceived(inputs: PolicyInput, number: int) -> dict[str, Tensor]:
    """Return what agent `number` is given besides what agents tell each other."""
    batch, n_agents = inputs.observation.shape[:2]
    return {
        "observation": inputs.observation[:, number],
        "global_state": inputs.state[:, number if inputs.state.shape[1] == n_agents else 0],
        "return_to_go": inputs.return_to_go,
        "agent": torch.full((batch,), number),
        "available_actions": inputs.available_actions[:, number],
    }


def _in_python(agent: Agent, number: int) -> Player:
    """Return the player that was not exported."""

    def play(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = {**given, "agent": torch.full((BATCH,), number)}
        values = agent(*[known[port.name] for port in agent.inputs])
        return {port.name: value for port, value in zip(agent.outputs, values, strict=True)}

    return play


def random_inputs(policy: Mads4Policy) -> Iterator[PolicyInput]:
    """Yield `STEPS` time steps of `BATCH` environments, distributed as the training data were."""
    spec, embedding = policy.spec, policy.embedding
    generator = torch.Generator().manual_seed(0)

    def normal(mean: Tensor, std: Tensor, rows: int) -> Tensor:
        noise = torch.randn(BATCH, rows, mean.shape[-1], generator=generator)
        return mean + std * noise

    for _ in range(STEPS):
        uniform = torch.rand(BATCH, spec.n_agents, generator=generator, dtype=torch.float64)
        available = torch.rand(BATCH, spec.n_agents, spec.n_actions, generator=generator) < 0.6
        available[..., 0] |= ~available.any(-1)
        yield PolicyInput(
            observation=normal(
                embedding.observation_mean, embedding.observation_std, spec.n_agents
            ),
            state=normal(
                embedding.state_mean,
                embedding.state_std,
                spec.n_agents if spec.state_per_agent else 1,
            ),
            available_actions=available,
            return_to_go=embedding.return_scale * torch.rand(BATCH, generator=generator),
            uniform=uniform,
        )


def _memories(policy: Mads4Policy, state: PolicyState) -> list[Tensor]:
    """Return every agent's S4 states as its program lays them out, (B, blocks, H, N)."""
    if policy.waits_in_steps:
        return [torch.stack(stack, dim=1) for stack in state.stacks]
    rows = torch.stack(state.stacks[0], dim=1)
    return list(rows.view(BATCH, policy.spec.n_agents, *rows.shape[1:]).unbind(1))


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the largest difference; equal infinities are no difference."""
    finite = wanted[wanted.isfinite()]
    scale = finite.abs().amax().clamp(min=1.0) if finite.numel() else torch.ones(())
    difference = torch.where(found == wanted, torch.zeros(()), (found - wanted).abs())
    return difference.amax() / scale
