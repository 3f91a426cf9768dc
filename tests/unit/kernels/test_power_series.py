"""Truncated power series: product, delay and reciprocal."""

from __future__ import annotations

import pytest
import torch

from mads4.kernels.power_series import delay, multiply, reciprocal


def one(length: int) -> torch.Tensor:
    return torch.nn.functional.pad(torch.ones(1, dtype=torch.float64), (0, length - 1))


@pytest.mark.parametrize("length", (1, 2, 3, 13, 64, 500))
def test_reciprocal_times_series_is_one(length: int) -> None:
    decay = 0.9 ** torch.arange(length, dtype=torch.float64)
    series = torch.randn(3, length, dtype=torch.float64) * 0.1 * decay
    series = delay(series) + one(length)
    product = multiply(series, reciprocal(series))
    torch.testing.assert_close(product, one(length).expand(3, -1), rtol=0, atol=1e-12)


def test_geometric_series() -> None:
    ratio = 0.7
    series = one(40) - ratio * delay(one(40))
    expected = ratio ** torch.arange(40, dtype=torch.float64)
    torch.testing.assert_close(reciprocal(series), expected)


@pytest.mark.parametrize("length", (1, 2, 7))
def test_reciprocal_gradient_matches_finite_differences(length: int) -> None:
    series = (0.3 * torch.randn(2, length, dtype=torch.float64) + one(length)).requires_grad_()
    assert torch.autograd.gradcheck(reciprocal, (series,))


def test_delay_drops_the_last_term() -> None:
    assert delay(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0.0, 1.0, 2.0]
