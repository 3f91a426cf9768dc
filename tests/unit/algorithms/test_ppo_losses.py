"""The objective's parts against their definitions, and nothing that is no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl_divergence

from mads4.algorithms.losses import (
    advantages,
    clipped_surrogate,
    clipped_value_loss,
    entropy,
    kl_divergence,
    log_probabilities,
    masked_mean,
)

MASK = torch.tensor([[True, True], [True, False]])


def by_definition(
    reward: np.ndarray, value: np.ndarray, length: int, terminated: bool, gamma: float, lam: float
) -> np.ndarray:
    """Σ (γλ)^k δ of one episode and agent, and 0 after its end; δ bootstraps unless it ended."""
    steps = len(reward)
    result = np.zeros(steps)
    for t in range(length):
        for k in range(length - t):
            now = t + k
            following = 0.0 if terminated and now == length - 1 else value[now + 1]
            delta = reward[now] + gamma * following - value[now]
            result[t] += (gamma * lam) ** k * delta
    return result


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_advantages_are_the_discounted_sum_of_surprises(data: st.DataObject) -> None:
    batch, steps, agents = (data.draw(st.integers(1, top)) for top in (3, 7, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    reward, value = rng.normal(size=(batch, steps)), rng.normal(size=(batch, steps + 1, agents))
    length = np.array([data.draw(st.integers(1, steps)) for _ in range(batch)])
    terminated = np.array([data.draw(st.booleans()) for _ in range(batch)])
    gamma, lam = (data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])) for _ in range(2))
    found = advantages(*map(torch.from_numpy, (reward, value, length, terminated)), gamma, lam)
    for b in range(batch):
        for n in range(agents):
            expected = by_definition(
                reward[b], value[b, :, n], length[b], bool(terminated[b]), gamma, lam
            )
            np.testing.assert_allclose(found[b, :, n].numpy(), expected, atol=1e-9)


def test_what_lies_behind_an_episodes_end_does_not_matter() -> None:
    reward, value = torch.ones(1, 4), torch.zeros(1, 5, 1)
    args = (torch.tensor([2]), torch.tensor([True]), 0.9, 0.8)
    clean = advantages(reward, value, *args)
    reward[:, 2:], value[:, 2:] = torch.nan, torch.nan
    assert torch.equal(advantages(reward, value, *args), clean)


def test_whole_returns_at_lambda_one() -> None:
    """An episode that was cut is worth what the critic expects; one that ended, nothing more."""
    reward, value = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.full((2, 3, 1), 10.0)
    found = advantages(
        reward, value, torch.tensor([2, 2]), torch.tensor([True, False]), gamma=0.5, lam=1.0
    )
    worth = (found + value[:, :-1]).squeeze(-1)
    torch.testing.assert_close(worth, torch.tensor([[2.0, 2.0], [4.5, 7.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.5, 1.0, False),  # gained enough
        (1.5, -1.0, True),  # more probable although bad: has to come back
        (0.5, 1.0, True),  # less probable although good: has to come back
        (0.5, -1.0, False),  # avoided enough
        (1.1, 1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_nothing_is_gained_beyond_the_clip(ratio: float, advantage: float, moves: bool) -> None:
    now = torch.full((1, 1, 1), ratio, requires_grad=True)
    there = torch.full((1, 1, 1), advantage)
    clipped_surrogate(now, there, 0.2, torch.ones(1, 1, dtype=torch.bool)).backward()
    assert now.grad is not None
    assert float(now.grad) == (advantage if moves else 0.0)


def test_values_are_held_where_they_were() -> None:
    target, before = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    everywhere = torch.ones(1, 1, dtype=torch.bool)

    def slope(value: float, clip: float | None) -> float:
        now = torch.full((1, 1, 1), value, requires_grad=True)
        clipped_value_loss(now, before, target, clip, everywhere).backward()
        return float(now.grad)  # type: ignore[arg-type]

    assert slope(1.9, 0.2) == pytest.approx(3.8)
    assert slope(1.5, 0.2) == 0.0, "closer to the target than a step may bring it"
    assert slope(2.5, 0.2) == pytest.approx(5.0), "away from the target is never excused"
    assert slope(1.5, None) == pytest.approx(3.0)


def random_logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    """(2, 2, 3, 5), the same actions unavailable for every seed; one agent can do but one thing."""
    impossible = torch.rand(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    impossible[..., 0] = False
    impossible[0, 0, 0, 1:] = True
    drawn = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(seed))
    return (scale * drawn.double()).masked_fill(impossible, -torch.inf)


def test_entropy_and_divergence_agree_with_torch() -> None:
    one, other = random_logits(1), random_logits(2)
    p, q = Categorical(logits=one), Categorical(logits=other)
    known = MASK.unsqueeze(-1).expand(2, 2, 3)
    torch.testing.assert_close(entropy(one, MASK), p.entropy()[known].mean())
    expected = torch_kl_divergence(p, q)
    torch.testing.assert_close(kl_divergence(one, other, MASK), expected[known].mean())
    assert float(kl_divergence(one, one, MASK)) == 0.0
    action = p.sample()
    torch.testing.assert_close(log_probabilities(one, action), p.log_prob(action))


@pytest.mark.parametrize("scale", [3.0, 200.0], ids=["usual", "certain"])
def test_gradients_are_numbers_where_actions_are_unavailable(scale: float) -> None:
    one, other = (random_logits(seed, scale).requires_grad_() for seed in (1, 2))
    (entropy(one, MASK) + kl_divergence(one, other, MASK)).backward()
    for leaf in (one, other):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[~leaf.isfinite()] == 0).all()
        assert (leaf.grad[~MASK] == 0).all(), "padding teaches nothing"


def test_padding_is_not_averaged_whatever_it_holds() -> None:
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [torch.nan, torch.inf]]])
    assert float(masked_mean(values, MASK)) == pytest.approx(3.5)
    assert float(masked_mean(values, torch.zeros_like(MASK))) == 0.0
