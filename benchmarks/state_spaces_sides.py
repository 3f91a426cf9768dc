"""What `state_spaces.py` compares: the same computations by this package and by state-spaces/s4.

Nothing of theirs is changed, except from outside: pytorch_lightning, which their file needs for one
decorator, is replaced by a stand-in where it is not installed, ``src.models.nn``, from which
``s4d.py`` takes its dropout, by ``s4.py``; and KeOps formulas, which they ask for with
``backend='GPU'``, run with ``backend='CPU'`` for tensors on a CPU.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from harness.measure import Action
from mads4.kernels.backends import NAMES, choose, reason_against
from mads4.kernels.system import kernel_taps
from mads4.nn import S4Layer
from mads4.nn.blocks import S4Block
from mads4.nn.ssm import StateSpace

CHANNELS = 96
SYSTEMS = ("dplr", "diagonal")
STATE = 96
"""N of kernels and steps."""
KERNEL_LENGTHS = (50, 500, 2000, 16000)
LAYER_SIZES = ((32, 500, 96), (4, 16000, 64))
"""(B, L, N)."""
STEP_BATCHES = (1, 32)
FORWARD, BOTH, STEP = "forward", "forward+backward", "step"

_OURS = "mads4"
_THEIR_SYSTEM = {"dplr": "dplr", "diagonal": "diag"}
_DISCRETIZATION = {"dplr": "bilinear", "diagonal": "zoh"}
_ERROR_LENGTH = 500
_PLAIN_MATRICES = 5.5
"""Matrices (N, L) per channel that their plain formulas hold at once, forward and backward."""


@dataclass(frozen=True)
class Cell:
    """Sizes and system of what both sides compute."""

    case: str
    """``kernel``, ``layer``, ``step kernel`` or ``step block``."""
    system: str
    """``dplr`` or ``diagonal``."""
    batch: int
    length: int
    state: int
    channels: int = CHANNELS

    @property
    def parts(self) -> tuple[str, ...]:
        """What is timed."""
        return {"kernel": (FORWARD, BOTH), "layer": (BOTH,)}.get(self.case, (STEP,))

    @property
    def ours(self) -> list[str]:
        """Our ways to compute it, as side names; a step has nothing to choose."""
        if STEP in self.parts:
            return [f"{_OURS} torch"]
        return [f"{_OURS} {name}" for name in NAMES if reason_against(name) is None]

    @property
    def theirs(self) -> list[str]:
        """Their ways to compute it, as side names."""
        if STEP in self.parts:
            return ["dense", "linear"] if self.system == "dplr" else ["recurrence"]
        keops = ["keops"] if importlib.util.find_spec("pykeops") else []
        minimal = ["s4d.py"] if self.case == "layer" and self.system == "diagonal" else []
        return ["naive", *keops, *minimal]

    def plain_gibibytes(self) -> float:
        """Estimate what their plain formula needs: complex (N / 2, L), or 4 of (N, L / 2)."""
        width = 4 * self.state if self.system == "dplr" else self.state
        return _PLAIN_MATRICES * 8 * self.channels * width * self.length / 2 / (1 << 30)

    def __str__(self) -> str:
        return f"{self.case:<12}{self.system:<9} B={self.batch:<3} L={self.length:<6}N={self.state}"


def _trained(
    forward: Callable[[], Tensor], inputs: Sequence[Tensor], like: Tensor
) -> dict[str, Action]:
    """Return the forward pass, and the gradients of Σ weights · outputs by `inputs`."""
    weights = torch.randn_like(like)
    both = partial(_gradients, forward, list(inputs), weights)
    return {FORWARD: forward, BOTH: both}


def _gradients(forward: Callable[[], Tensor], inputs: Sequence[Tensor], weights: Tensor) -> object:
    return torch.autograd.grad(forward(), inputs, weights, allow_unused=True)


def _ours(cell: Cell, backend: str) -> dict[str, Action]:
    """Make what is timed of this package."""
    torch.manual_seed(0)
    options = _options(cell.system)
    if cell.case == "kernel":
        ssm = StateSpace(cell.channels, cell.state, **options)
        products = choose(backend).backend
        taps = torch.empty(cell.channels, cell.length)
        return _trained(
            lambda: kernel_taps(ssm.discretize(), cell.length, products).float(),
            list(ssm.parameters()),
            taps,
        )
    if cell.case == "step kernel":
        layer = S4Layer(cell.channels, cell.state, **options)
        return _stepping(layer, layer.initial_state(cell.batch), cell)
    block = S4Block(
        cell.channels, cell.state, dropout=0.0, mixing="glu", backend=backend, **options
    )
    if cell.case == "step block":
        return _stepping(block.eval(), block.s4.initial_state(cell.batch), cell)
    x = torch.randn(cell.channels, cell.batch, cell.length, requires_grad=True)
    return _trained(
        lambda: block(x, block.s4.kernel(cell.length), None, False)[0], [x, *block.parameters()], x
    )


def _options(system: str) -> dict[str, Any]:
    """Return what makes ours the system that theirs is by default."""
    return {"parameterization": system, "discretization": _DISCRETIZATION[system]}


def _stepping(module: Any, state: Tensor, cell: Cell) -> dict[str, Action]:
    """Return a step of a module that has a method of that name, ours or theirs."""
    u = torch.randn(cell.batch, cell.channels)
    return {STEP: lambda: module.step(u, state)}


def _theirs(cell: Cell, variant: str, checkout: Path) -> dict[str, Action]:
    """Make what is timed of their code, kernels already adapted to the length."""
    torch.manual_seed(0)
    if variant == "s4d.py":
        block = _their_module(checkout, "s4d").S4D(cell.channels, d_state=cell.state)
    else:
        block = _their_block(cell, variant, checkout)
    if cell.case == "layer":
        x = torch.randn(cell.batch, cell.channels, cell.length, requires_grad=True)
        return _trained(lambda: block(x)[0], [x, *block.parameters()], x)
    kernel = block.layer.kernel
    if cell.case == "kernel":
        taps = torch.empty(1, cell.channels, cell.length)
        return _trained(lambda: kernel(L=cell.length)[0], list(kernel.parameters()), taps)
    _set_up_step(kernel, variant)
    module = kernel if cell.case == "step kernel" else block.eval()
    return _stepping(module, kernel.default_state(cell.batch), cell)


def _their_block(cell: Cell, variant: str, checkout: Path) -> Any:
    """Return their block of gated linear mixing over (B, H, L)."""
    block = _their_module(checkout, "s4").S4Block(
        cell.channels,
        mode=_THEIR_SYSTEM[cell.system],
        d_state=cell.state,
        n_ssm=cell.channels,
        l_max=cell.length,
        backend=variant if variant == "keops" else "naive",
        verbose=False,
    )
    if cell.system == "dplr":
        block.layer.kernel._setup_C(cell.length)  # else part of the first forward pass
    return block


def _set_up_step(kernel: Any, mode: str) -> None:
    """Discretize for stepping; only their DPLR kernel has modes."""
    with torch.no_grad():
        kernel._setup_step(**({} if mode == "recurrence" else {"mode": mode}))


@cache
def _their_module(checkout: Path, name: str) -> ModuleType:
    """Import ``models/s4/NAME.py`` of the checkout, with stand-ins for what is not needed."""
    if name == "s4":
        _prepare_imports()
    else:
        dropout = {"DropoutNd": _their_module(checkout, "s4").DropoutNd}
        _stand_in("src", {})
        _stand_in("src.models", {})
        _stand_in("src.models.nn", dropout)
    spec = importlib.util.spec_from_file_location(f"state_spaces_{name}", source(checkout, name))
    if spec is None or spec.loader is None:
        raise ImportError(f"{source(checkout, name)} is no Python module.")
    logging.getLogger(spec.name).disabled = True  # it warns that there is no CUDA extension
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(checkout: Path, name: str) -> Path:
    """Return the path of one of their two files."""
    return checkout / "models" / "s4" / f"{name}.py"


def _prepare_imports() -> None:
    """Provide for pytorch_lightning, and let KeOps' formulas run where their tensors are."""
    if importlib.util.find_spec("pytorch_lightning") is None:
        _stand_in("pytorch_lightning", {})
        _stand_in("pytorch_lightning.utilities", {"rank_zero_only": lambda function: function})
    if importlib.util.find_spec("pykeops") is None:
        return
    from pykeops.torch import Genred

    call = Genred.__call__

    def on_device(self: Any, *tensors: Tensor, **options: Any) -> Tensor:
        if tensors[0].device.type == "cpu":
            options["backend"] = "CPU"
        reduced: Tensor = call(self, *tensors, **options)
        return reduced

    Genred.__call__ = on_device


