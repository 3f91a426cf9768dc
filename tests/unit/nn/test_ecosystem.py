"""What PyTorch users do with a layer: compile it, autocast it, give it long sequences."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mads4.nn import S4Layer, S4Stack
from mads4.nn.recurrence import recurrence

OPTIONS = (
    {},
    {"parameterization": "dplr", "discretization": "bilinear"},
    {"initialization": "real"},
)

LONG = """
import sys
import torch
from mads4.nn import S4Stack

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 2**20

torch.set_num_threads(1)
options = {} if sys.argv[1] == "diagonal" else {
    "parameterization": "dplr", "discretization": "bilinear"
}
stack = S4Stack(96, 96, 3, **options)
u = torch.randn(4, 16_000, 96)
stack(u).square().mean().backward()
assert all(value.grad.isfinite().all() for value in stack.parameters())
print(resident("VmHWM:"))
"""


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backend", ("aot_eager", pytest.param("inductor", marks=pytest.mark.slow)))
def test_steps_compile_and_follow_training(options: dict[str, str], backend: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = S4Layer(6, 8, **options)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    graph = torch.compile(recurrence, fullgraph=True, backend=backend)
    step = torch.compile(layer.step, backend=backend)
    u, state = torch.randn(3, 6), torch.randn(3, 6, 8)
    seen = []
    for _ in range(2):
        with torch.no_grad():
            expected = layer.step(u, state)
            torch.testing.assert_close(graph(layer.coefficients(), u, state), expected)
            torch.testing.assert_close(step(u, state), expected)
        seen.append(expected[0])
        layer(torch.randn(2, 5, 6)).square().sum().backward()
        optimizer.step()
    assert not torch.allclose(*seen, rtol=1e-2)


def test_a_compiled_stack_trains_as_the_plain_one() -> None:
    torch._dynamo.reset()
    torch.manual_seed(1)
    stack, u = S4Stack(6, 8, 2), torch.randn(2, 40, 6)
    compiled = torch.compile(stack, backend="aot_eager")
    leaves = list(stack.parameters())
    gradients = [
        torch.autograd.grad(model(u).square().sum(), leaves) for model in (compiled, stack)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("length", (20, 100))
def test_autocast_leaves_kernels_in_full_precision(length: int) -> None:
    torch.manual_seed(2)
    stack, u = S4Stack(16, 8, 2, mixing="glu"), torch.randn(3, length, 16)
    exact = stack(u)
    with torch.autocast("cpu", torch.bfloat16):
        kernel = stack.kernels(length)[0]
        y = stack(u)
        state = stack.initial_state(3)
        stepped = []
        for u_t in u.unbind(1):
            out, state = stack.step(u_t, state)
            stepped.append(out)
    assert kernel.taps.dtype == torch.float32
    torch.testing.assert_close(kernel.taps, stack.kernels(length)[0].taps)
    assert ((y - exact).abs().max() / exact.abs().max()).item() < 0.03
    assert ((torch.stack(stepped, 1) - exact).abs().max() / exact.abs().max()).item() < 0.03
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(stack.parameters(), lr=1e-3)
    before = [value.detach().clone() for value in stack.parameters()]
    scaler.scale(y.float().square().mean()).backward()
    scaler.step(optimizer)
    moved = [not torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("parameterization", ("diagonal", "dplr"))
def test_sixteen_thousand_steps_train_in_two_gibibytes(parameterization: str) -> None:
    """Three blocks, batch 4, H = N = 96: the peak of the whole process."""
    command = [sys.executable, "-c", LONG, parameterization]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0
