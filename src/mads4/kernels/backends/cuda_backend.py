"""Vandermonde products as fused GPU kernels: one launch each, nothing of size N × L in memory.

Triton rather than CUDA C++, because it comes with PyTorch's CUDA builds: users need neither nvcc
nor a build per pair of PyTorch and CUDA versions, only a C compiler, with which Triton builds its
launcher at first use. Its interpreter runs the same kernels on CPU tensors, so that values and
gradients are tested without a GPU. The device code is in `mads4.kernels.backends.triton_kernels`;
Triton is imported at the first launch.

To run on a CPU, for tests, set ``TRITON_INTERPRET=1`` before Triton is imported. It takes seconds
for what a GPU does in microseconds.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.kernels.backends.torch_backend import agrees

_LOWEST_LOG2 = -4096.0
"""In place of log2 0: its power is below the smallest float64, yet zero times it is zero."""

Constants = dict[str, int]
"""Compile-time constants of a kernel: ``BLOCK_A`` rows of a tile, whose exponents are multiples of
``BLOCK_B``; ``BLOCK_B`` columns with consecutive ones; ``BLOCK_N`` conjugate pairs at once; and
``num_warps`` groups of 32 threads."""


def _tile(rows: int, columns: int, pairs: int, warps: int) -> Constants:
    return {"BLOCK_A": rows, "BLOCK_B": columns, "BLOCK_N": pairs, "num_warps": warps}


def product_tile(length: int, dtype: torch.dtype) -> Constants:
    """Return the tile of a product: small ones fill the GPU, large ones save exponentials."""
    if dtype == torch.float64:
        return _tile(16, 16, 8, 4)
    if length <= 1024:
        return _tile(16, 16, 16, 4)
    return _tile(32, 32, 16, 4) if length <= 4096 else _tile(64, 64, 16, 8)


def transposed_tile(length: int, dtype: torch.dtype) -> Constants:
    """Return the tile of a transposed product, whose programs loop over the whole length."""
    if dtype == torch.float64:
        return _tile(16, 16, 8, 4)
    return _tile(16, 16, 16, 4) if length <= 512 else _tile(16, 64, 16, 4)


def _real(values: Tensor) -> Tensor:
    """Return contiguous memory as kernels read it: no lazy sign, complex numbers as pairs."""
    values = values.resolve_conj().resolve_neg().contiguous()
    return torch.view_as_real(values) if values.is_complex() else values


@dataclass(frozen=True)
class LogarithmicPowers:
    """base^l from logarithm and angle of the base, in float64 for either precision."""

    log2_modulus: Tensor
    """log2 |d|, (H, N) float64."""
    turns: Tensor
    """arg(d) / 2π, (H, N) float64."""
    length: int
    """L."""

    def product(self, weight: Tensor) -> Tensor:
        """Return 2 Re Σ_n weight_n d_n^l, complex (H, M, N) to real (H, M, L)."""
        channels, sequences, _ = weight.shape
        pairs = _real(weight)
        result = pairs.new_empty(channels, sequences, self.length)
        tile = product_tile(self.length, result.dtype)
        tiles = -(-self.length // (tile["BLOCK_A"] * tile["BLOCK_B"]))
        self._launch("vandermonde_kernel", tiles, pairs, result, tile)
        return result

    def transposed(self, values: Tensor) -> Tensor:
        """Return Σ_l values_l d_n^l, real (H, M, L) to complex (H, M, N)."""
        channels, sequences, length = values.shape
        modes = self.turns.shape[-1]
        rows = _real(values)
        result = rows.new_empty(channels, sequences, modes, 2)
        tile = transposed_tile(length, result.dtype)
        tiles = -(-modes // tile["BLOCK_N"])
        self._launch("vandermonde_transposed_kernel", tiles, rows, result, tile)
        return torch.view_as_complex(result)

    def _launch(
        self, name: str, tiles: int, values: Tensor, result: Tensor, constants: Constants
    ) -> None:
        """Run the kernel of that name on the device of the values."""
        from mads4.kernels.backends import triton_kernels

        kernel, sequences = getattr(triton_kernels, name), values.shape[1]
        arguments = (values, self.log2_modulus, self.turns, result)
        sizes = (sequences, self.turns.shape[-1], self.length)
        on_device = torch.cuda.device(values.device) if values.is_cuda else nullcontext()
        with on_device:
            grid = (values.shape[0] * sequences, tiles)
            kernel[grid](*arguments, *sizes, **constants, enable_fp_fusion=True)


class CudaBackend:
    """Triton kernels for the product and its transpose.

    It comes first on a CUDA device, because one launch replaces the dozens of small ones that split
    powers take.
    """

    name = "cuda"

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> LogarithmicPowers:
        """Take the logarithm of a complex base, (H, N), see `Backend.powers`."""
        exact = base.detach().resolve_conj().contiguous().to(torch.complex128)
        log2_modulus = exact.abs().log2().clamp(min=_LOWEST_LOG2)
        return LogarithmicPowers(log2_modulus, exact.angle() / (2.0 * torch.pi), length)


BACKEND = CudaBackend()
AUTO_RANK = {"cuda": 1}


def reason_against(device: torch.device) -> str | None:
    """Return why it cannot run on a device, or None if it computes a tiny product correctly."""
    if importlib.util.find_spec("triton") is None:
        return (
            "Triton is not installed; it comes with PyTorch's CUDA builds for Linux, "
            "elsewhere `pip install triton`."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        return "needs a CUDA device; PyTorch sees none here."
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not (device.type == "cpu" and interpreted):
        return (
            f"needs a CUDA device; the tensors are on {device.type} (for tests on a CPU, set "
            "TRITON_INTERPRET=1 before Python starts)."
        )
    try:
        correct = agrees(BACKEND, device, 3)
    except Exception as error:  # Triton and its compiler raise many kinds
        message = " ".join(str(error).split())[:300]
        return f"its kernels do not run: {type(error).__name__}: {message}"
    return None if correct else "its kernels give wrong values on this device."
