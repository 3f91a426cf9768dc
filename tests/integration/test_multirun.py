"""A sweep: every job in its own directory, and one that fails harms no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., int]


def markers(sweep: Path) -> dict[str, list[str]]:
    return {
        job.name: sorted(path.name for path in job.iterdir() if path.name in ("DONE", "FAILED"))
        for job in sorted(sweep.iterdir())
        if job.is_dir()
    }


def test_four_jobs_in_four_directories(cli: Cli, smoke: Any, tmp_path: Path) -> None:
    quick = ("evaluator.episodes=1", "evaluator.baselines=false", "hydra.sweep.dir=sweep")
    jobs = ("-m", "seed=0,1", "model.message=none,output")
    command, *words = smoke
    assert cli(command, *jobs, *words, *quick) == 0
    sweep = tmp_path / "sweep"
    assert markers(sweep) == {str(number): ["DONE"] for number in range(4)}
    seen = set()
    for number in range(4):
        config = (sweep / str(number) / "config.yaml").read_text()
        summary = json.loads((sweep / str(number) / "summary.json").read_text())
        assert f"seed: {summary['seed']}" in config
        seen.add((summary["seed"], "message: output" in config, summary["train"]["parameters"]))
        log = (sweep / str(number) / "train.log").read_text()
        assert log.count("run directory") == 1
        assert f"{sweep.name}/{number}" in log
    assert len(seen) == 4
    assert len({parameters for _, _, parameters in seen}) == 2


def test_a_failing_job_leaves_its_traceback_and_harms_no_other(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("experiment=smoke", "env=custom", "env.factory=fakes:MatchingEnv", "device=cpu")
    data = ("dataset=custom", "dataset.factory=fakes:matching_data")
    job = ("-m", "env.options.fail_at=null,1", "seed=0,1", "hydra.sweep.dir=sweep")
    assert cli("train", *own, *data, *job) == 1
    sweep = tmp_path / "sweep"
    assert markers(sweep) == {"0": ["DONE"], "1": ["DONE"], "2": ["FAILED"], "3": ["FAILED"]}
    for number in ("2", "3"):
        for name in ("FAILED", "train.log"):
            text = (sweep / number / name).read_text()
            assert "Traceback" in text
            assert "a bug in the user's environment" in text
        assert (sweep / number / "checkpoints/last.pt").exists(), "what was trained is kept"
    error = capsys.readouterr().err
    assert "2 jobs done, 2 failed" in error
    assert "Traceback" not in error


def test_a_users_mistake_in_one_job(cli: Cli, smoke: Any, recording: Path, tmp_path: Path) -> None:
    command, *words = [word for word in smoke if not word.startswith("dataset.path=")]
    quick = ("evaluator.episodes=1", "evaluator.baselines=false", "hydra.sweep.dir=sweep")
    assert cli(command, "-m", *words, *quick, f"dataset.path=missing.h5,{recording}") == 1
    assert markers(tmp_path / "sweep") == {"0": ["FAILED"], "1": ["DONE"]}
    failed = (tmp_path / "sweep/0/FAILED").read_text()
    assert "missing.h5" in failed
    assert "Traceback" not in failed
