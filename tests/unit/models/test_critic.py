"""Values keep their meaning when their unit changes, and teach the policy nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import SPEC, make_batch, make_policy
from mads4.models.critic import Critic, PopArt

NUMBERS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(updates=st.lists(NUMBERS, min_size=1, max_size=5))
def test_values_outlive_the_statistics(updates: list[list[float]]) -> None:
    torch.manual_seed(0)
    head = PopArt(4).double()
    hidden = torch.randn(6, 4, dtype=torch.float64)
    before = head.restore(head(hidden))
    for targets in updates:
        head.update(torch.tensor(targets, dtype=torch.float64))
        torch.testing.assert_close(head.restore(head(hidden)), before, rtol=1e-6, atol=1e-6)


def test_statistics_are_those_of_the_first_targets_and_then_follow() -> None:
    head = PopArt(1, momentum=0.5)
    head.update(torch.tensor([8.0, 12.0]))
    assert (float(head.mean), float(head.std)) == pytest.approx((10.0, 2.0))
    head.update(torch.tensor([18.0, 22.0]))
    assert float(head.mean) == pytest.approx(15.0), "the first ones count alike"
    head.update(torch.tensor([35.0, 35.0]))
    assert float(head.mean) == pytest.approx(25.0), "later ones by the momentum"
    values = torch.tensor([3.0, -4.0])
    torch.testing.assert_close(head.restore(head.normalize(values)), values)


def test_equal_targets_do_not_divide_by_zero() -> None:
    head = PopArt(1)
    for _ in range(3):
        head.update(torch.full((5,), 7.0))
    assert float(head.std) == pytest.approx(1e-2)
    assert head.normalize(torch.tensor(7.0)).isfinite()


def test_no_gradient_reaches_the_policy() -> None:
    policy = make_policy(dtype=torch.float32)
    critic = Critic(SPEC, policy.latent_dim, width=8)
    batch = make_batch()
    latent = policy.sequence(batch).latent
    assert latent.requires_grad
    critic(batch, latent).sum().backward()
    assert all(p.grad is None for p in policy.parameters())
    assert all(p.grad is not None for p in critic.parameters())


@pytest.mark.parametrize("state_per_agent", [False, True])
def test_each_agent_is_valued_by_its_own_and_the_teams_memory(state_per_agent: bool) -> None:
    spec = replace(SPEC, state_per_agent=state_per_agent)
    torch.manual_seed(0)
    critic, batch = Critic(spec, 6, width=8), make_batch(spec)
    latent = torch.randn(3, 12, 2, 6)
    value = critic(batch, latent)
    assert value.shape == (3, 12, 2)
    changed = latent.clone()
    changed[1, 4, 0] += 1.0
    moved = (critic(batch, changed) - value).abs() > 0
    assert moved[1, 4].all(), "the team's average reaches everybody"
    assert moved.sum() == 2, "but no other episode or step"
