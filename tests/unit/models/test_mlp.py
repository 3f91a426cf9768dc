"""The feed-forward policy: the same in both views, and nothing but the present."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fakes import SPEC, make_batch, time_step
from mads4.models import MlpPolicy
from mads4.models.base import unroll
from mads4.models.state import join, select


def make_mlp(seed: int = 0, **options: Any) -> MlpPolicy:
    torch.manual_seed(seed)
    return MlpPolicy(SPEC, d_model=8, **options).double().eval()


@pytest.mark.parametrize("use_previous_action", [False, True])
@torch.no_grad()
def test_forward_is_step_unrolled(use_previous_action: bool) -> None:
    policy, batch = make_mlp(use_previous_action=use_previous_action), make_batch(padded=False)
    logits = policy(batch)
    torch.testing.assert_close(unroll(policy, batch), logits)
    torch.testing.assert_close(policy.sequence(batch).logits, logits)
    first = policy.sequence(batch.map(lambda v: v[:, :5]), return_state=True)
    rest = batch.map(lambda v: v[:, 5:])
    torch.testing.assert_close(unroll(policy, rest, state=first.state), logits[:, 5:])


@torch.no_grad()
def test_unavailable_actions_are_impossible_and_never_taken() -> None:
    policy, batch = make_mlp(), make_batch(padded=False)
    logits = policy(batch)
    assert torch.equal(logits.isfinite(), batch.available_actions)
    state = policy.initial_state(3)
    for t in range(12):
        uniform = torch.rand(3, 2, dtype=torch.float64)
        decision, state = policy.step(time_step(batch, t, uniform), state)
        assert batch.available_actions[:, t].gather(-1, decision.action[..., None]).all()
        assert torch.equal(state["previous_action"], decision.action)
    given = replace(time_step(batch, 0), action=batch.action[:, 0])
    decision, state = policy.step(given, policy.initial_state(3))
    assert torch.equal(decision.action, batch.action[:, 0])


@torch.no_grad()
def test_nothing_is_remembered_but_the_action() -> None:
    policy, batch = make_mlp(), make_batch(padded=False)
    other = batch.map(torch.clone)
    other.observation[:, 3] += 1.0
    same = torch.isclose(policy(other), policy(batch), equal_nan=True).all(-1).all(-1)
    assert same[:, [t for t in range(12) if t != 3]].all()
    assert not same[:, 3].any()


def test_agents_exchange_nothing() -> None:
    policy, batch = make_mlp(), make_batch(padded=False)
    seen = batch.observation.double().requires_grad_()
    policy.sequence(replace(batch, observation=seen)).latent[:, :, 1].sum().backward()
    assert seen.grad is not None
    assert (seen.grad[:, :, 0] == 0).all()
    assert (seen.grad[:, :, 1] != 0).any()


def test_states_are_chosen_joined_and_reset_by_environment() -> None:
    policy = make_mlp()
    state = policy.initial_state(3) | {"previous_action": torch.arange(6).view(3, 2)}
    assert select(state, torch.tensor([2]))["previous_action"].tolist() == [[4, 5]]
    assert join([state, state])["previous_action"].shape == (6, 2)
    begun = policy.reset_rows(state, torch.tensor([False, True, False]))
    assert begun["previous_action"].tolist() == [[0, 1], [-1, -1], [4, 5]]
