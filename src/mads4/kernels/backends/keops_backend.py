"""Vandermonde products as KeOps formulas: sums without stored matrices, on CPU and CUDA.

Powers in blocks: with ``l = a S + b`` and a fixed S, one exponential ``(d^S)^a`` per block and node
serves S time steps, as the product with the vector ``d^0 … d^(S-1)``, so that a formula evaluates
L / S exponentials per node instead of L, and one compiled formula serves all lengths.

Phases in turns: ``a t`` with ``t = S arg(d) / 2π`` grows with the length, and only its fraction
matters, which float32 would lose. t, computed in float64, is split into a coarse part of so few
bits that its multiples are exact (for fewer than 2^13 blocks in float32) and a fine one whose
multiples stay small. Whole turns are dropped before sine and cosine. This gives the accuracy of
float64 phases at the cost of float32, which matters on GPUs with few float64 units.

Compilation: KeOps generates C++ (or CUDA) for a formula at its first use, compiles it for some
seconds and keeps the result in a folder that all processes of a user share. It takes no lock: it
imports whatever is there, half written or not, and rewrites its index files in place when a process
exits. Here a lock file in that folder guards the import and the first use of each formula, and the
index files, which save milliseconds only, are not written at all.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.util
import io
import logging
import math
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from mads4.kernels.backends.torch_backend import agrees, powers

_LOG = logging.getLogger(__name__)

LOCK_NAME = "mads4-keops.lock"


def cache_folder() -> Path:
    """Return the folder of KeOps' compiled formulas."""
    folder = os.environ.get("KEOPS_CACHE_FOLDER")
    return Path.home() / ".cache" if folder is None else Path(folder)


def exclusive() -> contextlib.AbstractContextManager[object]:
    """Acquire the lock of the cache folder against other processes and threads; not reentrant.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _LOG.info("waiting for another process that compiles KeOps formulas in %s", folder)
        return lock.acquire()


@functools.cache
def load() -> Any:
    """Import pykeops under the lock, suppress its messages, and return the package.

    Raises:
        ImportError: If it is not installed.
        OSError: If the cache folder cannot be written to.
    """
    with exclusive(), contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module("pykeops.torch")
        except (EOFError, pickle.UnpicklingError):
            _remove_indices()
            importlib.import_module("pykeops.torch")
        _stop_writing_indices()
    return importlib.import_module("pykeops")


def _remove_indices() -> None:
    """Delete index files that a killed process left incomplete; KeOps works without them."""
    config = importlib.import_module("keopscore.config").config
    for file in Path(config.get_build_folder()).glob("*_cache.pkl"):
        file.unlink()


def _stop_writing_indices() -> None:
    """Cancel the unlocked rewriting of the index files at exit."""
    libraries = importlib.import_module("pykeops.common.keops_io").keops_binder.values()
    generator = importlib.import_module("keopscore.get_keops_dll").get_keops_dll
    for index in (generator, *libraries):
        atexit.unregister(index.save_cache)


@dataclass(frozen=True)
class Formula:
    """A sum of a formula over one of its two indices, compiled at its first use."""

    text: str
    """In KeOps' language."""
    variables: tuple[str, ...]
    """``name=Vi(width)``, ``Vj(width)`` or ``Pm(width)``, in the order of the arguments."""
    axis: int
    """The index that is summed over: 0 for i, 1 for j."""

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Compute it for tensors with two batch axes, (…, …, rows, width), (…, …, width) for Pm.

        Batch axes broadcast. It is computed on the device of the tensors.

        Raises:
            RuntimeError: If the formula cannot be compiled.
        """
        device = arguments[0].device
        scheme = "CPU" if device.type == "cpu" else "GPU_1D"
        ready = [argument.contiguous() for argument in arguments]
        call = functools.partial(_reduction(self), *ready, backend=scheme)
        key = (self, ready[0].dtype, device)
        if key in _COMPILED:
            return call()
        result = _compile(call)
        _COMPILED.add(key)
        return result


_COMPILED: set[tuple[Formula, torch.dtype, torch.device]] = set()


@functools.cache
def _reduction(formula: Formula) -> Callable[..., Tensor]:
    reduction = load().torch.Genred(
        formula.text,
        list(formula.variables),
        reduction_op="Sum",
        axis=formula.axis,
        use_fast_math=False,  # CUDA's fast sine and division are less accurate than float32
    )
    return cast(Callable[..., Tensor], reduction)


def _compile(call: Callable[[], Tensor]) -> Tensor:
    """Make the first call of a formula; rebuild a library that a killed job left broken."""
    messages = io.StringIO()
    with exclusive(), contextlib.redirect_stdout(messages):
        try:
            return call()
        except ImportError as error:
            library = None if error.path is None else Path(error.path).resolve()
            if library is None or not library.is_relative_to(cache_folder().resolve()):
                raise RuntimeError(_compiler_message(messages.getvalue(), error)) from error
            library.unlink()
            return call()


def _compiler_message(output: str, error: Exception) -> str:
    """Return the compiler's first error, or else the Python exception's message."""
    errors = [line for line in output.splitlines() if "error:" in line or "not found" in line]
    return errors[0].strip() if errors else str(error)


_BLOCK = 32
"""S, a compiled width: larger ones save exponentials on a CPU but spill registers on a GPU."""

_COARSE_BITS = {torch.float32: 12, torch.float64: 26}
"""Binary digits of the coarse part of a phase: half of the significand."""

_LOG_OF_ZERO = -1e5
"""In place of log 0: its exponential is 0, and 0 times it is 0."""

_POWER_VARIABLES = (
    "a=Vi(1)",
    "log=Vj(1)",
    "coarse=Vj(1)",
    "fine=Vj(1)",
    f"inner=Vj({2 * _BLOCK})",
    "turn=Pm(1)",
)
_OUTER = "(Exp(a*log)*ComplexExp1j(turn*(a*coarse-Floor(a*coarse)+a*fine)))"
_PRODUCT = Formula(f"VecMatMult({_OUTER},inner)", _POWER_VARIABLES, axis=1)
_TRANSPOSED = Formula(
    f"ComplexMult({_OUTER},MatVecMult(inner,u))", (*_POWER_VARIABLES, f"u=Vi({_BLOCK})"), axis=0
)


@dataclass(frozen=True)
class BlockPowers:
    """``d^l`` as ``(d^S)^a d^b``, the first factor in polar form."""

    polar: tuple[Tensor, Tensor, Tensor]
    """log |d^S| and the coarse and the fine part of its phase in turns, (H, 1, N, 1) each."""
    inner: Tensor
    """``d^b``, (H, 1, N, S) complex."""
    starts: Tensor
    """a = 0, 1, …, (1, 1, A, 1) with A S >= length."""
    length: int
    """L."""

    def product(self, weight: Tensor) -> Tensor:
        """Return 2 Re Σ_n weight_n d_n^l, complex (H, M, N) to real (H, M, L)."""
        weighted = (2.0 * weight).unsqueeze(-1) * self.inner
        matrix = torch.cat([weighted.real, -weighted.imag], dim=-1)
        blocks = _PRODUCT(self.starts, *self.polar, matrix, self._turn())
        return blocks.flatten(2)[..., : self.length].contiguous()

    def transposed(self, values: Tensor) -> Tensor:
        """Return Σ_l values_l d_n^l, real (H, M, L) to complex (H, M, N)."""
        missing = self.starts.numel() * _BLOCK - self.length
        padded = torch.nn.functional.pad(values, (0, missing))
        blocks = padded.view(*values.shape[:2], -1, _BLOCK)
        matrix = torch.cat([self.inner.real, self.inner.imag], dim=-1)
        return torch.view_as_complex(
            _TRANSPOSED(self.starts, *self.polar, matrix, self._turn(), blocks)
        )

    def _turn(self) -> Tensor:
        return self.starts.new_full((1, 1, 1), 2.0 * math.pi)


def _polar(base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log |d^S| and the two parts of its phase, computed in float64."""
    exact = base.to(torch.complex128)
    log = (_BLOCK * exact.abs().log()).clamp(min=_LOG_OF_ZERO)
    turns = _BLOCK / (2.0 * math.pi) * exact.angle()
    turns = turns - turns.round()
    scale = 2.0 ** _COARSE_BITS[base.real.dtype]
    coarse = (turns * scale).round() / scale
    log, coarse, fine = (
        part.to(base.real.dtype)[:, None, :, None] for part in (log, coarse, turns - coarse)
    )
    return log, coarse, fine


