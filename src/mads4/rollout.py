"""Policy × environments → finished episodes. Knows neither models nor trainers, only a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mads4.envs.protocol import MultiAgentEnv
from mads4.seeding import environment_seed
from mads4.types import Decision, PolicyInput, TimeStep

Frame = npt.NDArray[np.uint8]


class Policy(Protocol):
    """Whatever decides for several environments at once and remembers through its state."""

    def initial_state(self, batch: int) -> Any:
        """Return the state of `batch` environments before their first step."""
        ...

    def step(self, inputs: PolicyInput, state: Any) -> tuple[Decision, Any]:
        """Decide for one time step and return the next state."""
        ...

    def reset_rows(self, state: Any, rows: torch.Tensor) -> Any:
        """Return `state` with the environments where `rows` (B,) is True at their beginning."""
        ...


@dataclass(frozen=True)
class Played:
    """What is kept of one finished episode."""

    index: int
    """k: all of the episode's randomness derives from (seed, k)."""
    episode_return: float
    length: int
    metrics: dict[str, float]
    """Sums over the episode of the environment's metrics."""


@dataclass(frozen=True)
class Moment:
    """One instant of one environment, for whoever watches (videos)."""

    index: int
    step: int
    env: MultiAgentEnv
    return_to_go: float
    metrics: dict[str, float]


@dataclass
class _Slot:
    """An environment and the episode it is playing; idle once no episode is left for it."""

    env: MultiAgentEnv
    index: int
    now: TimeStep
    return_to_go: float
    rng: np.random.Generator
    episode_return: float = 0.0
    length: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    idle: bool = False

    @property
    def ended(self) -> bool:
        """Over, or as long as any episode may be, should the environment not say so itself."""
        return self.now.done or self.length >= self.env.spec.episode_limit

    @classmethod
    def begin(cls, env: MultiAgentEnv, seed: int, index: int, target_return: float) -> _Slot:
        first = env.reset(environment_seed(seed, index))
        return cls(env, index, first, target_return, np.random.default_rng([seed, index]))

    def advance(self, action: npt.NDArray[np.int64]) -> None:
        self.now = self.env.step(action)
        self.episode_return += self.now.reward
        self.return_to_go -= self.now.reward
        self.length += 1
        for name, value in self.now.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value

    def moment(self) -> Moment:
        return Moment(self.index, self.length, self.env, self.return_to_go, self.metrics)

    def played(self) -> Played:
        return Played(self.index, self.episode_return, self.length, self.metrics)


def rollout(
    policy: Policy,
    envs: Sequence[MultiAgentEnv],
    episodes: int,
    *,
    seed: int,
    target_return: float,
    sample: bool = True,
    device: torch.device | str = "cpu",
    watch: Callable[[Moment], None] | None = None,
) -> Iterator[Played]:
    """Play `episodes` episodes, as many at a time as there are environments; yield each finished.

    Episode k's environment and actions depend on (seed, k) alone, not on how many environments
    are played at once. (Matrix products of different batch sizes can differ in their last bits;
    give a float64 policy where the same numbers are wanted to the last episode.)

    Args:
        policy: decides for all environments in one call.
        envs: environments of one spec; those beyond `episodes` stay unused.
        episodes: how many to play, k = 0, 1, …
        seed: with k, decides everything random.
        target_return: what is asked for at the start; rewards received are subtracted.
        sample: draw actions; otherwise take the likeliest.
        device: where the policy computes.
        watch: called at every instant of every episode, before the decision and at the end.
    """
    parallel = min(len(envs), episodes)
    slots = [_Slot.begin(envs[k], seed, k, target_return) for k in range(parallel)]
    upcoming = parallel
    state = policy.initial_state(parallel)
    while not all(slot.idle for slot in slots):
        with torch.inference_mode():
            decision, state = policy.step(_policy_input(slots, sample, device), state)
        renewed = np.zeros(parallel, dtype=np.bool_)
        for row, action in enumerate(decision.action.cpu().numpy()):
            slot = slots[row]
            if slot.idle:
                continue
            if watch is not None:
                watch(slot.moment())
            slot.advance(action)
            if not slot.ended:
                continue
            if watch is not None:
                watch(slot.moment())
            yield slot.played()
            slot.idle = upcoming >= episodes
            if not slot.idle:
                slots[row] = _Slot.begin(slot.env, seed, upcoming, target_return)
                renewed[row] = True
                upcoming += 1
        if renewed.any():
            with torch.inference_mode():
                state = policy.reset_rows(state, torch.from_numpy(renewed).to(device))


def _policy_input(slots: Sequence[_Slot], sample: bool, device: torch.device | str) -> PolicyInput:
    """Stack the environments' present; each draws from its own episode's random stream."""

    def stack(values: list[npt.NDArray[Any]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(values)).to(device)

    n_agents = len(slots[0].now.observation)
    return PolicyInput(
        observation=stack([slot.now.observation for slot in slots]),
        state=stack([slot.now.state for slot in slots]),
        available_actions=stack([slot.now.available_actions for slot in slots]),
        return_to_go=torch.tensor([slot.return_to_go for slot in slots], device=device),
        uniform=stack([slot.rng.random(n_agents) for slot in slots]) if sample else None,
    )
