from __future__ import annotations

import itertools

from mads4.behavior.registry import BehaviorFactory
from mads4.data.collect import STREAM
from mads4.envs.seeding import environment_seed
from mads4.rollout import SeededPlan


def test_seeds_are_31_bits_and_do_not_change_between_versions() -> None:
    """A change here would change every published number."""
    assert [environment_seed(0, 0), environment_seed(0, 1), environment_seed(1000, 31)] == [
        1484405855,
        1982462498,
        911161152,
    ]
    seeds = {environment_seed(a, b) for a, b in itertools.product(range(20), range(50))}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_order_matters() -> None:
    assert environment_seed(1, 2) != environment_seed(2, 1)


def test_no_evaluation_starts_where_a_recording_did() -> None:
    recorded = {
        SeededPlan(BehaviorFactory("random"), seed, STREAM)(k).seed
        for seed in range(3)
        for k in range(300)
    }
    played = {environment_seed(seed, k) for seed in (0, 1, 2, 1000) for k in range(300)}
    assert not recorded & played
