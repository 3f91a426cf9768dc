"""Making environments that are stepped together, and stepping them in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mads4.envs.protocol import BehaviorPolicy, BrokenEpisodeError, MultiAgentEnv
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import (
    IDLE,
    PLAY,
    RESET,
    Incidents,
    SharedBuffers,
    Supervision,
    VectorEnv,
    WorkerLost,
)
from mads4.errors import UserError
from mads4.rollout.recorder import EpisodeRecorder, EpisodeResult, StepArrays
from mads4.types import IntArray, TimeStep

TIMEOUT = 60.0
"""Seconds without an answer after which a worker process counts as hung."""

BATCHED_EPISODES = 32
"""Episodes of behavior policies at a time in environments that one call steps."""

ROWS_PER_WORKER = 4
"""Environments that make a worker process worth its start, see ``benchmarks/evaluation.py``."""


@dataclass(frozen=True)
class BehaviorEpisode:
    """How an episode of a behavior policy begins."""

    behavior: BehaviorPolicy
    seed: int
    """Of the environment's reset."""
    rng: np.random.Generator
    """All randomness of the behavior policy."""


BehaviorPlan = Callable[[int], BehaviorEpisode]
"""Returns episode k; picklable where worker processes are used. Called again for each restart."""


@dataclass(frozen=True)
class SeededPlan:
    """Episode k depends on (`seed`, k) only: the `BehaviorPlan` of recordings and baselines."""

    make_behavior: Callable[[], BehaviorPolicy]
    """Makes the behavior policy of one episode."""
    seed: int
    stream: int = 0
    """Added to the seed of the environments; 0 begins where `mads4.rollout.rollout` does."""

    def __call__(self, index: int) -> BehaviorEpisode:
        """Return the beginning of episode `index`."""
        start = environment_seed(self.stream + self.seed, index)
        return BehaviorEpisode(
            self.make_behavior(), start, np.random.default_rng([self.seed, index])
        )


@runtime_checkable
class EpisodeVector(VectorEnv, Protocol):
    """A `VectorEnv` whose environments have behavior policies beside them and obey `PLAY`."""

    def result(self, row: int) -> EpisodeResult:
        """Return the episode that `row` has played, recorded."""
        ...

    def ready(self, rows: Sequence[slice]) -> list[slice]:
        """Wait until any of `rows` need no waiting for; return those."""
        ...


