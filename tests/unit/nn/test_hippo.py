"""The initial matrices against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from mads4.nn.hippo import S4D_INITIALIZATIONS, legs_matrices, legs_nplr, s4d_diagonal


@pytest.mark.parametrize("d_state", (2, 8, 64, 96))
def test_nplr_form_is_unitarily_equivalent_to_legs(d_state: int) -> None:
    """Traces of powers and Markov parameters survive a change of basis."""
    matrix, column = legs_matrices(d_state)
    eigenvalues, low_rank, rotated = legs_nplr(d_state)
    whole_p = np.concatenate([low_rank, low_rank.conj()])
    whole_b = np.concatenate([rotated, rotated.conj()])
    form = np.diag(np.concatenate([eigenvalues, eigenvalues.conj()]))
    form = form - np.outer(whole_p, whole_p.conj())
    assert np.trace(form).real == pytest.approx(np.trace(matrix))
    assert np.trace(form @ form).real == pytest.approx(np.trace(matrix @ matrix))
    assert np.linalg.norm(form) == pytest.approx(np.linalg.norm(matrix))
    moment = whole_b.conj() @ form @ whole_b
    assert moment.real == pytest.approx(column @ matrix @ column)


@pytest.mark.parametrize("kind", [kind for kind in S4D_INITIALIZATIONS if kind != "real"])
def test_diagonals_are_stable_and_distinct(kind: str) -> None:
    diagonal = s4d_diagonal(64, kind)
    assert diagonal.shape == (32,)
    assert np.allclose(diagonal.real, -0.5)
    assert len(np.unique(np.round(diagonal.imag, 6))) == 32


def test_the_real_diagonal_is_minus_one_to_minus_n() -> None:
    assert s4d_diagonal(3, "real").tolist() == [-1.0, -2.0, -3.0]


def test_an_odd_state_size_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        legs_nplr(7)


def test_an_unknown_initialization_is_refused() -> None:
    with pytest.raises(ValueError, match="legs, lin, inv"):
        s4d_diagonal(8, "random")
