"""Environments in worker processes that share a board with this one and may die or hang.

Everything large lies in shared memory, an anonymous map that vanishes with its last user. Through
the pipes go only which rows to see to and, for episodes that ended, the sums of their metrics.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from ctypes import c_ubyte
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np

from mads4.envs.board import Board, Seat
from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import TIMEOUT, Loss
from mads4.errors import UserError
from mads4.processes import become_worker, end_worker, require_picklable, start_worker
from mads4.types import EnvSpec

START_SECONDS = 300.0
"""Time for a process to import and make its environments, before `timeout` applies."""

MAX_STARTS = 3
"""Processes that may end in a row without having made their environments."""

LEAST_TO_SPLIT = 16
"""Environments from which half of them are stepped while the policy decides for the others."""

Range = tuple[int, int]
Answer = Mapping[int, Mapping[str, float]] | UserError | str
"""Metrics of the episodes that ended, by row; or what went wrong."""


class WorkerVector:
    """Environments dealt out to worker processes; see `mads4.envs.vector.VectorEnv`.

    A process that dies, or gives no answer for `timeout` seconds, is replaced; its environments are
    reported by `wait` as lost.

    Args:
        make_env: makes one environment; picklable.
        size: number of environments.
        workers: number of processes, at most ``size - local``.
        timeout: seconds.
        local: the first so many environments live in this process.

    Raises:
        UserError: when `make_env` cannot be pickled; from `wait`, what an environment raised, or
            when processes cannot start.
        RuntimeError: from `wait`, when an environment raised anything else.
    """

    def __init__(
        self,
        make_env: Callable[[], MultiAgentEnv],
        size: int,
        workers: int,
        *,
        timeout: float = TIMEOUT,
        local: int = 0,
    ) -> None:
        require_picklable(make_env, "The environment", "evaluator.workers=0")
        self._timeout = timeout
        self._metrics: dict[int, Mapping[str, float]] = {}
        self._losses: list[Loss] = []
        self._workers: list[_Worker] = []
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(make_env())) for _ in range(local)]
            self.spec = envs[0].spec if envs else _spec_of(make_env)
            buffer = RawArray(c_ubyte, Board.size(self.spec, size))
            self.board = Board.over(self.spec, size, buffer)
            self._seats = [Seat(env, self.board, row) for row, env in enumerate(envs[:local])]
            self._job = (make_env, self.spec, size, buffer)
            stack.callback(self._end_workers)
            for first in range(workers):
                rows = range(local + first, size, workers)
                self._workers.append(_Worker(self._job, rows))
            self._closing = stack.pop_all()

    def groups(self, rows: int) -> list[slice]:
        """Return two halves, taken in turns, if there are enough for the policy not to mind."""
        half = rows // 2 if rows >= LEAST_TO_SPLIT else rows
        return [slice(0, half)] + ([slice(half, rows)] if half < rows else [])

    def send(self, rows: slice) -> None:
        """Let the processes begin; then see to the environments that live here."""
        for worker in self._workers:
            worker.send((rows.start, rows.stop))
        for seat in self._seats[rows]:
            seat.obey()

    def wait(self, rows: slice) -> list[Loss]:
        """Wait for the processes' answers; return the environments that were lost."""
        while waiting := {w.connection: w for w in self._workers if w.owes(rows)}:
            patience = min(worker.patience(self._timeout) for worker in waiting.values())
            heard = wait(list(waiting), patience)
            for connection in heard:
                self._hear(waiting[connection])  # type: ignore[index]  # returns what it was given
            for worker in waiting.values():
                if not heard and worker.patience(self._timeout) <= 0:
                    self._replace(worker, f"gave no answer for {self._timeout:g} s")
        return self._take_losses(rows)

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics: once it is over, or, in this process, so far."""
        return self._seats[row].metrics if row < len(self._seats) else self._metrics.get(row, {})

    def env(self, row: int) -> MultiAgentEnv | None:
        """Return the environment itself if it lives in this process."""
        return self._seats[row].env if row < len(self._seats) else None

    def close(self) -> None:
        """Close the environments and end the processes, those that do not listen by force."""
        self._closing.close()

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            end_worker(worker.process)

    def _hear(self, worker: _Worker) -> None:
        try:
            answer: Answer = worker.receive()
        except (EOFError, OSError):
            end_worker(worker.process)
            self._replace(worker, f"died (exit code {worker.process.exitcode})")
            return
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"An environment failed in a worker process:\n{answer}")
        self._metrics.update(answer)

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Put a new process in a lost one's place; it begins without orders."""
        worker.connection.close()
        end_worker(worker.process, patience=0.0)
        rows = np.array(worker.rows)
        at_work = rows[self.board.busy[rows]]
        self.board.busy[rows] = False
        blamed = at_work if len(at_work) else rows  # none while it started, or between steps
        self._losses.append(Loss(tuple(rows.tolist()), tuple(blamed.tolist()), reason))
        starts = worker.starts + 1 if worker.starting else 1
        if starts > MAX_STARTS:
            raise UserError(
                f"{MAX_STARTS} worker processes in a row could not start (the last {reason}); what "
                "they wrote above may say why. Use evaluator.workers=0 to do without them."
            )
        self._workers[self._workers.index(worker)] = _Worker(self._job, worker.rows, starts)

    def _take_losses(self, rows: slice) -> list[Loss]:
        """Return what was lost of `rows`; keep the rest until its rows are waited for."""
        taken, kept = [], []
        for loss in self._losses:
            here = _part(loss, lambda row: rows.start <= row < rows.stop)
            there = _part(loss, lambda row: not rows.start <= row < rows.stop)
            taken += [here] if here.rows else []
            kept += [there] if there.rows else []
        self._losses = kept
        return taken


