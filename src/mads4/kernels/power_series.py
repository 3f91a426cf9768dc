"""Truncated power series along the last axis: product and reciprocal, by FFT.

A linear feedback loop in discrete time is a division of power series in the delay operator; doing
it with series instead of a recurrence keeps it parallel over time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mads4.kernels.convolution import good_fft_size


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two series of L terms each, truncated to L terms (broadcasting)."""
    length = left.shape[-1]
    size = good_fft_size(2 * length - 1)
    product = torch.fft.rfft(left, n=size) * torch.fft.rfft(right, n=size)
    result: Tensor = torch.fft.irfft(product, n=size)[..., :length]
    return result


def delay(series: Tensor) -> Tensor:
    """Multiply by the delay operator: shift one step later, drop the last term."""
    return torch.nn.functional.pad(series[..., :-1], (1, 0))


def _correlate(grad: Tensor, series: Tensor) -> Tensor:
    """Return Σ_{t >= l} grad_t series_{t - l}: the adjoint of `multiply` by `series`."""
    return multiply(grad.flip(-1), series).flip(-1)


class _Reciprocal(Function):
    """Newton's iteration g ← g (2 - f g), which doubles the number of correct terms."""

    @staticmethod
    def forward(ctx: Any, series: Tensor) -> Tensor:
        length = series.shape[-1]
        result = 1.0 / series[..., :1]
        while result.shape[-1] < length:
            terms = min(2 * result.shape[-1], length)
            result = torch.nn.functional.pad(result, (0, terms - result.shape[-1]))
            error = multiply(series[..., :terms], result)
            error[..., 0] -= 2.0
            result = -multiply(result, error)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return -_correlate(_correlate(grad, result), result)


def reciprocal(series: Tensor) -> Tensor:
    """Return the series g with ``series * g = 1`` up to the truncation.

    Args:
        series: (..., L) real, its first term not 0; differentiable once.
    """
    return cast(Tensor, _Reciprocal.apply(series))  # type: ignore[no-untyped-call]
