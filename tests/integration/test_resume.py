"""Processes that are told to stop, or shot, at any moment, and go on as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mads4.data.store import read_dataset
from mads4.training import checkpoint

Cli = Callable[..., int]
Start = Callable[..., "subprocess.Popen[str]"]
STEPS = 250
PATIENCE = 300.0
KEEP_AT_ONCE = """
from mads4.data.collect import collect
collect.__kwdefaults__["flush_seconds"] = 0.0
"""
"""Episodes are otherwise written every few seconds, longer than a test should take."""


@pytest.fixture(scope="session")
def long(smoke: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a training that takes some seconds and saves often."""
    return (
        *smoke,
        *(f"trainer.steps={STEPS}", "trainer.checkpoint_interval=7", "trainer.log_interval=5"),
        *("trainer.validation_interval=20", "model.dropout=0.2", "logger=none"),
        *("evaluator.baselines=false", "evaluator.episodes=1"),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "whole"


@pytest.fixture
def whole(cli: Cli, long: tuple[str, ...], place: Path) -> Path:
    """Return the directory of the undisturbed run, made once for all tests of this file."""
    if not place.exists():
        assert cli(*long, f"hydra.run.dir={place}") == 0
    return place


def steps_logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def losses(run_dir: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["validation/loss"]) for row in rows if "validation/loss" in row]


def assert_as_if_undisturbed(run_dir: Path, whole: Path) -> None:
    assert (run_dir / "DONE").exists()
    for name in ("last", "best"):
        one, other = (checkpoint.load(d / f"checkpoints/{name}.pt") for d in (run_dir, whole))
        assert one["state"]["step"] == other["state"]["step"]
        for key, value in other["policy"].items():
            assert torch.equal(one["policy"][key], value), key
    assert losses(run_dir) == losses(whole)
    here, there = (json.loads((d / "summary.json").read_text()) for d in (run_dir, whole))
    for values in (*here["eval"].values(), *there["eval"].values()):
        del values["environment_steps_per_second"]
    assert here["eval"] == there["eval"]
    assert here["train"] == there["train"]


def test_sigterm_saves_and_the_same_command_goes_on(
    cli: Cli, start: Start, long: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    words = (*long, "hydra.run.dir=broken")
    process = start(*words)
    wait_for(process, lambda: steps_logged(broken) > 10)
    process.send_signal(signal.SIGTERM)
    code, output = end_of(process)
    assert code == 130, output
    assert "SIGTERM: saving, then stopping" in output
    assert "interrupted; continue with: mads4 train" in output
    assert "Traceback" not in output
    step = checkpoint.load(broken / "checkpoints/last.pt")["state"]["step"]
    assert 0 < step < STEPS
    assert not (broken / "DONE").exists() and not (broken / "FAILED").exists()
    assert cli(*words, "resume=auto") == 0
    assert_as_if_undisturbed(broken, whole)
    assert f"continuing at step {step}" in (broken / "train.log").read_text()


def test_kill_9_costs_no_more_than_the_last_interval(
    cli: Cli, start: Start, long: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    words = (*long, "hydra.run.dir=broken")
    process = start(*words)
    wait_for(process, lambda: steps_logged(broken) > 20)
    process.kill()
    end_of(process)
    logged = json.loads((broken / "metrics.jsonl").read_text().splitlines()[-2])["step"]
    saved = checkpoint.load(broken / "checkpoints/last.pt")["state"]["step"]
    assert saved % 7 == 0
    assert saved > logged - 7 - 5
    assert cli(*words, "resume=auto") == 0
    assert_as_if_undisturbed(broken, whole)


@pytest.mark.slow
def test_kill_9_again_and_again(
    start: Start, long: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    """At moments that know nothing of what the process is doing; no checkpoint is ever broken."""
    broken = tmp_path / "broken"
    words = (*long, "hydra.run.dir=broken", "resume=auto", "trainer.checkpoint_interval=1")
    before = 0
    for delay in (0.0, 0.05, 0.13, 0.29, 0.37):
        process = start(*words)
        done = steps_logged(broken)
        wait_for(process, lambda done=done: steps_logged(broken) != done)  # type: ignore[misc]
        time.sleep(delay)
        process.kill()
        end_of(process)
        for path in (broken / "checkpoints").glob("*.pt"):
            checkpoint.load(path)
        step = checkpoint.load(broken / "checkpoints/last.pt")["state"]["step"]
        assert step >= before
        before = step
    assert 0 < before < STEPS
    code, output = end_of(start(*words))
    assert code == 0, output
    assert_as_if_undisturbed(broken, whole)


def test_kill_9_during_the_evaluation(
    cli: Cli, start: Start, long: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    """Training is complete then: nothing is trained again, and the evaluation is done anew."""
    broken = tmp_path / "broken"
    words = (*long, "hydra.run.dir=broken")
    process = start(*words, "evaluator.episodes=500")
    log = broken / "train.log"
    wait_for(process, lambda: log.exists() and f"{STEPS} of {STEPS}" in log.read_text())
    process.kill()
    end_of(process)
    before = (broken / "checkpoints/last.pt").stat().st_mtime_ns
    assert cli(*words, "resume=auto") == 0
    assert (broken / "checkpoints/last.pt").stat().st_mtime_ns == before
    assert_as_if_undisturbed(broken, whole)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_recording_that_is_stopped_goes_on(
    cli: Cli, start: Start, tmp_path: Path, number: int
) -> None:
    collect = (
        "collect",
        "dataset.behavior_policy=random",
        "dataset.episodes=150",
        "dataset.num_workers=1",
    )
    short = "env.options.max_steps=60"
    process = start(*collect, short, "dataset.path=broken.h5", first=KEEP_AT_ONCE)
    parts = tmp_path / "broken.h5.parts"
    wait_for(process, lambda: parts.is_dir() and bool(list(parts.glob("*.h5"))))
    process.send_signal(number)
    end_of(process)
    assert not (tmp_path / "broken.h5").exists()
    assert cli(*collect, short, "dataset.path=broken.h5") == 0
    assert cli(*collect, short, "dataset.path=whole.h5") == 0
    broken, whole = (read_dataset(tmp_path / name) for name in ("broken.h5", "whole.h5"))
    assert len(broken) == 150
    assert broken.fingerprint == whole.fingerprint
    assert not parts.exists()
