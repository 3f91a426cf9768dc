"""Factorized geometric sums against the plain Vandermonde product, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.kernels.backends.torch_backend import powers
from mads4.kernels.reference import vandermonde_kernel
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose

LENGTHS = (1, 2, 3, 7, 9, 16, 37, 500)


def random_complex(*shape: int, radius: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    modulus = radius * torch.rand(shape, generator=generator, dtype=torch.float64)
    angle = 6.3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.polar(modulus, angle)


def direct_moments(values: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    matrix = base.unsqueeze(-1) ** torch.arange(values.shape[-1])
    return torch.einsum("hml,hnl->hmn", values.to(base.dtype), matrix)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 130), pairs=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_sums_match_the_vandermonde_product(length: int, pairs: int, seed: int) -> None:
    weight = random_complex(2, 3, pairs, radius=2.0, seed=seed)
    base = random_complex(2, pairs, radius=1.0, seed=seed + 1)
    fast = vandermonde(weight, base, length)
    for m in range(3):
        plain = vandermonde_kernel(weight[:, m], torch.ones_like(base), base, length)
        torch.testing.assert_close(fast[:, m], plain, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
def test_moments_match_the_direct_sum(length: int) -> None:
    values = torch.randn(2, 3, length, dtype=torch.float64)
    base = random_complex(2, 4, radius=1.0, seed=length)
    torch.testing.assert_close(
        vandermonde_transpose(values, base), direct_moments(values, base), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("length", (1, 2, 3, 10))
def test_gradients_match_finite_differences(length: int) -> None:
    weight = random_complex(2, 2, 3, radius=2.0, seed=1).requires_grad_()
    base = random_complex(2, 3, radius=1.0, seed=2).requires_grad_()
    values = torch.randn(2, 2, length, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, d: vandermonde(w, d, length), (weight, base))
    assert torch.autograd.gradcheck(vandermonde_transpose, (values, base))


def test_a_zero_base_gives_one_tap_and_finite_gradients() -> None:
    weight = random_complex(1, 1, 2, radius=2.0, seed=3)
    base = torch.zeros(1, 2, dtype=torch.complex128, requires_grad=True)
    taps = vandermonde(weight, base, 5)
    assert taps[0, 0, 1:].abs().max() == 0
    taps.sum().backward()
    torch.testing.assert_close(base.grad, 2.0 * weight[:, 0].conj())


@pytest.mark.parametrize("count", (1, 2, 5, 16))
def test_powers_by_doubling(count: int) -> None:
    base = random_complex(2, 3, radius=1.1, seed=4)
    expected = torch.stack([base**k for k in range(count)], dim=1)
    torch.testing.assert_close(powers(base, count), expected)


@pytest.mark.parametrize("length", (1, 2, 5, 17))
def test_real_bases_need_no_conjugates(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    weight = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    base = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    values = torch.randn(2, 3, length, generator=generator, dtype=torch.float64)
    matrix = base.unsqueeze(-1) ** torch.arange(length)
    torch.testing.assert_close(vandermonde(weight, base, length), weight @ matrix)
    torch.testing.assert_close(vandermonde_transpose(values, base), values @ matrix.mT)
    leaves = [value.requires_grad_() for value in (weight, base, values)]
    assert torch.autograd.gradcheck(lambda w, d: vandermonde(w, d, length), leaves[:2])
    assert torch.autograd.gradcheck(vandermonde_transpose, (leaves[2], leaves[1]))
