"""Truncated power series along the last axis: product and quotient, by real FFTs.

A linear feedback loop in discrete time is a division of power series in the delay operator; doing
it with series instead of a recurrence keeps it parallel over time. Adjoints are products and
quotients of the same kind with time reversed.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mads4.kernels.convolution import good_fft_size


def _inverse(spectrum: Tensor, size: int, terms: slice) -> Tensor:
    values: Tensor = torch.fft.irfft(spectrum, n=size)
    return values[..., terms]


def _sum_to(values: Tensor, shape: torch.Size) -> Tensor:
    """Sum over the axes along which a factor was broadcast, all but the last."""
    axes = [axis for axis in range(len(shape) - 1) if shape[axis] < values.shape[axis]]
    return values.sum(axes, keepdim=True) if axes else values


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        length = left.shape[-1]
        size = good_fft_size(2 * length - 1)
        spectra = torch.fft.rfft(left, n=size), torch.fft.rfft(right, n=size)
        ctx.save_for_backward(*spectra)
        return _inverse(spectra[0] * spectra[1], size, slice(length))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        length, size = grad.shape[-1], 2 * (left.shape[-1] - 1)
        spectrum = torch.fft.rfft(grad, n=size)
        grads: list[Tensor | None] = [None, None]
        for index, (own, other) in enumerate(((left, right), (right, left))):
            if ctx.needs_input_grad[index]:
                correlated = _sum_to(spectrum * other.conj(), own.shape)
                grads[index] = _inverse(correlated, size, slice(length))
        return tuple(grads)


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two series of L terms each, truncated to L terms.

    Args:
        left: (..., L) real.
        right: (..., L) real of as many axes, broadcast against `left`; differentiable once.
    """
    return cast(Tensor, _Product.apply(left, right))  # type: ignore[no-untyped-call]


def delay(series: Tensor) -> Tensor:
    """Multiply by the delay operator: shift one step later, drop the last term."""
    return torch.nn.functional.pad(series[..., :-1], (1, 0))


def _reciprocal(series: Tensor, terms: int) -> Tensor:
    """Return the first `terms` terms of 1 / series, by Newton's iteration.

    Each pass doubles the number m of correct terms. Transforms of size n = 2 m suffice for the
    product of n and m terms, because it wraps around onto the first m terms, which are known.
    """
    result = 1.0 / series[..., :1]
    while result.shape[-1] < terms:
        known, wanted = result.shape[-1], min(2 * result.shape[-1], terms)
        size = good_fft_size(wanted)
        spectrum = torch.fft.rfft(result, n=size)
        error = torch.fft.rfft(series[..., :wanted], n=size) * spectrum
        excess = torch.fft.rfft(_inverse(error, size, slice(known, wanted)), n=size)
        more = _inverse(excess * spectrum, size, slice(wanted - known))
        result = torch.cat([result, -more], dim=-1)
    return result


def _divide(numerator: Tensor, denominator: Tensor, half: Tensor) -> Tensor:
    """Return numerator / denominator, given the first half of 1 / denominator.

    The quotient's second half comes from the remainder of its first half (Karp and Markstein, doi
    10.1145/279232.279237, for series), which is cheaper than the reciprocal's second half.

    Args:
        numerator: (..., L).
        denominator: Spectrum of the denominator's L terms, of a size n >= L.
        half: (..., ⌈L / 2⌉).
    """
    known, length, size = half.shape[-1], numerator.shape[-1], 2 * (denominator.shape[-1] - 1)
    inverse = torch.fft.rfft(half, n=size)
    leading = torch.fft.rfft(numerator[..., :known], n=size)
    first = _inverse(inverse * leading, size, slice(known))
    if length == known:
        return first
    made = _inverse(denominator * torch.fft.rfft(first, n=size), size, slice(known, length))
    remainder = torch.fft.rfft(numerator[..., known:] - made, n=size)
    return torch.cat([first, _inverse(inverse * remainder, size, slice(length - known))], dim=-1)


class _Quotient(Function):
    @staticmethod
    def forward(ctx: Any, numerator: Tensor, denominator: Tensor) -> Tensor:
        length = denominator.shape[-1]
        half = _reciprocal(denominator, (length + 1) // 2)
        spectrum = torch.fft.rfft(denominator, n=good_fft_size(length))
        result = _divide(numerator, spectrum, half)
        ctx.save_for_backward(spectrum, half, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        spectrum, half, result = ctx.saved_tensors
        reversed_grad = _divide(grad.flip(-1), spectrum, half)
        grad_denominator = None
        if ctx.needs_input_grad[1]:
            product = multiply(reversed_grad, result)
            shape = torch.Size((*half.shape[:-1], product.shape[-1]))
            grad_denominator = -_sum_to(product, shape).flip(-1)
        return reversed_grad.flip(-1), grad_denominator


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient of two series of L terms each, up to the truncation.

    Args:
        numerator: (..., L) real.
        denominator: (..., L) real of as many axes, broadcast against the numerator; its first
            term is not 0.

    Returns:
        (..., L) of the numerator's shape, differentiable once in both arguments.
    """
    return cast(Tensor, _Quotient.apply(numerator, denominator))  # type: ignore[no-untyped-call]
