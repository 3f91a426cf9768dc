"""Where the state matrices start: HiPPO-LegS in normal-plus-low-rank form, and S4D's diagonals.

Sources: arXiv 2111.00396 (S4, NPLR form of HiPPO-LegS), arXiv 2206.11893 (S4D-LegS, -Lin, -Inv).
Everything is float64 NumPy: an eigendecomposition once, at construction.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]

S4D_INITIALIZATIONS = ("legs", "lin", "inv", "real")


def legs_matrices(d_state: int) -> tuple[FloatArray, FloatArray]:
    """Return the dense HiPPO-LegS pair A (N, N) and B (N,) that the other forms derive from."""
    scale = np.sqrt(2.0 * np.arange(d_state) + 1.0)
    matrix = -np.tril(np.outer(scale, scale), -1) - np.diag(np.arange(d_state) + 1.0)
    return matrix, scale


def legs_nplr(d_state: int) -> tuple[ComplexArray, ComplexArray, ComplexArray]:
    """Return Λ, P, B of HiPPO-LegS, unitarily equivalent to A = Λ - P P*, one of each pair.

    A + P Pᵀ is -1/2 plus a skew-symmetric matrix, hence normal: a Hermitian eigensolver gives its
    unitary eigenbasis to machine precision, unlike an eigensolver applied to A itself.

    Args:
        d_state: N, even.

    Returns:
        Λ, P, B, each (N / 2,), ordered by increasing imaginary part (all positive).

    Raises:
        ValueError: If N is odd or not positive.
    """
    if d_state < 2 or d_state % 2:
        raise ValueError(f"d_state must be even and at least 2 (conjugate pairs), not {d_state}.")
    matrix, column = legs_matrices(d_state)
    low_rank = np.sqrt(np.arange(d_state) + 0.5)
    normal = matrix + np.outer(low_rank, low_rank)
    skew = 0.5 * (normal - normal.T)
    frequency, basis = np.linalg.eigh(-1j * skew)
    kept = slice(d_state // 2, None)
    rotation: ComplexArray = basis[:, kept].conj().T.astype(np.complex128)
    eigenvalues = (-0.5 + 1j * frequency[kept]).astype(np.complex128)
    rotated: ComplexArray = rotation @ np.stack([low_rank, column], axis=-1)
    return eigenvalues, rotated[:, 0], rotated[:, 1]


def s4d_diagonal(d_state: int, kind: str) -> ComplexArray | FloatArray:
    """Return the diagonal of S4D-LegS, -Lin or -Inv, (N / 2,) complex, or -Real, (N,) real.

    Raises:
        ValueError: If `kind` is not one of `S4D_INITIALIZATIONS`, or N is not positive or, but for
            ``real``, odd.
    """
    if kind not in S4D_INITIALIZATIONS:
        allowed = ", ".join(S4D_INITIALIZATIONS)
        raise ValueError(f"Unknown initialization {kind!r}; allowed: {allowed}.")
    if kind == "real":
        if d_state < 1:
            raise ValueError(f"d_state must be at least 1, not {d_state}.")
        return -np.arange(1, d_state + 1, dtype=np.float64)
    eigenvalues, _, _ = legs_nplr(d_state)
    if kind == "legs":
        return eigenvalues
    index = np.arange(d_state // 2)
    if kind == "lin":
        frequency = np.pi * index
    else:
        frequency = d_state / np.pi * (d_state / (2.0 * index + 1.0) - 1.0)
    return (-0.5 + 1j * frequency).astype(np.complex128)
