"""Battles through SMAC's interface: masks, victories, limits, failures, mistakes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mads4.behavior.registry import make_behavior
from mads4.envs.protocol import BrokenEpisodeError, MultiAgentEnv
from mads4.envs.registry import make_env
from mads4.envs.smac.env import SmacEnv
from mads4.errors import UserError
from mads4.types import TimeStep
from recorded import record_episode

STAND_IN = "smac_stand_in:StarCraft2Env"


def battle(folder: Path, scenario: str = "3m", **arguments: Any) -> SmacEnv:
    options = {"folder": str(folder)} | arguments.pop("options", {})
    return SmacEnv(scenario, simulator=STAND_IN, options=options, **arguments)


def play(env: MultiAgentEnv, seed: int = 0, choose: str = "last") -> Iterator[TimeStep]:
    """Attack whom one can, or take the first action there is."""
    now = env.reset(seed)
    yield now
    while not now.done:
        order = now.available_actions[:, ::-1] if choose == "last" else now.available_actions
        first = order.argmax(-1)
        last = now.available_actions.shape[1] - 1
        now = env.step(last - first if choose == "last" else first)
        yield now


def test_it_is_an_environment(tmp_path: Path) -> None:
    options = {"folder": str(tmp_path)}
    with closing(make_env("smac", scenario="2s3z", simulator=STAND_IN, options=options)) as env:
        assert isinstance(env, MultiAgentEnv)
        spec = env.spec
        assert (spec.name, spec.scenario, spec.n_agents, spec.n_actions) == ("smac", "2s3z", 5, 11)
        assert (spec.obs_dim, spec.state_dim, spec.episode_limit) == (80, 120, 120)
        assert (spec.reward, spec.state_encoding, spec.state_per_agent) == ("smac", "smac", False)
        assert re.fullmatch(r"smac_stand_in unknown, StarCraft II build \w+", spec.version)
        assert env.render().shape == (4, 4, 3)


@pytest.mark.parametrize(("chosen", "build"), [("4.10", "75689"), ("4.6.2", "69232"), ("9", "unk")])
def test_a_chosen_version_is_recorded_with_its_build(
    chosen: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ModuleType("pysc2.run_configs.lib")
    builds = {"4.6.2": 69232, "4.10.0": 75689}
    known = {name: SimpleNamespace(build_version=number) for name, number in builds.items()}
    monkeypatch.setattr(library, "VERSIONS", known, raising=False)
    monkeypatch.setitem(sys.modules, library.__name__, library)
    with closing(battle(tmp_path, options={"game_version": chosen})) as env:
        assert f"StarCraft II {chosen}, build {build}" in env.spec.version


@pytest.mark.parametrize(
    ("observation", "sizes"), [("smac", (332, 342)), ("mappo", (478, 675)), ("native", (332, 342))]
)
def test_every_builder_gives_what_its_spec_promises(
    observation: str, sizes: tuple[int, int], tmp_path: Path
) -> None:
    with closing(battle(tmp_path, "2c_vs_64zg", observation=observation)) as env:
        spec = env.spec
        assert (spec.obs_dim, spec.state_dim) == sizes
        assert spec.state_encoding == observation
        assert spec.state_per_agent == (observation == "mappo")
        now = env.reset(0)
        assert now.observation.shape == (2, spec.obs_dim)
        assert now.state.shape == (2 if spec.state_per_agent else 1, spec.state_dim)
        assert now.available_actions.shape == (2, 70)
        assert now.observation.dtype == now.state.dtype == np.float32
        assert now.observation.any()


def test_a_victory_is_counted_once(tmp_path: Path) -> None:
    with closing(battle(tmp_path, options={"enemy_damage": 0.0})) as env:
        steps = list(play(env))
    assert steps[-1].terminated
    assert not steps[-1].truncated
    assert sum(step.metrics["win"] for step in steps) == steps[-1].metrics["win"] == 1.0
    assert sum(step.reward for step in steps) == pytest.approx(20.0)


def test_a_defeat_is_an_end_without_victory(tmp_path: Path) -> None:
    with closing(battle(tmp_path, options={"enemy_damage": 1e3})) as env:
        steps = list(play(env, choose="first"))
    assert steps[-1].terminated
    assert sum(step.metrics["win"] for step in steps) == 0.0


def test_the_step_limit_is_a_truncation(tmp_path: Path) -> None:
    with closing(battle(tmp_path, options={"enemy_damage": 0.0})) as env:
        steps = list(play(env, choose="first"))
    assert len(steps) == 60 + 1
    assert steps[-1].truncated
    assert not steps[-1].terminated


def test_the_dead_do_nothing_and_see_nothing(tmp_path: Path) -> None:
    with closing(battle(tmp_path, options={"enemy_damage": 30.0})) as env:
        fallen = [s for s in play(env, choose="first") if s.available_actions[:, 0].any()]
    assert fallen
    for step in fallen:
        dead = step.available_actions[:, 0]
        assert (step.available_actions[dead].sum(-1) == 1).all()
        assert not step.observation[dead].any()
        assert step.observation[~dead].any(-1).all()


def test_a_launch_for_each_episode_makes_them_reproducible(tmp_path: Path) -> None:
    def run(env: SmacEnv, seeds: list[int]) -> dict[int, float]:
        return {seed: sum(step.observation.sum() for step in play(env, seed)) for seed in seeds}

    with closing(battle(tmp_path, relaunch_every=1)) as one:
        first = run(one, [3, 4])
        again = run(one, [4, 3])
    assert first == again
    assert first[3] != first[4]
    assert len(list((tmp_path / "games").iterdir())) == 4
    with closing(battle(tmp_path)) as other:
        assert run(other, [3])[3] == first[3], "the first seed launches the game"
        run(other, [4])
    assert len(list((tmp_path / "games").iterdir())) == 5, "and no other"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("protocol", "lost its game in the middle of an episode"),
        ("restart", "had to relaunch its game while an episode began"),
        ("crash", r"failed in step \(ConnectionLostError: the game closed the connection\)"),
        ("lie", r"is won with 1 of 3 enemies and 0 of 3 agents dead"),
        ("deny", r"is not won with 3 of 3 enemies and 0 of 3 agents dead"),
    ],
)
def test_a_failure_is_no_episode(how: str, words: str, tmp_path: Path) -> None:
    faults = [{"how": how} | ({"at": 1} if how in ("protocol", "crash", "lie") else {})]
    with closing(battle(tmp_path, options={"faults": faults, "enemy_damage": 0.0})) as env:
        with pytest.raises(BrokenEpisodeError, match=words):
            list(play(env))
        steps = list(play(env))
    assert steps[-1].metrics["win"] == 1.0, "the next one is as good as any"


def test_a_bug_is_no_failure_of_the_game(tmp_path: Path) -> None:
    faults = [{"how": "bug", "at": 1}]
    with (
        closing(battle(tmp_path, options={"faults": faults})) as env,
        pytest.raises(ZeroDivisionError),
    ):
        list(play(env))


def test_other_rewards_have_another_name(tmp_path: Path) -> None:
    with closing(battle(tmp_path, options={"reward_sparse": True, "enemy_damage": 0.0})) as env:
        assert env.spec.reward == "smac(reward_sparse=True)"
        assert [step.reward for step in play(env)][-1] == 1.0


def test_options_of_the_simulators_own_features_need_these(tmp_path: Path) -> None:
    options = {"obs_timestep_number": True}
    with closing(battle(tmp_path, observation="native", options=options)) as env:
        assert env.spec.obs_dim == 31
        assert env.reset(0).observation.shape == (3, 31)
    with pytest.raises(
        UserError, match=r"env\.options\.obs_timestep_number: .*env.observation=nati"
    ):
        battle(tmp_path, observation="mappo", options=options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scenario": "2c_vs_64"}, r"the simulator has no map '2c_vs_64'.*mean '2c_vs_64zg'"),
        ({"observation": "mapo"}, r"env\.observation: got 'mapo'.*Did you mean 'mappo'"),
        ({"options": {"sped": 2}}, r"env\.options: the simulator rejects .*sped"),
        ({"simulator": "nowhere:Env"}, r"env\.simulator: cannot import 'nowhere:Env': Module"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SmacEnv(**{"simulator": STAND_IN} | arguments)


def test_recordings_hold_whole_episodes_only(tmp_path: Path) -> None:
    faults = [{"how": "protocol", "at": 2, "times": 2}]
    (tmp_path / "sound").mkdir()
    with (
        closing(battle(tmp_path, relaunch_every=1, options={"faults": faults})) as env,
        closing(battle(tmp_path / "sound", relaunch_every=1)) as sound,
    ):
        recorded = record_episode(env, make_behavior("random"), 0, 5)
        expected = record_episode(sound, make_behavior("random"), 0, 5)
    np.testing.assert_array_equal(recorded.observation, expected.observation)
    np.testing.assert_array_equal(recorded.action, expected.action)
    assert recorded.episode_return == expected.episode_return


def test_a_recording_that_always_breaks_is_given_up(tmp_path: Path) -> None:
    faults = [{"how": "protocol", "at": 1, "times": 9}]
    with (
        closing(battle(tmp_path, options={"faults": faults})) as env,
        pytest.raises(UserError, match=r"Episode 5 of seed 0 has failed 3 times .*lost its game"),
    ):
        record_episode(env, make_behavior("random"), 0, 5)
