"""Sums of geometric sequences, K_l = 2 Re Σ_n c_n d_n^l, without an L x N matrix.

With ``l = a S + b`` and ``S ≈ √L`` the power splits, ``d^l = (d^S)^a d^b``, so that the sum over
n is one real matrix product of an (A, 2N) and a (2N, S) factor per channel. Memory is O(N √L)
instead of O(N L). Powers come from repeated doubling, which needs multiplications only and no
logarithm of ``d`` (bilinear discretisation may put ``d`` at zero). Everything is computed in
float64: the factors are so small that this costs little, and the phase of ``d^l`` keeps its
digits at any length.

Axes: ``H`` channels, ``M`` sequences sharing one ``d``, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def powers(base: Tensor, count: int) -> Tensor:
    """Return ``base^0 … base^(count - 1)``, (H, N) to (H, count, N), by repeated doubling."""
    result = base.new_ones(base.shape[0], 1, base.shape[1])
    factor = base.unsqueeze(1)
    while result.shape[1] < count:
        missing = count - result.shape[1]
        result = torch.cat([result, result[:, :missing] * factor], dim=1)
        factor = factor * factor
    return result


def _split_powers(base: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return ``(d^S)^a`` (H, A, N) and ``d^b`` (H, S, N) with A S >= length."""
    inner_count = math.isqrt(max(length - 1, 0)) + 1
    outer_count = -(-length // inner_count)
    inner = powers(base, inner_count)
    outer = powers(inner[:, -1] * base, outer_count)
    return outer, inner


def _as_real_rows(values: Tensor) -> Tensor:
    """View complex (..., N) as real (..., 2N) with real and imaginary parts interleaved."""
    return torch.view_as_real(values).flatten(-2)


def _geometric_sums(weight: Tensor, outer: Tensor, inner: Tensor, length: int) -> Tensor:
    """Return ``2 Re Σ_n weight_n d_n^l``, (H, M, N) to (H, M, length)."""
    channels, sequences, _ = weight.shape
    left = (2.0 * weight).unsqueeze(2) * outer.unsqueeze(1)
    rows = _as_real_rows(left).flatten(1, 2)
    columns = _as_real_rows(inner.conj().resolve_conj())
    product = torch.bmm(rows, columns.transpose(1, 2))
    return product.view(channels, sequences, -1)[..., :length]


def _moments(values: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """Return ``Σ_l values_l d_n^l``, real (H, M, L) to complex (H, M, N)."""
    channels, sequences, length = values.shape
    outer_count, inner_count = outer.shape[1], inner.shape[1]
    padded = torch.nn.functional.pad(values, (0, outer_count * inner_count - length))
    rows = padded.reshape(channels, sequences * outer_count, inner_count)
    partial = torch.bmm(rows, _as_real_rows(inner))
    blocks = partial.view(channels, sequences, outer_count, -1, 2)
    return (torch.view_as_complex(blocks) * outer.unsqueeze(1)).sum(2)


def _slope(values: Tensor) -> Tensor:
    """Return ``(l + 1) values_{l + 1}``: what multiplies ``d^l`` in the derivative by ``d``."""
    length = values.shape[-1]
    index = torch.arange(1, length, dtype=values.dtype, device=values.device)
    return torch.nn.functional.pad(values[..., 1:] * index, (0, 1))


class _GeometricSums(Function):
    """`geometric_sums` with a backward pass of the same factorised form."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, base: Tensor, length: int) -> Tensor:
        outer, inner = _split_powers(base, length)
        ctx.save_for_backward(weight, outer, inner)
        return _geometric_sums(weight, outer, inner, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, outer, inner = ctx.saved_tensors
        sequences = grad.shape[1]
        needs_weight, needs_base, _ = ctx.needs_input_grad
        rows = torch.cat([grad, _slope(grad)], dim=1) if needs_base else grad
        moments = _moments(rows, outer, inner).conj()
        grad_weight = 2.0 * moments[:, :sequences] if needs_weight else None
        if not needs_base:
            return grad_weight, None, None
        return grad_weight, 2.0 * (weight.conj() * moments[:, sequences:]).sum(1), None


class _Moments(Function):
    """`moments` with a backward pass of the same factorised form."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, base: Tensor) -> Tensor:
        outer, inner = _split_powers(base, values.shape[-1])
        ctx.save_for_backward(values, outer, inner)
        return _moments(values, outer, inner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        values, outer, inner = ctx.saved_tensors
        needs_values, needs_base = ctx.needs_input_grad
        grad_values, grad_base = None, None
        if needs_values:
            weight = 0.5 * grad.conj()
            grad_values = _geometric_sums(weight, outer, inner, values.shape[-1])
        if needs_base:
            slopes = _moments(_slope(values), outer, inner)
            grad_base = (grad * slopes.conj()).sum(1)
        return grad_values, grad_base


def geometric_sums(weight: Tensor, base: Tensor, length: int) -> Tensor:
    """Return K_l = 2 Re Σ_n weight_n base_n^l for l = 0 … length - 1.

    Args:
        weight: (H, M, N) complex128.
        base: (H, N) complex128, shared by the M sequences of a channel; zero is allowed.
        length: L >= 1.

    Returns:
        (H, M, L) float64, differentiable once in `weight` and `base`.
    """
    return cast(Tensor, _GeometricSums.apply(weight, base, length))  # type: ignore[no-untyped-call]


def moments(values: Tensor, base: Tensor) -> Tensor:
    """Return Σ_l values_l base_n^l, the transpose of `geometric_sums`.

    Args:
        values: (H, M, L) float64.
        base: (H, N) complex128.

    Returns:
        (H, M, N) complex128, differentiable once in both arguments.
    """
    return cast(Tensor, _Moments.apply(values, base))  # type: ignore[no-untyped-call]
