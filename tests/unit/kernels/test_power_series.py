"""Truncated power series: product, delay and quotient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.kernels.power_series import delay, divide, multiply

LENGTHS = (1, 2, 3, 4, 5, 7, 13, 64, 101, 500)


def one(length: int) -> torch.Tensor:
    return torch.nn.functional.pad(torch.ones(1, dtype=torch.float64), (0, length - 1))


def draw(*shape: int, seed: int) -> torch.Tensor:
    """Return terms that decay, as kernels do."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return terms * 0.9 ** torch.arange(shape[-1], dtype=torch.float64)


def plain_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    length = left.shape[-1]
    terms = [(left[..., : t + 1] * right[..., : t + 1].flip(-1)).sum(-1) for t in range(length)]
    return torch.stack(terms, -1)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 70), seed=st.integers(0, 10_000))
def test_products_and_quotients_match_the_definition(length: int, seed: int) -> None:
    left, right = draw(2, 3, length, seed=seed), draw(2, 1, length, seed=seed + 1)
    expected = plain_product(left, right)
    torch.testing.assert_close(multiply(left, right), expected, rtol=1e-11, atol=1e-11)
    denominator = one(length) + delay(0.1 * right)
    quotient = divide(left, denominator)
    back = plain_product(quotient, denominator.expand_as(quotient))
    torch.testing.assert_close(back, left, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
def test_quotient_times_denominator_is_the_numerator(length: int) -> None:
    numerator = draw(3, 2, length, seed=length)
    denominator = 2.0 * one(length) + delay(0.1 * draw(3, 1, length, seed=1))
    back = multiply(divide(numerator, denominator), denominator)
    torch.testing.assert_close(back, numerator, rtol=0, atol=1e-12)


def test_geometric_series() -> None:
    ratio = 0.7
    series = one(40) - ratio * delay(one(40))
    expected = ratio ** torch.arange(40, dtype=torch.float64)
    torch.testing.assert_close(divide(one(40), series), expected)


@pytest.mark.parametrize("length", (1, 2, 3, 7, 12))
@pytest.mark.parametrize("operation", (multiply, divide))
def test_gradients_match_finite_differences(operation: object, length: int) -> None:
    left = draw(2, 3, length, seed=3).requires_grad_()
    right = (0.3 * draw(2, 1, length, seed=4) + one(length)).requires_grad_()
    assert torch.autograd.gradcheck(operation, (left, right))


def test_delay_drops_the_last_term() -> None:
    assert delay(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0.0, 1.0, 2.0]