class KeopsBackend:
    """Formulas that KeOps compiles, some seconds each, at the first use on a machine."""

    name = "keops"

    def powers(self, base: Tensor, length: int, sequences: int = 1) -> BlockPowers:
        """Return the factors of ``base^l``."""
        starts = torch.arange(-(-length // _BLOCK), dtype=base.real.dtype, device=base.device)
        inner = powers(base, _BLOCK).transpose(1, 2).unsqueeze(1)
        return BlockPowers(_polar(base), inner, starts[None, None, :, None], length)


BACKEND = KeopsBackend()
AUTO_RANK = {"cpu": 2, "cuda": 3}


def reason_against(device: torch.device) -> str | None:
    """Return why it cannot run on a device, or None if it computes a tiny product correctly."""
    if device.type not in ("cpu", "cuda"):
        return f"KeOps computes on cpu and cuda, not on {device.type}."
    if sys.platform == "win32":
        return "KeOps runs on Linux and macOS only."
    if importlib.util.find_spec("pykeops") is None:
        return "pykeops is not installed; install it with `pip install 'mads4[keops]'`."
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))):
        return "KeOps needs a C++ compiler and there is none; install g++ or set CXX to one."
    try:
        if device.type == "cuda" and not load().config.gpu_available:
            return "KeOps finds no CUDA driver with NVRTC; install the CUDA toolkit."
        if agrees(BACKEND, device, _BLOCK + 1):
            return None
        return f"KeOps computes wrong values; delete its folder in {cache_folder()} and try again."
    except OSError as error:
        return (
            f"KeOps cannot use its cache folder {cache_folder()} ({error}); set "
            "KEOPS_CACHE_FOLDER to a writable one."
        )
    except Exception as error:  # imports and compilers raise many kinds
        summary = (str(error).splitlines() or [type(error).__name__])[0]
        return (
            f"KeOps cannot compile or load a formula ({summary}); `python -c 'import pykeops; "
            "pykeops.test_torch_bindings()'` shows more."
        )
