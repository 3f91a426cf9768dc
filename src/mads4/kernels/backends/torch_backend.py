"""The products in plain PyTorch: on any device, without a compiler.

Powers split: with ``l = a S + b`` and ``S ≈ 2 √L``, ``d^l = (d^S)^a d^b``, so that the sum over n
is one real matrix product of an (A, 2N) and a (2N, S) factor per channel. Memory is O(N √L) instead
of O(N L), and so is the number of powers. They come from repeated doubling, which needs
multiplications only and no logarithm of ``d`` (bilinear discretization may put ``d`` at zero).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mads4.kernels.backends.base import Backend

_SHAPE = 2
"""S / √L. Terms in A are multiplied once per sequence, those in S once: 2 was 10 to 40% faster than
1 for L >= 500, and no slower at 50.
"""

_DENSE_ELEMENTS = 1 << 21
"""Largest number of powers held for many short sequences (states of segments). There, each sequence
times every factor of A would be more than all powers, so all are computed and A is 1.
"""

_CHUNK_ELEMENTS = (1 << 26, 1 << 18)
"""Elements of a temporary held at once: on other devices, on a CPU."""


def powers(base: Tensor, count: int) -> Tensor:
    """Return ``base^0 … base^(count - 1)``, (H, N) to (H, count, N), by repeated doubling."""
    result = base.new_ones(base.shape[0], 1, base.shape[1])
    factor = base.unsqueeze(1)
    while result.shape[1] < count:
        missing = count - result.shape[1]
        result = torch.cat([result, result[:, :missing] * factor], dim=1)
        factor = factor * factor
    return result


def _real_rows(values: Tensor) -> Tensor:
    """View complex (..., N) as real (..., 2N), parts interleaved; leave real ones as they are."""
    return torch.view_as_real(values).flatten(-2) if values.is_complex() else values


@dataclass(frozen=True)
class SplitPowers:
    """base^l in two factors; a real base has no conjugate."""

    outer: Tensor
    """``(d^S)^a``, (H, A, N)."""
    inner: Tensor
    """``d^b``, (H, S, N), with A S >= length."""
    length: int
    """L."""

    def product(self, weight: Tensor) -> Tensor:
        """Return 2 Re Σ_n weight_n d_n^l (real: Σ_n weight_n d_n^l), (H, M, N) to (H, M, L)."""
        channels, sequences, _ = weight.shape
        shape, dtype = (channels, sequences, self.length), weight.dtype.to_real()
        result = torch.empty(shape, dtype=dtype, device=weight.device)
        for part in self._channel_chunks(sequences):
            left = weight[part].unsqueeze(2) * self.outer[part].unsqueeze(1)
            if left.is_complex():
                left = left.mul_(2.0)
            columns = _real_rows(self.inner[part].conj().resolve_conj())
            blocks = torch.bmm(_real_rows(left).flatten(1, 2), columns.transpose(1, 2))
            result[part] = blocks.view(len(left), sequences, -1)[..., : self.length]
        return result

    def transposed(self, values: Tensor) -> Tensor:
        """Return Σ_l values_l d_n^l, real (H, M, L) to (H, M, N)."""
        channels, sequences, length = values.shape
        outer_count, inner_count = self.outer.shape[1], self.inner.shape[1]
        result = self.outer.new_empty(channels, sequences, self.outer.shape[-1])
        for part in self._channel_chunks(sequences):
            missing = outer_count * inner_count - length
            padded = torch.nn.functional.pad(values[part], (0, missing))
            rows = padded.view(len(padded), sequences * outer_count, inner_count)
            blocks = torch.bmm(rows, _real_rows(self.inner[part]))
            blocks = blocks.view(len(padded), sequences, outer_count, -1)
            if self.outer.is_complex():
                blocks = torch.view_as_complex(blocks.view(*blocks.shape[:-1], -1, 2))
            torch.sum(blocks.mul_(self.outer[part].unsqueeze(1)), dim=2, out=result[part])
        return result

    def _channel_chunks(self, sequences: int) -> list[slice]:
        """Split the channels so that one chunk's blocks are small (and on a CPU in the cache)."""
        channels, outer_count, modes = self.outer.shape
        per_channel = sequences * outer_count * max(self.inner.shape[1], 2 * modes)
        count = max(1, _CHUNK_ELEMENTS[self.outer.device.type == "cpu"] // per_channel)
        return [slice(first, first + count) for first in range(0, channels, count)]


class TorchBackend:
    """Split powers, multiplied as real matrices.

    On a CPU it was faster than KeOps at every length from 50 to 16 000 (``benchmarks/README.md``).
    """

    name = "torch"

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> SplitPowers:
        """Return the two factors of ``base^l``."""
        inner_count = min(length, _SHAPE * (math.isqrt(length - 1) + 1))
        outer_count = -(-length // inner_count)
        if sequences * outer_count > length and length * base.numel() <= _DENSE_ELEMENTS:
            inner_count = length
        inner = powers(base, inner_count)
        outer = powers(inner[:, -1] * base, -(-length // inner_count))
        return SplitPowers(outer, inner, length)


BACKEND = TorchBackend()
AUTO_RANK = {"cpu": 1, "cuda": 2}


def agrees(backend: Backend, device: torch.device, length: int) -> bool:
    """Return whether a backend computes a tiny product correctly on a device."""
    base = torch.tensor([[0.8 + 0.3j, 0.0j]], device=device)
    weight = torch.tensor([[[0.5 - 0.2j, 1.0 + 1.0j]]], device=device)
    found, expected = (each.powers(base, length).product(weight) for each in (backend, BACKEND))
    return torch.allclose(found, expected, atol=1e-5)


def reason_against(device: torch.device) -> None:
    """Return None: it runs on every device."""
