"""A wrong command line: one clear line per mistake, exit code 2, nothing written."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mads4.config import Config
from mads4.config.compose import check
from mads4.config.validation import ConfigError

DPLR = "model.parameterization=dplr"

MISTAKES = [
    (["train", "model.mesage=none"], ["model.mesage: unknown key. Did you mean 'message'?"]),
    (["train", "modle=mads4"], ["modle: unknown key. Did you mean 'model'?"]),
    (["train", "experimnt=smoke"], ["experimnt: unknown key. Did you mean 'experiment'?"]),
    (
        ["evaluate", "checkpoint=run", "env.scenario=tiny-4ag"],
        ["env: choose a kind first, env=custom or env=matrix_game or env="],
    ),
    (["train", "message=none"], ["message: unknown key. Did you mean 'model.message'?"]),
    (["train", "+trainer.foo=1"], ["trainer.foo: unknown key. Allowed here: name, steps,"]),
    (
        ["train", "algorithm.learning_rate=fast"],
        ["algorithm.learning_rate: got 'fast', expected a number > 0"],
    ),
    (["train", "trainer.steps=10.5"], ["trainer.steps: got 10.5, expected a whole number >= 1"]),
    (["train", "trainer.steps=true"], ["trainer.steps: got true, expected a whole number >= 1"]),
    (["train", "seed=null"], ["seed: got null, expected a whole number >= 0"]),
    (["train", "model.stateless=1"], ["model.stateless: got 1, expected true or false"]),
    (["train", "model.dropout=1"], ["model.dropout: got 1, expected a number >= 0 and < 1"]),
    (["train", "model.d_state=33"], ["model.d_state: got 33, expected a whole number >= 2 and"]),
    (
        ["train", "env.scenario=tiny"],
        ["env.scenario: got 'tiny', expected {tiny|small|medium|large}-{k}ag[-easy|-hard]"],
    ),
    (
        ["train", "env=smax", "env.scenario=2c_vs_64zg"],
        ["env.scenario: got '2c_vs_64zg', expected one of 3m, 8m, 25m, "],
    ),
    (
        ["train", "env=smax", "env.scenario=2s3y"],
        ["smacv2_20_units. Did you mean '2s3z'?"],
    ),
    (
        ["train", "env=smac", "env.options.game_version=4.10"],
        [
            """got 4.1, expected text or null; a number is""",
            """env.options.game_version='"4.10"'""",
        ],
    ),
    (["train", "name=3"], ["""name: got 3, expected a folder's name""", """name='"3"'"""]),
    (
        ["train", "evaluator.target_returns=[2*maximum]"],
        ["evaluator.target_returns: got '2*maximum', expected a list of: a number or [number*]max"],
    ),
    (["train", "name=a/b"], ["name: got 'a/b', expected a folder's name"]),
    (["train", "env=custom"], ["env.factory: missing, expected package.module:function"]),
    (
        ["train", "trainer=3"],
        ["trainer: got '3', expected one of offline, offline_online, online."],
    ),
    (
        ["train", "kernel=troch"],
        [
            "kernel: got 'troch', expected one of auto, cuda, custom, keops, torch. "
            "Did you mean 'torch'?"
        ],
    ),
    (["train", "experiment=quikstart"], ["experiment: got 'quikstart', expected one of"]),
    (["train", "hydra/launcher=basics"], ["hydra/launcher: got 'basics', expected one of"]),
    (["train", "model.message=["], ["model.message=[: cannot be read as key=value"]),
    (["train", "seed"], ["seed: cannot be read as key=value"]),
    (["train", "seed=0,1"], ["seed=0,1: several values; add -m to run one job for each"]),
    (["train", "hydra.run.dri=x"], ["Could not override 'hydra.run.dri'"]),
    (["train", "trainer.steps=${none}"], ["Interpolation key 'none' not found"]),
    (["train", "hydra.run.dir=${none}"], ["hydra.run.dir: Interpolation key 'none' not found"]),
    (["train", "hydra.job.chdir=maybe"], ["hydra.job.chdir: Value 'maybe' is not a valid bool"]),
    (["train", "hydra.mode=MULTIRUN"], ["hydra.mode: not a setting of mads4; add -m"]),
    (["train", "trainer=null"], ["trainer: got 'null', expected one of offline, "]),
    (["train", "--hydra-help"], ["--hydra-help: not a flag of this command; the flags are -m, "]),
    (["train", "--cfg", "jop"], ["--cfg: invalid choice: 'jop'"]),
    (["train", "--config-dir", "nowhere"], ["--config-dir nowhere: no such folder."]),
    (["train", "-m", "--cfg", "job", "seed=0,1"], ["--cfg: shows the configuration of one job"]),
    (["train", DPLR], ["model.discretization: 'zoh' does not go with model.parameterization=dplr"]),
    (
        ["train", "env=custom", "env.factory=pkg.mod:make"],
        ["dataset.behavior_policy: no expert can play env=custom; use"],
    ),
    (
        ["train", "env=matrix_game"],
        ["dataset.behavior_policy: no expert can play env=matrix_game; use"],
    ),
    (
        ["train", "env=matrix_game", "dataset.behavior_policy=random", "env.payoff=3"],
        ["env.payoff: got 3, expected nested lists of numbers, one axis per agent"],
    ),
    (["collect", "experiment=penalty_xor"], ["dataset.name: got 'alberdice', expected generated"]),
    (
        ["train", "trainer.steps=10"],
        ["algorithm.warmup_steps: got 200, more than trainer.steps 10"],
    ),
    (["train", "-m", "seed=0,one"], ["seed: got 'one', expected a whole number >= 0"]),
    (
        ["train", "-m", f"{DPLR},diagonal", "model.discretization=zoh,bilinear"],
        ["model.discretization: 'zoh' does not go with"],
    ),
    (["train", "-m", "kernel=torch,reverence"], ["kernel: got 'reverence', expected one of"]),
    (["train", "-m", "resume=auto", "seed=0,1"], ["resume=auto with -m needs the sweep's"]),
    (["collect", "trainer.steps=5"], ["trainer.steps: not a setting of this command."]),
    (["collect", "dataset=file", "dataset.path=x.h5"], ["dataset.name: got 'file', expected"]),
    (["evaluate"], ["checkpoint: missing, expected text"]),
    (["evaluate", "checkpoint=x", "evaluator.epsiodes=3"], ["Did you mean 'episodes'?"]),
    (["trian"], ["no command 'trian', choose one of train, ", "Did you mean 'train'?"]),
    (
        [
            "train",
            "model.mesage=none",
            "seed=x",
            "algorithm.ssm_learning_rate.E=1",
            "kernel=hip",
            "trainer.context_length=0",
        ],
        [
            "model.mesage: unknown key",
            "seed: got 'x'",
            "kernel: got 'hip'",
            "algorithm.ssm_learning_rate.E: unknown key. Allowed here: A, B, C, dt, D",
            "trainer.context_length: got 0, expected a whole number >= 1 or null",
        ],
    ),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=lambda value: " ".join(value)[:50])
