"""What is missing for the game is told in one message, with the commands that mend it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mads4.envs.smac import installation
from mads4.envs.smac.env import SmacEnv
from mads4.errors import UserError

Package = Callable[..., None]
OXWHIRL = {"env/__init__.py": "class StarCraft2Env: ...", "env/starcraft2/__init__.py": ""}


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "StarCraftII"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "smac":
            del sys.modules[name]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Install a package called smac with the given files."""

    def install(files: dict[str, str]) -> None:
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / "site" / "smac" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        importlib.invalidate_caches()

    return install


@pytest.fixture
def game(tmp_path: Path) -> Path:
    """Install two builds of the game and one map."""
    folder = tmp_path / "StarCraftII"
    for build in ("Base69232", "Base75689", "Shared"):
        (folder / "Versions" / build).mkdir(parents=True)
    (folder / "Maps" / "SMAC_Maps").mkdir(parents=True)
    (folder / "Maps" / "SMAC_Maps" / "3m.SC2Map").touch()
    return folder


def complaint(scenario: str = "3m") -> str:
    with pytest.raises(UserError) as error:
        SmacEnv(scenario)
    return str(error.value)


def test_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    text = complaint()
    assert "oxwhirl's package smac is missing: " in text
    assert "git+https://github.com/oxwhirl/smac.git" in text
    assert f"StarCraft II is not in {tmp_path / 'StarCraftII'}" in text
    assert "SMAC_Maps.zip" in text
    assert len(text.splitlines()) == 5
    assert "pip install smac" not in text


def test_automls_package_of_that_name_is_recognised(package: Package) -> None:
    package({"facade/__init__.py": ""})
    text = complaint()
    assert "PyPI's smac is AutoML's" in text
    assert "pip uninstall -y smac && pip install " in text
    assert "git+https://github.com/oxwhirl/smac.git" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "raise TypeError('Descriptors cannot be created directly.')",
            ["is too new", 'pip install "protobuf<3.21" "tensorboard<2.21"'],
        ),
        ("import pysc2_of_which_there_is_none", ["pysc2_of_which_there_is_none", "pip install"]),
        ("raise OSError('libGL.so')", ["cannot be imported (OSError: libGL.so)"]),
    ],
)
def test_what_stops_the_import_is_told(line: str, words: list[str], package: Package) -> None:
    package({**OXWHIRL, "env/__init__.py": line})
    text = complaint()
    for word in words:
        assert word in text


def test_what_is_there_is_not_complained_about(package: Package, game: Path) -> None:
    package(OXWHIRL)
    installation.require("3m")
    assert installation.game_build() == 75689
    parts = {part.name: part.found for part in installation.examine()}
    assert parts["StarCraft II"] == f"build 75689 in {game}"
    assert parts["maps"] == f"1 in {game / 'Maps'}"
    text = complaint("2c_vs_64zg")
    assert "the map 2c_vs_64zg cannot be found" in text
    assert "StarCraft II is not" not in text
    assert "pip install" not in text


def test_a_map_that_smac_never_had_is_named(package: Package) -> None:
    package(OXWHIRL)
    assert "has no map '2c_vs_64z'" in complaint("2c_vs_64z")
    assert "Did you mean '2c_vs_64zg'" in complaint("2c_vs_64z")


def test_a_map_of_the_users_own_package_is_played(package: Package) -> None:
    registry = "def get_smac_map_registry():\n    return {'arena': {}}\n"
    package(
        {
            **OXWHIRL,
            "env/starcraft2/maps/__init__.py": "",
            "env/starcraft2/maps/smac_maps.py": registry,
        }
    )
    assert "the map arena cannot be found" in complaint("arena")


def test_the_game_is_looked_for_where_it_usually_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setattr(installation.sys, "platform", "linux")
    assert installation.game_folder() == Path.home() / "StarCraftII"
    monkeypatch.setattr(installation.sys, "platform", "darwin")
    assert installation.game_folder() == Path("/Applications/StarCraft II")
