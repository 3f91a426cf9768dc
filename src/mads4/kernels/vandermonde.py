"""Vandermonde products: sums of geometric sequences and their transpose, differentiable.

    product:    K_l = 2 Re Σ_n w_n d_n^l      (diagonal kernels, responses to an initial state)
    transpose:  X_n = Σ_l u_l d_n^l           (the state after a whole input sequence)

Each is the other's backward pass, so a backend implements both and no gradients.

Axes: ``H`` channels, ``M`` sequences with the same ``d``, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mads4.kernels.backends.base import Backend, Powers
from mads4.kernels.backends.torch_backend import BACKEND as TORCH


class _RealPowers:
    """Powers of a real base, computed as complex: Σ w d^l = 2 Re Σ (w / 2) d^l."""

    def __init__(self, powers: Powers) -> None:
        self._powers = powers

    def product(self, weight: Tensor) -> Tensor:
        return self._powers.product(torch.complex(0.5 * weight, torch.zeros_like(weight)))

    def transposed(self, values: Tensor) -> Tensor:
        return self._powers.transposed(values).real


def _powers(base: Tensor, length: int, sequences: int, backend: Backend) -> Powers:
    if base.is_complex() or backend.name == TORCH.name:
        return backend.powers(base, length, sequences)
    as_complex = torch.complex(base, torch.zeros_like(base))
    return _RealPowers(backend.powers(as_complex, length, sequences))


def _slope(values: Tensor) -> Tensor:
    """Return ``(l + 1) values_{l + 1}``, the coefficient of ``d^l`` in the derivative by ``d``."""
    length = values.shape[-1]
    index = torch.arange(1, length, dtype=values.dtype, device=values.device)
    return torch.nn.functional.pad(values[..., 1:] * index, (0, 1))


class _Vandermonde(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, base: Tensor, length: int, backend: Backend) -> Tensor:
        ctx.powers = _powers(base, length, weight.shape[1], backend)
        ctx.save_for_backward(weight, base)
        return cast(Powers, ctx.powers).product(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, base = ctx.saved_tensors
        factor = 2.0 if base.is_complex() else 1.0
        grad_weight, grad_base = None, None
        if ctx.needs_input_grad[0]:
            grad_weight = factor * ctx.powers.transposed(grad).conj()
        if ctx.needs_input_grad[1]:
            slopes = ctx.powers.transposed(_slope(grad))
            grad_base = factor * (weight * slopes).sum(1).conj()
        return grad_weight, grad_base, None, None


class _VandermondeTranspose(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, base: Tensor, backend: Backend) -> Tensor:
        ctx.powers = _powers(base, values.shape[-1], values.shape[1], backend)
        ctx.save_for_backward(values, base)
        return cast(Powers, ctx.powers).transposed(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, base = ctx.saved_tensors
        needs_values, needs_base, _ = ctx.needs_input_grad
        grad_values, grad_base = None, None
        if needs_values:
            weight = 0.5 * grad.conj().resolve_conj() if base.is_complex() else grad
            grad_values = ctx.powers.product(weight)
        if needs_base:
            grad_base = (grad * ctx.powers.transposed(_slope(values)).conj()).sum(1)
        return grad_values, grad_base, None


def vandermonde(weight: Tensor, base: Tensor, length: int, backend: Backend = TORCH) -> Tensor:
    """Return K_l = 2 Re Σ_n w_n d_n^l for l = 0 … L - 1; for a real d, Σ_n w_n d_n^l.

    Args:
        weight: w, (H, M, N), of the dtype of `base`.
        base: d, (H, N), complex (one of each conjugate pair) or real, shared by the M sequences of
            a channel; zero is allowed.
        length: L >= 1.
        backend: The implementation, see `mads4.kernels.backends`.

    Returns:
        (H, M, L) real, differentiable once in `weight` and `base`.
    """
    result = _Vandermonde.apply(weight, base, length, backend)  # type: ignore[no-untyped-call]
    return cast(Tensor, result)


def vandermonde_transpose(values: Tensor, base: Tensor, backend: Backend = TORCH) -> Tensor:
    """Return X_n = Σ_l u_l d_n^l.

    Args:
        values: u, (H, M, L) real.
        base: d, (H, N) complex or real, of the same precision.
        backend: The implementation.

    Returns:
        (H, M, N) of the dtype of `base`, differentiable once in both arguments.
    """
    result = _VandermondeTranspose.apply(values, base, backend)  # type: ignore[no-untyped-call]
    return cast(Tensor, result)
