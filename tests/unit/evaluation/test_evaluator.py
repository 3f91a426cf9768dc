"""Evaluations are the same wherever their environments live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fakes import make_policy
from mads4.config import EvaluatorConfig
from mads4.envs.registry import EnvFactory
from mads4.envs.vector import Supervision
from mads4.errors import UserError
from mads4.evaluation.evaluator import VIDEO, Evaluator

FACTORY = EnvFactory("custom", {"factory": "fake_env:MatchingEnv", "options": {}})


def evaluated(folder: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    config = EvaluatorConfig(episodes=6, num_envs=4, video=True, **settings)
    evaluator = Evaluator(FACTORY, config, torch.device("cpu"), progress=False)
    found = evaluator.policy(make_policy(), {"high": 20.0, "low": 2.0}, {}, folder)
    results = {name: figures.model_dump() for name, figures in found.items()}
    for figures in results.values():
        assert figures.pop("environment_steps_per_second") > 0
    return results


def test_processes_change_neither_figures_nor_film(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    alone = evaluated(here, num_workers=0)
    assert alone["high"]["episodes"] == 6
    assert alone["high"] != alone["low"]
    assert evaluated(there, num_workers=2) == alone
    assert (here / VIDEO).read_bytes() == (there / VIDEO).read_bytes()
    with Image.open(here / VIDEO) as film:
        assert film.n_frames > 3


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_lost_messages_are_the_evaluators_choice(drop: float, tmp_path: Path) -> None:
    same = evaluated(tmp_path, num_workers=0, message_dropout=drop) == evaluated(
        tmp_path, num_workers=0
    )
    assert same == (drop == 0.0)


def test_supervised_games_are_not_filmed_unless_supervision_is_given_up() -> None:
    maker = EnvFactory("smac", {}, Supervision())
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match=r"evaluator.video: true does not go with env=smac: .*=0$"):
        Evaluator(maker, EvaluatorConfig(video=True), cpu, progress=False)
    Evaluator(maker, EvaluatorConfig(video=True, num_workers=0), cpu, progress=False)
    Evaluator(maker, EvaluatorConfig(), cpu, progress=False)
