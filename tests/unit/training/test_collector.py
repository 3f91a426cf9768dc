"""Training's own episodes: the same however many are played at once and wherever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from fake_env import MatchingEnv
from fakes import make_policy
from mads4.config import OnlineTrainerConfig
from mads4.rollout import EpisodeResult
from mads4.training.collector import Collector


@pytest.fixture
def make_collector() -> Iterator[Any]:
    made: list[Collector] = []

    def make(seed: int = 0, **options: Any) -> Collector:
        config = OnlineTrainerConfig(**{"episodes": 6, "num_envs": 3, "num_workers": 0} | options)
        made.append(Collector(MatchingEnv, config, seed, torch.device("cpu")))
        return made[-1]

    yield make
    for collector in made:
        collector.close()


def assert_same(one: list[EpisodeResult], other: list[EpisodeResult]) -> None:
    assert one == other
    for a, b in zip(one, other, strict=True):
        assert a.episode is not None and b.episode is not None
        assert a.target_return == b.target_return
        for name in ("observation", "state", "available_actions", "action", "reward"):
            assert np.array_equal(getattr(a.episode, name), getattr(b.episode, name)), name


@pytest.mark.parametrize(
    "options",
    [{"num_envs": 1}, {"num_envs": 5}, {"num_envs": 32}, {"num_envs": 4, "num_workers": 1}],
    ids=str,
)
def test_an_episode_depends_on_its_number_alone(make_collector: Any, options: Any) -> None:
    policy = make_policy()
    usual = make_collector().collect(policy, 2, 10.0)
    assert [one.index for one in usual] == list(range(12, 18))
    assert_same(make_collector(**options).collect(policy, 2, 10.0), usual)
    two, three = (make_collector(episodes=3).collect(policy, k, 10.0) for k in (4, 5))
    assert_same(two + three, usual)


def test_iterations_and_seeds_differ(make_collector: Any) -> None:
    policy, collector = make_policy(), make_collector()
    first = collector.collect(policy, 0, 10.0)
    assert_same(collector.collect(policy, 0, 10.0), first)
    for other in (
        collector.collect(policy, 1, 10.0),
        make_collector(seed=1).collect(policy, 0, 10.0),
    ):
        assert [one.episode_return for one in other] != [one.episode_return for one in first]


@pytest.mark.parametrize("best", [20.0, 0.0, -8.0])
def test_targets_lie_in_the_spread(make_collector: Any, best: float) -> None:
    options = {"episodes": 40, "target_return_scale": 1.5, "target_return_spread": 0.2}
    played = make_collector(**options).collect(make_policy(), 3, best)
    targets = np.array([one.target_return for one in played])
    highest, width = 1.5 * best, 0.2 * abs(1.5 * best)
    assert (targets <= highest).all() and (targets >= highest - width).all()
    if best:
        assert len(set(targets)) == 40, "each episode is asked for something of its own"
        assert np.ptp(targets) > 0.8 * width


def test_it_may_be_closed_twice_and_opened_again(make_collector: Any) -> None:
    collector, policy = make_collector(num_workers=1), make_policy()
    with closing(collector):
        first = collector.collect(policy, 0, 1.0)
    assert_same(collector.collect(policy, 0, 1.0), first)
    collector.close()
    collector.close()
