"""Making environments that are stepped together, in this process or in others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import Supervision, VectorEnv
from mads4.rollout.local import BehaviorPlan, LocalVector
from mads4.rollout.workers import TIMEOUT, WorkerVector

BATCHED_EPISODES = 32
"""Episodes of behavior policies at a time in environments that one call steps."""

ROWS_PER_WORKER = 4
"""Environments that make a worker process worth its start, see ``benchmarks/evaluation.py``."""


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
