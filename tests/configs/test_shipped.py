"""Every YAML file that is shipped composes, validates, and agrees with the schemas' defaults."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import yaml

from mads4.config import Config, EvaluateConfig, ProbeConfig
from mads4.config.compose import SCHEMAS, check

ROOT = files("mads4.conf")
NEEDS = {
    "algorithm=custom": ["algorithm.factory=pkg.mod:make"],
    "algorithm=mappo": ["trainer=online"],
    "env=custom": ["env.factory=pkg.mod:make", "dataset.behavior_policy=random"],
    "dataset=custom": ["dataset.factory=pkg.mod:make"],
    "dataset=file": ["dataset.path=some.h5"],
    "dataset=alberdice": ["dataset.path=folder"],
    "model=custom": ["model.factory=pkg.mod:make"],
    "kernel=custom": ["kernel.factory=pkg.mod:make"],
    "env=matrix_game": ["dataset.behavior_policy=random"],
    "env=smac": ["dataset.behavior_policy=random"],
    "env=smaclite": ["dataset.behavior_policy=random"],
    "experiment=penalty_xor": ["dataset.path=folder"],
}


def options(group: Any) -> list[str]:
    return sorted(p.name.removesuffix(".yaml") for p in group.iterdir() if p.name.endswith(".yaml"))


GROUPS = sorted(
    p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(("_", "hydra"))
)
CHOICES = [f"{group}={option}" for group in GROUPS for option in options(ROOT / group)]


def test_the_groups_are_all_there() -> None:
    expected = [
        "algorithm",
        "dataset",
        "env",
        "evaluator",
        "experiment",
        "kernel",
        "logger",
        "model",
        "trainer",
    ]
    assert expected == GROUPS
    assert options(ROOT) == sorted(SCHEMAS)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_composes(choice: str) -> None:
    (config,) = check("train", [choice, *NEEDS.get(choice, [])]).configs
    assert isinstance(config, Config)
    group, option = choice.split("=")
    if group == "experiment":
        assert config.name == option
    else:
        saved = yaml.safe_load((ROOT / group / f"{option}.yaml").read_text())
        section: Any = getattr(config, group)
        entries = [entry for entry in saved.pop("defaults", []) if isinstance(entry, str)]
        parts = [entry.partition("@")[2] for entry in entries]
        given = {*saved, *parts}
        assert given == set(type(section).model_fields), "a setting has no line in the YAML"


def test_defaults_agree_with_the_schemas() -> None:
    assert check("train", []).configs == [Config()]
    assert check("collect", []).configs == [SCHEMAS["collect"]()]
    expected = EvaluateConfig(checkpoint="run")
    assert check("evaluate", ["checkpoint=run"]).configs == [expected]
    assert check("probe", ["checkpoint=run"]).configs == [ProbeConfig(checkpoint="run")]


def test_evaluation_may_replace_the_environment() -> None:
    (config,) = check("evaluate", ["checkpoint=run", "env=rware"]).configs
    assert isinstance(config, EvaluateConfig)
    assert config.env is not None


@pytest.mark.parametrize("kernel", options(ROOT / "kernel"))
def test_every_kernel_group_names_its_backend(kernel: str) -> None:
    (config,) = check("train", [f"kernel={kernel}", *NEEDS.get(f"kernel={kernel}", [])]).configs
    assert isinstance(config, Config)
    assert config.kernel.name == kernel


RECORDED_ELSEWHERE = {"penalty_xor", "penalty_xor_online", "smac_2c_vs_64zg_poor"}


@pytest.mark.parametrize("experiment", sorted({*options(ROOT / "experiment")} - RECORDED_ELSEWHERE))
def test_every_experiment_says_what_to_collect(experiment: str) -> None:
    (trained,) = check("train", [f"experiment={experiment}"]).configs
    (collected,) = check("collect", [f"experiment={experiment}"]).configs
    assert isinstance(trained, Config)
    assert getattr(collected, "dataset") == trained.dataset  # noqa: B009
