"""Workloads: kernels, layers, blocks and single steps, by every backend and by plain formulas.

Axes: ``B`` batch, ``H`` channels, ``L`` time, ``N`` real states per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness import plain
from harness.measure import Action
from mads4.kernels.backends import choose
from mads4.kernels.system import kernel_taps
from mads4.nn import S4Layer, S4Stack
from mads4.nn.blocks import S4Block
from mads4.nn.ssm import StateSpace

REFERENCE = "reference"
"""In place of a backend's name: the formulas of `harness.plain`."""

COMPILED = "compiled"
"""In place of ``torch``: the same step through `torch.compile`."""

STACK_BLOCKS = 3

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_DISCRETIZATION = {"diagonal": "zoh", "dplr": "bilinear"}
_TEMPORARIES = 6
"""Tensors of the size of the plain formula's matrix that live at once, forward and backward."""


@dataclass(frozen=True)
class Cell:
    """One row of the table: an operation, its implementation and the sizes."""

    case: str
    """``kernel``, ``layer``, ``block``, ``step layer`` or ``step stack``."""
    parameterization: str
    """``diagonal`` (discretized by zero-order hold) or ``dplr`` (bilinear)."""
    backend: str
    """A backend's name, `REFERENCE`, or `COMPILED` for a step."""
    length: int
    """L; 1 for a step."""
    channels: int
    """H."""
    state: int
    """N."""
    batch: int = 1
    """B; 1 for a kernel, which is the same for every sequence."""
    dtype: str = "float32"
    """Of parameters and sequences."""
    device: str = "cpu"

    def shrunken(self) -> Cell:
        """Return the same computation at sizes that cost next to nothing."""
        return replace(self, length=min(self.length, 16), channels=2, state=4, batch=1)


@dataclass(frozen=True)
class Workload:
    """The computation of a cell, its inputs made."""

    forward: Action
    """Forward pass, with autograd's records as in training (not in a step)."""
    forward_backward: Action | None
    """Forward, then gradients of all parameters and inputs; None for a step."""
    context: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)
    """Entered once around all runs."""


def workload(cell: Cell) -> Workload:
    """Make parameters and inputs of a cell, the same at every call.

    Raises:
        BackendError: If its backend cannot run on its device.
    """
    torch.manual_seed(0)
    return _MAKERS[cell.case](cell)


