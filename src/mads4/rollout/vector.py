"""Many environments of one spec that are stepped together, here or in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol

from mads4.envs.protocol import BrokenEpisodeError, MultiAgentEnv
from mads4.rollout.shared_buffers import Seat, SharedBuffers
from mads4.rollout.supervision import Incidents, Supervision
from mads4.types import EnvSpec

TIMEOUT = 60.0
"""Seconds without an answer after which a worker process counts as hung."""

ROWS_PER_WORKER = 4
"""Environments that make a worker process worth its start, see ``benchmarks/evaluation.py``."""


@dataclass(frozen=True)
class WorkerLost:
    """Environments whose episodes came to nothing: they have to be played from the beginning."""

    rows: tuple[int, ...]
    """All environments that begin anew."""
    blamed: tuple[int, ...]
    """Those of them whose fault it may be."""
    reason: str
    """What happened, to follow `who`."""
    who: str = "a worker process"
    """Who failed."""


class VectorEnv(Protocol):
    """Environments that do together what their board orders.

    Orders, actions and seeds are written to the board before `send`; what came of them is read from
    it after `wait`. Between the two the rows belong to the environments. Different rows may be sent
    separately, so that some are stepped while others are thought about.
    """

    @property
    def spec(self) -> EnvSpec:
        """What all environments have in common."""
        ...

    @property
    def board(self) -> SharedBuffers:
        """Orders and the present, one row for each environment."""
        ...

    def groups(self, rows: int) -> list[slice]:
        """Return how the first `rows` environments are best sent: all at once or in turns."""
        ...

    def send(self, rows: slice) -> None:
        """Let the environments `rows`, one of the groups, do what the board orders."""
        ...

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Wait until a group's environments have done so; return those that were lost over it."""
        ...

    @property
    def incidents(self) -> Incidents:
        """What has gone wrong so far."""
        ...

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics: once it is over, or, in this process, so far."""
        ...

    def env(self, row: int) -> MultiAgentEnv | None:
        """Return the environment itself if it lives in this process."""
        ...

    def close(self) -> None:
        """Close the environments and end their processes."""
        ...


class LocalVector:
    """Environments in this process, stepped one after the other.

    Args:
        envs: at least one; they stay the caller's to close unless `owned`.
        owned: close them with the vector.
    """

    def __init__(self, envs: Sequence[MultiAgentEnv], owned: bool = False) -> None:
        self.spec = envs[0].spec
        self.incidents = Incidents()
        self.board = SharedBuffers.over(self.spec, len(envs))
        self._losses: list[WorkerLost] = []
        self._seats = [Seat(env, self.board, row) for row, env in enumerate(envs)]
        self._owned = owned

    def groups(self, rows: int) -> list[slice]:
        """Return all in one: nothing is gained by taking turns in a single process."""
        return [slice(0, rows)]

    def send(self, rows: slice) -> None:
        """Do what the board orders."""
        for seat in self._seats[rows]:
            _, loss = attend(seat)
            self._losses += [loss] if loss else []

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Return at once the episodes that broke: all is done."""
        lost, self._losses = self._losses, []
        self.incidents.episodes_broken += len(lost)
        return lost

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics so far."""
        return self._seats[row].metrics

    def env(self, row: int) -> MultiAgentEnv | None:
        """Return the environment itself."""
        return self._seats[row].env

    def close(self) -> None:
        """Close the environments if they are owned."""
        if not self._owned:
            return
        with ExitStack() as stack:  # each, even if another one fails to close
            for seat in self._seats:
                stack.enter_context(closing(seat.env))


def attend(seat: Seat) -> tuple[bool, WorkerLost | None]:
    """Let an environment obey; return whether that ended an episode, or how it broke."""
    try:
        return seat.obey(), None
    except BrokenEpisodeError as error:
        return False, WorkerLost((seat.row,), (seat.row,), str(error), "an environment")


def make_vector(
    make_env: Callable[[], MultiAgentEnv],
    size: int,
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    local: int = 0,
) -> VectorEnv:
    """Return `size` environments to be stepped together, fewer if their supervision wants that.

    Args:
        make_env: makes one; picklable where worker processes are used. If it has an attribute
            `supervision`, each environment gets a process of its own, unless `workers` is 0.
            Environments that know how to be many are asked first, see `together`.
        size: how many, at least one.
        workers: processes that step them; 0 steps them in this one; None chooses.
        timeout: seconds without an answer after which a worker process counts as hung; of no
            account where the supervision sets others.
        local: the first so many environments stay in this process in any case, to be looked at.

    Raises:
        UserError: when `make_env` cannot be sent to worker processes.
    """
    many = None if workers else together(make_env, size)
    if many is not None:
        return many
    supervision: Supervision | None = getattr(make_env, "supervision", None)
    if supervision is not None:
        size = min(size, supervision.processes or usable_cores())
        workers = 0 if workers == 0 else size
    workers = default_workers(size) if workers is None else workers
    workers = min(workers, size - local)
    if workers > 0:
        from mads4.rollout.vector_worker import WorkerVector  # few need processes

        return WorkerVector(
            make_env, size, workers, timeout=timeout, local=local, supervision=supervision
        )
    with ExitStack() as stack:
        envs = [stack.enter_context(closing(make_env())) for _ in range(size)]
        stack.pop_all()
    return LocalVector(envs, owned=True)


def together(make_env: Callable[[], MultiAgentEnv], size: int) -> VectorEnv | None:
    """Return `size` environments that one call steps all at once; None if they are not such.

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
