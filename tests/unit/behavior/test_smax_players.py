"""Players for SMAX: legal, repeatable, better than chance; recordings in many battles at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mads4.behavior.noise import Noisy, Random
from mads4.behavior.quality import BANDS, noise_range
from mads4.behavior.registry import BehaviorFactory, make_behavior
from mads4.behavior.smax import BuiltIn, FocusFire
from mads4.config import PLAYERS
from mads4.data.collect import STREAM, collect
from mads4.data.store import read_dataset
from mads4.envs.matrix_game import MatrixGame
from mads4.envs.protocol import BehaviorPolicy
from mads4.envs.registry import EnvFactory
from mads4.envs.smax.engine import STOP
from mads4.errors import UserError
from mads4.rollout import BehaviorEpisode, SeededPlan, rollout_behavior
from mads4.rollout.vector import batched
from recorded import record_episode

pytest.importorskip("jaxmarl")

from mads4.envs.smax.battle import SmaxEnv, SmaxVector

MAP = "3m"
MAKE = EnvFactory("smax", {"scenario": MAP})


@pytest.fixture(scope="session")
def env() -> SmaxEnv:
    return SmaxEnv(MAP)


def outcomes(behavior: type[BehaviorPolicy], episodes: int) -> tuple[float, float]:
    """Return the mean return and the share of battles won."""

    def plan(index: int) -> BehaviorEpisode:
        return BehaviorEpisode(behavior(), 40 + index, np.random.default_rng(index))

    played = list(rollout_behavior(plan, SmaxVector(16, MAP), range(episodes), seed=0))
    assert len(played) == episodes
    wins = [outcome.metrics["win"] for outcome in played]
    return float(np.mean([o.episode_return for o in played])), float(np.mean(wins))


@pytest.mark.parametrize("name", PLAYERS["smax"])
def test_only_what_is_available_is_done(env: SmaxEnv, name: str) -> None:
    player, now = make_behavior(name), env.reset(3)
    player.reset(env, np.random.default_rng(0))
    while not now.done:
        action = player.act(now)
        assert action.shape == (3,) and action.dtype == np.int64
        assert now.available_actions[np.arange(3), action].all()
        assert (action[~env.units.alive[:3]] == STOP).all()
        now = env.step(action)


def test_who_plays_better() -> None:
    focus, heuristic, random = (outcomes(kind, 48) for kind in (FocusFire, BuiltIn, Random))
    assert focus[1] > 0.5
    assert 0.2 < heuristic[1] < focus[1]
    assert random[0] < 0.5 * heuristic[0] and random[1] == 0.0


def test_those_who_can_hit_the_same_enemies_choose_the_same_one(env: SmaxEnv) -> None:
    player, now = FocusFire(), env.reset(5)
    player.reset(env, np.random.default_rng(0))
    together_ = 0
    while not now.done:
        action = player.act(now)
        chosen: dict[bytes, set[int]] = {}
        for agent in np.flatnonzero(action > STOP):
            within = now.available_actions[agent].tobytes()
            together_ += within in chosen
            chosen.setdefault(within, set()).add(int(action[agent]))
        assert all(len(targets) == 1 for targets in chosen.values())
        now = env.step(action)
    assert together_


@pytest.mark.parametrize("name", PLAYERS["smax"])
def test_recordings_are_the_same_one_by_one_and_together(env: SmaxEnv, name: str) -> None:
    factory = BehaviorFactory(name, 0.1, 0.4)
    vector = batched(MAKE, 5)
    assert vector is not None
    played = rollout_behavior(SeededPlan(factory, 4, STREAM), vector, range(9), seed=4)
    many = {result.index: result.episode for result in played}
    assert sorted(many) == list(range(9))
    for index in (0, 3, 8):
        one = record_episode(env, factory(), 4, index)
        other: Any = many[index]
        for key in ("observation", "state", "available_actions", "action", "reward"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
        assert one.metrics == other.metrics
        assert set(one.metrics) == {"win", "noise"}


def test_a_recording_holds_its_wins(tmp_path: Path) -> None:
    path = collect(MAKE, BehaviorFactory("focus_fire"), 20, 0, tmp_path / "w.h5", behavior={})
    dataset = read_dataset(path)
    won = dataset.table.metrics["win"]
    assert dataset.summary()["win_rate"] == won.mean()
    np.testing.assert_allclose(dataset.returns[won == 1.0], 2.0, rtol=1e-5)
    assert (dataset.returns[won == 0.0] < 1.01).all()


def test_quality_is_measured_by_wins_where_there_are_any() -> None:
    plan = noise_range(MAKE, BehaviorFactory("focus_fire"), "good", 0, measure="win")
    assert plan.measure == "win" and plan.expert_metrics["win"] > 0.5
    low, high = BANDS["good"]
    assert low <= plan.normalized_score <= high


def test_quality_is_measured_by_the_return_where_the_expert_never_wins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Careless(Noisy):
        """Hits now and then, and never wins."""

        def __init__(self) -> None:
            super().__init__(BuiltIn(), 0.5, 0.5)

    with caplog.at_level("INFO"):
        plan = noise_range(MAKE, Careless, "poor", 0, episodes=12, measure="win")
    assert plan.measure == "return"
    assert "quality is measured by the return" in caplog.text


@pytest.mark.parametrize("name", PLAYERS["smax"])
def test_other_environments_are_refused(name: str) -> None:
    player = make_behavior(name)
    with pytest.raises(
        UserError, match=f"dataset.behavior_policy={name} plays SMAX only, not matrix_game"
    ):
        player.reset(MatrixGame(), np.random.default_rng(0))
