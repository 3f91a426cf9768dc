"""One layer, two views: convolution, recurrence and the dense reference agree."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.kernels import reference
from mads4.nn.s4 import S4Layer
from mads4.nn.ssm import StateSpace

VARIANTS = (("diagonal", "zoh"), ("diagonal", "bilinear"), ("dplr", "bilinear"))
LENGTHS = (1, 2, 3, 16, 37, 61)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def make_layer(
    variant: tuple[str, str],
    dtype: torch.dtype,
    seed: int,
    d_state: int = 8,
    stateless: bool = False,
) -> S4Layer:
    torch.manual_seed(seed)
    layer = S4Layer(
        5, d_state, parameterization=variant[0], discretization=variant[1], stateless=stateless
    )
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return layer.to(dtype)


def unroll(
    layer: S4Layer, u: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = []
    for u_t in u.unbind(1):
        y, state = layer.step(u_t, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def dense_views(
    layer: S4Layer, u: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the layer's continuous system, discretized by dense linear algebra in float64."""
    space: StateSpace = layer.ssm
    double = {name: value.detach().double() for name, value in space.named_parameters()}
    eigenvalues = torch.complex(-double["log_decay"].exp(), double["frequency"])
    low_rank = torch.zeros_like(eigenvalues)
    if "low_rank" in double:
        low_rank = torch.view_as_complex(double["low_rank"])
    column = reference.with_conjugates(torch.view_as_complex(double["column"]))
    row = reference.with_conjugates(torch.view_as_complex(double["row"]))
    matrix, dt = reference.dense_matrix(eigenvalues, low_rank), double["log_dt"].exp()
    if space.discretization == "zoh":
        discrete = torch.linalg.matrix_exp(dt[:, None, None] * matrix)
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
        column = torch.linalg.solve(matrix, (discrete - identity) @ column.unsqueeze(-1))[..., 0]
    else:
        discrete, column = reference.dense_bilinear(matrix, column, dt)
    pairs = torch.view_as_complex(state.double().unflatten(-1, (-1, 2))).transpose(0, 1)
    inputs = u.double().permute(2, 0, 1)
    y, final = reference.dense_recurrence(
        discrete, column, row, inputs, reference.with_conjugates(pairs)
    )
    y = y + double["feedthrough"][:, None, None] * inputs
    half = final[..., : final.shape[-1] // 2].transpose(0, 1)
    return y.permute(1, 2, 0), torch.view_as_real(half.contiguous()).flatten(-2)


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


@settings(max_examples=40, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    dtype=st.sampled_from((torch.float64, torch.float32)),
    length=st.sampled_from(LENGTHS),
    prefix=st.booleans(),
    seed=st.integers(0, 10_000),
)
@torch.no_grad()
def test_step_forward_and_dense_reference_agree(
    variant: tuple[str, str], dtype: torch.dtype, length: int, prefix: bool, seed: int
) -> None:
    layer = make_layer(variant, dtype, seed)
    u = torch.randn(3, length, 5, dtype=dtype)
    state = layer.initial_state(3)
    if prefix:
        state = torch.randn_like(state)
    y, final = layer.sequence(u, state if prefix else None)
    stepped, stepped_final = unroll(layer, u, state)
    dense, dense_final = dense_views(layer, u, state)
    for value, expected in (
        (y, stepped), (y, dense), (final, stepped_final), (final, dense_final)
    ):  # fmt: skip
        assert relative_error(value, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
@torch.no_grad()
def test_views_agree_at_full_size(variant: tuple[str, str], dtype: torch.dtype) -> None:
    layer = make_layer(variant, dtype, seed=0, d_state=96)
    u, state = torch.randn(2, 500, 5, dtype=dtype), torch.randn(2, 5, 96, dtype=dtype)
    y, final = layer.sequence(u, state)
    stepped, stepped_final = unroll(layer, u, state)
    assert relative_error(y, stepped) <= TOLERANCE[dtype]
    assert relative_error(final, stepped_final) <= TOLERANCE[dtype]


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_chunks_equal_the_whole(variant: tuple[str, str]) -> None:
    layer = make_layer(variant, torch.float64, seed=1)
    u = torch.randn(2, 50, 5, dtype=torch.float64)
    kernel = layer.kernel(23)
    parts, state = [], None
    for chunk in (u[:, :23], u[:, 23:24], u[:, 24:40], u[:, 40:]):
        y, state = layer.sequence(chunk, state, kernel)
        parts.append(y)
    whole, final = layer.sequence(u)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, final, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_flow_from_chunk_to_chunk(variant: tuple[str, str]) -> None:
    layer = make_layer(variant, torch.float64, seed=9)
    u = torch.randn(2, 24, 5, dtype=torch.float64)
    leaves = list(layer.parameters())
    whole = torch.autograd.grad(layer(u).square().sum(), leaves)

    def in_chunks(detach: bool) -> tuple[torch.Tensor, ...]:
        kernel, state, loss = layer.kernel(10), None, torch.zeros(())
        for chunk in u.split(10, dim=1):
            y, state = layer.sequence(chunk, state, kernel)
            loss = loss + y.square().sum()
            state = state.detach() if detach else state
        return torch.autograd.grad(loss, leaves)

    for value, expected in zip(in_chunks(detach=False), whole, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)
    truncated = in_chunks(detach=True)
    assert max(relative_error(a, b) for a, b in zip(truncated, whole, strict=True)) > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_both_views_agree(variant: tuple[str, str]) -> None:
    """Also through the prefix state and the final state, for every parameter."""
    layer = make_layer(variant, torch.float64, seed=2)
    u = torch.randn(2, 17, 5, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    leaves = [u, state, *layer.parameters()]
    weight = torch.randn(2, 17, 5, dtype=torch.float64)
    gradients = []
    for y, final in (layer.sequence(u, state), unroll(layer, u, state)):
        loss = (y * weight).sum() + final.square().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    for convolved, stepped in zip(*gradients, strict=True):
        torch.testing.assert_close(convolved, stepped, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_without_memory_only_the_present_counts(variant: tuple[str, str]) -> None:
    layer = make_layer(variant, torch.float64, seed=3, stateless=True)
    kernel = layer.kernel(9)
    assert kernel.taps[:, 1:].abs().max() < 1e-14
    u, state = torch.randn(2, 9, 5).double(), torch.randn(2, 5, 8).double()
    y = layer(u, state)
    torch.testing.assert_close(y, u * kernel.taps[:, 0])
    torch.testing.assert_close(unroll(layer, u, state)[0], y)


@pytest.mark.parametrize("fused", (False, True))
@pytest.mark.parametrize("variant", VARIANTS)
def test_stepping_follows_training(variant: tuple[str, str], fused: bool) -> None:
    layer = make_layer(variant, torch.float32, seed=4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, fused=fused)
    u = torch.randn(2, 6, 5)
    previous = None
    for _ in range(3):
        with torch.inference_mode():
            stepped, _ = unroll(layer, u, layer.initial_state(2))
            assert relative_error(stepped, layer(u)) < 1e-4
            if previous is not None:
                assert relative_error(stepped, previous) > 1e-3
            previous = stepped
        layer(u).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def test_stepping_follows_loading_and_casting() -> None:
    layer, other = (make_layer(VARIANTS[0], torch.float32, seed) for seed in (5, 6))
    u, state = torch.randn(2, 5), layer.initial_state(2)
    layer.step(u, state)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer.step(u, state), other.step(u, state))
    layer.double()
    y, following = layer.step(u.double(), state.double())
    assert y.dtype == following.dtype == torch.float64
    torch.testing.assert_close(y.float(), other.step(u, state)[0])


def test_copies_and_pickles_step_with_their_own_parameters() -> None:
    layer = make_layer(VARIANTS[0], torch.float32, seed=8)
    u, state = torch.randn(2, 5), layer.initial_state(2)
    with torch.inference_mode():
        before, _ = layer.step(u, state)
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(copied.step(u, state)[0], before)
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        copied.ssm.feedthrough.add_(1.0)
        torch.testing.assert_close(copied.step(u, state)[0], before + u)
        torch.testing.assert_close(layer.step(u, state)[0], before)


def test_inputs_longer_than_the_kernel_are_refused() -> None:
    layer = make_layer(VARIANTS[0], torch.float32, seed=7)
    with pytest.raises(ValueError, match="9 steps"):
        layer(torch.randn(1, 9, 5), kernel=layer.kernel(8))


def test_kernels_are_remembered_without_gradients_until_a_parameter_changes() -> None:
    layer = S4Layer(4, 8)
    assert layer.kernel(6) is not layer.kernel(6), "with gradients each belongs to its graph"
    with torch.no_grad():
        first = layer.kernel(6)
        assert layer.kernel(6) is first
        assert layer.kernel(5).length == 5 and layer.kernel(6) is first
        layer.ssm.row.mul_(2.0)
        torch.testing.assert_close(layer.kernel(6).system.row, 2.0 * first.system.row)
    assert layer.kernel(6).taps.requires_grad
    with torch.no_grad():
        assert not layer.kernel(6).taps.requires_grad
