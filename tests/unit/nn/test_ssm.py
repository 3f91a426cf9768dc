"""Discretisation, stability, options and optimiser groups of the state-space parameters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.kernels import reference
from mads4.kernels.system import kernel_taps
from mads4.nn.blocks import S4Stack
from mads4.nn.ssm import StateSpace, ssm_parameters

VARIANTS = (("diagonal", "zoh"), ("diagonal", "bilinear"), ("dplr", "bilinear"))


def perturbed(parameterisation: str, discretisation: str, scale: float, seed: int) -> StateSpace:
    torch.manual_seed(seed)
    space = StateSpace(
        3, 8, parameterisation=parameterisation, discretisation=discretisation, dt_max=1.0
    ).double()
    with torch.no_grad():
        for value in space.parameters():
            value.add_(scale * torch.randn_like(value))
    return space


def continuous(space: StateSpace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Λ, P (zero if diagonal) and Δ."""
    eigenvalues = torch.complex(-space.log_decay.exp(), space.frequency)
    low_rank = torch.zeros_like(eigenvalues)
    if space.parameterisation == "dplr":
        low_rank = torch.view_as_complex(space.low_rank)
    return eigenvalues, low_rank, space.log_dt.exp()


@settings(max_examples=20, deadline=None)
@given(variant=st.sampled_from(VARIANTS), scale=st.floats(0.0, 2.0), seed=st.integers(0, 10_000))
@torch.no_grad()
def test_every_discretised_system_is_stable(
    variant: tuple[str, str], scale: float, seed: int
) -> None:
    space = perturbed(*variant, scale, seed)
    if variant[1] == "zoh":
        assert space.discretise().decay.abs().max() < 1
        return
    eigenvalues, low_rank, dt = continuous(space)
    matrix = reference.dense_matrix(eigenvalues, low_rank)
    discrete, _ = reference.dense_bilinear(matrix, matrix[..., 0], dt)
    assert torch.linalg.eigvals(discrete).abs().max() < 1
    assert torch.linalg.matrix_norm(discrete, ord=2).max() < 1 + 1e-12


@pytest.mark.parametrize("length", (1, 2, 3, 37, 500))
@torch.no_grad()
def test_dplr_taps_match_cauchy_and_woodbury(length: int) -> None:
    space = StateSpace(4, 96, parameterisation="dplr", discretisation="bilinear").double()
    eigenvalues, low_rank, dt = continuous(space)
    column, row = torch.view_as_complex(space.column), torch.view_as_complex(space.row)
    expected = reference.cauchy_kernel(eigenvalues, low_rank, column, row, dt, length)
    expected[:, 0] += space.feedthrough
    taps = kernel_taps(space.discretise(), length)
    assert (taps - expected).abs().max() <= 1e-10 * expected.abs().max()


@torch.no_grad()
def test_zoh_is_the_matrix_exponential() -> None:
    space = perturbed("diagonal", "zoh", 0.3, seed=5)
    eigenvalues, _, dt = continuous(space)
    system = space.discretise()
    times = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    exact = torch.exp(eigenvalues.unsqueeze(-1) * dt[:, None, None] * times)
    integral = torch.trapezoid(exact, times, dim=-1) * dt.unsqueeze(-1)
    column = torch.view_as_complex(space.column)
    torch.testing.assert_close(system.decay, exact[..., -1])
    torch.testing.assert_close(system.column, integral * column, rtol=1e-6, atol=1e-6)


def test_parameters_match_the_gradient_of_the_reference() -> None:
    space = perturbed("dplr", "bilinear", 0.1, seed=6)
    weight = torch.randn(3, 20, dtype=torch.float64)
    (kernel_taps(space.discretise(), 20) * weight).sum().backward()
    fast = {name: value.grad.clone() for name, value in space.named_parameters()}
    space.zero_grad()
    eigenvalues, low_rank, dt = continuous(space)
    column, row = torch.view_as_complex(space.column), torch.view_as_complex(space.row)
    taps = reference.cauchy_kernel(eigenvalues, low_rank, column, row, dt, 20)
    ((taps * weight).sum() + (space.feedthrough * weight[:, 0]).sum()).backward()
    for name, value in space.named_parameters():
        torch.testing.assert_close(fast[name], value.grad, rtol=1e-8, atol=1e-9, msg=name)


def test_step_sizes_lie_in_their_range() -> None:
    dt = StateSpace(500, 2, dt_min=0.01, dt_max=0.2).log_dt.exp()
    assert 0.01 <= dt.min() < 0.013
    assert 0.16 < dt.max() <= 0.2


def test_only_the_named_groups_are_trained() -> None:
    space = StateSpace(
        2, 4, parameterisation="dplr", discretisation="bilinear", trainable=("B", "C")
    )
    trained = {name for name, value in space.named_parameters() if value.requires_grad}
    assert trained == {"column", "row"}


def test_optimiser_group_holds_dynamics_only() -> None:
    stack = S4Stack(4, 6, 2, parameterisation="dplr", discretisation="bilinear")
    chosen = {id(value) for value in ssm_parameters(stack)}
    names = {name for name, value in stack.named_parameters() if id(value) in chosen}
    assert {name.rsplit(".", 1)[-1] for name in names} == {
        "log_decay", "frequency", "low_rank", "column", "log_dt"
    }  # fmt: skip
    assert len(chosen) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"parameterisation": "dplr", "discretisation": "zoh"}, "dplr.*zoh.*bilinear"),
        ({"parameterisation": "dense"}, "diagonal, dplr"),
        ({"discretisation": "euler"}, "zoh, bilinear"),
        ({"trainable": ("A", "E")}, "A, B, C, dt, D"),
        ({"initialisation": "zero"}, "legs, lin, inv"),
        ({"dt_min": 0.1, "dt_max": 0.01}, "dt_min"),
    ),
)
def test_impossible_choices_name_what_is_allowed(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSpace(2, 4, **options)
