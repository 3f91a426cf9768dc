"""Reference formulas for tests: short, slow and easy to check on paper.

Sources: "Efficiently Modeling Long Sequences with Structured State Spaces" (arXiv 2111.00396) for
the NPLR kernel, "On the Parameterization and Initialization of Diagonal State Space Models" (arXiv
2206.11893) for the diagonal one. Axes: ``H`` channels, ``N`` conjugate pairs, ``L`` time.
"""

from __future__ import annotations

import torch
from torch import Tensor


def vandermonde_kernel(row: Tensor, column: Tensor, decay: Tensor, length: int) -> Tensor:
    """Return K_l = 2 Re Σ_n C_n B̄_n Ā_n^l from the whole (N, L) matrix, (H, L)."""
    exponent = torch.arange(length, device=decay.device)
    matrix = decay.unsqueeze(-1) ** exponent
    return 2.0 * torch.einsum("hn,hn,hnl->hl", row, column, matrix).real


def with_conjugates(values: Tensor) -> Tensor:
    """Complete (..., N) to all 2N entries."""
    return torch.cat([values, values.conj()], dim=-1)


def dense_matrix(eigenvalues: Tensor, low_rank: Tensor) -> Tensor:
    """Return A = Λ - P P* with all conjugates, (H, 2N, 2N) complex."""
    whole = with_conjugates(low_rank)
    product = whole.unsqueeze(-1) * whole.conj().unsqueeze(-2)
    return torch.diag_embed(with_conjugates(eigenvalues)) - product


def dense_bilinear(matrix: Tensor, column: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Return Ā = (I - ΔA/2)^-1 (I + ΔA/2), B̄ = (I - ΔA/2)^-1 ΔB by solving dense systems.

    Args:
        matrix: A, (H, 2N, 2N) complex.
        column: B, (H, 2N) complex.
        dt: Δ, (H,).
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    half = 0.5 * dt[:, None, None] * matrix
    scaled = (dt.unsqueeze(-1) * column).unsqueeze(-1)
    right = torch.cat([identity + half, scaled], dim=-1)
    solution = torch.linalg.solve(identity - half, right)
    return solution[..., :-1], solution[..., -1]


def dense_recurrence(
    discrete: Tensor, column: Tensor, row: Tensor, inputs: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run x_{t+1} = Ā x_t + B̄ u_t, y_t = Re C x_{t+1} step by step with a dense Ā.

    Args:
        discrete: Ā, (H, M, M).
        column: B̄, (H, M).
        row: C, (H, M).
        inputs: u, (H, B, T) real.
        state: x_0, (H, B, M).

    Returns:
        Outputs (H, B, T) real and the state after the last input (H, B, M).
    """
    outputs = []
    for u in inputs.unbind(-1):
        state = state @ discrete.transpose(-1, -2) + u.unsqueeze(-1) * column.unsqueeze(1)
        outputs.append(torch.einsum("hbm,hm->hb", state, row).real)
    return torch.stack(outputs, dim=-1), state
