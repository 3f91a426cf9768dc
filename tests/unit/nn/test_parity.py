"""Every parameterization, discretization and backend against dense matrix powers.

The dense system comes from the layer's parameters through general linear algebra (PyTorch's, itself
checked against SciPy's), so it shares nothing with the fast paths.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from mads4.kernels import reference
from mads4.kernels.backends import reason_against
from mads4.nn.s4 import S4Layer
from mads4.nn.ssm import StateSpace

H, N = 2, 8
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
LENGTHS = (1, 2, 3, 31, 32, 33, 37, 99, 500, 2048)
VARIANTS = [
    *(
        pytest.param({"initialization": kind, "discretization": method}, id=f"{kind}-{method}")
        for kind in ("legs", "lin", "inv", "random", "real")
        for method in ("zoh", "bilinear")
    ),
    pytest.param({"parameterization": "dplr", "discretization": "bilinear"}, id="dplr-bilinear"),
    pytest.param(
        {"parameterization": "dplr", "discretization": "bilinear", "n_ssm": 1}, id="dplr-shared"
    ),
]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ("torch", "keops", "cuda") if INTERPRETED else ("torch", "keops")


def make_layer(options: Mapping[str, object], dtype: torch.dtype, backend: str) -> S4Layer:
    reason = reason_against(backend)
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    layer = S4Layer(H, N, backend=backend, **options)
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return layer.to(dtype)


def continuous(space: StateSpace, leaves: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return dense A (H, M, M), B (H, M), C (H, M) of all modes, and Δ (H,)."""

    def whole(name: str) -> Tensor:
        values = leaves[name]
        if space.real:
            return values.repeat(H // values.shape[0], 1)
        values = torch.view_as_complex(values)
        return reference.with_conjugates(values.repeat(H // values.shape[0], 1))

    eigenvalues = -leaves["log_decay"].exp()
    if not space.real:
        eigenvalues = torch.complex(eigenvalues, leaves["frequency"])
        eigenvalues = reference.with_conjugates(eigenvalues)
    matrix = torch.diag_embed(eigenvalues.repeat(H // eigenvalues.shape[0], 1))
    if "low_rank" in leaves:
        low_rank = whole("low_rank")
        matrix = matrix - low_rank.unsqueeze(-1) * low_rank.conj().unsqueeze(-2)
    return matrix, whole("column"), whole("row"), leaves["log_dt"].exp()


def discrete(space: StateSpace, matrix: Tensor, column: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
    if space.discretization == "bilinear":
        return reference.dense_bilinear(matrix, column, dt)
    power = torch.linalg.matrix_exp(dt[:, None, None] * matrix)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    held = torch.linalg.solve(matrix, (power - identity) @ column.unsqueeze(-1))
    return power, held.squeeze(-1)


def dense_taps(space: StateSpace, leaves: Mapping[str, Tensor], length: int) -> Tensor:
    matrix, column, row, dt = continuous(space, leaves)
    power, state = discrete(space, matrix, column, dt)
    taps = []
    for _ in range(length):
        taps.append((row * state).sum(-1).real)
        state = (power @ state.unsqueeze(-1)).squeeze(-1)
    taps[0] = taps[0] + leaves["feedthrough"]
    return torch.stack(taps, -1)


def doubles(space: StateSpace) -> dict[str, Tensor]:
    return {
        name: value.detach().double().requires_grad_() for name, value in space.named_parameters()
    }


def relative_error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_dense_systems_are_scipys(options: Mapping[str, object]) -> None:
    space = make_layer(options, torch.float64, "torch").ssm
    matrix, column, _, dt = continuous(space, doubles(space))
    power, held = discrete(space, matrix, column, dt)
    for h in range(H):
        system = (matrix[h].numpy(), column[h, :, None].numpy(), np.eye(len(matrix[h])))
        expected = scipy.signal.cont2discrete(
            (*system, np.zeros((len(matrix[h]), 1))), dt[h].item(), space.discretization
        )
        np.testing.assert_allclose(power[h].numpy(), expected[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(held[h].numpy(), expected[1][:, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_taps_and_gradients_match_matrix_powers(
    options: Mapping[str, object], dtype: torch.dtype, backend: str
) -> None:
    layer = make_layer(options, dtype, backend)
    leaves = doubles(layer.ssm)
    for length in LENGTHS:
        expected = dense_taps(layer.ssm, leaves, length)
        taps = layer.kernel(length).taps
        assert relative_error(taps.double(), expected) <= TOLERANCE[dtype], length
        direction = torch.randn(H, length, dtype=torch.float64) / length**0.5
        truth = torch.autograd.grad(expected, list(leaves.values()), direction)
        found = torch.autograd.grad(taps, list(layer.parameters()), direction.to(dtype))
        scale = max(value.abs().max().item() for value in truth)
        for name, value, exact in zip(leaves, found, truth, strict=True):
            error = (value.double() - exact).abs().max().item() / max(
                exact.abs().max().item(), 1e-6 * scale
            )
            assert error <= TOLERANCE[dtype], (name, length)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_steps_chunks_and_whole_sequences_agree(
    options: Mapping[str, object], backend: str
) -> None:
    layer = make_layer(options, torch.float64, backend)
    u, start = torch.randn(3, 101, H).double(), torch.randn(3, H, N).double()
    whole, final = layer.sequence(u, start)
    stepped, state = [], start
    for u_t in u.unbind(1):
        y, state = layer.step(u_t, state)
        stepped.append(y)
    assert relative_error(torch.stack(stepped, 1), whole) <= 1e-10
    assert relative_error(state, final) <= 1e-10
    chunks, state = [], start
    for chunk in u.split((40, 1, 53, 7), dim=1):
        y, state = layer.sequence(chunk, state)
        chunks.append(y)
    assert relative_error(torch.cat(chunks, 1), whole) <= 1e-10
    assert relative_error(state, final) <= 1e-10


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
def test_the_cuda_backend_in_tritons_interpreter() -> None:
    """Kernels are interpreted if Triton was imported so: it needs a process of its own."""
    pytest.importorskip("triton")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-k",
        "cuda",
        "-p",
        "no:cacheprovider",
        __file__,
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
