"""Baselines: the published formulas in plain PyTorch.

`mads4.kernels.reference` is for checking values, and slow (complex powers, dense matrix powers).
These formulas are as fast as PyTorch and its autograd make them, for a fair ratio.

Sources: arXiv 2206.11893 (S4D: the Vandermonde matrix by one exponential of each element), arXiv
2111.00396 (S4: four Cauchy sums at half of the roots of unity, C̃ = C (I - Ā^L) being the trained
parameter).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mads4.kernels.reference import dense_bilinear, dense_matrix, with_conjugates
from mads4.nn import S4Layer
from mads4.nn.blocks import S4Block
from mads4.nn.ssm import StateSpace


def vandermonde_taps(row: Tensor, column: Tensor, decay: Tensor, length: int) -> Tensor:
    """Return K_l = 2 Re Σ_n C_n B̄_n exp(l log Ā_n), all (H, N) complex, as (H, L)."""
    exponent = torch.arange(length, device=decay.device)
    matrix = torch.exp(torch.log(decay).unsqueeze(-1) * exponent)
    return 2.0 * torch.einsum("hn,hnl->hl", row * column, matrix).real


def cauchy_taps(
    eigenvalues: Tensor, low_rank: Tensor, column: Tensor, row: Tensor, dt: Tensor, length: int
) -> Tensor:
    """Return the taps of Λ - P P*, discretized by the bilinear rule, (H, L).

    Args:
        eigenvalues: Λ, (H, N) complex.
        low_rank: P, (H, N) complex.
        column: B, (H, N) complex.
        row: C̃ = C (I - Ā^L), (H, N) complex.
        dt: Δ, (H, 1).
        length: L.
    """
    frequencies = torch.arange(length // 2 + 1, dtype=dt.dtype, device=dt.device)
    angle = -2.0 * math.pi / length * frequencies
    root = torch.polar(torch.ones_like(angle), angle)
    half = 0.5 * dt * with_conjugates(eigenvalues)
    resolvent = 1.0 / ((1.0 - root) - (1.0 + root) * half.unsqueeze(-1))
    p, b, c = with_conjugates(low_rank), with_conjugates(column), with_conjugates(row)
    weights = torch.stack([c * b, c * p, p.conj() * b, p.conj() * p], dim=1)
    direct, outwards, inwards, loop = (weights @ resolvent).unbind(1)
    gain = 0.5 * dt * (1.0 + root)
    spectrum = dt * (direct - gain * outwards * inwards / (1.0 + gain * loop))
    taps: Tensor = torch.fft.irfft(spectrum, n=length)
    return taps


def kernel(ssm: StateSpace, length: int) -> Tensor:
    """Return the taps (H, L) without D, in the parameters' precision.

    C of a ``dplr`` model is taken as C̃: the cost is the same, and it is how S4 is trained.
    """
    if ssm.parameterization == "dplr":
        eigenvalues = torch.complex(-ssm.log_decay.exp(), ssm.frequency)
        low_rank, column, row = (
            torch.view_as_complex(pairs) for pairs in (ssm.low_rank, ssm.column, ssm.row)
        )
        dt = ssm.log_dt.exp().view(-1, 1)
        return cauchy_taps(eigenvalues, low_rank, column, row, dt, length)
    system = ssm.discretize()
    dtype = ssm.row.dtype.to_complex()
    row, column, decay = (part.to(dtype) for part in (system.row, system.column, system.decay))
    return vandermonde_taps(row, column, decay, length)


def layer(module: S4Layer, u: Tensor) -> Tensor:
    """Return y (B, T, H) of u (B, T, H): kernel, FFTs of twice the length, D."""
    length = u.shape[1]
    taps = kernel(module.ssm, length)
    inputs = u.permute(0, 2, 1)
    product = torch.fft.rfft(inputs, n=2 * length) * torch.fft.rfft(taps, n=2 * length)
    y: Tensor = torch.fft.irfft(product, n=2 * length)[..., :length]
    return (y + module.ssm.feedthrough.unsqueeze(-1) * inputs).permute(0, 2, 1)


def block(module: S4Block, x: Tensor) -> Tensor:
    """Return x + mix(gelu(S4(norm(x)))), (B, T, H)."""
    y = layer(module.s4, torch.nn.functional.layer_norm(x, x.shape[-1:]))
    mixed: Tensor = module.mix(torch.nn.functional.gelu(y))
    return x + mixed


class Step:
    """One time step of a layer: elementwise for a diagonal system, by a dense Ā otherwise."""

    def __init__(self, module: S4Layer) -> None:
        ssm, system = module.ssm, module.ssm.discretize()
        dtype = ssm.row.dtype.to_complex()
        self._feedthrough = ssm.feedthrough
        self._row, self._column = (2.0 * system.row).to(dtype), system.column.to(dtype)
        self._matrix: Tensor | None = None
        self._decay = system.decay.to(dtype)
        if ssm.parameterization == "dplr":
            self._become_dense(ssm, dtype)
        self.width = self._row.shape[-1]

    def _become_dense(self, ssm: StateSpace, dtype: torch.dtype) -> None:
        eigenvalues = torch.complex(-ssm.log_decay.double().exp(), ssm.frequency.double())
        low_rank, column, row = (
            torch.view_as_complex(pairs.double()) for pairs in (ssm.low_rank, ssm.column, ssm.row)
        )
        dense = dense_matrix(eigenvalues, low_rank)
        dt = ssm.log_dt.double().exp().flatten()
        matrix, discrete_column = dense_bilinear(dense, with_conjugates(column), dt)
        self._matrix, self._column = matrix.to(dtype), discrete_column.to(dtype)
        self._row = with_conjugates(row).to(dtype)

    def __call__(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (B, H) and the next state (B, H, M) of u (B, H) and the state before."""
        if self._matrix is None:
            moved = self._decay * state
        else:
            moved = torch.einsum("hmn,bhn->bhm", self._matrix, state)
        following = moved + u.unsqueeze(-1) * self._column
        y = (following * self._row).sum(-1).real
        return y + self._feedthrough * u, following