def _spec_of(make_env: Callable[[], MultiAgentEnv]) -> EnvSpec:
    with closing(make_env()) as env:
        return env.spec


def _part(loss: Loss, belongs: Callable[[int], bool]) -> Loss:
    rows, blamed = filter(belongs, loss.rows), filter(belongs, loss.blamed)
    return Loss(tuple(rows), tuple(blamed), loss.reason)


class _Worker:
    """One process as seen from here, and what it was asked and has not answered."""

    def __init__(self, job: tuple[Any, ...], rows: Sequence[int], starts: int = 1) -> None:
        self.rows = rows
        self.starts = starts
        self.pending: deque[Range | None] = deque([None])  # None: that it has started
        self._since = time.monotonic()
        self.process, self.connection = start_worker(_serve, rows, *job)

    @property
    def starting(self) -> bool:
        """Whether it has yet to make its environments."""
        return bool(self.pending) and self.pending[0] is None

    def send(self, rows: Range) -> None:
        if not self.pending:
            self._since = time.monotonic()
        self.pending.append(rows)
        # A process that has just died shows itself at the next `receive`.
        with suppress(OSError):
            self.connection.send(rows)

    def receive(self) -> Any:
        answer = self.connection.recv()
        self.pending.popleft()
        self._since = time.monotonic()
        return answer

    def patience(self, timeout: float) -> float:
        """Return how many more seconds it may stay silent."""
        allowed = START_SECONDS if self.starting else timeout
        return max(0.0, self._since + allowed - time.monotonic())

    def owes(self, rows: slice) -> bool:
        """Return whether it was asked for any of `rows` and has not answered."""
        return any(
            asked and asked[0] < rows.stop and asked[1] > rows.start for asked in self.pending
        )

    def dismiss(self) -> None:
        """Let the process go: an idle one leaves when its connection closes, others are told to."""
        self.connection.close()
        if self.pending:
            self.process.terminate()


def _serve(
    connection: Connection,
    rows: Sequence[int],
    make_env: Callable[[], MultiAgentEnv],
    spec: EnvSpec,
    size: int,
    buffer: Any,
) -> None:
    """Step the environments `rows` whenever asked to, until the other end is gone."""
    become_worker()
    board = Board.over(spec, size, buffer)
    failure: UserError | str
    try:
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(make_env())) for _ in rows]
            seats = [Seat(env, board, row) for env, row in zip(envs, rows, strict=True)]
            _answer(connection, {})
            for start, stop in _requests(connection):
                ended = [seat for seat in seats if start <= seat.row < stop and seat.obey()]
                _answer(connection, {seat.row: seat.metrics for seat in ended})
        return
    except UserError as error:
        failure = error
    except Exception:
        failure = traceback.format_exc()
    _answer(connection, failure)


def _requests(connection: Connection) -> Iterator[Range]:
    with suppress(EOFError, OSError):
        while True:
            yield connection.recv()


def _answer(connection: Connection, answer: Answer) -> None:
    # Nobody listens any more: the next request will not come either.
    with suppress(OSError):
        connection.send(answer)
