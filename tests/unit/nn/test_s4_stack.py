"""The stack of blocks: both views, shared kernels, dtypes, chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mads4.nn.blocks import S4Stack, channel_norm

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"mixing": "glu"},
    {"parameterization": "dplr", "discretization": "bilinear"},
    {"stateless": True},
)


def unroll(
    stack: S4Stack, u: torch.Tensor, state: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    outputs = []
    for u_t in u.unbind(1):
        y, state = stack.step(u_t, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), ((torch.float64, 1e-10), (torch.float32, 1e-4)))
@torch.no_grad()
def test_step_equals_forward_in_chunks(
    options: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    stack = S4Stack(6, 8, 3, **options).to(dtype)
    u = torch.randn(2, 40, 6, dtype=dtype)
    stepped, final = unroll(stack, u, stack.initial_state(2))
    kernels = stack.kernels(25)
    first, _, state = stack.sequence(u[:, :25], kernels, return_state=True)
    second, _, state = stack.sequence(u[:, 25:], kernels, state, return_state=True)
    pairs = [(stack(u), stepped), (torch.cat([first, second], 1), stepped)]
    for value, expected in [*pairs, *zip(state, final, strict=True)]:
        assert (value - expected).abs().max() <= tolerance * expected.abs().max()


def test_shared_kernels_gather_the_gradients_of_all_calls() -> None:
    torch.manual_seed(1)
    stack = S4Stack(4, 6, 2).double()
    u = torch.randn(2, 12, 4).double()
    leaves = list(stack.parameters())
    kernels = stack.kernels(12)
    shared = stack(stack(u, kernels=kernels), kernels=kernels).square().sum()
    apart = stack(stack(u)).square().sum()
    for left, right in zip(
        torch.autograd.grad(shared, leaves), torch.autograd.grad(apart, leaves), strict=True
    ):
        torch.testing.assert_close(left, right)


def test_the_output_is_independent_of_memory_order() -> None:
    stack = S4Stack(4, 6, 1).double()
    u = torch.randn(4, 3, 10).double().permute(1, 2, 0)
    torch.testing.assert_close(stack(u), stack(u.contiguous()))


def test_the_past_does_not_see_the_future() -> None:
    stack = S4Stack(4, 6, 2).double()
    u = torch.randn(2, 20, 4).double()
    changed = u.clone()
    changed[:, 13:] += 1.0
    difference = (stack(u) - stack(changed)).abs().amax((0, 2))
    assert difference[:13].max() < 1e-12
    assert difference[13:].min() > 1e-6


def test_autocast_keeps_kernels_in_full_precision() -> None:
    stack = S4Stack(8, 8, 2)
    u = torch.randn(2, 30, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stack.kernels(30)[0].taps.dtype == torch.float32
        y = stack(u)
    assert (y - stack(u)).abs().max() < 0.1 * y.abs().max()
    y.float().sum().backward()


def test_dropout_acts_in_training_only() -> None:
    stack = S4Stack(4, 6, 1, dropout=0.5)
    u = torch.randn(2, 10, 4)
    assert not torch.equal(stack(u), stack(u))
    stack.eval()
    torch.testing.assert_close(stack(u), stack(u), rtol=0, atol=0)


def test_channel_norm_is_layer_norm_over_the_first_axis() -> None:
    x = torch.randn(6, 2, 5, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.layer_norm(x.permute(1, 2, 0), (6,)).permute(2, 0, 1)
    torch.testing.assert_close(channel_norm(x), expected)
    assert torch.autograd.gradcheck(channel_norm, (x,))


def test_an_unknown_mixing_is_refused() -> None:
    with pytest.raises(ValueError, match="gelu, glu"):
        S4Stack(4, 6, 1, mixing="relu")
