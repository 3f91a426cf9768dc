"""Environments in worker processes that share a board with this one and may die or hang.

Everything large lies in shared memory, an anonymous map that vanishes with its last user. Through
the pipes go only which rows to see to and, for episodes that ended, the sums of their metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from ctypes import c_ubyte
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray

import numpy as np

from mads4.envs.protocol import MultiAgentEnv
from mads4.errors import UserError
from mads4.rollout.processes import STOP_SECONDS, end_worker, require_picklable
from mads4.rollout.shared_buffers import RESET, Seat, SharedBuffers
from mads4.rollout.supervision import Incidents, Supervision
from mads4.rollout.vector import TIMEOUT, WorkerLost, attend
from mads4.rollout.vector_process import Answer, Worker
from mads4.types import EnvSpec

MAX_STARTS = 3
"""Processes that may end in a row without having made their environments."""

MIB = 1 << 20

LEAST_TO_SPLIT = 16
"""Environments from which half of them are stepped while the policy decides for the others."""


class WorkerVector:
    """Environments dealt out to worker processes; see `mads4.rollout.vector.VectorEnv`.

    A process that dies, or gives no answer for `timeout` seconds, is replaced; its environments are
    reported by `wait` as lost, as are those that report broken episodes themselves. Under
    supervision a process has one environment, and is also replaced after a broken episode and, once
    it has grown too large, before the next one; what it started is killed with it.

    Args:
        make_env: makes one environment; picklable.
        size: number of environments.
        workers: number of processes, at most ``size - local``.
        timeout: seconds.
        local: the first so many environments live in this process.
        supervision: of the environments; its timeouts are used in place of `timeout`.

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
        supervision: Supervision | None = None,
    ) -> None:
        require_picklable(make_env, "The environment", "evaluator.num_workers=0")
        self.incidents = Incidents()
        self._supervision = supervision or Supervision(
            reset_timeout=timeout, step_timeout=timeout, pause=0.0
        )
        self._supervised = supervision is not None
        self._leaving: list[tuple[SpawnProcess, float]] = []
        self._metrics: dict[int, Mapping[str, float]] = {}
        self._losses: list[WorkerLost] = []
        self._workers: list[Worker] = []
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(make_env())) for _ in range(local)]
            self.spec = envs[0].spec if envs else _spec_of(make_env)
            buffer = RawArray(c_ubyte, SharedBuffers.size(self.spec, size))
            self.board = SharedBuffers.over(self.spec, size, buffer)
            self._seats = [Seat(env, self.board, row) for row, env in enumerate(envs[:local])]
            weigh = self._supervision.memory_mib is not None
            self._job = (make_env, self.spec, size, buffer, weigh)
            stack.callback(self._end_workers)
            for first in range(workers):
                rows = range(local + first, size, workers)
                self._workers.append(Worker(self._job, rows))
            self._closing = stack.pop_all()

    def groups(self, rows: int) -> list[slice]:
        """Return two halves, taken in turns, if there are enough for the policy not to mind."""
        half = rows // 2 if rows >= LEAST_TO_SPLIT else rows
        return [slice(0, half)] + ([slice(half, rows)] if half < rows else [])

    def send(self, rows: slice) -> None:
        """Let the processes begin; then see to the environments that live here."""
        self._reap()
        rules = self._supervision
        for index, worker in enumerate(self._workers):
            asked = [row for row in worker.rows if rows.start <= row < rows.stop]
            orders = self.board.order[asked]
            large = worker.memory > (rules.memory_mib or np.inf) * MIB
            if large and len(orders) == len(worker.rows) and (orders == RESET).all():
                worker = self._retire(index)
            slow = (orders == RESET).any()
            worker.send(
                (rows.start, rows.stop), rules.reset_timeout if slow else rules.step_timeout
            )
        for seat in self._seats[rows]:
            _, loss = attend(seat)
            if loss:
                self.incidents.episodes_broken += 1
                self._losses.append(loss)

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Wait for the processes' answers; return the environments that were lost."""
        while waiting := {w.connection: w for w in self._workers if w.owes(rows)}:
            patience = min(worker.patience() for worker in waiting.values())
            heard = wait(list(waiting), patience)
            for connection in heard:
                self._hear(waiting[connection])  # type: ignore[index]  # returns what it was given
            for worker in waiting.values():
                if not heard and worker.patience() <= 0:
                    self.incidents.processes_lost += 1
                    self._replace(worker, f"gave no answer for {worker.allowed:g} s")
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
        self._reap(at_once=True)

    def _retire(self, index: int) -> Worker:
        """Put a fresh process in a large one's place, between two episodes; return it."""
        old = self._workers[index]
        old.dismiss()
        self._leaving.append((old.process, time.monotonic()))
        self.incidents.planned_restarts += 1
        self._workers[index] = Worker(self._job, old.rows)
        return self._workers[index]

    def _reap(self, at_once: bool = False) -> None:
        """See off the processes that were told to leave, those that do not listen by force."""
        for entry in list(self._leaving):
            process, since = entry
            patience = max(0.0, since + STOP_SECONDS - time.monotonic())
            if at_once or not patience or not process.is_alive():
                end_worker(process, patience)
                self._leaving.remove(entry)

    def _hear(self, worker: Worker) -> None:
        try:
            answer: Answer = worker.receive()
        except (EOFError, OSError):
            end_worker(worker.process)
            self.incidents.processes_lost += 1
            self._replace(worker, f"died (exit code {worker.process.exitcode})")
            return
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"An environment failed in a worker process:\n{answer}")
        self._metrics.update(answer.ended)
        worker.failures = 0 if answer.ended else worker.failures
        worker.memory = answer.memory or worker.memory
        self.incidents.episodes_broken += len(answer.losses)
        if answer.losses and self._supervised:
            self._replace(worker, answer.losses[0].reason, answer.losses[0].who)
        else:
            self._losses += answer.losses

    def _replace(self, worker: Worker, reason: str, who: str = WorkerLost.who) -> None:
        """Put a new process in a lost one's place; it begins without orders."""
        worker.connection.close()
        end_worker(worker.process, patience=0.0)
        rows = np.array(worker.rows)
        at_work = rows[self.board.busy[rows]]
        self.board.busy[rows] = False
        blamed = at_work if len(at_work) else rows  # none while it started, or between steps
        self._losses.append(WorkerLost(tuple(rows.tolist()), tuple(blamed.tolist()), reason, who))
        starts = worker.starts + 1 if worker.starting else 1
        if starts > MAX_STARTS:
            raise UserError(
                f"{MAX_STARTS} worker processes in a row could not start (the last {reason}); see "
                "their output above. evaluator.num_workers=0 evaluates without worker processes."
            )
        failures = worker.failures + 1
        self._workers[self._workers.index(worker)] = Worker(
            self._job, worker.rows, starts, failures, self._supervision.delay(failures)
        )

    def _take_losses(self, rows: slice) -> list[WorkerLost]:
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


def _part(loss: WorkerLost, belongs: Callable[[int], bool]) -> WorkerLost:
    rows, blamed = filter(belongs, loss.rows), filter(belongs, loss.blamed)
    return replace(loss, rows=tuple(rows), blamed=tuple(blamed))