def test_mistakes_are_named_and_nothing_is_written(
    words: list[str],
    expected: list[str],
    cli: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert cli(*words) == 2
    output = capsys.readouterr()
    for text in expected:
        assert text in output.err
    assert all(line.startswith("error: ") for line in output.err.splitlines())
    assert "Traceback" not in output.err + output.out
    assert list(tmp_path.iterdir()) == []


def test_of_a_group_with_kinds_only_the_chosen_one_is_spoken_of() -> None:
    for env, words in {"smax": "one of 3m, ", "rware": "{tiny|", "smac": "a map's name, "}.items():
        with pytest.raises(ConfigError) as caught:
            check(
                "collect", [f"env={env}", "env.scenario=no/map", "dataset.behavior_policy=random"]
            )
        (line,) = caught.value.problems
        assert line.startswith(f"env.scenario: got 'no/map', expected {words}")
        assert line.count("for example") == (env != "smax")


def test_a_number_in_two_pairs_of_quotes_is_text() -> None:
    words = ["env=smac", 'env.options.game_version="4.10"', "dataset.behavior_policy=random"]
    (config,) = check("train", words).configs
    assert config.env.options.game_version == "4.10"  # type: ignore[union-attr]


def test_every_job_of_a_sweep_is_checked_and_known() -> None:
    plan = check("train", ["-m", "seed=0,1", "model.message=none,output"])
    pairs = [(config.seed, config.model.message) for config in plan.configs]  # type: ignore[union-attr]
    assert pairs == [(0, "none"), (0, "output"), (1, "none"), (1, "output")]


def test_an_experiment_says_what_to_collect() -> None:
    plan = check("collect", ["experiment=smoke"])
    assert plan.configs[0].dataset.episodes == 6  # type: ignore[union-attr]
    assert plan.directory.parent == Path("outputs/collect/smoke")


def test_options_take_keys_of_their_own() -> None:
    plan = check("train", ["env.options.max_steps=50"])
    assert isinstance(plan.configs[0], Config)
    assert plan.configs[0].env.options == {"max_steps": 50}
    assert plan.overrides == ["++env.options.max_steps=50"]


def test_flags_may_stand_anywhere() -> None:
    plan = check("train", ["seed=3", "--cfg", "job", "name=x"])
    assert plan.shown == "job"
    assert plan.overrides == ["seed=3", "name=x"]
    assert check("train", ["seed=3"]).shown is None


def test_a_folder_of_the_users_own_adds_options(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    plan = check("train", ["--config-dir", str(tmp_path), "experiment=mine"])
    assert plan.configs[0].seed == 7  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"expected one of .*\bmine, "):
        check("train", ["--config-dir", str(tmp_path), "experiment=min"])


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        (["experiment=smax", "model=mlp"], {"model.dropout"}),
        (["experiment=smoke", "model=mlp"], {"model.d_state", "model.message_dim"}),
        (["experiment=finetune_rware", "trainer=offline"], {"trainer.offline", "trainer.online"}),
        (
            ["experiment=smac_2c_vs_64zg_poor", "env=smax", "env.scenario=3m", "dataset=generated"],
            {"env.observation"},
        ),
    ],
)
def test_what_an_experiment_sets_for_another_kind_is_left_out_and_said(
    words: list[str], left_out: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        check("train", words)
    said = {message.partition(":")[0] for message in caplog.messages if "left out" in message}
    assert said == left_out


def test_what_the_user_sets_for_another_kind_is_a_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        check("train", ["experiment=smax", "model=mlp", "model.dropout=0.1", "model.d_state=8"])
    assert caught.value.problems == [
        f"model.{name}: does not go with model=mlp; leave it out, or choose another model."
        for name in ("dropout", "d_state")
    ]


MAPPINGS = {
    "env": ["env=custom", "env.factory=pkg.mod:make"],
    "dataset": ["dataset=custom", "dataset.factory=pkg.mod:make"],
    "model": ["model=custom", "model.factory=pkg.mod:make"],
    "kernel": ["kernel=custom", "kernel.factory=pkg.mod:make"],
    "algorithm": ["algorithm=custom", "algorithm.factory=pkg.mod:make"],
}


@pytest.mark.parametrize("group", MAPPINGS)
@pytest.mark.parametrize("form", ["whole", "one by one"])
def test_options_of_a_factory_are_given_whole_or_one_by_one(
    group: str, form: str, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [f"{group}.options={{a: 1, b: {{c: [x]}}}}"]
    single = [f"{group}.options.a=1", f"{group}.options.b.c=[x]"]
    words = [*MAPPINGS[group], *(whole if form == "whole" else single)]
    words += ["dataset.behavior_policy=random"] if group == "env" else []
    plan = check("train", words)
    assert getattr(plan.configs[0], group).options == {"a": 1, "b": {"c": ["x"]}}
    assert cli("train", *words, "--cfg", "job") == 0, "Hydra composes it, too"
    assert "c:\n" in capsys.readouterr().out
    assert len(check("train", ["-m", "seed=0,1", *words]).configs) == 2


def test_extra_options_of_an_environment_are_a_mapping_too() -> None:
    words = ["env=smac", "dataset=madt", "env.extra_options={folder: here}"]
    plan = check("train", words)
    assert plan.configs[0].env.extra_options == {"folder": "here"}  # type: ignore[union-attr]
    assert plan.overrides[-1].startswith("++env.extra_options=")


def test_a_wrong_option_alone_is_refused_without_loading_torch() -> None:
    code = (
        "import sys; from mads4.cli import main; assert main(['train', 'algorithm=icqq']) == 2;"
        "assert main(['evaluate', '--help']) == main(['collect', '--help']) == 0;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