class EnvRow:
    """An environment at its row of the buffers.

    Args:
        env: executes the row's orders.
        buffers: where orders are read and time steps are written.
        row: the environment's.
        plan: what it plays when ordered to `PLAY`.
    """

    def __init__(
        self, env: MultiAgentEnv, buffers: SharedBuffers, row: int, plan: BehaviorPlan | None = None
    ) -> None:
        self.env = env
        self.row = row
        self.metrics: dict[str, float] = {}
        """Sums over the running episode, or the last one, of the environment's metrics."""
        self.result: EpisodeResult | None = None
        """The last episode that was played with a behavior policy."""
        self._buffers = buffers
        self._plan = plan
        self._limit = env.spec.episode_limit
        self._length = 0

    def execute(self) -> tuple[bool, WorkerLost | None]:
        """Execute the order; return whether that ended an episode, or how the episode broke."""
        buffers, row = self._buffers, self.row
        order = buffers.order[row]
        if order == IDLE:
            return False, None
        buffers.busy[row] = True
        try:
            if order == PLAY:
                self.result = self._play(int(buffers.episode[row]))
            elif order == RESET:
                self._reset(int(buffers.seed[row]))
            else:
                self._write(self._step(buffers.action[row].copy()))
        except BrokenEpisodeError as error:
            return False, WorkerLost((row,), (row,), str(error), "an environment")
        buffers.busy[row] = False
        return bool(buffers.terminated[row] or buffers.truncated[row]), None

    def _play(self, index: int) -> EpisodeResult:
        """Play episode `index` with its behavior policy until it ends, or reaches its limit."""
        assert self._plan is not None, "rows without behavior policies are not ordered to PLAY"
        buffers, row = self._buffers, self.row
        episode, recorder, total = self._plan(index), EpisodeRecorder(1), 0.0
        now = self._reset(episode.seed)
        episode.behavior.reset(self.env, episode.rng)
        while not (now.done or self._length >= self._limit):
            action = np.array(episode.behavior.act(now), dtype=np.int64)
            recorder.add(StepArrays.of_one(now), action[None])
            now = self._step(action)
            recorder.add_reward(np.array([now.reward]))
            total += float(now.reward)
            buffers.heartbeat[row] = time.monotonic()
        self._write(now)  # once: writing every step would take a tenth of the time
        last = buffers.time_step(row)
        return EpisodeResult(
            index,
            total,
            self._length,
            dict(self.metrics),
            episode=recorder.episode(
                0,
                terminated=bool(buffers.terminated[row]),
                index=index,
                metrics=self.metrics | episode.behavior.metrics(),
                last=last,
            ),
            last=last,
        )

    def _reset(self, seed: int) -> TimeStep:
        now = self.env.reset(seed)
        self.metrics, self._length = {}, 0
        self._require_shapes(now)
        self._write(now)
        return now

    def _step(self, action: IntArray) -> TimeStep:
        now = self.env.step(action)
        self._length += 1
        for name, increment in now.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(increment)
        return now

    def _write(self, now: TimeStep) -> None:
        buffers, row = self._buffers, self.row
        binary = now.state.dtype == np.uint8
        buffers.observation[row] = now.observation
        (buffers.binary_state if binary else buffers.state)[row] = now.state
        buffers.binary[row] = binary
        buffers.available_actions[row] = now.available_actions
        buffers.reward[row] = now.reward
        buffers.terminated[row] = now.terminated
        over = now.truncated or (self._length >= self._limit and not now.terminated)
        buffers.truncated[row] = over

    def _require_shapes(self, now: TimeStep) -> None:
        """Raise `UserError` when the environment's arrays do not fit its spec."""
        for name in ("observation", "state", "available_actions"):
            given, expected = np.shape(getattr(now, name)), getattr(self._buffers, name).shape[1:]
            if given != expected:
                spec = self.env.spec
                raise UserError(
                    f"The environment {spec.name} ({spec.scenario}) returns {name} of shape "
                    f"{given}, but its spec promises {expected}. Correct one of them."
                )


class LocalVector:
    """Environments in this process, stepped one after the other; see `EpisodeVector`.

    Args:
        envs: at least one; they stay the caller's to close unless `owned`.
        owned: close them with the vector.
        plan: what they `PLAY`.
    """

    def __init__(
        self, envs: Sequence[MultiAgentEnv], owned: bool = False, plan: BehaviorPlan | None = None
    ) -> None:
        self.spec = envs[0].spec
        self.incidents = Incidents()
        self.buffers = SharedBuffers.over(self.spec, len(envs))
        self._losses: list[WorkerLost] = []
        self._rows = [EnvRow(env, self.buffers, row, plan) for row, env in enumerate(envs)]
        self._owned = owned

    def groups(self, rows: int) -> list[slice]:
        """Return all in one: nothing is gained by taking turns in a single process."""
        return [slice(0, rows)]

    def send(self, rows: slice) -> None:
        """Execute the orders."""
        for row in self._rows[rows]:
            _, loss = row.execute()
            self._losses += [loss] if loss else []

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Return at once the episodes that broke: all is done."""
        losses, self._losses = self._losses, []
        self.incidents.episodes_broken += len(losses)
        return losses

    def ready(self, rows: Sequence[slice]) -> list[slice]:
        """Return all of them."""
        return list(rows)

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics so far."""
        return self._rows[row].metrics

    def result(self, row: int) -> EpisodeResult:
        """Return the episode that `row` has played."""
        result = self._rows[row].result
        assert result is not None, "asked for after PLAY"
        return result

    def env(self, row: int) -> MultiAgentEnv | None:
        """Return the environment itself."""
        return self._rows[row].env

    def close(self) -> None:
        """Close the environments if they are owned."""
        if not self._owned:
            return
        with ExitStack() as stack:  # each, even if another one fails to close
            for row in self._rows:
                stack.enter_context(closing(row.env))


