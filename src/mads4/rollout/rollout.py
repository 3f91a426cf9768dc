"""Policy x environments -> finished episodes: the one place where episodes are played.

Training, evaluation and recording all come here. It knows neither models nor trainers, only
protocols. PyTorch is imported where it is used: worker processes need this package without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.seeding import EpisodeStreams, environment_seed
from mads4.envs.vector import VectorEnv
from mads4.rollout.groups import BehaviorGroup, EnvGroup, EpisodeGroup, Queue, StepGroup
from mads4.rollout.local import BehaviorPlan, EpisodeVector, LocalVector
from mads4.rollout.recorder import EpisodeResult, StepArrays
from mads4.types import BoolArray, FloatArray, IntArray, PolicyInput, PolicyOutput

if TYPE_CHECKING:
    import torch

_ADVICE = (
    "Use evaluator.workers=0 to see what happens, or, if the environment is merely slow, raise "
    "evaluator.worker_timeout (a game's env.supervision.reset_timeout and "
    "env.supervision.step_timeout)."
)


class Policy(Protocol):
    """Decides for several environments in one call; its memory is a state."""

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
class StepEvent:
    """One time step of one environment, for callbacks (videos)."""

    index: int
    step: int
    env: MultiAgentEnv
    return_to_go: float
    metrics: dict[str, float]


Callback = Callable[[StepEvent], None]


@dataclass(frozen=True)
class RolloutContext:
    """What all groups of one policy's rollout have in common; see `rollout`."""

    policy: Policy
    target_return: Callable[[int], float]
    deterministic: bool
    device: torch.device | str
    message_dropout: npt.NDArray[np.floating[Any]]
    callback: Callback | None
    record: bool


class PolicyGroup(StepGroup):
    """Environments that a policy decides for in one call."""

    def __init__(
        self, vector: VectorEnv, queue: Queue, rows: slice, context: RolloutContext
    ) -> None:
        super().__init__(vector, queue, rows, context.record)
        count = len(self.order)
        self._context = context
        self._return_to_go = np.zeros(count)
        self._streams = EpisodeStreams(queue.seed, count, vector.spec.n_agents)
        self._state = context.policy.initial_state(count)

    def start(self, row: int, index: int) -> int:
        """Begin an episode with its seed, random streams and target return."""
        seed = environment_seed(self.queue.seed, index)
        self.buffers.seed[self.rows.start + row] = seed
        self._streams.begin(row, index)
        self._return_to_go[row] = self._context.target_return(index)
        return super().start(row, index)

    def add_reward(self, reward: FloatArray) -> None:
        """Subtract the rewards from the return-to-go, too."""
        super().add_reward(reward)
        self._return_to_go -= reward

    def decide(self, running: BoolArray, now: StepArrays) -> IntArray:
        """Return the policy's actions (R, N)."""
        import torch

        context, streams = self._context, self._streams

        def tensor(values: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(values).to(context.device)

        dropped: npt.NDArray[Any] | None = None
        uniform = None if context.deterministic else streams.action_numbers(running)
        if context.message_dropout.any():
            dropped = streams.message_numbers(running) < context.message_dropout
        inputs = PolicyInput(
            observation=tensor(now.observation),
            state=tensor(now.state),
            available_actions=tensor(now.available_actions),
            return_to_go=tensor(self._return_to_go.astype(np.float32)),
            uniform=None if uniform is None else tensor(uniform),
            order_key=tensor(streams.order_key.copy()),
            message_dropped=None if dropped is None else tensor(dropped),
        )
        with torch.inference_mode():
            if self.begun.any():
                self._state = context.policy.reset_rows(self._state, tensor(self.begun))
            output, self._state = context.policy.step(inputs, self._state)
        action: IntArray = output.action.cpu().numpy()
        self.show(np.flatnonzero(running))
        return action

    def show(self, rows: npt.NDArray[np.intp]) -> None:
        """Show those of the environments `rows` that live in this process to the callback."""
        if self._context.callback is None:
            return
        for row in rows:
            at = self.rows.start + int(row)
            env = self.vector.env(at)
            if env is not None:
                event = StepEvent(
                    int(self.index[row]),
                    int(self.length[row]),
                    env,
                    float(self._return_to_go[row]),
                    dict(self.vector.metrics(at)),
                )
                self._context.callback(event)

    def result(self, row: int, result: EpisodeResult) -> EpisodeResult:
        """Add what the episode was conditioned on."""
        target_return = self._context.target_return(result.index)
        order_key = self._streams.order_key[row].copy()
        return replace(result, target_return=target_return, order_key=order_key)


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
