"""Policy x environments -> finished episodes: the one place where episodes are played.

Training, evaluation and recording all come here. It knows neither models nor trainers, only
protocols. PyTorch is imported where it is used: worker processes need this package without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.vector import VectorEnv
from mads4.rollout.groups import (
    BehaviorGroup,
    Callback,
    EnvGroup,
    EpisodeGroup,
    Policy,
    PolicyGroup,
    Queue,
    RolloutContext,
    StepEvent,
)
from mads4.rollout.recorder import EpisodeResult
from mads4.rollout.vector import BehaviorPlan, EpisodeVector, LocalVector

if TYPE_CHECKING:
    import torch

__all__ = [
    "Callback",
    "EpisodeResult",
    "Policy",
    "StepEvent",
    "one_thread",
    "rollout",
    "rollout_behavior",
    "threads",
]

_ADVICE = (
    "Use evaluator.workers=0 to see what happens, or, if the environment is merely slow, raise "
    "evaluator.worker_timeout (a game's env.supervision.reset_timeout and "
    "env.supervision.step_timeout)."
)


def rollout(
    policy: Policy,
    envs: Sequence[MultiAgentEnv] | VectorEnv,
    episodes: int,
    *,
    seed: int,
    target_return: float | Callable[[int], float],
    first: int = 0,
    deterministic: bool = False,
    device: torch.device | str = "cpu",
    message_dropout: float | npt.ArrayLike = 0.0,
    callback: Callback | None = None,
    record: bool = False,
) -> Iterator[EpisodeResult]:
    """Play `episodes` episodes, as many at a time as there are environments; yield each finished.

    Episode k's environment, actions, order and dropped messages depend on (seed, k) alone, not on
    how many environments are played at once, in which processes, or whether one of these was lost,
    or the episode broke, and was played again. (Matrix products of different batch sizes can differ
    in their last bits; give a float64 policy where the same numbers are wanted to the last
    episode.)

    Args:
        policy: decides for all environments in one call (two, if they are stepped in turns).
        envs: environments of one spec, in this process or not; those beyond `episodes` stay unused.
        episodes: how many to play, k = `first`, `first` + 1, …
        seed: with k, decides everything random.
        target_return: initial return-to-go, of all episodes or of episode k; rewards received are
            subtracted.
        first: number k of the first episode.
        deterministic: take the most probable actions; otherwise draw them.
        device: where the policy computes.
        message_dropout: probability that the message to an agent is dropped, drawn at every step;
            one for all or one per agent (N,).
        callback: called at every time step of the episodes that are played in this process (episode
            0 is among them where any environment is), before the decision and at the end.
        record: yield whole episodes (`EpisodeResult.episode`), in memory.

    Raises:
        UserError: when one episode has failed `mads4.envs.protocol.MAX_ATTEMPTS` times.
    """
    if episodes < 1 or (isinstance(envs, Sequence) and not envs):
        return
    vector = LocalVector(envs) if isinstance(envs, Sequence) else envs
    context = RolloutContext(
        policy,
        target_return if callable(target_return) else lambda _: float(target_return),
        deterministic,
        device,
        np.asarray(message_dropout),
        callback,
        record,
    )
    queue = Queue(seed, range(first, first + episodes), _ADVICE)
    rows = vector.groups(min(len(vector.buffers.order), episodes))
    yield from _play_groups([PolicyGroup(vector, queue, part, context) for part in rows])


def rollout_behavior(
    plan: BehaviorPlan,
    envs: Sequence[MultiAgentEnv] | VectorEnv,
    episodes: Iterable[int],
    *,
    seed: int,
    advice: str = _ADVICE,
) -> Iterator[EpisodeResult]:
    """Play the episodes of behavior policies; yield each when it is finished, recorded.

    The policies act beside their environments: whole episodes are played without a message between
    processes, as many at a time as there are environments.

    Args:
        plan: what episode k is played with, and from which seeds.
        envs: environments, or what `mads4.rollout.make_vector` has returned for the same `plan`.
        episodes: their numbers k.
        seed: named where an episode fails.
        advice: what to do then.

    Raises:
        UserError: when one episode has failed `mads4.envs.protocol.MAX_ATTEMPTS` times.
    """
    vector = LocalVector(envs, plan=plan) if isinstance(envs, Sequence) else envs
    queue = Queue(seed, episodes, advice)
    count = min(len(vector.buffers.order), len(queue.waiting))
    if isinstance(vector, EpisodeVector):
        single = [slice(row, row + 1) for row in range(count)]
        groups: list[EnvGroup] = [EpisodeGroup(vector, queue, row) for row in single]
        yield from _play_groups(groups, vector.ready)
    elif count:
        yield from _play_groups(
            [BehaviorGroup(vector, queue, rows, plan) for rows in vector.groups(count)]
        )


def _play_groups(
    groups: Sequence[EnvGroup], ready: Callable[[Sequence[slice]], list[slice]] | None = None
) -> Iterator[EpisodeResult]:
    """Let each group send and finish until nothing is left; in turns, or whichever is `ready`."""
    for group in groups:
        group.begin()
    while active := {group.rows.start: group for group in groups if group.active}:
        rows = [group.rows for group in active.values()]
        for part in rows if ready is None else ready(rows):
            finished = active[part.start].finish()
            if active[part.start].active:
                active[part.start].send()
            yield from finished


def one_thread() -> AbstractContextManager[None]:
    """Keep PyTorch to one CPU thread: a time step's products are too small to be worth sharing."""
    return threads(1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
