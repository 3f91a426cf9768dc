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

_CACHED_ELEMENTS = 1 << 18
"""Elements of one transform buffer that stay in a core's cache between two passes over it."""


def good_fft_size(minimum: int) -> int:
    """Return an even transform size >= `minimum` that is cheap.

    The smallest size without prime factors above 5, or the next power of two where that is at most
    a fifth longer: measured per point, powers of two cost a fifth less.
    """
    power = 2
    while power < minimum:
        power *= 2
    size = max(2, minimum + minimum % 2)
    while not _is_smooth(size):
        size += 2
    return power if 5 * power <= 6 * size else size


def _is_smooth(size: int) -> bool:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1


def kernel_spectrum(taps: Tensor) -> Tensor:
    """Return the transform that `causal_convolution` wants, (H, L) to (H, n / 2 + 1) complex.

    The size n fits inputs of up to L steps. Computing it apart lets several convolutions share it,
    and their gradients add up in the frequency domain.
    """
    size = good_fft_size(2 * taps.shape[-1] - 1)
    spectrum: Tensor = torch.fft.rfft(taps, n=size)
    return spectrum


def _channel_chunks(inputs: Tensor, size: int) -> list[slice]:
    """Split the channels so that one chunk's buffers stay in the cache on a CPU.

    For (96, 16, 500) that takes the backward pass from 10.5 to 4.2 ms of one core.
    """
    channels, batch, _ = inputs.shape
    if inputs.device.type != "cpu":
        return [slice(0, channels)]
    count = max(1, _CACHED_ELEMENTS // max(1, batch * size))
    return [slice(first, first + count) for first in range(0, channels, count)]


class _CausalConvolution(Function):
    """Saves the input's spectrum only; the kernel's gradient is summed over the batch there."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, spectrum: Tensor) -> Tensor:
        frequencies, length = spectrum.shape[-1], inputs.shape[-1]
        size = 2 * (frequencies - 1)
        transformed = spectrum.new_empty(*inputs.shape[:2], frequencies)
        outputs = inputs.new_empty(inputs.shape)
        for part in _channel_chunks(inputs, size):
            rows = transformed[part]
            torch.fft.rfft(inputs[part], n=size, out=rows)
            product = rows * spectrum[part].unsqueeze(1)
            outputs[part] = torch.fft.irfft(product, n=size)[..., :length]
        ctx.save_for_backward(transformed, spectrum)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        transformed, spectrum = ctx.saved_tensors
        size, length = 2 * (spectrum.shape[-1] - 1), grad.shape[-1]
        conjugate = spectrum.conj().resolve_conj().unsqueeze(1)
        grad_spectrum = torch.empty_like(spectrum)
        grad_inputs = grad.new_empty(grad.shape)
        for part in _channel_chunks(grad, size):
            rows = torch.fft.rfft(grad[part], n=size)
            grad_spectrum[part] = (rows * transformed[part].conj()).sum(1)
            product = rows.mul_(conjugate[part])
            grad_inputs[part] = torch.fft.irfft(product, n=size)[..., :length]
        grad_spectrum[:, 1:-1] *= 2.0  # each stands for a pair of conjugate frequencies
        return grad_inputs, grad_spectrum.div_(size)


def causal_convolution(inputs: Tensor, spectrum: Tensor) -> Tensor:
    """Return y_t = Σ_{j <= t} k_j u_{t - j}.

    Args:
        inputs: u, (H, B, T) real.
        spectrum: (H, F) complex, from `kernel_spectrum` of at least T taps.

    Returns:
        (H, B, T) contiguous; differentiable once.

    Raises:
        ValueError: If T is longer than the kernel that the spectrum was made for.
    """
    longest = spectrum.shape[-1] - 1  # n / 2, and the n of `kernel_spectrum` is at least 2 L - 1
    if inputs.shape[-1] > longest:
        raise ValueError(
            f"An input of {inputs.shape[-1]} steps does not fit a kernel for at most {longest}; "
            "make the kernel with the length of the longest sequence."
        )
    return cast(Tensor, _CausalConvolution.apply(inputs, spectrum))  # type: ignore[no-untyped-call]
