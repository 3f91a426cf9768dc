"""Environments that are decided for together, time step by time step, and what they play."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mads4.envs.protocol import MAX_ATTEMPTS, MultiAgentEnv
from mads4.envs.seeding import EpisodeStreams, environment_seed
from mads4.errors import UserError
from mads4.rollout.episode_recorder import EpisodeRecorder, Round
from mads4.rollout.shared_buffers import IDLE, RESET, STEP
from mads4.rollout.vector import VectorEnv, WorkerLost
from mads4.types import BoolArray, Episode, PolicyInput, PolicyOutput, TimeStep

_LOG = logging.getLogger(__name__)


class Policy(Protocol):
    """Whatever decides for several environments at once and remembers through its state."""

    def initial_state(self, batch: int) -> Any:
        """Return the state of `batch` environments before their first step."""
        ...

    def step(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        """Decide for one time step and return the next state."""
        ...

    def reset_rows(self, state: Any, rows: torch.Tensor) -> Any:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """What is kept of one finished episode."""

    index: int
    """k: all of the episode's randomness derives from (seed, k)."""
    episode_return: float
    length: int
    metrics: dict[str, float]
    """Sums over the episode of the environment's metrics."""
    restarts: int = field(default=0, compare=False)
    """How often it was played again because its worker process was lost, or it broke."""
    episode: Episode | None = field(default=None, compare=False, repr=False)
    """All that happened, if it was recorded."""
    last: TimeStep | None = field(default=None, compare=False, repr=False)
    """What followed the last action, if the episode was recorded."""
    target_return: float = field(default=0.0, compare=False)
    """What was asked for at the start."""
    order_key: npt.NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    """(N,) as in `PolicyInput.order_key`."""


@dataclass(frozen=True)
class StepEvent:
    """One instant of one environment, for whoever watches (videos)."""

    index: int
    step: int
    env: MultiAgentEnv
    return_to_go: float
    metrics: dict[str, float]


Callback = Callable[[StepEvent], None]


class Queue:
    """The episodes still to be played, and how often each has failed."""

    def __init__(self, seed: int, episodes: range) -> None:
        self.seed = seed
        self.waiting = deque(episodes)
        self.restarts: Counter[int] = Counter()
        self._blamed: Counter[int] = Counter()

    def lose(self, indices: Sequence[int], blamed: Sequence[int], loss: WorkerLost) -> None:
        """Count, and report, that the episodes `indices` came to nothing."""
        self.restarts.update(indices)
        self._blamed.update(blamed)
        for index in blamed:
            if self._blamed[index] >= MAX_ATTEMPTS:
                raise UserError(
                    f"Episode {index} of seed {self.seed} has failed {MAX_ATTEMPTS} times (the "
                    f"last time {loss.who} {loss.reason}). Use evaluator.num_workers=0 to see what "
                    "happens, or, if the environment is merely slow, raise "
                    "evaluator.worker_timeout (a game's env.supervision.reset_timeout and "
                    "env.supervision.step_timeout)."
                )
        who, names = loss.who.capitalize(), ", ".join(map(str, indices))
        _LOG.warning("%s %s; playing episodes %s again.", who, loss.reason, names)


@dataclass(frozen=True)
class RolloutContext:
    """What all groups of one rollout have in common."""

    policy: Policy
    vector: VectorEnv
    queue: Queue
    target_return: Callable[[int], float]
    """Episode k's."""
    sample: bool
    device: torch.device | str
    message_drop: npt.NDArray[np.floating[Any]]
    watch: Callback | None
    record: bool


