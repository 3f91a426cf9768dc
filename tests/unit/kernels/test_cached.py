"""Powers that are reused for the next product with the same base."""

from __future__ import annotations

import torch

from mads4.kernels.backends import CachedBackend
from mads4.kernels.backends.torch_backend import BACKEND
from mads4.kernels.vandermonde import vandermonde, vandermonde_transpose


def test_the_same_base_and_length_are_prepared_once() -> None:
    torch.manual_seed(0)
    base = torch.polar(torch.rand(3, 4).double(), torch.rand(3, 4).double())
    kept = CachedBackend(BACKEND)
    first = kept.powers(base, 7, 9)
    assert kept.powers(base, 7, 2) is first
    assert kept.powers(base, 6, 9) is not first
    assert kept.powers(base.clone(), 6, 9) is not kept.powers(base, 6, 9)


def test_values_and_gradients_are_those_of_the_backend_itself() -> None:
    torch.manual_seed(0)
    base = torch.polar(torch.rand(3, 4).double(), torch.rand(3, 4).double()).requires_grad_()
    weight = torch.randn(3, 9, 4, dtype=torch.complex128, requires_grad=True)
    values = torch.randn(3, 9, 7, dtype=torch.float64, requires_grad=True)
    found = []
    for backend in (BACKEND, CachedBackend(BACKEND)):
        out = vandermonde(weight, base, 7, backend).square().sum()
        back = vandermonde_transpose(values, base, backend).abs().square().sum()
        found.append(torch.autograd.grad(out + back, (weight, base, values)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_many_short_sequences_agree_with_few() -> None:
    """The torch backend prepares all powers where that is less work, two factors elsewhere."""
    torch.manual_seed(0)
    base = torch.polar(torch.rand(3, 4).double(), torch.rand(3, 4).double())
    weight = torch.randn(3, 60, 4, dtype=torch.complex128)
    few, many = BACKEND.powers(base, 50), BACKEND.powers(base, 50, 60)
    assert many.outer.shape[1] == 1 < few.outer.shape[1]
    torch.testing.assert_close(many.product(weight), few.product(weight))
    values = torch.randn(3, 60, 50, dtype=torch.float64)
    torch.testing.assert_close(many.transposed(values), few.transposed(values))
