"""StarCraft's whole path: files in MADT's layout → conversion → training → evaluation in the game.

The game is a stand-in with the interface of SMAC's environment; sizes are those of the real data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mads4.data.collect import STREAM
from mads4.data.formats.madt import write_madt
from mads4.envs.registry import EnvFactory
from mads4.envs.seeding import environment_seed
from mads4.evaluation.metrics import RandomPolicy
from mads4.rollout import rollout
from mads4.rollout.vector import make_vector

Cli = Callable[..., int]
SCENARIO, STAND_IN = "2c_vs_64zg", "smac_stand_in:StarCraft2Env"
EVEN = {"enemy_damage": 11.0, "splash": 16}
"""Options of the stand-in: battles that last for some steps, of which some are won."""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six battles of random agents in MADT's layout, seen as MAPPO's wrapper shows them."""
    arguments = {
        "scenario": SCENARIO,
        "simulator": STAND_IN,
        "observation": "mappo",
        "options": EVEN,
    }
    folder = tmp_path_factory.mktemp("madt") / SCENARIO / "poor"
    with closing(make_vector(EnvFactory("smac", arguments), 3, workers=0)) as envs:
        assert (envs.spec.n_agents, envs.spec.n_actions) == (2, 70)
        assert (envs.spec.obs_dim, envs.spec.state_dim) == (478, 675)
        played = list(rollout(RandomPolicy(), envs, 6, seed=1, target_return=0.0, record=True))
    assert len([game for game in played if game.episode]) == 6
    return write_madt(folder, envs.spec, (game.episode for game in played if game.episode))


@pytest.fixture
def game(tmp_path: Path) -> tuple[str, ...]:
    """The words of an environment whose games leave their numbers in the test's folder."""
    return (
        *("env=smac", f"env.scenario={SCENARIO}", f"env.simulator={STAND_IN}"),
        *("env.relaunch_every=1", "env.supervision.processes=2", "env.supervision.pause=0.01"),
        f"env.extra_options.folder={tmp_path}",
        *(f"env.extra_options.{name}={value}" for name, value in EVEN.items()),
    )


TRAINING = (
    *("trainer.steps=4", "trainer.batch_size=2", "algorithm.warmup_steps=1"),
    *("trainer.validation_interval=2", "trainer.checkpoint_interval=2", "trainer.log_interval=1"),
    *("model.n_layers=1", "model.d_model=16", "model.d_state=8", "model.message_dim=4"),
    *("dataset.validation_fraction=0.34", "device=cpu", "threads=1"),
    *("evaluator.episodes=6", "evaluator.baseline_episodes=6", "evaluator.target_returns=[max]"),
)


