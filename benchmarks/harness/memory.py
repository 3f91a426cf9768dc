"""Peak memory of a function above the memory held before.

On a CUDA device PyTorch counts. On a CPU the operating system does: every measurement runs in a
fresh child process, because memory that earlier measurements left in the allocator would be reused
without being counted. The child makes the inputs, resets the high-water mark of its resident memory
(``/proc/self/clear_refs``, Linux only), runs, and reads the mark.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from harness.measure import Action, synchronize

MEBIBYTE = float(1 << 20)

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_PEAK_RESET = "5"
"""Written to ``clear_refs``: sets VmHWM to VmRSS (proc_pid_clear_refs(5))."""

Prepare = Callable[[], Action]
"""Makes the inputs and returns the action; picklable where a child process runs it."""


def reason_against(device: torch.device) -> str | None:
    """Return why peak memory cannot be measured on a device, or None if it can."""
    if device.type == "cuda":
        return None
    return _reason_against_cpu()


@cache
def _reason_against_cpu() -> str | None:
    if not sys.platform.startswith("linux"):
        return f"peak memory on a CPU is read from /proc, which {sys.platform} does not have"
    try:
        _reset_peak()
        _status("VmHWM")
    except (OSError, KeyError) as error:
        return f"the kernel does not report peak memory here: {error}"
    return None


def peak_mebibytes(prepare: Prepare, device: torch.device, threads: int) -> float:
    """Return how many MiB more than before the prepared action held at its worst.

    Args:
        prepare: Makes the action; on a CPU it is pickled and called in a child process.
        device: Where the action computes.
        threads: PyTorch's threads in the child process.

    Raises:
        MemoryError: If the child process was killed, as the system does with processes that need
            more memory than there is.
    """
    if device.type == "cuda":
        return _cuda_peak(prepare(), device)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mads4.models"])  # else every child imports it again
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, prepare, threads), daemon=True)
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        raise MemoryError("the measuring process was killed") from None
    finally:
        process.join()
        receiver.close()
    if isinstance(answer, Exception):
        raise answer
    return float(answer)


def _child(sender: Connection, prepare: Prepare, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where backends announce compilations
            answer: float | Exception = resident_peak(prepare())
    except Exception as error:  # raised in the parent
        answer = error
    sender.send(answer)
    sender.close()


def resident_peak(action: Action) -> float:
    """Return the peak of this process's resident memory while `action` runs, in MiB above before.

    Memory that the allocator kept from earlier work hides allocations, so this is exact only in a
    process that has done little else.
    """
    gc.collect()
    _give_back_free_memory()
    _reset_peak()
    before = _status("VmRSS")
    result = action()
    peak = _status("VmHWM")
    del result
    return max(0.0, peak - before) / MEBIBYTE


def _cuda_peak(action: Action, device: torch.device) -> float:
    gc.collect()
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = action()
    synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    del result
    return (peak - before) / MEBIBYTE


def _reset_peak() -> None:
    _CLEAR.write_text(_PEAK_RESET, encoding="ascii")


def _status(field: str) -> float:
    """Return a field of this process's status in bytes."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024.0 * float(value.split()[0])
    raise KeyError(field)


def _give_back_free_memory() -> None:
    """Ask glibc to return freed memory, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
