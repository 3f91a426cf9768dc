"""Causal convolution by real FFTs, with a backward pass that stays in the frequency domain.

Time is the last, contiguous axis and channels the first, (H, B, T): transforms run over contiguous
rows, and the mixing between channels that follows is a single (H, H) x (H, B T) product.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def good_fft_size(minimum: int) -> int:
    """Return the smallest even size >= `minimum` without prime factors above 5."""
    size = max(2, minimum + minimum % 2)
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def kernel_spectrum(taps: Tensor) -> Tensor:
    """Return the transform that `causal_convolution` wants, (H, L) to (H, n / 2 + 1) complex.

    The size n fits inputs of up to L steps. Computing it apart lets several convolutions share it,
    and their gradients add up in the frequency domain.
    """
    return torch.fft.rfft(taps, n=good_fft_size(2 * taps.shape[-1] - 1))


class _CausalConvolution(Function):
    """Saves the input's spectrum only; the kernel's gradient is summed over the batch there."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, spectrum: Tensor) -> Tensor:
        size = 2 * (spectrum.shape[-1] - 1)
        transformed = torch.fft.rfft(inputs, n=size)
        ctx.save_for_backward(transformed, spectrum)
        product = transformed * spectrum.unsqueeze(1)
        return torch.fft.irfft(product, n=size)[..., : inputs.shape[-1]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        transformed, spectrum = ctx.saved_tensors
        size = 2 * (spectrum.shape[-1] - 1)
        grad_transformed = torch.fft.rfft(grad, n=size)
        grad_inputs, grad_spectrum = None, None
        if ctx.needs_input_grad[1]:
            grad_spectrum = (grad_transformed * transformed.conj()).sum(1)
            grad_spectrum[:, 1:-1] *= 2.0  # each stands for a pair of conjugate frequencies
            grad_spectrum /= size
        if ctx.needs_input_grad[0]:
            product = grad_transformed.mul_(spectrum.conj().resolve_conj().unsqueeze(1))
            grad_inputs = torch.fft.irfft(product, n=size)[..., : grad.shape[-1]]
        return grad_inputs, grad_spectrum


def causal_convolution(inputs: Tensor, spectrum: Tensor) -> Tensor:
    """Return y_t = Σ_{j <= t} k_j u_{t - j}.

    Args:
        inputs: u, (H, B, T) real.
        spectrum: (H, F) complex, from `kernel_spectrum` of at least T taps.

    Returns:
        (H, B, T), possibly a strided view of a longer buffer; differentiable once.

    Raises:
        ValueError: If T is longer than the kernel that the spectrum was made for.
    """
    longest = spectrum.shape[-1] - 1  # n / 2, and the n of `kernel_spectrum` is at least 2 L - 1
    if inputs.shape[-1] > longest:
        raise ValueError(
            f"An input of {inputs.shape[-1]} steps does not fit a kernel for at most {longest}; "
            "make the kernel with the length of the longest sequence."
        )
    return cast(Tensor, _CausalConvolution.apply(inputs, spectrum))
