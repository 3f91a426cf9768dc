"""What a run lacks is reported for all jobs at once, before anything is created."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from game_folder import WITH_ARENA, forget_package, install_game, install_package
from mads4.data import registry
from mads4.envs.smac import installation

Cli = Callable[..., int]
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))


@pytest.fixture
def _package_and_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package smac that registers a map of its own, and a game with one map."""
    loaded = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    install_package(tmp_path / "site", WITH_ARENA)
    install_game(maps=["3m"])
    yield
    forget_package(loaded)


def lines(capsys: Output) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_one_run_lists_package_game_maps_and_data(cli: Cli, capsys: Output, tmp_path: Path) -> None:
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


def test_a_sweep_lists_each_problem_once(cli: Cli, capsys: Output, tmp_path: Path) -> None:
    install_game()
    maps, qualities = "env.scenario=2c_vs_64zg,corridor", "dataset.quality=good,poor"
    assert cli("train", "-m", "experiment=smac_2c_vs_64zg_poor", maps, qualities) == 2
    head, *found = lines(capsys)
    assert "some of the 4 jobs" in head
    assert len(found) == 1 + 2 + 4, "package, two maps, four data sets"
    assert all("the data set madt/" in line for line in found[-4:])
    assert list(tmp_path.iterdir()) == [tmp_path / "nowhere"]


def test_an_unknown_version_is_reported_before_training(
    cli: Cli, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_game(maps=["2c_vs_64zg"])
    monkeypatch.setattr(installation, "_known_versions", lambda: {"4.10.0": 75689})
    version = "env.options.game_version=4.9.2"
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", version) == 2
    _, *found = lines(capsys)
    assert [line for line in found if "env.options.game_version: 4.9.2 is unknown" in line]
    assert not [line for line in found if "map" in line]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "There is no start.pt"), (b"text", "not a MADS4 checkpoint")]
)
def test_a_checkpoint_to_start_from_is_read_before_anything_is_recorded(
    content: bytes | None, reason: str, cli: Cli, capsys: Output, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "start.pt").write_bytes(content)
    before = list(tmp_path.iterdir())
    assert cli("train", "-m", "experiment=smoke", "seed=0,1", "init_from=start.pt") == 2
    (found,) = lines(capsys)[1:]
    assert "init_from: " in found and reason in found
    assert list(tmp_path.iterdir()) == before


def test_an_unknown_quality_is_reported(cli: Cli, capsys: Output) -> None:
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", "dataset.quality=awful") == 2
    assert "dataset.quality: got 'awful'" in lines(capsys)[-1]


@pytest.mark.usefixtures("_package_and_game")
def test_an_unknown_map_is_one_problem_not_two(cli: Cli, capsys: Output) -> None:
    words = ("collect", "env=smac", "dataset.behavior_policy=random")
    for start in (words, ("train", "experiment=smac_2c_vs_64zg_poor")):
        assert cli(*start, "env.scenario=2c_vs_64z") == 2
        (_, line) = lines(capsys)
        assert "SMAC has no map '2c_vs_64z'; it has 3m, 8m, " in line
        assert "Did you mean '2c_vs_64zg'?" in line
    for scenario in ("2c_vs_64zg", "arena"):
        assert cli(*words, f"env.scenario={scenario}") == 2
        (_, line) = lines(capsys)
        assert f"the map {scenario} cannot be found in" in line


@pytest.mark.parametrize(("env", "package"), [("smax", "jaxmarl"), ("smaclite", "smaclite")])
def test_a_missing_simulator_leaves_nothing_behind(
    env: str,
    package: str,
    cli: Cli,
    capsys: Output,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli("train", "-m", f"env={env}", "dataset.behavior_policy=random", "seed=0,1") == 2
    head, line = lines(capsys)
    assert "some of the 2 jobs cannot run" in head
    assert f"env={env}" in line
    assert "missing: pip install " in line
    assert list(tmp_path.iterdir()) == []


def test_what_is_present_is_no_problem(cli: Cli, capsys: Output) -> None:
    place = registry.find("madt/2c_vs_64zg-poor").place
    place.mkdir(parents=True)
    (place / "000.pt").touch()
    simulator = "env.simulator=smac_stand_in:StarCraft2Env"
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", simulator) == 2
    assert "000.pt" in "".join(lines(capsys)), "it went on to read the data"


def test_showing_the_configuration_needs_no_game(cli: Cli, capsys: Output) -> None:
    assert cli("train", "experiment=smac_2c_vs_64zg_poor", "--cfg", "job") == 0
    assert "2c_vs_64zg" in capsys.readouterr().out
