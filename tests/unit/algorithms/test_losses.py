from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import make_batch, make_policy
from mads4.algorithms.losses import behavior_cloning, td_lambda


def test_value_of_an_example_done_by_hand() -> None:
    """Two agents, two real steps and a padded one; one action of three unavailable at first."""
    minus = -math.inf
    logits = torch.tensor(
        [
            [[0.0, math.log(3.0), minus], [0.0, 0.0, 0.0]],
            [[math.log(2.0), 0.0, 0.0], [0.0, 0.0, math.log(8.0)]],
            [[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]],
        ]
    ).unsqueeze(0)
    action = torch.tensor([[[1, 2], [0, 0], [0, 0]]])
    mask = torch.tensor([[True, True, False]])
    loss, accuracy = behavior_cloning(logits, action, ~logits.isneginf(), mask)
    # probabilities 3/4, 1/3, 1/2 and 1/10 of what was done; the first and third are the likeliest
    expected = -(math.log(3 / 4) + math.log(1 / 3) + math.log(1 / 2) + math.log(1 / 10)) / 4
    torch.testing.assert_close(loss, torch.tensor(expected))
    assert accuracy == 0.5


def test_padding_does_not_count() -> None:
    batch = make_batch()
    logits = torch.randn(*batch.available_actions.shape, requires_grad=True)
    masked = logits.masked_fill(~batch.available_actions, -torch.inf)
    loss, accuracy = behavior_cloning(masked, batch.action, batch.available_actions, batch.mask)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[~batch.mask] == 0).all()
    assert (logits.grad[batch.mask].abs().amax(dim=-1) > 0).float().mean() > 0.5
    chosen = masked.log_softmax(-1).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(loss, -chosen[batch.mask].mean())
    right = masked.argmax(-1) == batch.action
    torch.testing.assert_close(accuracy, right[batch.mask].float().mean())


def test_impossible_recorded_actions_are_left_out() -> None:
    batch = make_batch(padded=False)
    available = batch.available_actions.clone()
    available[0, 3, 1, batch.action[0, 3, 1]] = False
    logits = torch.randn(*available.shape).masked_fill(~available, -torch.inf)
    logits[0, 3, 1, int(available[0, 3, 1].int().argmax())] = 0.0
    loss, _ = behavior_cloning(logits, batch.action, available, batch.mask)
    chosen = logits.log_softmax(-1).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(loss, -chosen[chosen.isfinite()].mean())
    assert chosen.isfinite().sum() == chosen.numel() - 1


def test_nothing_real_gives_zero_and_no_gradient() -> None:
    batch, policy = make_batch(), make_policy()
    nothing = torch.zeros_like(batch.mask)
    loss, accuracy = behavior_cloning(policy(batch), batch.action, batch.available_actions, nothing)
    loss.backward()
    assert loss == 0 and accuracy == 0
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_gradients_agree_with_differences() -> None:
    batch = make_batch(batch=2, steps=3)
    logits = torch.randn(*batch.available_actions.shape, dtype=torch.float64, requires_grad=True)

    def value(x: torch.Tensor) -> torch.Tensor:
        masked = x.masked_fill(~batch.available_actions, -torch.inf)
        return behavior_cloning(masked, batch.action, batch.available_actions, batch.mask)[0]

    assert torch.autograd.gradcheck(value, (logits,))


def forward_view(
    reward: np.ndarray, value: np.ndarray, known: int, gamma: float, lam: float
) -> list[float]:
    """Return λ-returns as weighted n-step returns (Sutton and Barto 2018, section 12.1).

    Args:
        reward: (T,) of one episode.
        value: (known + 1,) of its first time steps; the last is what is bootstrapped from at most.
        known: steps with a target.
        gamma: discount.
        lam: λ.
    """
    targets = []
    for t in range(known):
        returns = [
            sum(gamma**k * reward[t + k] for k in range(n)) + gamma**n * value[t + n]
            for n in range(1, known - t + 1)
        ]
        weights = [(1 - lam) * lam**n for n in range(len(returns))]
        weights[-1] = lam ** (len(returns) - 1)
        targets.append(sum(w * g for w, g in zip(weights, returns, strict=True)))
    return targets


@given(
    ends=st.lists(
        st.tuples(st.integers(1, 7), st.sampled_from(["terminated", "bootstrap", "unknown"])),
        min_size=1,
        max_size=4,
    ),
    gamma=st.sampled_from([0.5, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    seed=st.integers(0, 99),
)
def test_td_lambda_agrees_with_the_forward_view(
    ends: list[tuple[int, str]], gamma: float, lam: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (len(ends), 9)
    # What is behind the rows that count would be noticed.
    reward, value = rng.normal(size=shape) * 9, rng.normal(size=shape) * 9
    length = np.array([steps for steps, _ in ends])[:, None]
    kinds = np.array([[kind] for _, kind in ends])
    row = np.arange(shape[1])
    last = row == length - 1
    target, valid = td_lambda(
        torch.from_numpy(reward),
        torch.from_numpy(value),
        torch.from_numpy(last & (kinds == "terminated")),
        torch.from_numpy((row < length - 1) | (last & (kinds == "bootstrap"))),
        torch.from_numpy(row < length),
        gamma,
        lam,
    )
    for b, (steps, kind) in enumerate(ends):
        known = steps - (kind == "unknown")
        worth = value[b, : known + 1].copy()
        if kind == "terminated":
            worth[known] = 0.0
        expected = forward_view(reward[b], worth, known, gamma, lam)
        assert valid[b].tolist() == [t < known for t in range(shape[1])]
        assert target[b, :known].tolist() == pytest.approx(expected)
        assert not target[b, known:].any()
