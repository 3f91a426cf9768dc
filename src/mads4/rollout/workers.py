"""Environments in worker processes: shared buffers, and replacement of dead or hung workers.

Everything that a step needs lies in shared memory, an anonymous map that vanishes with its last
user. The pipes carry only requests for rows, metrics of finished episodes, and whole episodes that
behavior policies played in the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from ctypes import c_ubyte
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray

import numpy as np

from mads4.envs.protocol import MultiAgentEnv, env_spec
from mads4.envs.vector import PLAY, RESET, SharedBuffers, Supervision, WorkerLost
from mads4.errors import UserError
from mads4.rollout.local import BehaviorPlan, LocalVector
from mads4.rollout.processes import STOP_SECONDS, Answer, Worker, end_worker, require_picklable
from mads4.rollout.recorder import EpisodeResult
from mads4.types import EnvSpec

TIMEOUT = 60.0
"""Seconds without an answer after which a worker process counts as hung."""

MAX_STARTS = 3
"""Processes that may end in a row without having made their environments."""

MIB = 1 << 20

LEAST_TO_SPLIT = 16
"""Environments from which half of them are stepped while the policy decides for the others."""


class WorkerVector(LocalVector):
    """Environments distributed over worker processes; see `mads4.rollout.local.EpisodeVector`.

    A process that dies, or gives no answer for `timeout` seconds, is replaced; its environments are
    reported by `wait` as lost, as are those that report broken episodes themselves. Under
    supervision a process has one environment, and is also replaced after a broken episode and, once
    it has grown too large, before the next one; what it started is killed with it.

    Args:
        make_env: makes one environment; picklable.
        size: number of environments.
        workers: number of processes, at most ``size - local``.
        timeout: seconds; within a `PLAY` for each step.
        local: number of environments, the first ones, that stay in this process.
        supervision: of the environments; its timeouts are used in place of `timeout`.
        plan: what the environments `PLAY`; picklable.

    Raises:
        UserError: when `make_env` or `plan` cannot be pickled; from `wait`, what an environment
            raised, or when processes cannot start.
        RuntimeError: from `wait`, when an environment or a behavior policy raised anything else.
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
        plan: BehaviorPlan | None = None,
    ) -> None:
        require_picklable(
            make_env, "The environment", "evaluator.num_workers=0 or dataset.num_workers=1"
        )
        require_picklable(plan, "The behavior policy", "dataset.num_workers=1")
        self._supervision = supervision or Supervision(
            reset_timeout=timeout, step_timeout=timeout, pause=0.0
        )
        self._supervised = supervision is not None
        self._retired: list[tuple[SpawnProcess, float]] = []
        self._metrics: dict[int, Mapping[str, float]] = {}
        self._results: dict[int, EpisodeResult] = {}
        self._workers: list[Worker] = []
        with ExitStack() as stack:
            envs = [stack.enter_context(closing(make_env())) for _ in range(local)]
            self._spec = envs[0].spec if envs else env_spec(make_env)
            buffer = RawArray(c_ubyte, SharedBuffers.size(self.spec, size))
            super().__init__(envs, plan=plan, buffers=SharedBuffers.over(self.spec, size, buffer))
            measure_memory = self._supervision.memory_mib is not None
            self._job = (make_env, self.spec, size, buffer, measure_memory, plan)
            stack.callback(self._end_workers)
            for first in range(workers):
                rows = range(local + first, size, workers)
                self._workers.append(Worker(self._job, rows))
            self._closing = stack.pop_all()

    @property
    def spec(self) -> EnvSpec:
        """What all environments have in common."""
        return self._spec

    def groups(self, rows: int) -> list[slice]:
        """Return two halves to step in turns, if each is a large enough batch for the policy."""
        half = rows // 2 if rows >= LEAST_TO_SPLIT else rows
        return [slice(0, half)] + ([slice(half, rows)] if half < rows else [])

    def send(self, rows: slice) -> None:
        """Let the processes begin; then execute the orders of the environments that live here."""
        self._end_retired()
        rules = self._supervision
        for number, worker in enumerate(self._workers):
            requested = [row for row in worker.rows if rows.start <= row < rows.stop]
            if not requested:
                continue
            orders = self.buffers.order[requested]
            begins = (orders == RESET) | (orders == PLAY)
            large = worker.memory > (rules.memory_mib or np.inf) * MIB
            if large and len(orders) == len(worker.rows) and begins.all():
                worker = self._retire(number)
            allowed = rules.reset_timeout if begins.any() else rules.step_timeout
            worker.send((rows.start, rows.stop), allowed)
        super().send(rows)

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Wait for the processes' answers; return the environments that were lost."""
        while waiting := [worker for worker in self._workers if worker.owes(rows)]:
            self._receive_any(waiting)
        return super().wait(rows)

    def ready(self, rows: Sequence[slice]) -> list[slice]:
        """Wait until processes have answered for any of `rows`; return those."""
        while True:
            owing = {i: [w for w in self._workers if w.owes(r)] for i, r in enumerate(rows)}
            answered = [rows[i] for i, workers in owing.items() if not workers]
            if answered:
                return answered
            self._receive_any([worker for workers in owing.values() for worker in workers])

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics: once it is over, or, in this process, so far."""
        here = row < len(self._rows)
        return super().metrics(row) if here else self._metrics.get(row, {})

    def result(self, row: int) -> EpisodeResult:
        """Return, once, the episode that `row` has played."""
        return super().result(row) if row < len(self._rows) else self._results.pop(row)

    def close(self) -> None:
        """Close the environments and end the processes, those that do not react by force."""
        self._closing.close()

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            end_worker(worker.process)
        self._end_retired(at_once=True)

    def _retire(self, number: int) -> Worker:
        """Put a fresh process in a large one's place, between two episodes; return it."""
        old = self._workers[number]
        old.stop()
        self._retired.append((old.process, time.monotonic()))
        self.incidents.planned_restarts += 1
        self._workers[number] = Worker(self._job, old.rows)
        return self._workers[number]

    def _end_retired(self, at_once: bool = False) -> None:
        """End the processes that were stopped, those that do not react by force."""
        for entry in list(self._retired):
            process, since = entry
            remaining = max(0.0, since + STOP_SECONDS - time.monotonic())
            if at_once or not remaining or not process.is_alive():
                end_worker(process, remaining)
                self._retired.remove(entry)

    def _receive_any(self, workers: Sequence[Worker]) -> None:
        """Wait for an answer of any of `workers`; replace those whose time is over."""
        waiting = {worker.connection: worker for worker in workers}
        remaining = min(self._time_left(worker)[0] for worker in waiting.values())
        answered = wait(list(waiting), remaining)
        for connection in answered:
            self._receive(waiting[connection])  # type: ignore[index]  # returns what it was given
        for worker in [] if answered else list(waiting.values()):
            left, allowed = self._time_left(worker)
            if left <= 0 and not worker.connection.poll():  # it may have answered since
                self.incidents.processes_lost += 1
                self._replace(worker, f"gave no answer for {allowed:g} s")

    def _time_left(self, worker: Worker) -> tuple[float, float]:
        """Return the seconds that a process may stay silent from now on, and from its last sign."""
        since, allowed = worker.since, worker.allowed
        heartbeat = float(self.buffers.heartbeat[list(worker.rows)].max())
        if heartbeat > since:
            since, allowed = heartbeat, self._supervision.step_timeout
        return max(0.0, since + allowed - time.monotonic()), allowed

    def _receive(self, worker: Worker) -> None:
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
        self._metrics.update(answer.metrics)
        self._results.update(answer.results)
        worker.failures = 0 if answer.metrics else worker.failures
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
        busy = rows[self.buffers.busy[rows]]
        self.buffers.busy[rows] = False
        blamed = busy if len(busy) else rows  # none while it started, or between steps
        self._losses.append(WorkerLost(tuple(rows.tolist()), tuple(blamed.tolist()), reason, who))
        starts = worker.starts + 1 if worker.starting else 1
        if starts > MAX_STARTS:
            raise UserError(
                f"{MAX_STARTS} worker processes in a row could not start (the last {reason}); "
                "their output above may tell why. Use evaluator.num_workers=0 or "
                "dataset.num_workers=1 to play in one process."
            )
        failures = worker.failures + 1
        self._workers[self._workers.index(worker)] = Worker(
            self._job, worker.rows, starts, failures, self._supervision.delay(failures)
        )
