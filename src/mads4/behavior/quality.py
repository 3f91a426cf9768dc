"""Data quality: the share of random actions that brings an expert's mean return into a band.

A quality is a band of the mean return, normalized so that the random policy scores 0 and the
expert without noise 1. A small pilot measures how the score falls with the share of random
actions; the range of shares whose mean score is the middle of the band follows from that curve.
Battles are measured by the share of them that is won, if the expert wins often enough.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mads4.behavior.noise import Noisy
from mads4.envs.protocol import BehaviorPolicy, MultiAgentEnv
from mads4.errors import UserError, did_you_mean
from mads4.rollout import BehaviorEpisode, EpisodeResult, behavior_vector, rollout_behavior

BANDS = {"expert": (0.85, 1.0), "good": (0.6, 0.8), "medium": (0.35, 0.55), "poor": (0.1, 0.25)}
"""Bounds of the data's normalized mean return."""
EXPERT_HIGH = 0.2
"""Largest share of random actions in expert data: more would add little to what mistakes show."""
EXPERT_SCORE = 0.88
"""Mean score that expert data keeps, a little inside its band."""
SPREAD = 0.4
"""Half-width of a range of shares, relative to the nearer of its center's distances to 0 and 1."""
PILOT_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
"""Shares of random actions at which the pilot plays; the last is the random policy."""
EPISODES = 5
"""Pilot episodes at each share."""

MEASURES = {"smax": "win"}
"""Environment family → metric that measures quality instead of the return."""
MEASURED_EPISODES = 40
"""Pilot episodes at each share where a metric counts that is 0 or 1."""
WORTH_MEASURING = 0.2
"""Mean of the metric that the expert must reach without noise; else the return measures."""

_LOG = logging.getLogger(__name__)
_PILOT = int.from_bytes(b"plot", "big")
"""Keeps the pilot's random streams apart from those of the recording."""

Curve = npt.NDArray[np.float64]
MakeEnv = Callable[[], MultiAgentEnv]
MakeBehavior = Callable[[], BehaviorPolicy]


@dataclass(frozen=True)
class QualityPlan:
    """How noisy an expert has to be, and why."""

    quality: str
    low: float
    """Smallest share of random actions in an episode."""
    high: float
    """Largest share; an episode's own is drawn uniformly in between."""
    random_return: float
    """Mean return of the random policy in the pilot."""
    expert_return: float
    """Mean return of the expert without noise in the pilot."""
    normalized_score: float
    """Mean score to be expected of the data, 0 random, 1 expert."""
    measure: str = "return"
    """What is normalized: the return, or the name of a metric."""
    expert_metrics: Mapping[str, float] = field(default_factory=dict)
    """Means of the environment's metrics, expert without noise, in the pilot."""


def noise_range(
    make_env: MakeEnv,
    make_expert: MakeBehavior,
    quality: str,
    seed: int,
    episodes: int | None = None,
    workers: int = 1,
    measure: str | None = None,
) -> QualityPlan:
    """Return the range of noise with which the expert's data are of `quality`.

    The answer depends on the expert, the environment, `seed` and `episodes` only.

    Args:
        make_env: makes one environment (picklable when `workers` > 1).
        make_expert: makes the expert without noise (picklable when `workers` > 1).
        quality: one of `BANDS`.
        seed: root of the pilot's randomness.
        episodes: pilot episodes at each share of random actions (three times as many at 0); None
            for a number that suits what is measured.
        workers: processes that play the pilot.
        measure: metric to measure by, where the expert reaches `WORTH_MEASURING`; None for the
            return.

    Raises:
        UserError: an unknown quality, or an expert that is no better than random.
    """
    if quality not in BANDS:
        near = did_you_mean(quality, BANDS)
        raise UserError(f"quality: got '{quality}', expected one of {', '.join(BANDS)}.{near}")
    episodes = episodes or (MEASURED_EPISODES if measure else EPISODES)
    rates = [r for r in PILOT_RATES if quality != "expert" or r <= EXPERT_HIGH or r == 1.0]
    counts = [3 * episodes if rate == 0.0 else episodes for rate in rates]
    means = _Pilots(make_expert, rates, counts, seed).play(make_env, workers)
    returns = np.array([mean.episode_return for mean in means])
    expert_return, random_return = float(returns[0]), float(returns[-1])
    if expert_return <= random_return:
        raise UserError(
            f"The expert's mean return without noise is {expert_return:.4g}, the random policy's "
            f"{random_return:.4g}: no quality can be defined between them. Use "
            "dataset.behavior_policy=random, another behavior policy, or a scenario "
            "that this one can play."
        )
    measure = _worth_measuring(measure, means)
    values = returns if measure is None else np.array([m.metrics.get(measure, 0.0) for m in means])
    scores = _decreasing((values - values[-1]) / (values[0] - values[-1]))
    low, high = _find_range(quality, np.array(rates), scores)
    return QualityPlan(
        quality,
        low,
        high,
        random_return,
        expert_return,
        _mean_score(rates, scores, low, high),
        measure or "return",
        means[0].metrics,
    )


