"""Data of a chosen quality: how much noise brings an expert's mean return into a named band.

A quality is a band of the mean return, normalized so that the random policy scores 0 and the
expert without noise 1. A small pilot measures how the score falls with the share of random
actions; the range of shares whose mean score is the middle of the band follows from that curve.
Battles are measured by the share of them that is won, if the expert wins often enough.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mads4.behavior.noise import Noisy
from mads4.behavior.play import TOGETHER, Outcome, Playing, play, play_together
from mads4.behavior.protocol import BehaviorPolicy
from mads4.envs.protocol import MultiAgentEnv
from mads4.errors import UserError, did_you_mean
from mads4.rollout.vector import VectorEnv, together

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
    pilots = [
        _Pilot(make_env, make_expert, rate, seed, 3 * episodes if rate == 0.0 else episodes)
        for rate in rates
    ]
    means = _play_all(pilots, workers)
    returns = np.array([mean.episode_return for mean in means])
    expert_return, random_return = float(returns[0]), float(returns[-1])
    if expert_return <= random_return:
        raise UserError(
            f"The expert's mean return without noise is {expert_return:.4g}, the random policy's "
            f"{random_return:.4g}: no quality can be defined between them. Use "
            "behavior=random, another behavior, or a scenario that this one can play."
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
class _Pilot:
    """A few episodes with a fixed share of random actions; the same starts for every share."""

    make_env: MakeEnv
    make_expert: MakeBehavior
    rate: float
    seed: int
    episodes: int

    def mean(self) -> Outcome:
        """Return the means over the episodes."""
        behavior = Noisy(self.make_expert(), self.rate, self.rate)
        with closing(self.make_env()) as env:
            return _mean([play(env, self._episode(k, behavior)) for k in range(self.episodes)])

    def mean_together(self, vector: VectorEnv) -> Outcome:
        """Return the same, played in all rows of `vector` at once."""
        episodes = (
            self._episode(k, Noisy(self.make_expert(), self.rate, self.rate))
            for k in range(self.episodes)
        )
        return _mean(list(play_together(vector, episodes)))

    def _episode(self, index: int, behavior: BehaviorPolicy) -> Playing:
        source = np.random.SeedSequence([self.seed, index, _PILOT])
        start = int(source.generate_state(1)[0]) >> 1
        return Playing(behavior, start, np.random.default_rng(source))


def _mean(played: Sequence[Playing]) -> Outcome:
    """Return the means over episodes, in any order the same."""
    outcomes = [episode.outcome for episode in played]
    names = sorted({name for outcome in outcomes for name in outcome.metrics})
    return Outcome(
        math.fsum(outcome.episode_return for outcome in outcomes) / len(outcomes),
        round(math.fsum(outcome.length for outcome in outcomes) / len(outcomes)),
        {
            name: math.fsum(o.metrics.get(name, 0.0) for o in outcomes) / len(outcomes)
            for name in names
        },
    )


def _play_all(pilots: Sequence[_Pilot], workers: int) -> list[Outcome]:
    vector = together(pilots[0].make_env, min(pilots[0].episodes, TOGETHER))
    if vector is not None:
        with closing(vector):
            return [pilot.mean_together(vector) for pilot in pilots]
    if workers <= 1:
        return [pilot.mean() for pilot in pilots]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(pilots)), mp_context=context) as pool:
        return list(pool.map(_Pilot.mean, pilots))


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
