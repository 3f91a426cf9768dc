"""What a job leaves behind, however it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mads4.config import CollectConfig, Config, EvaluateConfig
from mads4.config.validation import parse
from mads4.errors import UserError

Cli = Callable[..., int]


def raising(error: BaseException) -> Callable[[Any, Path], None]:
    def behave(config: Any, run_dir: Path) -> None:
        raise error

    return behave


def runs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("outputs/mads4/*"))


def test_success_leaves_done_and_the_resolved_configuration(
    cli: Cli, build: Any, tmp_path: Path
) -> None:
    assert cli("train", "seed=3", "env.options.max_steps=50") == 0
    ((command, config, run_dir),) = build.calls
    assert command == "train"
    assert isinstance(config, Config)
    assert config.seed == 3
    assert [run_dir] == runs(tmp_path)
    assert {path.name for path in run_dir.iterdir()} == {
        ".hydra",
        "DONE",
        "config.yaml",
        "train.log",
    }
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["seed"] == 3
    assert saved["env"]["options"] == {"max_steps": 50}
    assert parse(saved, Config) == config


def test_collect_and_evaluate_are_jobs_too(cli: Cli, build: Any, tmp_path: Path) -> None:
    assert cli("collect", "dataset.episodes=3") == 0
    assert cli("evaluate", "checkpoint=some/run", "evaluator.episodes=5") == 0
    (_, collected, _), (_, evaluated, run_dir) = build.calls
    assert isinstance(collected, CollectConfig)
    assert collected.dataset.episodes == 3
    assert isinstance(evaluated, EvaluateConfig)
    assert evaluated.env is None
    assert evaluated.evaluator.episodes == 5
    assert run_dir.parent == tmp_path / "outputs/evaluate/mads4"


def test_a_users_mistake_is_a_message(
    cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.behave = raising(UserError("x.h5 is not there; record it first."))
    assert cli("train") == 2
    (run_dir,) = runs(tmp_path)
    assert (run_dir / "FAILED").read_text() == "x.h5 is not there; record it first.\n"
    assert not (run_dir / "DONE").exists()
    error = capsys.readouterr().err
    assert "error: x.h5 is not there; record it first." in error
    assert "Traceback" not in error


def test_a_failure_keeps_its_traceback_in_the_run(
    cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.behave = raising(ZeroDivisionError("all is lost"))
    assert cli("train") == 1
    (run_dir,) = runs(tmp_path)
    for name in ("FAILED", "train.log"):
        text = (run_dir / name).read_text()
        assert "Traceback (most recent call last)" in text
        assert "ZeroDivisionError: all is lost" in text
    error = capsys.readouterr().err
    assert "failed: ZeroDivisionError: all is lost" in error
    assert str(run_dir / "FAILED") in error
    assert "Traceback" not in error


def test_an_interrupted_run_says_how_to_go_on_and_does(
    cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.behave = raising(KeyboardInterrupt())
    assert cli("train", "seed=3") == 130
    (run_dir,) = runs(tmp_path)
    assert not (run_dir / "DONE").exists()
    assert not (run_dir / "FAILED").exists()
    error = capsys.readouterr().err
    assert f"mads4 train seed=3 resume=auto hydra.run.dir={run_dir}" in error

    build.behave = lambda config, run_dir: None
    assert cli("train", "seed=3", "resume=auto", "device=cpu") == 0
    assert build.calls[-1][2] == run_dir
    assert (run_dir / "DONE").exists()
    assert cli("train", "seed=3", "resume=auto") == 0
    assert build.calls[-1][2] != run_dir, "a finished run is not continued"


def test_only_a_run_with_the_same_settings_is_continued(
    cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.behave = raising(KeyboardInterrupt())
    assert cli("train", "seed=3") == 130
    (run_dir,) = runs(tmp_path)
    build.behave = lambda config, run_dir: None
    assert cli("train", "seed=4", "resume=auto") == 0
    assert build.calls[-1][2] != run_dir
    assert cli("train", "seed=4", "resume=auto", f"hydra.run.dir={run_dir}") == 2
    assert "error: seed: 3 there, 4 now" in capsys.readouterr().err
    assert not (run_dir / "DONE").exists()


def test_a_directory_in_use_is_left_alone(
    cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("train", "hydra.run.dir=my run") == 0
    before = sorted(tmp_path.rglob("*"))
    assert cli("train", "hydra.run.dir=my run") == 2
    assert "my run is not empty" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert cli("train", "hydra.run.dir=my run", "resume=auto") == 0
    assert len(build.calls) == 1, "what is done is not done again"


def test_runs_of_the_same_second_get_directories_of_their_own(
    cli: Cli, build: Any, tmp_path: Path
) -> None:
    for _ in range(3):
        assert cli("train", "experiment=smoke") == 0
    assert len({run_dir for _, _, run_dir in build.calls}) == 3


def test_a_failing_job_does_not_stop_a_sweep(
    cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_one(config: Any, run_dir: Path) -> None:
        if config.seed == 0 and config.model.message == "output":
            raise ZeroDivisionError("not this one")

    build.behave = fail_one
    sweep = ["-m", "seed=0,1", "model.message=none,output"]
    assert cli("train", *sweep) == 1
    (directory,) = (tmp_path / "outputs/sweeps/mads4").iterdir()
    ends = {
        job.name: sorted(path.name for path in job.iterdir() if path.name.isupper())
        for job in directory.iterdir()
        if job.is_dir()
    }
    assert ends == {"0": ["DONE"], "1": ["FAILED"], "2": ["DONE"], "3": ["DONE"]}
    assert "ZeroDivisionError" in (directory / "1" / "train.log").read_text()
    assert "ZeroDivisionError" not in (directory / "2" / "train.log").read_text()
    error = capsys.readouterr().err
    assert "3 jobs done, 1 failed" in error
    assert str(Path("1") / "FAILED") in error

    build.behave = lambda config, run_dir: None
    build.calls.clear()
    assert cli("train", *sweep, "resume=auto", f"hydra.sweep.dir={directory}") == 0
    assert [run_dir.name for _, _, run_dir in build.calls] == ["1"]
    assert not (directory / "1" / "FAILED").exists()


def test_an_interrupt_ends_the_sweep(cli: Cli, build: Any) -> None:
    build.behave = raising(KeyboardInterrupt())
    assert cli("train", "-m", "seed=0,1") == 130
    assert len(build.calls) == 1


OWN = """
from mads4.kernels.backends.torch_backend import BACKEND

