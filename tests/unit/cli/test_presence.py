"""What a run in StarCraft II lacks is told before anything is created, for all jobs at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from game_folder import install_game
from mads4.data import registry
from mads4.envs.smac import installation

Cli = Callable[..., int]
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))


def lines(capsys: Output) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_one_run_is_told_of_package_game_map_and_data(
    cli: Cli, capsys: Output, tmp_path: Path
) -> None:
    assert cli("train", "experiment=smac_2c_vs_64zg_poor") == 2
    head, *found = lines(capsys)
    assert head.startswith("error: the command cannot run on this machine, and nothing was started")
    assert len(found) == 4
    for word, line in zip(
        ("smac is missing", "StarCraft II is not", "SMAC's 23 maps", "madt/2c_vs_64zg-poor"),
        found,
        strict=True,
    ):
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_told_of_each_thing_once(cli: Cli, capsys: Output, tmp_path: Path) -> None:
    install_game()
    maps, qualities = "env.scenario=2c_vs_64zg,corridor", "dataset.quality=good,poor"
    assert cli("train", "-m", "experiment=smac_2c_vs_64zg_poor", maps, qualities) == 2
    head, *found = lines(capsys)
    assert "some of the 4 jobs" in head
    assert len(found) == 1 + 2 + 4, "package, two maps, four data sets"
    assert all("the data set madt/" in line for line in found[-4:])
    assert list(tmp_path.iterdir()) == [tmp_path / "nowhere"]


def test_a_version_that_cannot_be_is_told_before_the_training(
    cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_game(maps=["2c_vs_64zg"])
    monkeypatch.setattr(installation, "_known_versions", lambda: {"4.10.0": 75689})
    version = "env.options.game_version=4.9.2"
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", version) == 2
    _, *found = lines(capsys)
    assert [line for line in found if "env.options.game_version: 4.9.2 is unknown" in line]
    assert not [line for line in found if "map" in line]


def test_a_quality_that_was_never_recorded_is_named(cli: Cli, capsys: Output) -> None:
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", "dataset.quality=awful") == 2
    assert "dataset.quality: got 'awful'" in lines(capsys)[-1]


def test_what_is_there_is_not_asked_for(cli: Cli, capsys: Output) -> None:
    place = registry.find("madt/2c_vs_64zg-poor").place
    place.mkdir(parents=True)
    (place / "000.pt").touch()
    simulator = "env.simulator=smac_stand_in:StarCraft2Env"
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", simulator) == 2
    assert "000.pt" in "".join(lines(capsys)), "it went on to read the data"


def test_looking_at_a_configuration_needs_neither(cli: Cli, capsys: Output) -> None:
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", "--cfg", "job") == 0
    assert "2c_vs_64zg" in capsys.readouterr().out
