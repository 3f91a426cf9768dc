"""Discretization, stability, options and optimizer groups of the state-space parameters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mads4.kernels import reference
from mads4.kernels.system import kernel_taps
from mads4.nn.blocks import S4Stack
from mads4.nn.ssm import StateSpace, ssm_parameters

VARIANTS = (("diagonal", "zoh"), ("diagonal", "bilinear"), ("dplr", "bilinear"))


def perturbed(parameterization: str, discretization: str, scale: float, seed: int) -> StateSpace:
    torch.manual_seed(seed)
    space = StateSpace(
        3, 8, parameterization=parameterization, discretization=discretization, dt_max=1.0
    ).double()
    with torch.no_grad():
        for value in space.parameters():
            value.add_(scale * torch.randn_like(value))
    return space


def continuous(space: StateSpace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Λ, P (zero if diagonal) and Δ."""
    eigenvalues = torch.complex(-space.log_decay.exp(), space.frequency)
    low_rank = torch.zeros_like(eigenvalues)
    if space.parameterization == "dplr":
        low_rank = torch.view_as_complex(space.low_rank)
    return eigenvalues, low_rank, space.log_dt.exp()


def cauchy_kernel(
    eigenvalues: Tensor, low_rank: Tensor, column: Tensor, row: Tensor, dt: Tensor, length: int
) -> Tensor:
    """Return the NPLR kernel from Cauchy products at the roots of unity, (H, L).

    The truncated generating function Σ_{l<L} K_l z^l needs C̃ = C (I - Ā^L); at the roots of unity
    it is a combination (Woodbury) of four Cauchy sums, and an inverse FFT returns the taps.

    Args:
        eigenvalues: Λ, (H, N) complex.
        low_rank: P, (H, N) complex.
        column: B, (H, N) complex.
        row: C, (H, N) complex.
        dt: Δ, (H,).
        length: L.
    """
    whole_p, whole_b = reference.with_conjugates(low_rank), reference.with_conjugates(column)
    discrete, _ = reference.dense_bilinear(
        reference.dense_matrix(eigenvalues, low_rank), whole_b, dt
    )
    power = torch.linalg.matrix_power(discrete, length)
    whole_c = reference.with_conjugates(row)
    truncated = whole_c - torch.einsum("hn,hnm->hm", whole_c, power)

    angle = -2.0 * math.pi / length * torch.arange(length, dtype=dt.dtype, device=dt.device)
    root = torch.polar(torch.ones_like(angle), angle)
    # (I - Ā z)^-1 B̄ = Δ [ (1 - z) - Δ/2 (1 + z) A ]^-1 B, written without dividing by 1 + z.
    half = 0.5 * dt[:, None, None] * reference.with_conjugates(eigenvalues).unsqueeze(-1)
    resolvent = 1.0 / ((1.0 - root) - (1.0 + root) * half)

    def cauchy(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("hn,hn,hnl->hl", left, right, resolvent)

    gain = 0.5 * dt.unsqueeze(-1) * (1.0 + root)
    correction = gain / (1.0 + gain * cauchy(whole_p.conj(), whole_p))
    feedback = cauchy(truncated, whole_p) * cauchy(whole_p.conj(), whole_b)
    spectrum = dt.unsqueeze(-1) * (cauchy(truncated, whole_b) - correction * feedback)
    taps: Tensor = torch.fft.ifft(spectrum).real
    return taps


@settings(max_examples=20, deadline=None)
@given(variant=st.sampled_from(VARIANTS), scale=st.floats(0.0, 2.0), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_every_discretized_system_is_stable(
    variant: tuple[str, str], scale: float, seed: int
) -> None:
    space = perturbed(*variant, scale, seed)
    if variant[1] == "zoh":
        assert space.discretize().decay.abs().max() < 1
        return
    eigenvalues, low_rank, dt = continuous(space)
    matrix = reference.dense_matrix(eigenvalues, low_rank)
    discrete, _ = reference.dense_bilinear(matrix, matrix[..., 0], dt)
    assert torch.linalg.eigvals(discrete).abs().max() < 1
    assert torch.linalg.matrix_norm(discrete, ord=2).max() < 1 + 1e-12


@pytest.mark.parametrize("length", (1, 2, 3, 37, 500))
@torch.no_grad()
def test_dplr_taps_match_cauchy_and_woodbury(length: int) -> None:
    space = StateSpace(4, 96, parameterization="dplr", discretization="bilinear").double()
    eigenvalues, low_rank, dt = continuous(space)
    column, row = torch.view_as_complex(space.column), torch.view_as_complex(space.row)
    expected = cauchy_kernel(eigenvalues, low_rank, column, row, dt, length)
    expected[:, 0] += space.feedthrough
    taps = kernel_taps(space.discretize(), length)
    assert (taps - expected).abs().max() <= 1e-10 * expected.abs().max()


@torch.no_grad()
def test_zoh_is_the_matrix_exponential() -> None:
    space = perturbed("diagonal", "zoh", 0.3, seed=5)
    eigenvalues, _, dt = continuous(space)
    system = space.discretize()
    times = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    exact = torch.exp(eigenvalues.unsqueeze(-1) * dt[:, None, None] * times)
    integral = torch.trapezoid(exact, times, dim=-1) * dt.unsqueeze(-1)
    column = torch.view_as_complex(space.column)
    torch.testing.assert_close(system.decay, exact[..., -1])
    torch.testing.assert_close(system.column, integral * column, rtol=1e-6, atol=1e-6)


def test_parameters_match_the_gradient_of_the_reference() -> None:
    space = perturbed("dplr", "bilinear", 0.1, seed=6)
    weight = torch.randn(3, 20, dtype=torch.float64)
    (kernel_taps(space.discretize(), 20) * weight).sum().backward()
    fast = {name: value.grad.clone() for name, value in space.named_parameters()}
    space.zero_grad()
    eigenvalues, low_rank, dt = continuous(space)
    column, row = torch.view_as_complex(space.column), torch.view_as_complex(space.row)
    taps = cauchy_kernel(eigenvalues, low_rank, column, row, dt, 20)
    ((taps * weight).sum() + (space.feedthrough * weight[:, 0]).sum()).backward()
    for name, value in space.named_parameters():
        torch.testing.assert_close(fast[name], value.grad, rtol=1e-8, atol=1e-9, msg=name)


def test_step_sizes_lie_in_their_range() -> None:
    dt = StateSpace(500, 2, dt_min=0.01, dt_max=0.2).log_dt.exp()
    assert 0.01 <= dt.min() < 0.013
    assert 0.16 < dt.max() <= 0.2


def test_parameters_are_grouped_by_their_symbol() -> None:
    stack = S4Stack(4, 6, 2, parameterization="dplr", discretization="bilinear")
    names = {id(value): name.rsplit(".", 1)[-1] for name, value in stack.named_parameters()}
    groups = {
        group: {names[id(value)] for value in values}
        for group, values in ssm_parameters(stack).items()
    }
    assert groups == {
        "A": {"log_decay", "frequency", "low_rank"},
        "B": {"column"},
        "C": {"row"},
        "dt": {"log_dt"},
        "D": {"feedthrough"},
    }
    assert sum(map(len, ssm_parameters(stack).values())) == 2 * 7


@pytest.mark.parametrize("initialization", ("legs", "random", "real"))
def test_copies_of_a_and_b_are_shared_among_channels(initialization: str) -> None:
    space = StateSpace(6, 8, n_ssm=2, initialization=initialization, dt_min=0.1, dt_max=0.1)
    with torch.no_grad():
        space.column.copy_(torch.randn_like(space.column))
        space.log_decay[1] += 0.5
    assert space.log_decay.shape[0] == space.column.shape[0] == 2
    system = space.discretize()
    for values in (system.decay, system.column):
        assert values.shape[0] == 6
        torch.testing.assert_close(values[:2].repeat(3, 1), values)
        assert not torch.allclose(values[0], values[1])
    assert space.row.shape[0] == 6


@torch.no_grad()
def test_real_modes_are_real_all_the_way() -> None:
    space = StateSpace(2, 5, initialization="real", dt_min=0.1, dt_max=0.1).double()
    system = space.discretize()
    assert not system.decay.is_complex()
    modes = -torch.arange(1.0, 6.0, dtype=torch.float64)
    torch.testing.assert_close(system.decay[0], torch.exp(0.1 * modes), rtol=1e-6, atol=0)
    taps = kernel_taps(system, 4)
    terms = system.row * system.column
    expected = torch.stack([(terms * system.decay**t).sum(-1) for t in range(4)], -1)
    expected[:, 0] += space.feedthrough
    torch.testing.assert_close(taps, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"parameterization": "dplr", "discretization": "zoh"}, "dplr.*zoh.*bilinear"),
        ({"parameterization": "dense"}, "diagonal, dplr"),
        ({"discretization": "euler"}, "zoh, bilinear"),
        ({"initialization": "zero"}, "legs, lin, inv, real, random"),
        ({"n_ssm": 3}, "n_ssm=3.*2 channels"),
        (
            {"parameterization": "dplr", "discretization": "bilinear", "initialization": "real"},
            "legs",
        ),
        ({"dt_min": 0.1, "dt_max": 0.01}, "dt_min"),
    ),
)
def test_impossible_choices_name_what_is_allowed(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSpace(2, 4, **options)
