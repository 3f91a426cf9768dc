"""The command line in-process, in an empty folder, and a small recording of the real warehouse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mads4.behavior.registry import BehaviorFactory
from mads4.data.collect import collect
from mads4.envs.registry import EnvFactory

TESTS = Path(__file__).parents[1]
SHORT = ("env.options.max_steps=40",)
"""Episodes of 40 steps instead of 500."""


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short episodes of the greedy expert in tiny-2ag."""
    arguments = {
        "scenario": "tiny-2ag",
        "reward": "deliveries",
        "state_encoding": "entities",
        "options": {"max_steps": 40},
    }
    path = tmp_path_factory.mktemp("data") / "short.h5"
    description = {"name": "greedy", "quality": "expert"}
    make_env = EnvFactory("rware", arguments)
    return collect(make_env, BehaviorFactory("greedy"), 6, 0, path, behavior=description)


@pytest.fixture(scope="session")
def smoke(recording: Path) -> tuple[str, ...]:
    """Return the words of a training that takes a second or two."""
    return (
        *("train", "experiment=smoke", *SHORT),
        *("dataset=file", f"dataset.path={recording}"),
        *("device=cpu", "threads=1", "evaluator.baseline_episodes=1"),
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command line in a process of its own, which does not outlive the test.

    `first` is Python to run there before.
    """
    started: list[subprocess.Popen[str]] = []
    environment = {
        **os.environ,
        "MADS4_DATA_DIR": str(tmp_path / "data"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }

    def call(*words: str, first: str = "") -> subprocess.Popen[str]:
        script = f"{first}\nimport sys; from mads4.cli import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", script, *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
