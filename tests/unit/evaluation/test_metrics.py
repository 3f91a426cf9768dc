from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes import MatchingEnv, make_policy
from mads4.behavior.registry import make_behavior
from mads4.errors import UserError
from mads4.evaluation.metrics import Evaluation, mean_interval, play_behavior, target_returns
from mads4.rollout import EpisodeResult, rollout

DATA = {"return_max": 30.0, "return_mean": 20.0, "return_min": -4.0}


def evaluation(returns: list[float]) -> Evaluation:
    played = tuple(
        EpisodeResult(index, value, 10 * (index + 1), {"deliveries": value} if index else {})
        for index, value in enumerate(returns)
    )
    return Evaluation(12.0, played, seconds=2.0)


def test_figures_of_an_example_done_by_hand() -> None:
    summary = evaluation([0.0, 1.0, 2.0, 9.0]).summary(random_return=1.0, expert_return=5.0)
    figures = summary.model_dump(exclude_unset=True)
    low, high = figures.pop("return_ci95")
    assert 0.0 < low < 3.0 < high < 9.0
    assert figures == {
        "target_return": 12.0,
        "episodes": 4,
        "return_mean": 3.0,
        "return_std": pytest.approx(np.sqrt(12.5)),
        "return_iqm": 1.5,
        "return_min": 0.0,
        "return_max": 9.0,
        "length_mean": 25.0,
        "environment_steps_per_second": 50.0,
        "episodes_replayed": 0,
        "deliveries_mean": 3.0,
        "normalized_score": 0.5,
    }
    assert list(evaluation([0.0, 1.0]).returns) == [0.0, 1.0]


@pytest.mark.parametrize(
    "ends", [{}, {"random_return": 1.0}, {"random_return": 1.0, "expert_return": 1.0}]
)
def test_without_both_ends_there_is_no_score(ends: dict[str, float]) -> None:
    assert evaluation([1.0, 2.0]).summary(**ends).normalized_score is None


def test_constant_and_single_values_are_their_own_interval() -> None:
    assert mean_interval([3.0] * 5) == (3.0, 3.0)
    assert mean_interval([7.0]) == (7.0, 7.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0] * 31 + [1.0], [1e9, 1e9 + 1], [-1, 0, 0, 5]])
def test_intervals_are_always_numbers(values: list[float]) -> None:
    low, high = mean_interval(values)
    assert min(values) <= low < high <= max(values)
    assert mean_interval(values) == (low, high), "the same every time"


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        low, high = mean_interval(rng.normal(10.0, 3.0, 32))
        covered += low <= 10.0 <= high
    assert 50 <= covered <= 60


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        ("max", "max", 30.0),
        ("mean", "mean", 20.0),
        ("1.1*max", "1.1*max", 33.0),
        ("1.1 * max", "1.1*max", 33.0),
        ("-.5*min", "-.5*min", 2.0),
        (25, "25", 25.0),
        (0.5, "0.5", 0.5),
        ("17", "17", 17.0),
    ],
)
def test_target_grammar(target: Any, name: str, value: float) -> None:
    assert target_returns([target], DATA) == {name: pytest.approx(value)}


@pytest.mark.parametrize("target", ["best", "max*2", "2*", "two*max", "2*3", ""])
def test_what_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=r"evaluator.target_returns: got .* for example 1.1\*max"):
        target_returns(["mean", target], DATA)


def test_an_evaluation_is_in_the_order_of_its_episodes() -> None:
    told: list[int] = []
    envs = [MatchingEnv() for _ in range(3)]
    episodes = rollout(make_policy(), envs, 8, seed=1, target_return=4.0)
    result = Evaluation.of(episodes, 4.0, lambda played: told.append(played.index))
    assert [played.index for played in result.played] == list(range(8))
    assert sorted(told) == list(range(8)) != told
    assert result.target_return == 4.0
    assert result.seconds > 0


@pytest.mark.parametrize("endless", [False, True])
def test_behaviors_play_from_the_same_starts(endless: bool) -> None:
    env = MatchingEnv(endless=endless)
    result = Evaluation.of(play_behavior(make_behavior("random"), env, 5, seed=1))
    policy = list(rollout(make_policy(), [env], 5, seed=1, target_return=1.0))
    assert [e.length for e in result.played] == [e.length for e in policy]
    assert result.target_return is None
    again = Evaluation.of(play_behavior(make_behavior("random"), env, 5, seed=1))
    assert again.played == result.played
    assert sum(e.metrics["matches"] for e in result.played) == result.returns.sum()
