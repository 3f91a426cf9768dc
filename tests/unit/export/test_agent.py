"""One agent on its own is the policy's agent, for every option; a wrong one is found out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from fakes import SPEC, make_policy
from mads4.export.agent import Agent
from mads4.export.check import AgentStep, largest_difference
from mads4.export.onnx import TOLERANCE

THREE = replace(SPEC, n_agents=3)
CHAINS = [
    {"message": message, "message_delay": delay, "autoregressive": share}
    for message, delay, share in itertools.product(
        ("none", "output", "state", "logits"), (0, 1), (False, True)
    )
]
OTHERS: list[dict[str, Any]] = [
    {"use_global_state": False, "return_conditioning": False, "use_previous_action": False},
    {"parameterization": "dplr", "discretization": "bilinear", "message": "state"},
    {"initialization": "real", "message": "state"},
    {"agent_order": "random", "message_dropout": 0.3},
    {"mixing": "glu"},
    {"stateless": True},
]


def name(options: dict[str, Any]) -> str:
    return "-".join(f"{value}" for value in options.values())


def player(agent: Agent) -> AgentStep:
    def play(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = agent(*[given[port.name] for port in agent.inputs])
        return {port.name: value for port, value in zip(agent.outputs, values, strict=True)}

    return play


@pytest.mark.parametrize("options", [*CHAINS, *OTHERS], ids=name)
def test_agents_who_exchange_messages_only_are_the_policy(options: dict[str, Any]) -> None:
    policy = make_policy(THREE, **options)
    for number in (None, 0, 2):
        agent = Agent(policy, number)
        difference = largest_difference(policy, agent, player(agent))
        assert difference < TOLERANCE, "float32, whose rounding depends on the processor"


@pytest.mark.parametrize("spec", [replace(SPEC, n_agents=1), replace(THREE, state_per_agent=True)])
def test_one_agent_and_states_of_their_own(spec: Any) -> None:
    policy = make_policy(spec, autoregressive=True)
    agent = Agent(policy)
    assert largest_difference(policy, agent, player(agent)) < 2e-6
    assert ("message" in [port.name for port in agent.inputs]) == (spec.n_agents > 1)


def names(**options: Any) -> list[str]:
    return [port.name for port in Agent(make_policy(THREE, **options)).inputs]


def test_an_agent_asks_for_what_the_policy_uses_only() -> None:
    every = ["observation", "global_state", "previous_action", "return_to_go", "message"]
    every += ["predecessor_action", "agent", "memory_0", "memory_1", "available_actions"]
    assert names(autoregressive=True) == every
    bare = {"use_global_state": False, "return_conditioning": False, "use_previous_action": False}
    few = ["observation", "agent", "memory_0", "memory_1", "available_actions"]
    assert names(message="none", **bare) == few
    assert "agent" not in [port.name for port in Agent(make_policy(THREE), 1).inputs]


def test_before_the_first_step() -> None:
    ports = {port.name: port for port in Agent(make_policy(THREE, autoregressive=True)).inputs}
    assert ports["previous_action"].tensor(2).tolist() == [-1, -1]
    assert ports["predecessor_action"].tensor(2).tolist() == [-1, -1]
    assert ports["available_actions"].tensor(1).all()
    for block in (0, 1):
        memory = ports[f"memory_{block}"].tensor(2)
        assert (tuple(memory.shape), memory.dtype) == ((2, 8, 6), torch.float32)
        assert not memory.any()


def test_there_must_be_such_an_agent() -> None:
    with pytest.raises(ValueError, match=r"agent 3 is not one of 0 … 2"):
        Agent(make_policy(THREE), 3)


def test_the_policy_stays_as_it_was() -> None:
    policy = make_policy(THREE).train()
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    Agent(policy)
    assert policy.training
    assert policy.head.weight.requires_grad
    after = policy.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(value.dtype == after[key].dtype for key, value in before.items())


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ("message_out", lambda value: value + 1e-2),
        ("memory_1_out", lambda value: value.flip(1)),
        ("logits", lambda value: value.nan_to_num(neginf=-1e3)),
        ("logits", lambda value: value * torch.nan),
    ],
)
def test_a_wrong_program_is_found_out(output: str, wrong: Any) -> None:
    policy = make_policy(THREE)
    agent = Agent(policy)
    right = player(agent)

    def play(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = right(given)
        return outputs | {output: wrong(outputs[output])}

    assert not largest_difference(policy, agent, play) < 1e-4
