"""Worker processes: what they execute, how they start, end with their parent, and are weighed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import SharedBuffers, WorkerLost
from mads4.errors import UserError
from mads4.rollout.local import BehaviorPlan, EnvRow
from mads4.rollout.recorder import EpisodeResult
from mads4.types import EnvSpec

STOP_SECONDS = 2.0
"""Time a worker has to close its environments before it is killed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

START_SECONDS = 300.0
"""Time for a process to import and make its environments, before `timeout` applies."""


@dataclass(frozen=True)
class Report:
    """A process's answer when it has executed its orders."""

    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Row → metrics of the episode that ended there."""
    results: Mapping[int, EpisodeResult] = field(default_factory=dict)
    """Row → the episode that a behavior policy has played there."""
    losses: Sequence[WorkerLost] = ()
    """Episodes that broke."""
    memory: int | None = None
    """Bytes held by the process and what it has started, where an episode ended."""


Answer = Report | UserError | str
"""Or the error that ended the process: the user's, or a traceback."""

_Request = tuple[tuple[int, int] | None, float]
"""Range of rows, None for the start of the process, and the seconds that it may take."""


class Worker:
    """One process as seen from here, and its unanswered requests."""

    def __init__(
        self,
        job: tuple[Any, ...],
        rows: Sequence[int],
        starts: int = 1,
        failures: int = 0,
        delay: float = 0.0,
    ) -> None:
        self.rows = rows
        self.starts = starts
        self.failures = failures
        """How often in a row its place was lost without an episode finished."""
        self.memory = 0
        """Bytes when an episode last ended."""
        start: _Request = (None, START_SECONDS + delay)
        self.pending = deque([start])
        self.since = time.monotonic()
        """When it began with the first of its pending requests."""
        self.process, self.connection = start_worker(_serve, delay, rows, *job)

    @property
    def starting(self) -> bool:
        """Whether it has yet to make its environments."""
        return bool(self.pending) and self.pending[0][0] is None

    @property
    def allowed(self) -> float:
        """Seconds for its current request."""
        return self.pending[0][1]

    def send(self, rows: tuple[int, int], allowed: float) -> None:
        """Request that it executes the orders of `rows` within `allowed` seconds."""
        if not self.pending:
            self.since = time.monotonic()
        self.pending.append((rows, allowed))
        # The death of a process shows at the next `receive`.
        with suppress(OSError):
            self.connection.send(rows)

    def receive(self) -> Any:
        """Return its next `Answer`; `EOFError` or `OSError` if it is gone."""
        answer = self.connection.recv()
        self.pending.popleft()
        self.since = time.monotonic()
        return answer

    def owes(self, rows: slice) -> bool:
        """Return whether a request for any of `rows` is unanswered."""
        return any(
            requested is not None and requested[0] < rows.stop and requested[1] > rows.start
            for requested, _ in self.pending
        )

    def stop(self) -> None:
        """Stop the process: an idle one ends when its connection closes, others are terminated."""
        self.connection.close()
        if self.pending:
            self.process.terminate()


def _serve(
    connection: Connection,
    delay: float,
    rows: Sequence[int],
    make_env: Callable[[], MultiAgentEnv],
    spec: EnvSpec,
    size: int,
    buffer: Any,
    measure_memory: bool,
    plan: BehaviorPlan | None,
) -> None:
    """Execute the orders of the environments `rows` on request, until the other end is gone."""
    become_worker()
    time.sleep(delay)
    buffers = SharedBuffers.over(spec, size, buffer)
    failure: UserError | str
    try:
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(make_env())) for _ in rows]
            own = [EnvRow(env, buffers, row, plan) for env, row in zip(envs, rows, strict=True)]
            _answer(connection, Report())
            for start, stop in _requests(connection):
                requested = [row for row in own if start <= row.row < stop]
                _answer(connection, _execute(requested, measure_memory))
        return
    except UserError as error:
        failure = error
    except Exception:
        failure = traceback.format_exc()
    _answer(connection, failure)


def _execute(rows: Sequence[EnvRow], measure_memory: bool) -> Report:
    """Let environments execute their orders; measure the memory when an episode has ended."""
    outcomes = [(row, *row.execute()) for row in rows]
    metrics = {row.row: row.metrics for row, over, _ in outcomes if over}
    results = {row.row: row.result for row, _, _ in outcomes if row.result is not None}
    for row in rows:
        row.result = None
    losses = [loss for _, _, loss in outcomes if loss]
    memory = group_memory(os.getpgrp()) if measure_memory and metrics else None
    return Report(metrics, results, losses, memory)


def _requests(connection: Connection) -> Iterator[tuple[int, int]]:
    with suppress(EOFError, OSError):
        while True:
            yield connection.recv()


def _answer(connection: Connection, answer: Answer) -> None:
    # If the other end is gone, the next request will not come either.
    with suppress(OSError):
        connection.send(answer)


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
        with suppress(OSError):  # the group is gone, or not yet led by it
            os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode is None:
        process.kill()
        process.join()


def group_memory(group: int) -> int | None:
    """Return the bytes of memory of a process group; None where there are no groups.

    Pages that the processes share are counted for each.
    """
    import psutil  # few processes are measured

    if not hasattr(os, "getpgid"):
        return None
    total = 0
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):  # it has just ended
            if os.getpgid(pid) == group:
                total += psutil.Process(pid).memory_info().rss
    return total


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