def _stand_in(name: str, attributes: dict[str, Any]) -> None:
    """Register a module of that name and content."""
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


@torch.no_grad()
def step_errors(checkout: Path, state: int) -> dict[str, float]:
    """Return max |stepped - convolved| / max |convolved| for all ways to step with N = `state`."""
    errors = {}
    for system in SYSTEMS:
        cell = Cell("step kernel", system, 1, _ERROR_LENGTH, state)
        torch.manual_seed(0)
        u = torch.randn(1, _ERROR_LENGTH, CHANNELS)
        for mode in ("dense", "linear", "diagonal") if system == "dplr" else ("recurrence",):
            kernel = _their_block(cell, mode, checkout).layer.kernel
            taps = kernel(L=_ERROR_LENGTH)[0][0]
            _set_up_step(kernel, mode)
            stepped = _unrolled(kernel, u, kernel.default_state(1))
            errors[f"{system}, their {mode}"] = _relative_error(stepped, _convolved(u, taps))
        layer = S4Layer(CHANNELS, state, **_options(system))
        stepped = _unrolled(layer, u, layer.initial_state(1))
        errors[f"{system}, ours"] = _relative_error(stepped, layer(u))
    return errors


def _unrolled(module: Any, u: Tensor, state: Tensor) -> Tensor:
    """Return the outputs (B, L, H) of stepping through u (B, L, H)."""
    outputs = []
    for inputs in u.unbind(1):
        y, state = module.step(inputs, state)
        outputs.append(y.reshape(inputs.shape))
    return torch.stack(outputs, dim=1)


