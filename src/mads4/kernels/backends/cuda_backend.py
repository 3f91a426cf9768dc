"""The products as fused GPU kernels: one launch each, nothing of size N × L in memory.

Why Triton and not CUDA C++: it comes with PyTorch's CUDA builds, so that a user needs neither nvcc
nor a build step for each pair of PyTorch and CUDA versions (only the host's C compiler, with which
Triton builds its launcher at first use), and its interpreter runs the same kernels on CPU tensors,
so that values and gradients are tested where there is no GPU. The device code is in
`mads4.kernels.backends.triton_kernels`; Triton is imported at the first launch, not before.

To run on a CPU, set ``TRITON_INTERPRET=1`` before anything imports Triton. That is for tests: it
takes seconds for what a device does in microseconds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mads4.kernels.backends.torch_backend import BACKEND as TORCH

_LOWEST_LOG2 = -4096.0
"""Stands for log2 0: below the smallest float64, yet zero times it is zero."""


@dataclass(frozen=True)
class Tile:
    """How a sum over a tile of time and pairs is cut for one program."""

    outer: int
    """Rows: multiples of `inner` in the exponent."""
    inner: int
    """Columns: consecutive exponents."""
    pairs: int
    """Conjugate pairs at once."""
    warps: int
    """Groups of 32 threads."""

    @property
    def length(self) -> int:
        """Time steps covered."""
        return self.outer * self.inner

    def constants(self) -> dict[str, int]:
        """Return what the Vandermonde kernels are compiled with."""
        return {
            "BLOCK_A": self.outer,
            "BLOCK_B": self.inner,
            "BLOCK_N": self.pairs,
            "num_warps": self.warps,
        }


_DOUBLE = Tile(16, 16, 8, 4)
_SHORT = Tile(16, 16, 16, 4)
_MEDIUM = Tile(32, 32, 16, 4)
_LONG = Tile(64, 64, 16, 8)
_WALK = Tile(16, 64, 16, 4)


def product_tile(length: int, dtype: torch.dtype) -> Tile:
    """Return the tile of a product: small ones fill the device, large ones save exponentials."""
    if dtype == torch.float64:
        return _DOUBLE
    if length <= 1024:
        return _SHORT
    return _MEDIUM if length <= 4096 else _LONG


def transposed_tile(length: int, dtype: torch.dtype) -> Tile:
    """Return the tile of a transposed product; its programs walk the whole length."""
    if dtype == torch.float64:
        return _DOUBLE
    return _SHORT if length <= 512 else _WALK


CAUCHY = {"BLOCK_L": 256, "num_warps": 4}
CAUCHY_TRANSPOSED = {"BLOCK_L": 128, "BLOCK_N": 8, "num_warps": 4}


def _real(values: Tensor) -> Tensor:
    """Return what a kernel can read: contiguous, no pending sign, complex numbers as pairs."""
    values = values.resolve_conj().resolve_neg().contiguous()
    return torch.view_as_real(values) if values.is_complex() else values


def _launch(name: str, rows: int, tiles: int, *arguments: Tensor | int, **constants: Any) -> None:
    """Run the kernel of that name on the device of its first argument."""
    from mads4.kernels.backends import triton_kernels

    first = arguments[0]
    assert isinstance(first, Tensor)
    on_device = torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext()
    with on_device:
        kernel = getattr(triton_kernels, name)
        kernel[(rows, tiles)](*arguments, **constants, enable_fp_fusion=True)


@dataclass(frozen=True)
class LogarithmicPowers:
    """base^l by the base's logarithm and angle, both in float64 whatever the base's precision."""

    log2_modulus: Tensor
    """log2 |d|, (H, N) float64."""
    turns: Tensor
    """arg(d) / 2π, (H, N) float64."""
    length: int
    """L."""

    def product(self, weight: Tensor) -> Tensor:
        """Return 2 Re Σ_n weight_n d_n^l, complex (H, M, N) to real (H, M, L)."""
        channels, sequences, modes = weight.shape
        pairs = _real(weight)
        result = pairs.new_empty(channels, sequences, self.length)
        tile = product_tile(self.length, result.dtype)
        _launch(
            "vandermonde_kernel",
            channels * sequences,
            -(-self.length // tile.length),
            *(pairs, self.log2_modulus, self.turns, result),
            *(sequences, modes, self.length),
            **tile.constants(),
        )
        return result

    def transposed(self, values: Tensor) -> Tensor:
        """Return Σ_l values_l d_n^l, real (H, M, L) to complex (H, M, N)."""
        channels, sequences, length = values.shape
        modes = self.turns.shape[-1]
        rows = _real(values)
        result = rows.new_empty(channels, sequences, modes, 2)
        tile = transposed_tile(length, result.dtype)
        _launch(
            "vandermonde_transposed_kernel",
            channels * sequences,
            -(-modes // tile.pairs),
            *(rows, self.log2_modulus, self.turns, result),
            *(sequences, modes, length),
            **tile.constants(),
        )
        return torch.view_as_complex(result)


class CudaBackend:
    """Triton kernels of our own for both products and their transposes."""

    name = "cuda"

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> LogarithmicPowers:
        """Take the logarithm of a complex base, (H, N), see `Backend.powers`."""
        exact = base.detach().resolve_conj().contiguous().to(torch.complex128)
        log2_modulus = exact.abs().log2().clamp(min=_LOWEST_LOG2)
        return LogarithmicPowers(log2_modulus, exact.angle() / (2.0 * torch.pi), length)

    def cauchy(self, weight: Tensor, poles: Tensor, nodes: Tensor, order: int = 1) -> Tensor:
        """Return the conjugate-symmetric Cauchy product, see `Backend.cauchy`."""
        channels, sequences, modes = weight.shape
        pairs = _real(weight)
        result = pairs.new_empty(channels, sequences, len(nodes), 2)
        _launch(
            "cauchy_kernel",
            channels * sequences,
            -(-len(nodes) // CAUCHY["BLOCK_L"]),
            *(pairs, _real(poles), _real(nodes), result),
            *(sequences, modes, len(nodes)),
            ORDER=order,
            **CAUCHY,
        )
        return torch.view_as_complex(result)

    def cauchy_transposed(
        self, values: Tensor, poles: Tensor, nodes: Tensor, order: int = 1
    ) -> Tensor:
        """Return the transposed Cauchy product, see `Backend.cauchy_transposed`."""
        channels, sequences, length = values.shape
        modes = poles.shape[-1]
        pairs = _real(values)
        result = pairs.new_empty(channels, sequences, modes, 2)
        _launch(
            "cauchy_transposed_kernel",
            channels * sequences,
            -(-modes // CAUCHY_TRANSPOSED["BLOCK_N"]),
            *(pairs, _real(poles), _real(nodes), result),
            *(sequences, modes, length),
            ORDER=order,
            **CAUCHY_TRANSPOSED,
        )
        return torch.view_as_complex(result)


BACKEND = CudaBackend()


def reason_against(device: torch.device) -> str | None:
    """Return why it cannot run on a device, or None if it computes something small correctly."""
    if importlib.util.find_spec("triton") is None:
        return (
            "Triton is not installed; PyTorch's CUDA builds for Linux bring it along, "
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
    return _probe(device)


def _probe(device: torch.device) -> str | None:
    """Compute three powers and compare; compilers and drivers fail in ways that only this shows."""
    base = torch.tensor([[0.5 + 0.5j, 0.0]], dtype=torch.complex64, device=device)
    weight = torch.tensor([[[1.0 - 2.0j, 3.0]]], dtype=torch.complex64, device=device)
    try:
        result = BACKEND.powers(base, 3).product(weight)
        expected = TORCH.powers(base, 3).product(weight)
        correct = torch.allclose(result, expected, atol=1e-5)
    except Exception as error:  # Triton raises many kinds, its compiler's own among them
        message = " ".join(str(error).split())[:300]
        return f"its kernels do not run: {type(error).__name__}: {message}"
    return None if correct else "its kernels give wrong values on this device."
