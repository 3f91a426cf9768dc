from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mads4.data.store import write_dataset
from mads4.types import EnvSpec, Episode

SPEC = EnvSpec(
    name="toy",
    scenario="pair",
    n_agents=2,
    obs_dim=3,
    state_dim=4,
    n_actions=5,
    episode_limit=10,
    reward="steps",
)


def episode(index: int, length: int) -> Episode:
    return Episode(
        observation=np.zeros((length, 2, 3), np.float32),
        state=np.zeros((length, 1, 4), np.float32),
        available_actions=np.ones((length, 2, 5), bool),
        action=np.zeros((length, 2), np.int64),
        reward=np.ones(length, np.float32),
        terminated=False,
        truncated=True,
        seed=index,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "toy.h5"
    write_dataset(file, SPEC, [episode(0, 4), episode(1, 10)], {"policy": "none"}, "toys")
    return file


def test_json_has_every_fact(
    path: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("data", "show", str(path), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    expected = {
        "name": "toys",
        "episodes": 2,
        "steps": 14,
        "n_agents": 2,
        "obs_dim": 3,
        "state_dim": 4,
        "n_actions": 5,
        "episode_limit": 10,
        "return_mean": 7.0,
        "return_std": 3.0,
        "return_min": 4.0,
        "return_max": 10.0,
        "length_mean": 7.0,
        "reward_definition": "steps",
    }
    assert {key: facts[key] for key in expected} == expected
    assert len(facts["fingerprint"]) == 64


def test_the_table_is_for_people(
    path: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("data", "show", str(path)) == 0
    output = capsys.readouterr().out
    assert "return_mean" in output
    assert "7.000" in output


def test_a_file_that_is_not_there_is_named(
    cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("data", "show", "nowhere.h5") == 2
    assert "nowhere.h5" in capsys.readouterr().err
