"""SMAX: observations, ends of battles, and the same episode alone and in a batch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from PIL import ImageColor

from mads4.envs.protocol import MultiAgentEnv
from mads4.envs.registry import EnvFactory, make_env
from mads4.envs.smax import SmaxScenario
from mads4.envs.smax.engine import SCENARIOS, STOP, WIDTH, engine
from mads4.envs.smax.render import ALLY, ENEMY
from mads4.envs.vector import IDLE, RESET, STEP
from mads4.errors import UserError
from mads4.rollout.vector import make_vector
from mads4.types import IntArray, TimeStep

pytest.importorskip("jaxmarl")

from mads4.envs.smax.battle import SmaxEnv, SmaxVector

MAP = "3m"
EAST = 1
SEEDS = np.arange(WIDTH + 3) + 70


@pytest.fixture(scope="session")
def env() -> SmaxEnv:
    return SmaxEnv(MAP)


def draw(now: TimeStep, rng: np.random.Generator) -> IntArray:
    """Shoot the first enemy in reach, else walk at random, rather east: some battles are won."""
    able = now.available_actions
    weights = rng.random(able.shape) + (np.arange(able.shape[1]) == EAST)
    weights[:, STOP + 1 :] = 4.0
    return np.argmax(able * weights, axis=1)


def play(env: SmaxEnv, seed: int) -> list[TimeStep]:
    rng = np.random.default_rng(seed)
    steps = [env.reset(seed)]
    while not steps[-1].done:
        steps.append(env.step(draw(steps[-1], rng)))
    return steps


@pytest.fixture(scope="session")
def alone(env: SmaxEnv) -> list[list[TimeStep]]:
    """The episodes of `SEEDS`, each played by itself."""
    return [play(env, int(seed)) for seed in SEEDS]


def assert_same(one: TimeStep, other: TimeStep) -> None:
    for name in ("observation", "state", "available_actions", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_what_is_shown_fits_the_spec(env: SmaxEnv, alone: list[list[TimeStep]]) -> None:
    spec = env.spec
    assert isinstance(env, MultiAgentEnv)
    assert (spec.name, spec.scenario, spec.n_agents, spec.n_actions) == ("smax", MAP, 3, 8)
    assert spec.version.startswith("jaxmarl 0.2")
    for now in alone[0]:
        assert now.observation.shape == (3, spec.obs_dim)
        assert now.observation.dtype == now.state.dtype == np.float32
        assert now.state.shape == (1, spec.state_dim)
        assert now.available_actions.shape == (3, spec.n_actions)
        assert now.available_actions.dtype == np.bool_
        assert now.available_actions.any(axis=1).all()
        assert np.isfinite(now.observation).all() and np.isfinite(now.state).all()
    first = env.reset(0)
    first.observation[:] = 7.0  # arrays are the caller's own
    assert (env.step(np.full(3, STOP)).observation != 7.0).any()


def test_the_same_seed_gives_the_same_battle(env: SmaxEnv, alone: list[list[TimeStep]]) -> None:
    for first, again in zip(alone[1], play(env, int(SEEDS[1])), strict=True):
        assert_same(first, again)
    assert (alone[1][0].state != alone[2][0].state).any()
    large = env.reset(int(SEEDS[0]) + 2**32)
    assert (large.state != env.reset(int(SEEDS[0])).state).any()


@pytest.mark.parametrize("rows", [1, WIDTH - 1, len(SEEDS)])
def test_an_episode_is_the_same_alone_and_among_others(
    alone: list[list[TimeStep]], rows: int
) -> None:
    """Rows restart as soon as they are free, so that episodes meet others at any point."""
    vector = make_vector(EnvFactory("smax", {"scenario": MAP}), rows)
    assert isinstance(vector, SmaxVector)
    assert vector.groups(rows) == [slice(0, rows)]
    buffers, waiting = vector.buffers, list(range(len(SEEDS)))[::-1]
    playing: dict[int, tuple[int, int, np.random.Generator]] = {}
    while waiting or playing:
        buffers.order[:] = IDLE
        for row in range(rows):
            if row in playing:
                _, _, rng = playing[row]
                buffers.order[row] = STEP
                buffers.action[row] = draw(buffers.time_step(row), rng)
            elif waiting:
                k = waiting.pop()
                buffers.order[row], buffers.seed[row] = RESET, SEEDS[k]
                playing[row] = (k, -1, np.random.default_rng(int(SEEDS[k])))
        vector.send(slice(0, rows))
        assert vector.wait(slice(0, rows)) == []
        for row, (k, step, rng) in list(playing.items()):
            expected = alone[k][step + 1]
            assert_same(buffers.time_step(row), expected)
            playing[row] = (k, step + 1, rng)
            if expected.done:
                won = sum(now.metrics["win"] for now in alone[k])
                assert vector.metrics(row) == {"win": won}
                del playing[row]


def test_idle_battles_stay_as_they_are() -> None:
    vector = SmaxVector(3, MAP)
    buffers, everyone = vector.buffers, slice(0, 3)
    buffers.order[:], buffers.seed[:] = RESET, (1, 2, 3)
    vector.send(everyone)
    vector.wait(everyone)
    before = buffers.state.copy()
    buffers.order[:], buffers.action[:] = (IDLE, STEP, IDLE), 1
    vector.send(everyone)
    vector.wait(everyone)
    changed = (buffers.state != before).any(axis=(1, 2))
    assert changed.tolist() == [False, True, False]
    seat = vector.env(2)
    assert isinstance(seat, SmaxEnv) and seat.render().dtype == np.uint8


def test_the_dead_may_only_stop_and_the_dead_end_battles(
    env: SmaxEnv, alone: list[list[TimeStep]]
) -> None:
    only_stop = np.arange(env.spec.n_actions) == STOP
    dead = 0
    for seed, steps in zip(SEEDS, alone, strict=True):
        rng = np.random.default_rng(int(seed))
        now = env.reset(int(seed))
        while not now.done:
            now = env.step(draw(now, rng))
            fallen = ~env.units.alive[:3]
            dead += int(fallen.sum())
            np.testing.assert_array_equal((now.available_actions == only_stop).all(axis=1), fallen)
        allies, enemies = env.units.alive[:3].any(), env.units.alive[3:].any()
        assert now.terminated == (not (allies and enemies))
        assert steps[-1].metrics["win"] == float(allies and not enemies)
        assert sum(step.metrics["win"] for step in steps[:-1]) == 0.0
    assert dead


def test_damage_and_victory_are_paid(alone: list[list[TimeStep]]) -> None:
    won = [bool(steps[-1].metrics["win"]) for steps in alone]
    paid = [sum(step.reward for step in steps) for steps in alone]
    assert any(won) and not all(won)
    for victory, reward in zip(won, paid, strict=True):
        assert reward == pytest.approx(2.0) if victory else 0.0 <= reward <= 1.0 + 1e-5


@pytest.mark.slow
def test_the_time_limit_truncates() -> None:
    env = make_env("smax", scenario=MAP, options={"max_steps": 2})
    assert env.spec.episode_limit == 2
    env.reset(0)
    stay = np.full(3, STOP)
    assert not env.step(stay).done
    last = env.step(stay)
    assert last.truncated and not last.terminated and last.metrics["win"] == 0.0


def test_pictures_distinguish_sides_and_health(env: SmaxEnv) -> None:
    first = env.reset(0)
    picture = env.render()
    assert picture.shape == (384, 384, 3) and picture.dtype == np.uint8
    for color, west in ((ALLY, True), (ENEMY, False)):
        here = (picture == ImageColor.getrgb(color)).all(axis=-1)
        assert here[:, :192].any() == west and here[:, 192:].any() != west
    env.step(np.argmax(first.available_actions, axis=1))
    assert (env.render() != picture).any()


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match=r"env.scenario: got '2s3y'.*Did you mean '2s3z'"):
        SmaxEnv("2s3y")
    with pytest.raises(UserError, match=r"SMAX rejects .*max_step"):
        SmaxEnv(MAP, {"max_step": 3})
    with pytest.raises(UserError, match="'action_type' is fixed"):
        SmaxEnv(MAP, {"action_type": "continuous"})
    with pytest.raises(UserError, match="expected plain values"):
        SmaxEnv(MAP, {"max_steps": object()})


def test_scenarios_are_those_of_the_simulator_and_of_the_configuration() -> None:
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert sorted(SCENARIOS) == sorted(MAP_NAME_TO_SCENARIO)
    assert get_args(SmaxScenario) == SCENARIOS


def test_a_process_compiles_once_and_factories_travel() -> None:
    assert engine(MAP) is engine(MAP, {})
    factory = pickle.loads(pickle.dumps(EnvFactory("smax", {"scenario": MAP})))
    assert factory.make_many(2).spec == SmaxEnv(MAP).spec
    assert EnvFactory("matrix_game").make_many(2) is None


def test_nothing_else_imports_jax() -> None:
    code = (
        "import sys, mads4.envs.registry, mads4.behavior.smax, mads4.evaluation.evaluator;"
        "import mads4.experiment.build;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_simulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", None)
    with pytest.raises(UserError, match=r"env=smax needs jaxmarl.*pip install 'mads4\[smax\]'"):
        SmaxEnv("8m")