def _worth_measuring(measure: str | None, means: Sequence[Outcome]) -> str | None:
    """Return the metric if the expert reaches enough of it, else None, for the return, and say so.

    `means` are those of the pilot, the expert without noise first, the random policy last.
    """
    if measure is None:
        return None
    expert, random = (mean.metrics.get(measure, 0.0) for mean in (means[0], means[-1]))
    if expert >= WORTH_MEASURING and expert > random:
        return measure
    _LOG.info(
        "the expert's mean of '%s' is %.2f only: quality is measured by the return", measure, expert
    )
    return None


@dataclass(frozen=True)
class Outcome:
    """Means over a pilot's episodes."""

    episode_return: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Pilots:
    """Episodes with fixed shares of random actions, the same starts for every share.

    Numbered through, share after share; a `mads4.rollout.BehaviorPlan`.
    """

    make_expert: MakeBehavior
    rates: Sequence[float]
    counts: Sequence[int]
    seed: int

    def __call__(self, index: int) -> BehaviorEpisode:
        """Return the beginning of an episode."""
        pilot = self.pilot(index)
        source = np.random.SeedSequence([self.seed, index - sum(self.counts[:pilot]), _PILOT])
        return BehaviorEpisode(
            Noisy(self.make_expert(), self.rates[pilot], self.rates[pilot]),
            int(source.generate_state(1)[0]) >> 1,
            np.random.default_rng(source),
        )

    def pilot(self, index: int) -> int:
        """Return the position of an episode's share."""
        return int(np.searchsorted(np.cumsum(self.counts), index, side="right"))

    def play(self, make_env: MakeEnv, workers: int) -> list[Outcome]:
        """Return the means at each share."""
        total = sum(self.counts)
        results: list[list[EpisodeResult]] = [[] for _ in self.rates]
        with closing(behavior_vector(make_env, self, total, workers)) as vector:
            for result in rollout_behavior(self, vector, range(total), seed=self.seed):
                results[self.pilot(result.index)].append(result)
        return [_mean(part) for part in results]


def _mean(results: Sequence[EpisodeResult]) -> Outcome:
    """Return the means over episodes, in any order the same."""
    names = sorted({name for result in results for name in result.metrics})
    return Outcome(
        math.fsum(result.episode_return for result in results) / len(results),
        {
            name: math.fsum(r.metrics.get(name, 0.0) for r in results) / len(results)
            for name in names
        },
    )


def _decreasing(scores: Curve) -> Curve:
    """Return the non-increasing sequence nearest to `scores` (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for score in scores:
        blocks.append([float(score)])
        while len(blocks) > 1 and np.mean(blocks[-2]) < np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])


def _mean_score(rates: Sequence[float] | Curve, scores: Curve, low: float, high: float) -> float:
    """Return the mean of the piecewise linear curve over U(low, high)."""
    return float(np.interp(np.linspace(low, high, 101), rates, scores).mean())


def _find_range(quality: str, rates: Curve, scores: Curve) -> tuple[float, float]:
    """Return the (low, high) whose mean score is the band's middle; bisection, to three digits."""
    target = EXPERT_SCORE if quality == "expert" else sum(BANDS[quality]) / 2

    def candidate(size: float) -> tuple[float, float]:
        if quality == "expert":
            return 0.0, size
        half = SPREAD * min(size, 1.0 - size)
        return size - half, size + half

    few, many = 0.0, EXPERT_HIGH if quality == "expert" else 1.0
    if quality == "expert" and _mean_score(rates, scores, *candidate(many)) >= target:
        return candidate(many)
    for _ in range(20):
        middle = (few + many) / 2
        if _mean_score(rates, scores, *candidate(middle)) >= target:
            few = middle
        else:
            many = middle
    low, high = candidate(few)
    return round(low, 3), round(high, 3)
