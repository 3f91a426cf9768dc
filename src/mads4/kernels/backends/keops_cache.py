"""KeOps formulas, compiled by one process at a time.

KeOps generates C++ (or CUDA) for a formula at its first use, compiles it for some seconds and keeps
the result in a folder that all processes of a user share. It takes no lock: it imports whatever is
there, half written or not, and rewrites its index files in place when a process exits. Here a lock
file in that folder guards the import and the first use of each formula, and the index files, which
save milliseconds only, are not written at all.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import logging
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor

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
