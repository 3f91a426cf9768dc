"""The FFT convolution against the plain sum, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mads4.kernels import convolution
from mads4.kernels.convolution import (
    DIRECT_LENGTH,
    causal_convolution,
    convolution_operator,
    good_fft_size,
    kernel_matrix,
    kernel_spectrum,
)

Operator = Callable[[torch.Tensor], torch.Tensor]
OPERATORS = pytest.mark.parametrize("operator", (kernel_spectrum, kernel_matrix))


def plain_convolution(inputs: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    length = inputs.shape[-1]
    shifted = [
        torch.nn.functional.pad(inputs, (j, 0))[..., :length] * taps[:, None, j : j + 1]
        for j in range(length)
    ]
    return torch.stack(shifted).sum(0)


@OPERATORS
@pytest.mark.parametrize("length", (1, 2, 3, 31, 64, 100))
@pytest.mark.parametrize(("dtype", "tolerance"), ((torch.float64, 1e-12), (torch.float32, 1e-5)))
def test_matches_the_plain_sum(
    operator: Operator, length: int, dtype: torch.dtype, tolerance: float
) -> None:
    inputs, taps = torch.randn(5, 3, length, dtype=dtype), torch.randn(5, length, dtype=dtype)
    result = causal_convolution(inputs, operator(taps))
    expected = plain_convolution(inputs, taps)
    assert (result - expected).abs().max() <= tolerance * expected.abs().max()


@OPERATORS
def test_a_shorter_input_may_use_a_longer_kernel(operator: Operator) -> None:
    inputs, taps = torch.randn(2, 3, 20).double(), torch.randn(2, 50).double()
    expected = plain_convolution(inputs, taps)
    torch.testing.assert_close(causal_convolution(inputs, operator(taps)), expected)


@OPERATORS
@pytest.mark.parametrize("length", (1, 2, 5, 8))
def test_gradients_match_finite_differences(
    operator: Operator, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_CACHED_ELEMENTS", 64)  # several chunks of channels
    inputs = torch.randn(5, 2, length, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(5, length, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, k: causal_convolution(u, operator(k)), (inputs, taps))


@OPERATORS
def test_a_sequence_beyond_the_kernel_is_refused(operator: Operator) -> None:
    with pytest.raises(ValueError, match="40 steps"):
        causal_convolution(torch.randn(2, 1, 40), operator(torch.randn(2, 10)))


@pytest.mark.parametrize(
    ("length", "is_spectrum"), ((1, False), (DIRECT_LENGTH, False), (DIRECT_LENGTH + 1, True))
)
def test_short_kernels_are_applied_as_matrices(length: int, is_spectrum: bool) -> None:
    assert convolution_operator(torch.randn(2, length)).is_complex() is is_spectrum


@pytest.mark.parametrize("minimum", (1, 2, 3, 97, 999, 1001, 3999, 31_999))
def test_fft_sizes_are_even_smooth_and_close(minimum: int) -> None:
    size = good_fft_size(minimum)
    assert size % 2 == 0
    assert minimum <= size <= max(2, 1.25 * minimum + 4)
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    assert size == 1
