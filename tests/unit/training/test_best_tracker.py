"""Averages, the best, falls, and a judgement that goes on where it was."""

from __future__ import annotations

import numpy as np
import pytest

from mads4.rollout import EpisodeResult
from mads4.training.best_tracker import BestTracker


def played(*returns: float, length: int = 5) -> list[EpisodeResult]:
    return [EpisodeResult(k, value, length, {}) for k, value in enumerate(returns)]


def judged(standing: BestTracker, *means: float) -> list[str]:
    return [standing.update(played(mean)) for mean in means]


def test_nothing_is_judged_before_there_is_enough() -> None:
    standing = BestTracker(0.0, window=3, tolerated=0.1)
    assert judged(standing, 9.0, 1.0) == ["usual", "usual"]
    assert not standing.settled
    assert standing.best_average == float("-inf")
    assert judged(standing, 2.0) == ["best"]
    assert standing.settled
    assert standing.average == standing.best_average == 4.0


def test_the_average_is_of_the_latest_iterations() -> None:
    standing = BestTracker(0.0, window=2, tolerated=None)
    assert judged(standing, 1.0, 2.0, 3.0, 3.0, 0.0) == ["usual", "best", "best", "best", "usual"]
    assert standing.average == 1.5
    assert standing.best_average == 3.0


def test_a_fall_begins_the_averaging_anew_and_is_told_with_what_it_fell_to() -> None:
    standing = BestTracker(0.0, window=2, tolerated=0.2)
    assert judged(standing, 10.0, 10.0, 7.0, 7.0) == ["usual", "best", "usual", "degraded"]
    assert standing.rollbacks == 1
    assert standing.average == 7.0
    assert not standing.settled, "the restored weights have not played yet"
    assert judged(standing, 7.9, 8.2) == ["usual", "usual"], "8.05 is no more than 20% below 10"
    assert standing.best_average == 10.0
    assert judged(standing, 7.0) == ["degraded"]


def test_chance_is_no_fall() -> None:
    """A policy that stays as it is stays; one that loses half of its return is found out."""
    rng = np.random.default_rng(0)
    standing = BestTracker(0.0, window=4, tolerated=0.2)
    steady = [standing.update(played(*rng.normal(1.0, 0.8, 16))) for _ in range(300)]
    assert steady.count("degraded") <= 1
    worse = [standing.update(played(*rng.normal(0.4, 0.8, 16))) for _ in range(12)]
    assert "degraded" in worse


def test_any_loss_may_be_tolerated() -> None:
    standing = BestTracker(0.0, window=1, tolerated=None)
    assert judged(standing, 10.0, -100.0) == ["best", "usual"]


def test_negative_returns_fall_as_well() -> None:
    standing = BestTracker(-20.0, window=1, tolerated=0.5)
    assert judged(standing, -10.0, -14.0, -16.0) == ["best", "usual", "degraded"]


def test_steps_and_the_best_single_episode_are_counted() -> None:
    standing = BestTracker(6.0, window=1, tolerated=0.5)
    standing.update(played(3.0, 5.0, length=7))
    assert (standing.best_return, standing.lowest, standing.environment_steps) == (6.0, 3.0, 14)
    standing.update(played(8.0, 2.0, length=7))
    assert (standing.best_return, standing.lowest, standing.environment_steps) == (8.0, 2.0, 28)


@pytest.mark.parametrize("cut", range(1, 8))
def test_it_goes_on_where_it_was(cut: int) -> None:
    means = [4.0, 8.0, 9.0, 3.0, 1.0, 9.0, 7.0, 2.0]
    whole = BestTracker(1.0, window=2, tolerated=0.3)
    expected = judged(whole, *means)
    assert "degraded" in expected
    first, second = (BestTracker(1.0, window=2, tolerated=0.3) for _ in range(2))
    verdicts = judged(first, *means[:cut])
    second.load_state_dict(first.state_dict())
    assert verdicts + judged(second, *means[cut:]) == expected
    assert second.state_dict() == whole.state_dict()