def no_option(): ...
def data(path): ...
def model(spec, width=3): ...
def algorithm(policy, context, *, rate): ...
def player(level): ...
def kernel(): return BACKEND
"""
REFUSED = {
    "env": ["env=custom", "env.factory=own:no_option", "env.options.size=3"],
    "dataset": ["dataset=custom", "dataset.factory=own:data"],
    "model": ["model=custom", "model.factory=own:model", "model.options={depth: 2}"],
    "algorithm": ["algorithm=custom", "algorithm.factory=own:algorithm"],
    "kernel": ["kernel=custom", "kernel.factory=own:kernel", "kernel.options.fast=true"],
    "dataset.behavior_policy": ["dataset.behavior_policy=own:player"],
}
WHY = {
    "env": "env.options: env.factory=own:no_option refuses {size: 3}: TypeError: got an unexpected",
    "dataset": "dataset.options: dataset.factory=own:data refuses {}: TypeError: missing a",
    "model": "model.options: model.factory=own:model refuses {depth: 2}: TypeError: got an unexpe",
    "algorithm": "algorithm.options: algorithm.factory=own:algorithm refuses {}: TypeError: ",
    "kernel": "kernel.options: kernel.factory=own:kernel refuses {fast: True}: TypeError: got an",
    "dataset.behavior_policy": "dataset.behavior_policy: own:player refuses {}: TypeError: missing",
}


@pytest.fixture
def _own_module(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("own", None)


@pytest.mark.usefixtures("_own_module")
@pytest.mark.parametrize("setting", REFUSED)
def test_a_function_that_refuses_its_options_is_reported_before_any_work(
    setting: str, cli: Cli, build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play = [] if setting.startswith("dataset") else ["dataset.behavior_policy=random"]
    assert cli("train", *REFUSED[setting], *play) == 2
    assert f"error: {WHY[setting]}" in capsys.readouterr().err
    assert build.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_own_module")
def test_all_functions_are_checked_at_once(
    cli: Cli, build: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = ("env", "model", "algorithm", "kernel", "dataset")
    assert cli("train", *(word for group in groups for word in REFUSED[group])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(".options")[0] for line in lines) == sorted(
        f"error: {group}" for group in groups
    )
    assert cli("evaluate", "checkpoint=x", "model_factory=own:nothing") == 2
    assert "model_factory: 'own' has no function 'nothing'" in capsys.readouterr().err
