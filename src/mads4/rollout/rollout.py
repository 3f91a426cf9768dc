"""Policy × environments → finished episodes. Knows neither models nor trainers, only protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import numpy.typing as npt
import torch

from mads4.envs.protocol import MultiAgentEnv
from mads4.rollout.batched_rollout import (
    Callback,
    EnvGroup,
    EpisodeResult,
    Policy,
    Queue,
    RolloutContext,
    StepEvent,
)
from mads4.rollout.vector import LocalVector, VectorEnv

__all__ = ["EpisodeResult", "Policy", "StepEvent", "one_thread", "rollout", "threads"]


def rollout(
    policy: Policy,
    envs: Sequence[MultiAgentEnv] | VectorEnv,
    episodes: int,
    *,
    seed: int,
    target_return: float | Callable[[int], float],
    first: int = 0,
    sample: bool = True,
    device: torch.device | str = "cpu",
    message_drop: float | npt.ArrayLike = 0.0,
    watch: Callback | None = None,
    record: bool = False,
) -> Iterator[EpisodeResult]:
    """Play `episodes` episodes, as many at a time as there are environments; yield each finished.

    Episode k's environment, actions, order and losses depend on (seed, k) alone, not on how many
    environments are played at once, in which processes, or whether one of these was lost, or the
    episode broke, and was played again. (Matrix products of different batch sizes can differ in
    their last bits; give a float64 policy where the same numbers are wanted to the last episode.)

    Args:
        policy: decides for all environments in one call (two, if they are stepped by turns).
        envs: environments of one spec, in this process or not; those beyond `episodes` stay unused.
        episodes: how many to play, k = `first`, `first` + 1, …
        seed: with k, decides everything random.
        target_return: what is asked for at the start, of all episodes or of episode k; rewards
            received are subtracted.
        first: number k of the first episode.
        sample: draw actions; otherwise take the likeliest.
        device: where the policy computes.
        message_drop: probability that what is handed on to an agent is lost, at every step anew;
            one for all or one per agent (N,).
        watch: called at every instant of the episodes that are played in this process (episode 0
            is among them where any environment is), before the decision and at the end.
        record: yield whole episodes (`EpisodeResult.episode`), in memory.

    Raises:
        UserError: when one episode has failed `mads4.envs.protocol.MAX_ATTEMPTS` times.
    """
    vector = LocalVector(envs) if isinstance(envs, Sequence) and envs else envs
    if episodes < 1 or isinstance(vector, Sequence):
        return
    queue = Queue(seed, range(first, first + episodes))
    drop = np.asarray(message_drop)
    asked = target_return if callable(target_return) else lambda _: float(target_return)
    game = RolloutContext(policy, vector, queue, asked, sample, device, drop, watch, record)
    groups = []
    for rows in vector.groups(min(len(vector.board.order), episodes)):
        vector.wait(rows)  # an earlier rollout may have been given up while these were under way
        groups.append(EnvGroup(game, rows))
        groups[-1].decide()
    while active := [group for group in groups if group.active]:
        for group in active:
            finished = group.finish()
            if group.active:
                group.decide()
            yield from finished


def one_thread() -> AbstractContextManager[None]:
    """Keep PyTorch to one CPU thread: a time step's products are too small to be worth sharing."""
    return threads(1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
