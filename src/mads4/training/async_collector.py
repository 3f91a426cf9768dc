"""Iterations of online training played in a thread while the one before is learned from."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from mads4.algorithms.mappo import Weights
from mads4.models import SequencePolicy
from mads4.rollout import EpisodeResult
from mads4.training.collector import Collector
from mads4.types import PolicyInput, PolicyOutput


@dataclass(frozen=True)
class Turn:
    """An iteration's episodes, and who played them."""

    policy: SequencePolicy
    """As it played; nothing has been learned since."""
    weights: Weights
    """Of all networks when it began."""
    played: list[EpisodeResult]


class AsyncCollector:
    """Plays the next iteration with a copy of the policy; `take` waits for it.

    What it computes on the CPU it does with one thread: other cores step the environments.

    Args:
        collector: plays; nobody else may use it between `begin` and `take`.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._thread = ThreadPoolExecutor(1, "player", _use_one_core)
        self._left = threading.Event()
        self._pending: tuple[SequencePolicy, Weights, Future[list[EpisodeResult]]] | None = None

    @property
    def weights(self) -> Weights | None:
        """Those that are playing; None where nothing has begun."""
        return None if self._pending is None else self._pending[1]

    def begin(
        self, policy: SequencePolicy, weights: Weights, iteration: int, best_return: float
    ) -> None:
        """Start to play `iteration` with what `weights` makes of a copy of `policy`."""
        acting = copy.deepcopy(policy)
        acting.load_state_dict(weights["policy"])
        player: Any = _Leaving(acting, self._left)
        future = self._thread.submit(self._collector.play, player, iteration, best_return)
        self._pending = acting, weights, future

    def take(self) -> Turn:
        """Return what was begun; raises what went wrong in it."""
        assert self._pending is not None, "nothing has begun"
        policy, weights, future = self._pending
        self._pending = None
        return Turn(policy, weights, future.result())

    def close(self) -> None:
        """Give up what is being played, at its next time step."""
        self._left.set()
        self._thread.shutdown(cancel_futures=True)


def _use_one_core() -> None:
    """Let what this thread computes have one CPU thread."""
    torch.get_num_threads()  # a thread's first question sets its number to the process's
    torch.set_num_threads(1)


class _GivenUpError(Exception):
    """Ends a rollout that nobody waits for any more."""


@dataclass(frozen=True)
class _Leaving:
    """A policy that stops deciding when told to."""

    policy: SequencePolicy = field(repr=False)
    left: threading.Event

    def initial_state(self, batch: int) -> Any:
        return self.policy.initial_state(batch)

    def step(self, inputs: PolicyInput, state: Any) -> tuple[PolicyOutput, Any]:
        if self.left.is_set():
            raise _GivenUpError
        return self.policy.step(inputs, state)

    def reset_rows(self, state: Any, rows: torch.Tensor) -> Any:
        return self.policy.reset_rows(state, rows)