def reference_mebibytes(cell: Cell) -> float:
    """Estimate the memory of a cell's plain formula from the size of its matrix.

    That matrix is (H, N / 2, L) complex for a diagonal system and (H, N, L / 2) for ``dplr``.
    """
    itemsize = _DTYPES[cell.dtype].to_complex().itemsize
    elements = cell.channels * (cell.state // 2) * cell.length
    return _TEMPORARIES * elements * itemsize / (1 << 20)


def _options(cell: Cell) -> dict[str, Any]:
    return {
        "parameterization": cell.parameterization,
        "discretization": _DISCRETIZATION[cell.parameterization],
    }


def _place(module: nn.Module, cell: Cell) -> None:
    module.to(device=cell.device, dtype=_DTYPES[cell.dtype])


def _sequence(cell: Cell, *shape: int) -> Tensor:
    return torch.randn(*shape, device=cell.device, dtype=_DTYPES[cell.dtype])


def _trained(forward: Callable[[], Tensor], inputs: Sequence[Tensor], weights: Tensor) -> Workload:
    """Differentiate Σ weights · outputs by all inputs that the outputs depend on."""

    def forward_backward() -> object:
        return torch.autograd.grad(forward(), inputs, weights, allow_unused=True)

    return Workload(forward, forward_backward)


def _kernel(cell: Cell) -> Workload:
    """Make taps (H, L) of the parameters, discretization included."""
    ssm = StateSpace(cell.channels, cell.state, **_options(cell))
    _place(ssm, cell)
    parameters, weights = list(ssm.parameters()), _sequence(cell, cell.channels, cell.length)
    if cell.backend == REFERENCE:
        return _trained(lambda: plain.kernel(ssm, cell.length), parameters, weights)
    backend = choose(cell.backend, cell.device).backend
    dtype = ssm.row.dtype

    def forward() -> Tensor:
        return kernel_taps(ssm.discretize(), cell.length, backend).to(dtype)

    return _trained(forward, parameters, weights)


def _backend_option(cell: Cell) -> dict[str, Any]:
    """Return a layer's backend; for a plain formula the layer only holds the parameters."""
    return {} if cell.backend in (REFERENCE, COMPILED) else {"backend": cell.backend}


def _layer(cell: Cell) -> Workload:
    """Run a layer over (B, L, H), kernel included, each side in the memory order it prefers."""
    layer = S4Layer(cell.channels, cell.state, **_options(cell), **_backend_option(cell))
    _place(layer, cell)
    if cell.backend == REFERENCE:
        u, weights = _sequence(cell, 2, cell.batch, cell.length, cell.channels)
        inputs = [u.requires_grad_(), *layer.parameters()]
        return _trained(lambda: plain.layer(layer, u), inputs, weights)
    u, weights = _sequence(cell, 2, cell.channels, cell.batch, cell.length)
    inputs = [u.requires_grad_(), *layer.parameters()]
    return _trained(lambda: layer(u.permute(1, 2, 0)), inputs, weights.permute(1, 2, 0))


def _block(cell: Cell) -> Workload:
    """Run normalization, S4, GELU, mixing and residual, kernel included."""
    block = S4Block(
        cell.channels,
        cell.state,
        dropout=0.0,
        mixing="gelu",
        **_options(cell),
        **_backend_option(cell),
    )
    _place(block, cell)
    if cell.backend == REFERENCE:
        x, weights = _sequence(cell, 2, cell.batch, cell.length, cell.channels)
        inputs = [x.requires_grad_(), *block.parameters()]
        return _trained(lambda: plain.block(block, x), inputs, weights)
    x, weights = _sequence(cell, 2, cell.channels, cell.batch, cell.length)
    inputs = [x.requires_grad_(), *block.parameters()]

    def forward() -> Tensor:
        y: Tensor = block(x, block.s4.kernel(cell.length), None, False)[0]
        return y

    return _trained(forward, inputs, weights)


def _step_layer(cell: Cell) -> Workload:
    """Advance one layer by one time step, (B, H)."""
    layer = S4Layer(cell.channels, cell.state, **_options(cell))
    _place(layer, cell)
    u = _sequence(cell, cell.batch, cell.channels)
    state = layer.initial_state(cell.batch)
    if cell.backend != REFERENCE:
        return _inference(cell, lambda: layer.step(u, state))
    with torch.inference_mode():
        step = plain.Step(layer)
        shape = (cell.batch, cell.channels, step.width)
        start = torch.zeros(shape, dtype=u.dtype.to_complex(), device=cell.device)
    return Workload(lambda: step(u, start), None, torch.inference_mode)


def _step_stack(cell: Cell) -> Workload:
    """Advance a stack of blocks by one time step, (B, H)."""
    stack = S4Stack(cell.channels, cell.state, STACK_BLOCKS, **_options(cell))
    _place(stack, cell)
    stack.eval()
    u = _sequence(cell, cell.batch, cell.channels)
    state = stack.initial_state(cell.batch)
    return _inference(cell, lambda: stack.step(u, state))


def _inference(cell: Cell, step: Action) -> Workload:
    if cell.backend == COMPILED:
        torch.compiler.reset()  # else sizes of earlier cells make the graph dynamic
        step = torch.compile(step)
    return Workload(step, None, torch.inference_mode)


_MAKERS: dict[str, Callable[[Cell], Workload]] = {
    "kernel": _kernel,
    "layer": _layer,
    "block": _block,
    "step layer": _step_layer,
    "step stack": _step_stack,
}