def make_vector(
    make_env: Callable[[], MultiAgentEnv],
    size: int,
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    local: int = 0,
    plan: BehaviorPlan | None = None,
) -> VectorEnv:
    """Return `size` environments to be stepped together, fewer if their supervision wants that.

    Args:
        make_env: makes one; picklable where worker processes are used. If it has an attribute
            `supervision`, each environment gets a process of its own, unless `workers` is 0.
            Environments that are stepped in one call, see `batched`, need no processes.
        size: how many, at least one.
        workers: processes that step them; 0 steps them in this one; None chooses.
        timeout: seconds without an answer after which a worker process counts as hung; a
            supervision has its own.
        local: the first so many environments stay in this process in any case, for videos.
        plan: what they play with behavior policies beside them, see `rollout_behavior`.

    Raises:
        UserError: when `make_env` or `plan` cannot be sent to worker processes.
    """
    many = None if workers else batched(make_env, size)
    if many is not None:
        return many
    supervision: Supervision | None = getattr(make_env, "supervision", None)
    if supervision is not None:
        size = min(size, supervision.processes or usable_cores())
        workers = 0 if workers == 0 else size
    workers = default_workers(size) if workers is None else workers
    workers = min(workers, size - local)
    if workers > 0:
        from mads4.rollout.workers import WorkerVector  # few need processes

        return WorkerVector(
            make_env,
            size,
            workers,
            timeout=timeout,
            local=local,
            supervision=supervision,
            plan=plan,
        )
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(make_env())) for _ in range(size)]
        stack.pop_all()
    return LocalVector(envs, owned=True, plan=plan)


def behavior_vector(
    make_env: Callable[[], MultiAgentEnv], plan: BehaviorPlan, episodes: int, workers: int
) -> VectorEnv:
    """Return environments for `rollout_behavior`, not more than there are `episodes`.

    Args:
        make_env: makes one; picklable if `workers` > 1.
        plan: what they play; picklable if `workers` > 1.
        episodes: how many there are to play.
        workers: processes, each with one environment; 0 and 1 play in this process, but supervised
            environments only if it is 0. Environments that one call steps need none.
    """
    many = batched(make_env, min(BATCHED_EPISODES, episodes))
    if many is not None:
        return many
    size = max(1, min(workers, episodes))
    supervised = getattr(make_env, "supervision", None) is not None
    processes = size if workers > 1 or (workers == 1 and supervised) else 0
    return make_vector(make_env, size, workers=processes, plan=plan)


def batched(make_env: Callable[[], MultiAgentEnv], size: int) -> VectorEnv | None:
    """Return `size` environments that one call steps all at once; None if there is no such thing.

    An attribute ``make_many(size)`` of `make_env` makes them, or returns None. Each of them must
    play an episode as it would be played alone, and `VectorEnv.env` must know all of them.
    """
    make_many: Callable[[int], VectorEnv | None] | None = getattr(make_env, "make_many", None)
    return None if make_many is None else make_many(size)


def default_workers(size: int) -> int:
    """Return how many processes are worth having for `size` environments on this machine.

    One core is left to the policy: with 32 environments of RWARE on two cores, one process plays
    1.46 times as many steps as none and 1.27 times as many as two (`benchmarks/evaluation.py`).
    """
    return min(usable_cores() - 1, size // ROWS_PER_WORKER) if size >= 2 * ROWS_PER_WORKER else 0


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1
