"""Worker processes that start quietly, leave when told and never outlive their parent; memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from mads4.errors import UserError

STOP_SECONDS = 2.0
"""Time a worker has to close its environments before it is killed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def start_worker(serve: Callable[..., None], *arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Start ``serve(connection, *arguments)`` in a process; return it and our end of its pipe.

    The only other end is the child's, so its death is seen here as an end of file, and ours there.
    """
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
    with _quiet_start():
        process.start()
    theirs.close()
    return process, ours


def become_worker() -> None:
    """Prepare this process to be one that `start_worker` started.

    SIGTERM unwinds the stack, so that environments are closed; the process leads a group of its
    own, so that what an environment starts (simulators) can be killed with it. That happens even if
    the parent is gone and this process hangs.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if hasattr(os, "setpgrp"):
        os.setpgrp()
        threading.Thread(target=_outlive_no_parent, daemon=True).start()


def _outlive_no_parent() -> None:
    """Kill this process's group once its parent has died and it had time to leave by itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        time.sleep(STOP_SECONDS)
        os.killpg(0, signal.SIGKILL)


def end_worker(process: SpawnProcess, patience: float = STOP_SECONDS) -> None:
    """Wait `patience` seconds for a worker to leave, then kill it; kill all that it has started."""
    process.join(patience)
    if hasattr(os, "killpg") and process.pid is not None:
        with suppress(OSError):  # nobody is left, or it has not yet become the leader of a group
            os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode is None:
        process.kill()
        process.join()


def group_memory(group: int) -> int | None:
    """Return the bytes that the processes of a group hold in memory; None where nobody can tell.

    Pages that they share are counted for each. Linux only: read from the process table.
    """
    page, total, known = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0, 0, False
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        known = True
        if int(fields[2]) == group:
            total += int(fields[21]) * page
    return total if known else None


def require_picklable(value: object, what: str, otherwise: str) -> None:
    """Raise `UserError` when `value`, in words `what`, cannot be sent to a worker process.

    `otherwise` is the option that does without one.
    """
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"{what} cannot be sent to worker processes: {error}. Define factories at the top "
            f"level of a module, or use {otherwise}."
        ) from error


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB of freed memory instead of giving it back at once.

    A policy's step frees states of some MiB and allocates as many. By default glibc returns them to
    the system whenever they lie on top of its heap, and the pages that are faulted in again at the
    next step cost as much as the step itself. Other C libraries are left alone.
    """
    mallopt = None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 1 << 28)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Let a process start with one thread per library and deaf to Ctrl-C, from its first moment.

    Both are inherited: the environment variables must be there before NumPy is imported, and a
    blocked signal cannot interrupt the imports. Ctrl-C reaches the parent, which ends the workers.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    if sys.platform != "win32":
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
