"""StarCraft's options: those of the simulator by name, and what becomes of them."""

from __future__ import annotations

import inspect

import pytest

import smac_stand_in
from mads4.config import Config
from mads4.config.compose import check
from mads4.envs.registry import EnvFactory
from mads4.envs.smac import SmacConfig, SmacOptions
from mads4.envs.vector import Supervision
from mads4.errors import UserError
from mads4.experiment import components


def configured(*words: str) -> SmacConfig:
    (config,) = check("train", ["env=smac", "dataset=madt", *words]).configs
    assert isinstance(config, Config)
    assert isinstance(config.env, SmacConfig)
    return config.env


def test_only_what_differs_from_the_simulators_defaults_is_handed_to_it() -> None:
    env = configured(
        "env.scenario=corridor",
        "env.options.difficulty=9",
        "env.options.reward_sparse=true",
        "env.options.step_mul=8",
        "env.extra_options.folder=here",
        "env.supervision.memory_mib=null",
        "env.supervision.processes=3",
    )
    made = components.environment(env)
    assert made.arguments == {
        "scenario": "corridor",
        "observation": "smac",
        "simulator": "smac.env:StarCraft2Env",
        "relaunch_every": 0,
        "options": {"difficulty": "9", "reward_sparse": True, "folder": "here"},
    }
    assert made.supervision == Supervision(processes=3, memory_mib=None)


def test_what_makes_environments_survives_a_checkpoint() -> None:
    made = components.environment(configured())
    assert EnvFactory.from_dict(made.to_dict()) == made
    plain = EnvFactory("rware", {"scenario": "tiny-2ag"})
    assert EnvFactory.from_dict(plain.to_dict()) == plain
    older = {"name": "rware", "arguments": {"scenario": "tiny-2ag"}}
    assert EnvFactory.from_dict(older) == plain


def test_a_simulator_that_a_file_names_is_not_imported() -> None:
    fork = components.environment(configured("env.simulator=fork.env:Env"))
    with pytest.raises(UserError, match=r"from 'fork\.env:Env'.*give env_factory=fork\.env:Env"):
        EnvFactory.from_dict(fork.to_dict())
    assert EnvFactory.from_dict(fork.to_dict(), "fork.env:Env") == fork


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("env.options.dificulty=7", "Did you mean 'difficulty'"),
        ("env.options.difficulty=B", "env.options.difficulty: got 'B', expected"),
        ("env.options.difficulty=true", "env.options.difficulty: got true, expected"),
        ("env.step_mul=4", "env.step_mul: unknown key. Did you mean 'env.options.step_mul'"),
        ("env.scenario=3m.SC2Map", "a map's name, for example 2c_vs_64zg"),
        ("env.observation=madt", "env.observation: got 'madt', expected one of smac, mappo, nat"),
        ("env.supervision.step_timeout=0", "env.supervision.step_timeout: got 0"),
        ("evaluator.video=true", "evaluator.video: true does not go with env=smac"),
    ],
)
def test_mistakes_are_named(word: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        configured(word)
    assert message in str(error.value)


def test_a_film_takes_a_game_without_supervision() -> None:
    configured("evaluator.video=true", "evaluator.num_workers=0")


def test_the_stand_in_takes_options_that_the_schema_has() -> None:
    """So that tests with it say something about the real one."""
    ours = {"self", "map_name", "seed", "continuing_episode"}
    ours |= {"folder", "faults", "enemy_damage", "splash"}
    taken = set(inspect.signature(smac_stand_in.StarCraft2Env.__init__).parameters) - ours
    assert taken < set(SmacOptions.model_fields)