def results(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return values


def random_battles(episodes: int) -> tuple[int, list[int]]:
    """Play the random baseline's battles in this process; return how many are won, and lengths."""
    arguments = {
        "scenario": SCENARIO,
        "simulator": STAND_IN,
        "observation": "mappo",
        "relaunch_every": 1,
        "options": EVEN,
    }
    with closing(make_vector(EnvFactory("smac", arguments), 1, workers=0)) as envs:
        played = list(rollout(RandomPolicy(), envs, episodes, seed=1000, target_return=0.0))
    return sum(game.metrics["win"] == 1.0 for game in played), [game.length for game in played]


def test_from_recorded_files_to_a_win_rate(
    cli: Cli, recording: Path, game: tuple[str, ...], tmp_path: Path
) -> None:
    data = ("dataset=madt", "env.observation=mappo", f"dataset.path={recording}")
    assert cli("train", *game, *data, *TRAINING, "hydra.run.dir=run") == 0
    summary = results(tmp_path / "run")
    found = summary["eval"]["max"]
    assert found["episodes"] == 6
    assert 0.0 < found["win_rate"] < 1.0
    assert found["length_mean"] > 5.0
    assert found["processes_lost"] == found["episodes_broken"] == found["planned_restarts"] == 0
    random = summary["baselines"]["random"]
    won, lengths = random_battles(6)
    assert 0 < won < 6
    assert random["win_rate"] == pytest.approx(won / 6)
    assert random["length_mean"] == pytest.approx(sum(lengths) / 6)
    assert summary["env"]["state_encoding"] == "mappo"
    assert summary["simulator"].startswith("smac_stand_in unknown, StarCraft II build")
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["simulator"] == summary["simulator"]
    assert "eval/win_rate.max" in (tmp_path / "run" / "metrics.jsonl").read_text()

    # A fault on the way changes no figure but the count of faults.
    fault = "env.extra_options.faults=[{how: protocol, at: 3}, {how: die, at: 5}]"
    words = (*TRAINING[-3:], "device=cpu", "threads=1", "evaluator.baselines=false")
    again = ("evaluate", "checkpoint=run", *game, "env.observation=mappo", fault, *words)
    assert cli(*again, "hydra.run.dir=again") == 0
    repeated = results(tmp_path / "again")["eval"]["max"]
    assert (repeated["episodes_broken"], repeated["processes_lost"]) == (1, 1)
    for name in ("return_mean", "return_std", "win_rate", "length_mean"):
        assert repeated[name] == found[name]


def test_a_checkpoint_remembers_how_its_games_are_looked_after_and_what_they_show(
    cli: Cli,
    recording: Path,
    game: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ("dataset=madt", "env.observation=mappo", f"dataset.path={recording}")
    assert cli("train", *game, *data, *TRAINING, "hydra.run.dir=run") == 0
    few = ("evaluator.episodes=1", "evaluator.baselines=false")
    again = ("evaluate", "checkpoint=run", "device=cpu", *few)
    assert cli(*again) == 2
    assert f"give env_factory={STAND_IN}" in capsys.readouterr().err
    assert cli(*again, f"env_factory={STAND_IN}", "hydra.run.dir=again") == 0
    (found,) = [value for name, value in results(tmp_path / "again")["eval"].items()][:1]
    assert found["processes_lost"] == 0
    capsys.readouterr()
    other = ("evaluate", "checkpoint=run", *game, "env.observation=smac", "device=cpu")
    assert cli(*other, "hydra.run.dir=other") == 2
    text = capsys.readouterr().err
    assert "obs_dim: 478 against 332" in text
    assert "The policy's observations have 478 numbers and states 675 (MAPPO's StarCraft" in text
    assert "the builder of the policy's observations (env.observation=mappo)" in text


def test_a_converted_file_is_as_good(
    cli: Cli, recording: Path, game: tuple[str, ...], tmp_path: Path
) -> None:
    assert cli("data", "convert", str(recording), "data.h5", "--from", "madt") == 0
    data = ("dataset=file", "dataset.path=data.h5", "env.observation=mappo")
    assert cli("train", *game, *data, *TRAINING, "hydra.run.dir=run") == 0
    assert results(tmp_path / "run")["data"]["episodes"] == 6


def test_data_of_the_other_builder_are_refused_and_both_are_named(
    cli: Cli, recording: Path, game: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("dataset=madt", f"dataset.path={recording}", *TRAINING)
    assert cli("train", *game, *words, "env.observation=smac", "hydra.run.dir=run") == 2
    text = capsys.readouterr().err
    assert "The data's observations have 478 numbers and states 675 (MAPPO's StarCraft" in text
    assert "the environment's observations have 332 numbers and states 342 (SMAC itself" in text
    assert "the data's observations (env.observation=mappo)" in text


def test_random_battles_are_recorded_under_supervision(
    cli: Cli, game: tuple[str, ...], tmp_path: Path
) -> None:
    """One fault in each episode: an episode that met three of them would be given up."""
    seeds = [environment_seed(STREAM, index) for index in range(3)]
    placed = zip(("hang, at: 2", "die, at: 3", "crash, at: 4"), seeds, strict=True)
    faults = ", ".join(f"{{how: {what}, seed: {seed}}}" for what, seed in placed)
    faults = f"env.extra_options.faults=[{faults}]"
    data = ("dataset.behavior_policy=random", "dataset.episodes=3", "dataset.path=data.h5")
    assert (
        cli("collect", *game, faults, "env.supervision.step_timeout=4", *data, "hydra.run.dir=run")
        == 0
    )
    summary = results(tmp_path / "run")
    assert summary["data"]["episodes"] == 3
    assert (summary["processes_lost"], summary["episodes_broken"]) == (2, 1)
    assert summary["planned_restarts"] == 0


def test_games_are_not_filmed_out_of_supervision(
    cli: Cli,
    game: tuple[str, ...],
    recording: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ("dataset=madt", "env.observation=mappo", f"dataset.path={recording}")
    film = ("evaluator.video=true", "hydra.run.dir=run")
    assert cli("train", *game, *data, *TRAINING, *film) == 2
    assert "evaluator.video: true does not go with env=smac" in capsys.readouterr().err
    assert not (tmp_path / "games").exists()
