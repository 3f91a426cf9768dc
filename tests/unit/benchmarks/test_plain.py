"""The plain formulas compute what the fast operations compute, so that a ratio means something."""

from __future__ import annotations

import pytest
import torch

from harness import plain
from mads4.kernels.reference import dense_bilinear, dense_matrix, with_conjugates
from mads4.kernels.system import kernel_taps
from mads4.nn import S4Layer
from mads4.nn.blocks import S4Block

SYSTEMS = [("diagonal", "zoh"), ("dplr", "bilinear")]


def make(parameterization: str, discretization: str) -> S4Layer:
    torch.manual_seed(0)
    layer = S4Layer(3, 8, parameterization=parameterization, discretization=discretization)
    return layer.double()


def test_diagonal_kernel() -> None:
    layer = make(*SYSTEMS[0])
    taps = kernel_taps(layer.ssm.discretize(), 21)
    taps[:, 0] -= layer.ssm.feedthrough
    torch.testing.assert_close(plain.kernel(layer.ssm, 21), taps)


@pytest.mark.parametrize("length", [1, 20, 21])
def test_dplr_kernel_of_the_truncated_output_row(length: int) -> None:
    ssm = make(*SYSTEMS[1]).ssm
    taps = kernel_taps(ssm.discretize(), length)
    taps[:, 0] -= ssm.feedthrough
    eigenvalues = torch.complex(-ssm.log_decay.exp(), ssm.frequency)
    low_rank, column, row = (
        torch.view_as_complex(pairs) for pairs in (ssm.low_rank, ssm.column, ssm.row)
    )
    dt = ssm.log_dt.exp().flatten()
    matrix, _ = dense_bilinear(dense_matrix(eigenvalues, low_rank), with_conjugates(column), dt)
    whole = with_conjugates(row)
    rest = torch.einsum("hn,hnm->hm", whole, torch.linalg.matrix_power(matrix, length))
    truncated = (whole - rest)[:, : row.shape[-1]]
    found = plain.cauchy_taps(eigenvalues, low_rank, column, truncated, dt.view(-1, 1), length)
    torch.testing.assert_close(found, taps)


def test_diagonal_layer_and_block() -> None:
    layer = make(*SYSTEMS[0])
    u = torch.randn(2, 21, 3, dtype=torch.float64)
    torch.testing.assert_close(plain.layer(layer, u), layer(u))
    block = S4Block(3, 8, dropout=0.0, mixing="gelu").double()
    expected, _, _ = block(u.permute(2, 0, 1), block.s4.kernel(21), None, False)
    torch.testing.assert_close(plain.block(block, u), expected.permute(1, 2, 0))


@pytest.mark.parametrize(("parameterization", "discretization"), SYSTEMS)
def test_steps(parameterization: str, discretization: str) -> None:
    layer = make(parameterization, discretization)
    step = plain.Step(layer)
    state = layer.initial_state(2)
    complex_state = torch.zeros(2, 3, step.width, dtype=torch.complex128)
    for u in torch.randn(5, 2, 3, dtype=torch.float64):
        expected, state = layer.step(u, state)
        found, complex_state = step(u, complex_state)
        torch.testing.assert_close(found, expected)
