"""From rollouts to statistics: means with intervals, for every target return."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.errors import UserError
from mads4.evaluation.record import Figures
from mads4.rollout import EpisodeResult, SeededPlan, rollout_behavior
from mads4.types import FloatArray, PolicyInput, PolicyOutput

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Evaluation:
    """All episodes played for one return target (or by one baseline)."""

    target_return: float | None
    """Return-to-go at the start; None for policies that take none."""
    played: tuple[EpisodeResult, ...]
    """In the order of the episodes' indices."""
    seconds: float

    @classmethod
    def of(
        cls,
        episodes: Iterable[EpisodeResult],
        target_return: float | None = None,
        on_episode: Callable[[EpisodeResult], None] | None = None,
    ) -> Evaluation:
        """Play `episodes` to the end, from `mads4.rollout` or `play_behavior`.

        `on_episode` is called with every episode as it finishes.
        """
        began = time.perf_counter()
        played = []
        for episode in episodes:
            played.append(episode)
            if on_episode is not None:
                on_episode(episode)
        played.sort(key=lambda episode: episode.index)
        return cls(target_return, tuple(played), time.perf_counter() - began)

    @property
    def returns(self) -> FloatArray:
        """(E,) float64."""
        return np.array([episode.episode_return for episode in self.played])

    def summary(
        self, random_return: float | None = None, expert_return: float | None = None
    ) -> Figures:
        """Return the statistics; the mean of a metric ``win`` is ``win_rate``.

        The normalized score, 0 for the random policy and 1 for the expert, needs both returns.
        """
        returns = self.returns
        steps = sum(episode.length for episode in self.played)
        figures: dict[str, Any] = {
            "target_return": self.target_return,
            "episodes": len(returns),
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "return_iqm": float(stats.trim_mean(returns, 0.25)),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "return_ci95": list(mean_interval(returns)),
            "length_mean": steps / len(returns),
            "environment_steps_per_second": steps / max(self.seconds, 1e-9),
            "episodes_replayed": sum(episode.restarts > 0 for episode in self.played),
        }
        for name in sorted({name for episode in self.played for name in episode.metrics}):
            values = [episode.metrics.get(name, 0.0) for episode in self.played]
            figures["win_rate" if name == "win" else f"{name}_mean"] = float(np.mean(values))
            if name == "win":
                figures["win_rate_ci95"] = list(mean_interval(values))
        if random_return is not None and expert_return is not None:
            span = expert_return - random_return
            if span > 0:
                figures["normalized_score"] = (float(returns.mean()) - random_return) / span
        return Figures(**figures)


class RandomPolicy:
    """The uniformly random policy over available actions, for rollouts."""

    def initial_state(self, batch: int) -> None:
        """Return no state."""

    def reset_rows(self, state: None, rows: torch.Tensor) -> None:
        """Return nothing."""

    def step(self, inputs: PolicyInput, state: None) -> tuple[PolicyOutput, None]:
        """Draw actions with `inputs.uniform`, which it needs."""
        assert inputs.uniform is not None, "random actions are drawn"
        available = inputs.available_actions
        place = (inputs.uniform * available.sum(-1)).long()
        action = (available.cumsum(-1) > place.unsqueeze(-1)).int().argmax(-1)
        logits = torch.zeros(available.shape, device=available.device)
        return PolicyOutput(action, logits.masked_fill(~available, -torch.inf)), None


def play_behavior(
    behavior: BehaviorPolicy, env: MultiAgentEnv, episodes: int, *, seed: int
) -> Iterator[EpisodeResult]:
    """Play with a behavior policy (random, expert) from the starts that `rollout` has, too."""
    plan = SeededPlan(lambda: behavior, seed)
    return rollout_behavior(plan, [env], range(episodes), seed=seed)


def mean_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """Return the 95% bootstrap interval (bias-corrected, accelerated) of the mean of `values`.

    A single value, or values that are all the same, are their own interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0.0:
        return float(sample.mean()), float(sample.mean())
    interval = stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def target_returns(targets: Sequence[str | float], data: Mapping[str, Any]) -> dict[str, float]:
    """Return each return target's name and value.

    Args:
        targets: numbers, or ``max``, ``mean``, ``min`` of the data's returns, optionally with a
            factor: ``1.1*max``.
        data: a data set's summary, with ``return_max``, ``return_mean`` and ``return_min``.

    Raises:
        UserError: a target that is neither.
    """
    values = {}
    for target in targets:
        name = str(target).replace(" ", "")
        factor, _, statistic = name.rpartition("*")
        try:
            if statistic in ("max", "mean", "min"):
                values[name] = float(factor or 1.0) * float(data[f"return_{statistic}"])
            else:
                values[f"{float(target):g}"] = float(target)
        except ValueError as error:
            raise UserError(
                f"evaluator.target_returns: got '{target}', expected a number, or max, mean or min "
                "of the data's returns with an optional factor, for example 1.1*max."
            ) from error
    return values
