"""Small games from the command line: other people's recordings, our own, and the experiment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recorded import ALBERDICE, needs_alberdice

Cli = Callable[..., int]
SHORT = (
    *("trainer.steps=3", "algorithm.warmup_steps=1", "trainer.validation_interval=3"),
    *("trainer.batch_size=2", "model.n_layers=1", "model.d_model=8", "model.d_state=4"),
    *("evaluator.episodes=2", "evaluator.baseline_episodes=2", "device=cpu", "threads=1"),
    *("logger=none", "hydra.run.dir=run"),
)


def write_recording(folder: Path, episodes: int = 6, steps: int = 50) -> Path:
    """Write episodes of one of the two good pairs, drawn anew each step, in AlberDICE's layout."""
    first = np.random.default_rng(0).integers(2, size=(episodes, steps + 1))
    shape, last = (episodes, steps + 1), np.arange(steps + 1) == steps - 1
    constant = np.array([0, 1, 0, 1], dtype=np.float32)
    content: dict[str, Any] = {
        "actions": np.stack([first, 1 - first], axis=-1)[..., None],
        "avail_actions": np.ones((*shape, 2, 2), dtype=np.int32),
        "filled": np.ones((*shape, 1), dtype=np.int64),
        "obs": np.broadcast_to(constant, (*shape, 2, 4)),
        "reward": np.ones((*shape, 1), dtype=np.float32),
        "state": np.broadcast_to(constant, (*shape, 4)),
        "terminated": np.broadcast_to(last[:, None], (*shape, 1)).astype(np.uint8),
    }
    folder.mkdir()
    for key, array in content.items():
        np.save(folder / f"{key}.npy", array)
    (folder / "meta.json").write_text(json.dumps({"episodes_in_buffer": episodes}))
    return folder


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "pairs")


def summary(tmp_path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((tmp_path / "run/summary.json").read_text())
    return values


def test_the_experiment_runs(cli: Cli, recording: Path, tmp_path: Path) -> None:
    words = ("experiment=penalty_xor", f"dataset.path={recording}", "evaluator.video=true")
    assert cli("train", *words, *SHORT) == 0
    told = summary(tmp_path)
    assert told["data"]["return_mean"] == 50.0
    origin = json.loads((tmp_path / "run/provenance.json").read_text())["dataset"]
    assert origin["fingerprint"] == told["data"]["fingerprint"]
    assert origin["reward_definition"] == told["reward_definition"]
    assert origin["behavior"]["source"]["files"][0]["name"] == "actions.npy"
    assert told["eval"]["50"]["target_return"] == 50.0
    assert told["eval"]["50"]["length_mean"] == 50.0
    assert 0.0 <= told["eval"]["50"]["coordinated_mean"] <= 50.0
    assert set(told["baselines"]) == {"random"}
    assert (tmp_path / "run/episode.gif").stat().st_size > 0
    settings = ("evaluator.episodes=2", "evaluator.baselines=false")
    assert cli("evaluate", "checkpoint=run", *settings, "hydra.run.dir=again") == 0


def test_the_folder_is_shown(
    cli: Cli, recording: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli("data", "show", str(recording), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["episodes"], facts["steps"], facts["return_mean"]) == (6, 300, 50.0)
    assert "fingerprint" not in facts
    assert cli("data", "show", str(tmp_path), "--from", "alberdice") == 2
    assert "it lacks actions.npy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("env.payoff=[[0,2],[1,-2]]", "joint action [0, 1] earned 1 there, here it earns 2"),
        ("env.payoff=[[0,1],[1]]", "env.payoff: got [[0, 1], [1]], whose rows differ"),
        ("env.payoff=[[0,1,0],[1,0,0]]", "n_actions: 2 against 3"),
        ("env.episode_limit=30", "episode_limit: 50 against 30"),
    ],
)
def test_another_game_is_refused(
    cli: Cli, recording: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    words = ("experiment=penalty_xor", f"dataset.path={recording}", word)
    assert cli("train", *words, *SHORT) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_games_of_three_are_recorded_and_learned(cli: Cli, tmp_path: Path) -> None:
    game = ("env=matrix_game", "env.payoff=[[[1,0],[0,0]],[[0,0],[0,2]]]", "env.episode_limit=10")
    data = ("dataset.behavior_policy=random", "dataset.episodes=4", "dataset.num_workers=1")
    assert cli("train", *game, *data, *SHORT, "evaluator.target_returns=[mean]") == 0
    told = summary(tmp_path)
    assert (told["env"]["n_agents"], told["env"]["scenario"]) == (3, "2x2x2")
    assert told["data"]["steps"] == 40


@pytest.mark.slow
@needs_alberdice
def test_agents_learn_never_to_be_punished_on_one_good_pair(cli: Cli, tmp_path: Path) -> None:
    """With a single joint action in the data, there is nothing to coordinate."""
    folder = ALBERDICE / "buffer_02"
    words = ("experiment=penalty_xor", f"dataset.path={folder}", "trainer.steps=200")
    assert cli("train", *words, "device=cpu", "threads=1", "hydra.run.dir=run") == 0
    assert summary(tmp_path)["eval"]["50"]["return_mean"] >= 49.5