def _convolved(u: Tensor, taps: Tensor) -> Tensor:
    """Return the causal convolution of u (B, L, H) with taps (H, L), computed in float64."""
    size = 2 * u.shape[1]
    spectrum = torch.fft.rfft(u.double(), size, dim=1)
    response = torch.fft.rfft(taps.double().T, size, dim=0)
    convolved: Tensor = torch.fft.irfft(spectrum * response, size, dim=1)
    return convolved[:, : u.shape[1]]


def _relative_error(values: Tensor, expected: Tensor) -> float:
    """Return the greatest difference over the greatest expected value."""
    return float((values - expected).abs().max() / expected.abs().max())


def make(cell: Cell, side: str, checkout: Path) -> dict[str, Action]:
    """Make what is timed of one side, named as in `Cell.ours` or `Cell.theirs`."""
    if side in cell.ours:
        return _ours(cell, side.removeprefix(_OURS).strip())
    return _theirs(cell, side, checkout)


def prepared(cell: Cell, side: str, checkout: Path) -> Action:
    """Make forward and backward for measuring its memory, after a tiny one has loaded libraries."""
    tiny = replace(cell, batch=1, length=16, state=8, channels=2)
    make(tiny, side, checkout)[BOTH]()
    return make(cell, side, checkout)[BOTH]


def plan(only: str | None, lengths: Sequence[int]) -> list[Cell]:
    """Return the cells in the order in which they are measured."""
    sizes = [("kernel", 1, length, STATE) for length in lengths or KERNEL_LENGTHS]
    sizes += [("layer", *size) for size in LAYER_SIZES if not lengths or size[1] in lengths]
    sizes += [
        (f"step {what}", batch, 1, STATE) for what in ("kernel", "block") for batch in STEP_BATCHES
    ]
    return [
        Cell(case, system, *rest)
        for case, *rest in sizes
        if only is None or case.startswith(only)
        for system in SYSTEMS
    ]
