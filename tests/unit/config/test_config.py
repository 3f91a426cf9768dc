from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from mads4.algorithms.bc import BCConfig
from mads4.algorithms.mappo import MAPPOConfig
from mads4.config import (
    CollectConfig,
    Config,
    CustomDataset,
    EvaluateConfig,
    EvaluatorConfig,
    FileDataset,
    GeneratedDataset,
    OfflineOnlineTrainerConfig,
    OfflineTrainerConfig,
    OnlineTrainerConfig,
)
from mads4.config.messages import fields, suggest
from mads4.config.validation import ConfigError, concrete, parse, validate
from mads4.data.formats.alberdice import AlberdiceDataset
from mads4.envs.matrix_game import MatrixGameConfig
from mads4.envs.registry import CustomEnvConfig
from mads4.envs.rware import RwareConfig
from mads4.models import Mads4Config, MlpConfig

SECTIONS = [
    *(
        AlberdiceDataset,
        CollectConfig,
        Config,
        CustomDataset,
        CustomEnvConfig,
        EvaluateConfig,
        EvaluatorConfig,
    ),
    *(FileDataset, GeneratedDataset, MatrixGameConfig, Mads4Config, MlpConfig, RwareConfig),
    *(OfflineTrainerConfig, OnlineTrainerConfig, OfflineOnlineTrainerConfig),
]


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(values, Config)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_says_what_it_means(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        members = [field.annotation, *get_args(field.annotation)]
        group = any(isinstance(one, type) and issubclass(one, BaseModel) for one in members)
        assert group or field.description, f"{section.__name__}.{name} has no docstring"


@pytest.mark.parametrize(
    "scenario", ["tiny-2ag", "small-10ag", "medium-4ag-easy", "large-6ag-hard"]
)
def test_scenarios(scenario: str) -> None:
    assert RwareConfig(scenario=scenario).scenario == scenario


@pytest.mark.parametrize("scenario", ["tiny", "tiny-0ag", "tiny-2", "huge-2ag", "tiny-2ag-v2", ""])
def test_wrong_scenarios(scenario: str) -> None:
    (line,) = problems({"env": {"name": "rware", "scenario": scenario}})
    assert line.startswith(f"env.scenario: got '{scenario}', expected {{tiny|small|medium|large}}")


@pytest.mark.parametrize("target", [20, 1.5, -3, "max", "mean", "1.1*max", ".5*mean", "-2 * min"])
def test_targets(target: str | float) -> None:
    assert EvaluatorConfig(target_returns=(target,)).target_returns == (target,)


@pytest.mark.parametrize("target", ["maximum", "1.1max", "max*2", "*max", True, None, float("nan")])
def test_wrong_targets(target: Any) -> None:
    (line,) = problems({"evaluator": {"target_returns": ["mean", target]}})
    assert line.startswith("evaluator.target_returns: got ")


def test_no_targets() -> None:
    assert problems({"evaluator": {"target_returns": []}})[0].startswith(
        "evaluator.target_returns: got []"
    )


def test_quality_is_case_insensitive() -> None:
    assert GeneratedDataset(quality="Medium").quality == "medium"  # type: ignore[arg-type]


def test_configurations_are_read_only() -> None:
    with pytest.raises(ValidationError):
        Config().seed = 3  # type: ignore[misc]


def test_whole_numbers_are_numbers_but_not_the_other_way_round() -> None:
    assert BCConfig(max_grad_norm=1).max_grad_norm == 1.0
    assert problems({"trainer": {"name": "offline", "steps": 1e3}}) == [
        "trainer.steps: got 1000.0, expected a whole number >= 1"
    ]


def test_all_mistakes_are_told_at_once() -> None:
    told = problems(
        {
            "sede": 1,
            "env": {"name": "rware", "reward": "money"},
            "model": {"name": "mads4", "mesage": "none", "message_delay": 2},
            "trainer": {"name": "offline", "context_length": 0},
            "algorithm": {"name": "bc", "learning_rate": "fast"},
            "logger": 3,
        }
    )
    assert sorted(told) == [
        "algorithm.learning_rate: got 'fast', expected a number > 0",
        "env.reward: got 'money', expected one of deliveries, alberdice",
        "logger: got 3, expected a group of settings",
        "model.mesage: unknown key. Did you mean 'message'?",
        "model.message_delay: got 2, expected one of 0, 1",
        "sede: unknown key. Did you mean 'seed'?",
        "trainer.context_length: got 0, expected a whole number >= 1 or null",
    ]


def test_alternatives_are_chosen_by_name() -> None:
    values = {
        "env": {"name": "custom", "factory": "my.module:make"},
        "dataset": {"name": "file", "path": "x.h5"},
    }
    config = parse(values, Config)
    assert isinstance(config.env, CustomEnvConfig)
    assert isinstance(config.dataset, FileDataset)
    assert problems({"dataset": {"name": "flie"}}) == [
        "dataset.name: got 'flie', expected one of alberdice, custom, file, generated, madt, "
        "og_marl. Did you mean 'file'?"
    ]
    assert problems({"dataset": {"path": "x.h5"}}) == [
        "dataset: choose a kind first, dataset=alberdice or dataset=custom or dataset=file "
        "or dataset=generated or dataset=madt or dataset=og_marl"
    ]


def test_what_must_be_given() -> None:
    assert problems({"dataset": {"name": "file", "path": "???"}}) == [
        "dataset.path: missing, expected text"
    ]


def test_impossible_combinations() -> None:
    assert validate(Config()) == []
    config = Config(
        model=Mads4Config(parameterization="dplr", dt_min=0.5, dt_max=0.1),
        trainer=OfflineTrainerConfig(steps=10),
        env=CustomEnvConfig(factory="a:b"),
    )
    keys = [line.split(":")[0] for line in validate(config)]
    assert keys == [
        "model.discretization",
        "model.dt_min",
        "algorithm.warmup_steps",
        "dataset.behavior_policy",
    ]
    both = OfflineOnlineTrainerConfig(offline=OfflineTrainerConfig(steps=10))
    (line,) = validate(Config(trainer=both))
    assert line.startswith("algorithm.warmup_steps: got 200, more than")
    assert validate(CollectConfig(env=CustomEnvConfig(factory="a:b"))) != []
    for weight, expected in ((0.0, 0), (0.1, 1)):  # a data set that is not used need not fit
        online = {"trainer": OnlineTrainerConfig(), "algorithm": MAPPOConfig(bc_coef=weight)}
        assert len(validate(Config(env=CustomEnvConfig(factory="a:b"), **online))) == expected
    assert validate(EvaluateConfig(checkpoint="x", env=CustomEnvConfig(factory="a:b"))) == []


def test_suggestions() -> None:
    allowed = fields(concrete(Config)[0])
    assert suggest("model.n_layer", allowed) == " Did you mean 'n_layers'?"
    assert suggest("steps", allowed) == " Did you mean 'trainer.steps'?"
    assert suggest("logger.wandb", allowed) == " Allowed here: tensorboard."


def test_a_saved_configuration_reads_back() -> None:
    config = Config(evaluator=EvaluatorConfig(target_returns=(3.0, "max")))
    assert parse(config.model_dump(mode="json"), Config) == config


def test_configuration_needs_neither_hydra_nor_a_simulator() -> None:
    code = (
        "import sys, mads4.config.validation;"
        "assert not {'hydra', 'omegaconf', 'rware', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
