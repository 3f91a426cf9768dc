"""`mads4 evaluate` on a run: the run's own numbers again, other settings, other environments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., int]
FIGURES = ("return_mean", "return_std", "return_iqm", "return_ci95", "target_return", "length_mean")


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture
def run_dir(cli: Cli, smoke: tuple[str, ...], where: Path) -> Path:
    """A training that is evaluated in float64, done once for all tests of this file."""
    if not where.exists():
        settings = ("evaluator.precision=float64", "env.reward=alberdice", "dataset=generated")
        settings += ("evaluator.deterministic=true",)  # which `mads4 evaluate` takes over
        recording = (
            "dataset.behavior_policy=random",
            "dataset.num_workers=1",
            "dataset.episodes=4",
        )
        words = [word for word in smoke if not word.startswith(("dataset", "~dataset"))]
        file = f"dataset.path={where.parent / 'data.h5'}"
        assert cli(*words, *settings, *recording, file, f"hydra.run.dir={where}") == 0
    return where


def results(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return values


def figures(path: Path) -> dict[str, Any]:
    return {
        target: {name: values[name] for name in FIGURES}
        for target, values in results(path)["eval"].items()
    }


SAME = ("evaluator.episodes=2", "evaluator.precision=float64", "evaluator.baseline_episodes=1")


def test_the_same_settings_give_the_runs_own_numbers(
    cli: Cli, run_dir: Path, tmp_path: Path
) -> None:
    assert cli("evaluate", f"checkpoint={run_dir}", *SAME, "hydra.run.dir=again") == 0
    again = tmp_path / "again"
    assert figures(again) == figures(run_dir)
    assert {path.name for path in again.iterdir()} == {
        *(".hydra", "config.yaml", "evaluate.log", "DONE", "summary.json"),
        *("metrics.jsonl", "tensorboard", "result.png"),
    }
    assert results(again)["checkpoint"] == str(run_dir)
    assert results(again)["actions"] == results(run_dir)["actions"] == "deterministic"
    assert results(again)["baselines"].keys() == results(run_dir)["baselines"].keys()
    file = run_dir / "checkpoints/best.pt"
    assert cli("evaluate", f"checkpoint={file}", *SAME, "hydra.run.dir=file") == 0
    assert figures(tmp_path / "file") == figures(run_dir)


def test_actions_can_be_drawn_nevertheless(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    words = (
        *SAME,
        "evaluator.baselines=false",
        "evaluator.deterministic=false",
        "hydra.run.dir=drawn",
    )
    assert cli("evaluate", f"checkpoint={run_dir}", *words) == 0
    drawn = tmp_path / "drawn"
    assert results(drawn)["actions"] == "sampled"
    assert results(drawn)["training"]["evaluator"]["deterministic"] is True
    assert figures(drawn) != figures(run_dir)


def test_parallel_environments_change_no_number(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    common = ("evaluate", f"checkpoint={run_dir}", *SAME, "evaluator.baselines=false")
    targets = ("evaluator.episodes=5", "evaluator.target_returns=[0.5,'2 * mean']")
    for parallel in (1, 3, 32):
        words = (f"evaluator.num_envs={parallel}", f"hydra.run.dir=p{parallel}")
        assert cli(*common, *targets, *words) == 0
    one = figures(tmp_path / "p1")
    assert set(one) == {"0.5", "2*mean"}
    assert one["0.5"]["target_return"] == 0.5
    assert figures(tmp_path / "p3") == figures(tmp_path / "p32") == one


def test_another_environment_is_refused_by_both_names(
    cli: Cli, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("evaluate", f"checkpoint={run_dir}", "env=rware", "env.scenario=small-2ag") == 2
    error = capsys.readouterr().err
    assert f"the policy of {run_dir} and the environment do not fit together" in error
    assert "scenario: 'tiny-2ag' against 'small-2ag'" in error
    assert "Traceback" not in error
    words = ("env=custom", "env.factory=fakes:MatchingEnv")
    assert cli("evaluate", f"checkpoint={run_dir}", *words) == 2
    assert "name: 'rware' against 'fake'" in capsys.readouterr().err


def test_what_is_no_run_is_refused(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("evaluate", "checkpoint=nowhere") == 2
    assert "There is no nowhere" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli("evaluate", "checkpoint=empty") == 2
    assert "has no best.pt or last.pt" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [None, 5])
def test_a_video_that_opens(cli: Cli, run_dir: Path, tmp_path: Path, steps: int | None) -> None:
    from PIL import Image

    film = ("evaluator.video=true", f"evaluator.video_steps={'null' if steps is None else steps}")
    words = ("evaluator.baselines=false", "evaluator.episodes=2", "hydra.run.dir=film")
    assert cli("evaluate", f"checkpoint={run_dir}", *film, *words) == 0
    with Image.open(tmp_path / "film/episode.gif") as video:
        assert video.format == "GIF"
        video.load()
        shown = 0
        for number in range(video.n_frames):
            video.seek(number)
            shown += video.info["duration"]
    moments = 41 if steps is None else 6
    assert shown == pytest.approx(100 * moments, rel=0.2), "10 moments a second"