class EnvGroup:
    """Environments that are decided for together, and the episodes they are playing.

    A round is `decide`, which sends actions and new episodes' seeds, and `finish`, which takes in
    what came of them. All arrays begin with the axis of the group's R environments.
    """

    def __init__(self, game: RolloutContext, rows: slice) -> None:
        count = rows.stop - rows.start
        self._game, self._rows = game, rows
        self._index = np.full(count, -1, dtype=np.int64)
        self._length = np.zeros(count, dtype=np.int64)
        self._episode_return = np.zeros(count)
        self._return_to_go = np.zeros(count)
        self._order = np.full(count, IDLE, dtype=np.uint8)
        self._begun = np.zeros(count, dtype=np.bool_)
        self._streams = EpisodeStreams(game.queue.seed, count, game.vector.spec.n_agents)
        self._tape = EpisodeRecorder(count) if game.record else None
        self._state = game.policy.initial_state(count)
        for row in range(count):
            self._take_next(row)

    @property
    def active(self) -> bool:
        """Whether any environment has something to do."""
        return bool(self._order.any())

    def decide(self) -> None:
        """Decide for the episodes that run, and send what all environments shall do."""
        board, rows = self._game.vector.board, self._rows
        running = self._order == STEP
        if running.any():
            board.action[rows] = self._decision(running)
        board.order[rows] = self._order
        self._game.vector.send(rows)

    def finish(self) -> list[EpisodeResult]:
        """Wait for the environments and return the episodes that are over."""
        board, rows, order = self._game.vector.board, self._rows, self._order
        losses = self._game.vector.wait(rows)
        lost = np.zeros(len(order), dtype=np.bool_)
        for loss in losses:
            lost[[row - rows.start for row in loss.rows]] = True
        stepped = (order == STEP) & ~lost
        reward = np.where(stepped, board.reward[rows], 0.0)
        self._episode_return += reward
        self._return_to_go -= reward
        self._length += stepped
        if self._tape is not None and (order == STEP).any():
            self._tape.reward(reward)
        self._begun = (order == RESET) & ~lost
        over = stepped & (board.terminated[rows] | board.truncated[rows])
        order[self._begun] = STEP
        self._show(np.flatnonzero(over))
        finished = [self._finish(int(row)) for row in np.flatnonzero(over)]
        for loss in losses:
            self._restart(loss)
        self._wind(bool(finished))
        return finished

    def _decision(self, running: BoolArray) -> npt.NDArray[np.int64]:
        """Return actions (R, N); those of environments that do not run mean nothing."""
        game, board, rows = self._game, self._game.vector.board, self._rows
        observation, state = board.observation[rows].copy(), board.states(rows)
        available = board.available_actions[rows].copy()

        def tensor(values: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(values).to(game.device)

        streams = self._streams
        inputs = PolicyInput(
            observation=tensor(observation),
            state=tensor(state),
            available_actions=tensor(available),
            return_to_go=tensor(self._return_to_go.astype(np.float32)),
            uniform=tensor(streams.action_numbers(running)) if game.sample else None,
            order_key=tensor(streams.order_key.copy()),
            message_dropped=self._lost_messages(running),
        )
        with torch.inference_mode():
            if self._begun.any():
                self._state = game.policy.reset_rows(self._state, tensor(self._begun))
            decision, self._state = game.policy.step(inputs, self._state)
        action: npt.NDArray[np.int64] = decision.action.cpu().numpy()
        self._show(np.flatnonzero(running))
        if self._tape is not None:
            self._tape.add(Round(observation, state, available, action))
        return action

    def _lost_messages(self, running: BoolArray) -> torch.Tensor | None:
        """Return which hand-offs are lost, (R, N), or None if none ever is."""
        if not self._game.message_drop.any():
            return None
        lost = self._streams.message_numbers(running) < self._game.message_drop
        return torch.from_numpy(lost).to(self._game.device)

    def _take_next(self, row: int) -> None:
        """Order the next episode, if there is one."""
        waiting = self._game.queue.waiting
        if waiting:
            self._begin(row, waiting.popleft())
        else:
            self._order[row] = IDLE

    def _begin(self, row: int, index: int) -> None:
        """Order the beginning of episode `index`."""
        seed = self._game.queue.seed
        self._game.vector.board.seed[self._rows.start + row] = environment_seed(seed, index)
        self._streams.begin(row, index)
        self._index[row], self._order[row] = index, RESET
        self._length[row], self._episode_return[row] = 0, 0.0
        self._return_to_go[row] = self._game.target_return(index)

    def _restart(self, loss: WorkerLost) -> None:
        """Order the episodes that a lost worker process was playing anew."""
        first, order = self._rows.start, self._order
        rows = [row - first for row in loss.rows if order[row - first] != IDLE]
        blamed = [row - first for row in loss.blamed if order[row - first] != IDLE]
        if not rows:
            return
        queue, index = self._game.queue, self._index
        queue.lose(index[rows].tolist(), index[blamed].tolist(), loss)
        for row in rows:
            self._begin(row, int(index[row]))

    def _finish(self, row: int) -> EpisodeResult:
        """Return the episode that `row` has finished, and let it begin the next."""
        vector, index = self._game.vector, int(self._index[row])
        metrics = dict(vector.metrics(self._rows.start + row))
        terminated = bool(vector.board.terminated[self._rows.start + row])
        episode = last = None
        if self._tape is not None:
            episode = self._tape.episode(row, terminated=terminated, index=index, metrics=metrics)
            last = vector.board.time_step(self._rows.start + row)
        played = EpisodeResult(
            index,
            float(self._episode_return[row]),
            int(self._length[row]),
            metrics,
            self._game.queue.restarts[index],
            episode,
            last,
            self._game.target_return(index),
            self._streams.order_key[row].copy(),
        )
        self._take_next(row)
        return played

    def _show(self, rows: npt.NDArray[np.intp]) -> None:
        """Let whoever watches see those of the environments `rows` that live in this process."""
        vector, watch = self._game.vector, self._game.watch
        if watch is None:
            return
        for row in rows:
            at = self._rows.start + int(row)
            env = vector.env(at)
            if env is not None:
                index, length = int(self._index[row]), int(self._length[row])
                asked = float(self._return_to_go[row])
                watch(StepEvent(index, length, env, asked, dict(vector.metrics(at))))

    def _wind(self, ended: bool) -> None:
        """Let new episodes begin on the tape; forget what no running one needs."""
        if self._tape is None:
            return
        for row in np.flatnonzero(self._begun):
            self._tape.begin(int(row))
        if ended:
            self._tape.trim(self._order == STEP)
