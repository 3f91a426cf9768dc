"""Groups of environments that are stepped together, and their episodes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MAX_ATTEMPTS
from mads4.envs.vector import IDLE, PLAY, RESET, STEP, VectorEnv, WorkerLost
from mads4.errors import UserError
from mads4.rollout.local import BehaviorEpisode, BehaviorPlan, EpisodeVector
from mads4.rollout.recorder import EpisodeRecorder, EpisodeResult, StepArrays
from mads4.types import BoolArray, FloatArray, IntArray

_LOG = logging.getLogger(__name__)


class Queue:
    """The episodes still to be played, and how often each has failed."""

    def __init__(self, seed: int, episodes: Iterable[int], advice: str) -> None:
        self.seed = seed
        self.waiting = deque(episodes)
        self.restarts: Counter[int] = Counter()
        self._blamed: Counter[int] = Counter()
        self._advice = advice

    def count(self, indices: Sequence[int], blamed: Sequence[int], loss: WorkerLost) -> None:
        """Count, and report, that the episodes `indices` were lost."""
        self.restarts.update(indices)
        self._blamed.update(blamed)
        for index in blamed:
            if self._blamed[index] >= MAX_ATTEMPTS:
                raise UserError(
                    f"Episode {index} of seed {self.seed} has failed {MAX_ATTEMPTS} times (the "
                    f"last time {loss.who} {loss.reason}). {self._advice}"
                )
        who, names = loss.who.capitalize(), ", ".join(map(str, indices))
        _LOG.warning("%s %s; playing episodes %s again.", who, loss.reason, names)


class EnvGroup(ABC):
    """Environments that are sent their orders together, and the episodes they are playing.

    A round is `send`, which sends actions and new episodes' seeds, and `finish`, which collects the
    results. All arrays begin with the axis of the group's R environments.
    """

    def __init__(self, vector: VectorEnv, queue: Queue, rows: slice) -> None:
        count = rows.stop - rows.start
        self.rows = rows
        self.vector = vector
        self.queue = queue
        self.buffers = vector.buffers
        self.index = np.full(count, -1, dtype=np.int64)
        self.order = np.full(count, IDLE, dtype=np.uint8)

    def begin(self) -> None:
        """Send the first episodes on their way."""
        self.vector.wait(self.rows)  # an abandoned rollout may have left them at work
        for row in range(len(self.order)):
            self.take_next(row)
        self.send()

    @property
    def active(self) -> bool:
        """Whether any environment has something to do."""
        return bool(self.order.any())

    def send(self) -> None:
        """Send the orders."""
        self.buffers.order[self.rows] = self.order
        self.vector.send(self.rows)

    @abstractmethod
    def finish(self) -> list[EpisodeResult]:
        """Wait for the environments and return the episodes that are over."""

    @abstractmethod
    def start(self, row: int, index: int) -> int:
        """Prepare `row` for the beginning of episode `index`; return the order that begins it."""

    def wait(self) -> tuple[list[WorkerLost], BoolArray]:
        """Wait for the environments; return what was lost, also as a mask (R,)."""
        losses = self.vector.wait(self.rows)
        lost = np.zeros(len(self.order), dtype=np.bool_)
        for loss in losses:
            lost[[row - self.rows.start for row in loss.rows]] = True
        return losses, lost

    def take_next(self, row: int) -> None:
        """Order the next episode, if there is one."""
        if self.queue.waiting:
            self._order(row, self.queue.waiting.popleft())
        else:
            self.order[row] = IDLE

    def restart(self, losses: Sequence[WorkerLost]) -> None:
        """Order the episodes that were lost once more."""
        first, order = self.rows.start, self.order
        for loss in losses:
            rows = [row - first for row in loss.rows if order[row - first] != IDLE]
            blamed = [row - first for row in loss.blamed if order[row - first] != IDLE]
            if rows:
                self.queue.count(self.index[rows].tolist(), self.index[blamed].tolist(), loss)
            for row in rows:
                self._order(row, int(self.index[row]))

    def _order(self, row: int, index: int) -> None:
        self.index[row] = index
        self.order[row] = self.start(row, index)


class EpisodeGroup(EnvGroup):
    """One environment that plays whole episodes with the behavior policy beside it."""

    vector: EpisodeVector

    def start(self, row: int, index: int) -> int:
        """Name the episode to play."""
        self.buffers.episode[self.rows.start + row] = index
        return PLAY

    def finish(self) -> list[EpisodeResult]:
        """Wait for the episode and return it."""
        losses, lost = self.wait()
        self.restart(losses)
        if lost.any():
            return []
        result = self.vector.result(self.rows.start)
        self.take_next(0)
        return [replace(result, restarts=self.queue.restarts[result.index])]


class StepGroup(EnvGroup):
    """Environments that are stepped together with actions that are chosen here."""

    def __init__(self, vector: VectorEnv, queue: Queue, rows: slice, record: bool) -> None:
        super().__init__(vector, queue, rows)
        count = rows.stop - rows.start
        self.length = np.zeros(count, dtype=np.int64)
        self.episode_return = np.zeros(count)
        self.begun = np.zeros(count, dtype=np.bool_)
        self.recorder = EpisodeRecorder(count) if record else None

    @abstractmethod
    def decide(self, running: BoolArray, now: StepArrays) -> IntArray:
        """Return actions (R, N); those of environments that are not `running` mean nothing."""

    def show(self, rows: npt.NDArray[np.intp]) -> None:
        """Show the environments `rows` to a callback."""

    def result(self, row: int, result: EpisodeResult) -> EpisodeResult:
        """Complete what `row` has finished."""
        return result

    def start(self, row: int, index: int) -> int:
        """Reset the sums over the episode."""
        self.length[row], self.episode_return[row] = 0, 0.0
        return RESET

    def send(self) -> None:
        """Decide for the episodes that are running, and send all orders."""
        running = self.order == STEP
        if running.any():
            now = StepArrays.of(self.buffers, self.rows)
            action = self.decide(running, now)
            self.buffers.action[self.rows] = action
            if self.recorder is not None:
                self.recorder.add(now, action)
        super().send()

    def finish(self) -> list[EpisodeResult]:
        """Wait for the environments and return the episodes that are over."""
        buffers, rows, order = self.buffers, self.rows, self.order
        losses, lost = self.wait()
        stepped = (order == STEP) & ~lost
        reward = np.where(stepped, buffers.reward[rows], 0.0)
        self.add_reward(reward)
        self.length += stepped
        if self.recorder is not None and (order == STEP).any():
            self.recorder.add_reward(reward)
        self.begun = (order == RESET) & ~lost
        over = stepped & (buffers.terminated[rows] | buffers.truncated[rows])
        order[self.begun] = STEP
        self.show(np.flatnonzero(over))
        finished = [self._finish(int(row)) for row in np.flatnonzero(over)]
        self.restart(losses)
        if self.recorder is not None:
            for row in np.flatnonzero(self.begun):
                self.recorder.begin(int(row))
            if finished:
                self.recorder.trim(order == STEP)
        return finished

    def add_reward(self, reward: FloatArray) -> None:
        """Add the rewards (R,) of a step, 0 for environments that were not stepped."""
        self.episode_return += reward

    def _finish(self, row: int) -> EpisodeResult:
        """Return the episode that `row` has finished, and let it begin the next."""
        index, at = int(self.index[row]), self.rows.start + row
        metrics = dict(self.vector.metrics(at))
        result = EpisodeResult(
            index,
            float(self.episode_return[row]),
            int(self.length[row]),
            metrics,
            self.queue.restarts[index],
        )
        if self.recorder is not None:
            episode = self.recorder.episode(
                row,
                terminated=bool(self.buffers.terminated[at]),
                index=index,
                metrics=metrics,
                last=self.buffers.time_step(at),
            )
            result = replace(result, episode=episode)
        result = self.result(row, result)
        self.take_next(row)
        return result


class BehaviorGroup(StepGroup):
    """Environments of this process that one call steps, with a behavior policy for each."""

    def __init__(self, vector: VectorEnv, queue: Queue, rows: slice, plan: BehaviorPlan) -> None:
        super().__init__(vector, queue, rows, record=True)
        self._plan = plan
        self._episodes: list[BehaviorEpisode | None] = [None] * len(self.order)

    def start(self, row: int, index: int) -> int:
        """Begin an episode with a behavior policy of its own."""
        episode = self._plan(index)
        self._episodes[row] = episode
        self.buffers.seed[self.rows.start + row] = episode.seed
        return super().start(row, index)

    def decide(self, running: BoolArray, now: StepArrays) -> IntArray:
        """Let each environment's policy act."""
        action: IntArray = self.buffers.action[self.rows].copy()
        for row in np.flatnonzero(running):
            at, episode = self.rows.start + int(row), self._episodes[row]
            env = self.vector.env(at)
            assert episode is not None and env is not None
            if self.begun[row]:
                episode.behavior.reset(env, episode.rng)
            action[row] = episode.behavior.act(self.buffers.time_step(at))
        return action

    def result(self, row: int, result: EpisodeResult) -> EpisodeResult:
        """Add the policy's metrics to the recorded episode's."""
        recorded, episode = result.episode, self._episodes[row]
        assert recorded is not None and episode is not None
        metrics = result.metrics | episode.behavior.metrics()
        return replace(result, episode=replace(recorded, metrics=metrics))
