"""`mads4 probe` on a run: files, tables, the same numbers again, and users' mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Cli = Callable[..., int]
TRAIN = (
    *("train", "env=matrix_game", "env.episode_limit=6", "dataset.behavior_policy=random"),
    *("dataset.episodes=8", "trainer.steps=3", "algorithm.warmup_steps=1", "trainer.batch_size=2"),
    *("model.n_layers=1", "model.d_model=8", "model.d_state=4", "evaluator.target_returns=[3]"),
    *("evaluator.episodes=2", "evaluator.baselines=false", "device=cpu", "threads=1"),
    *("logger=none", "hydra.run.dir=run"),
)
PROBE = ("probe", "checkpoint=run", "episodes=4", "gradient_episodes=2", "message_dropout=[0.5,1]")


def test_a_run_is_probed(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*TRAIN, "model.autoregressive=true") == 0
    assert cli(*PROBE, "hydra.run.dir=one") == 0
    shown = capsys.readouterr().out
    assert "cut before agent 1" in shown
    assert "100% dropped" in shown
    result = json.loads((tmp_path / "one/probe.json").read_text())
    assert result["target_return"] == 3.0, "what the run asks for first"
    assert [one["drop"] for one in result["message_loss"]] == [[0, 0], [0.5, 0.5], [1, 1]]
    assert result["message_loss"][0]["episodes"] == 4
    assert [len(row) for row in result["gradient"]["norm"]] == [2, 2]
    with Image.open(tmp_path / "one/probe.png") as picture:
        assert picture.width > 1000
    assert cli(*PROBE, "num_envs=1", "hydra.run.dir=two") == 0
    assert (tmp_path / "two/probe.json").read_text() == (tmp_path / "one/probe.json").read_text()
    assert cli(*PROBE, "target_return=-1.5", "seed=7") == 0
    (other,) = (tmp_path / "outputs/probe/mads4").iterdir()
    result = json.loads((other / "probe.json").read_text())
    assert (result["target_return"], result["seed"]) == (-1.5, 7)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["checkpoint=nowhere"], "There is no nowhere"),
        (["checkpoint=run", "episodes=0"], "episodes: got 0, expected a whole number >= 1"),
        (["checkpoint=run", "message_dropout=[0,2]"], "message_dropout: got 2"),
        (
            ["checkpoint=run", "target_return=much"],
            "target_return: got 'much', expected a number or",
        ),
        (["checkpoint=run", "evaluator.episodes=3"], "episodes: not a setting of this command"),
    ],
)
def test_users_mistakes(
    words: list[str], told: str, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("probe", *words) == 2
    assert told in capsys.readouterr().err


def test_policies_that_cannot_be_probed(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*TRAIN, "model.message=none") == 0
    capsys.readouterr()
    assert cli(*PROBE, "hydra.run.dir=one") == 2
    assert "hand nothing on (model.message=none, model.auto" in capsys.readouterr().err
    assert not (tmp_path / "one/probe.json").exists()
    assert cli(*PROBE, "env=matrix_game", "env.payoff=[[1,2,3],[4,5,6]]") == 2
    assert "do not fit together" in capsys.readouterr().err
