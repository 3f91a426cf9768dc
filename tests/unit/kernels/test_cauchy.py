"""Cauchy products against their definition, values and gradients in every input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.kernels.backends import torch_backend
from mads4.kernels.cauchy import cauchy, complex_cauchy

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(length: int, pairs: int, seed: int) -> Inputs:
    """Weights (2, 3, N), poles in the left half-plane (2, N), nodes in the right one (L,)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.complex128)

    def half_plane(values: torch.Tensor) -> torch.Tensor:
        return torch.complex(values.real.abs() + 0.3, values.imag)

    return draw(2, 3, pairs), -half_plane(draw(2, pairs)), half_plane(draw(length))


def plain(weight: torch.Tensor, poles: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    terms = weight.unsqueeze(-1) / (nodes - poles.unsqueeze(-1)).unsqueeze(1)
    return terms.sum(2)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 60), pairs=st.integers(1, 7), seed=st.integers(0, 10_000))
def test_products_match_the_definition(length: int, pairs: int, seed: int) -> None:
    weight, poles, nodes = inputs(length, pairs, seed)
    once = plain(weight, poles, nodes)
    both = once + plain(weight.conj(), poles.conj(), nodes)
    torch.testing.assert_close(complex_cauchy(weight, poles, nodes), once, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(cauchy(weight, poles, nodes), both, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", (1, 2, 5))
@pytest.mark.parametrize("chunk", (1, 1 << 21))
def test_gradients_match_finite_differences(
    length: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_backend, "_CAUCHY_ELEMENTS", chunk)
    leaves = tuple(value.requires_grad_() for value in inputs(length, 3, seed=length))
    assert torch.autograd.gradcheck(cauchy, leaves)
    assert torch.autograd.gradcheck(complex_cauchy, leaves)
