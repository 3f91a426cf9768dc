"""Environments in this process: what executes their orders, and episodes of behavior policies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from mads4.envs.protocol import BehaviorPolicy, BrokenEpisodeError, MultiAgentEnv
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import IDLE, PLAY, RESET, Incidents, SharedBuffers, VectorEnv, WorkerLost
from mads4.errors import UserError
from mads4.rollout.recorder import EpisodeRecorder, EpisodeResult, StepArrays
from mads4.types import EnvSpec, IntArray, TimeStep


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
                last=buffers.time_step(row),
            ),
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
        buffers: with a row for each, and possibly more; None for new ones.
    """

    def __init__(
        self,
        envs: Sequence[MultiAgentEnv],
        owned: bool = False,
        plan: BehaviorPlan | None = None,
        buffers: SharedBuffers | None = None,
    ) -> None:
        self.incidents = Incidents()
        self.buffers = SharedBuffers.over(envs[0].spec, len(envs)) if buffers is None else buffers
        self._losses: list[WorkerLost] = []
        self._rows = [EnvRow(env, self.buffers, row, plan) for row, env in enumerate(envs)]
        self._owned = owned

    @property
    def spec(self) -> EnvSpec:
        """What all environments have in common."""
        return self._rows[0].env.spec

    def groups(self, rows: int) -> list[slice]:
        """Return all in one: nothing is gained by taking turns in a single process."""
        return [slice(0, rows)]

    def send(self, rows: slice) -> None:
        """Execute the orders."""
        for row in self._rows[rows]:
            _, loss = row.execute()
            if loss:
                self.incidents.episodes_broken += 1
                self._losses.append(loss)

    def wait(self, rows: slice) -> list[WorkerLost]:
        """Return at once the episodes of `rows` that broke: all is done."""
        taken, kept = [], []
        for loss in self._losses:
            here = _part(loss, lambda row: rows.start <= row < rows.stop)
            there = _part(loss, lambda row: not rows.start <= row < rows.stop)
            taken += [here] if here.rows else []
            kept += [there] if there.rows else []
        self._losses = kept  # until their rows are waited for
        return taken

    def ready(self, rows: Sequence[slice]) -> list[slice]:
        """Return all of them."""
        return list(rows)

    def metrics(self, row: int) -> Mapping[str, float]:
        """Return the sums of an episode's metrics so far."""
        return self._rows[row].metrics

    def result(self, row: int) -> EpisodeResult:
        """Return the episode that `row` has played."""
        result = self._rows[row].result
        assert result is not None, "requested after PLAY"
        return result

    def env(self, row: int) -> MultiAgentEnv | None:
        """Return the environment itself if it lives in this process."""
        return self._rows[row].env if row < len(self._rows) else None

    def close(self) -> None:
        """Close the environments if they are owned."""
        if not self._owned:
            return
        with ExitStack() as stack:  # each, even if another one fails to close
            for row in self._rows:
                stack.enter_context(closing(row.env))


def _part(loss: WorkerLost, belongs: Callable[[int], bool]) -> WorkerLost:
    """Return the part of a loss that concerns the rows that `belongs` accepts."""
    rows, blamed = filter(belongs, loss.rows), filter(belongs, loss.blamed)
    return replace(loss, rows=tuple(rows), blamed=tuple(blamed))
