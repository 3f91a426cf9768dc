"""What the game lacks is listed in one message, with the commands that install it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from game_folder import OXWHIRL, WITH_ARENA, forget_package, install_game, install_package
from mads4.envs.smac import installation
from mads4.envs.smac.env import SmacEnv
from mads4.envs.smac.maps import MAPS
from mads4.errors import UserError

Package = Callable[..., None]


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "StarCraftII"))
    loaded = set(sys.modules)
    yield
    forget_package(loaded)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Install a package called smac with the given files."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return partial(install_package, tmp_path / "site")


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install two builds of the game for Linux, and one map."""
    monkeypatch.setattr(installation.sys, "platform", "linux")
    folder = install_game(builds=(69232, 75689), maps=["3m"])
    (folder / "Versions" / "Shared").mkdir()
    return folder


@pytest.fixture
def pysc2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that knows four versions of the game, two of one build."""
    builds = {"4.6.2": 69232, "4.8.0": 71061, "4.10.0": 75689, "4.10.9": 75689}
    versions = {name: SimpleNamespace(build_version=build) for name, build in builds.items()}
    for name in ("pysc2", "pysc2.run_configs", "pysc2.run_configs.lib"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["pysc2.run_configs.lib"], "VERSIONS", versions, raising=False)


def message(scenario: str = "3m") -> str:
    with pytest.raises(UserError) as error:
        SmacEnv(scenario)
    return str(error.value)


def test_everything_missing_is_listed_at_once(tmp_path: Path) -> None:
    text = message()
    assert "oxwhirl's package smac is missing: " in text
    assert "git+https://github.com/oxwhirl/smac.git" in text
    assert f"StarCraft II is not in {tmp_path / 'StarCraftII'}" in text
    assert "SMAC_Maps.zip" in text
    assert len(text.splitlines()) == 5
    assert "pip install smac" not in text


def test_automls_package_is_recognized(package: Package) -> None:
    package({"facade/__init__.py": ""})
    text = message()
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
def test_import_errors_are_reported(line: str, words: list[str], package: Package) -> None:
    package({**OXWHIRL, "env/__init__.py": line})
    text = message()
    for word in words:
        assert word in text


def test_what_is_installed_is_no_problem(package: Package, game: Path) -> None:
    package(OXWHIRL)
    installation.require("3m")
    assert installation.build_of() == 75689
    parts = {part.name: part.found for part in installation.examine("3m")}
    assert parts["StarCraft II"] == f"build 75689 in {game}"
    assert parts["maps"] == f"1 in {game / 'Maps' / 'SMAC_Maps'}"
    text = message("2c_vs_64zg")
    assert "the map 2c_vs_64zg cannot be found" in text
    assert "StarCraft II is not" not in text
    assert "pip install" not in text


def test_a_build_without_its_program_is_no_game(package: Package, game: Path) -> None:
    package(OXWHIRL)
    program = game / "Versions" / "Base75689" / "SC2_x64"
    program.chmod(0o644)
    assert f'may not be started: chmod +x "{program}"' in message()
    program.unlink()
    assert f"StarCraft II's build 75689 has no program: there is no {program}" in message()
    program.mkdir()
    assert "has no program" in message()
    assert len(message().splitlines()) == 3


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("linux", "SC2_x64"),
        ("darwin", "SC2.app/Contents/MacOS/SC2"),
        ("win32", "SC2_x64.exe"),
        ("cygwin", "SC2_x64.exe"),
    ],
)
def test_the_executable_depends_on_the_system(
    platform: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.sys, "platform", platform)
    assert installation.game_program(75689) == tmp_path / "StarCraftII/Versions/Base75689" / name


@pytest.mark.usefixtures("pysc2")
@pytest.mark.parametrize("version", [None, "latest", "4.10", "4.10.0", "4.10.9", "4.6.2"])
def test_versions_that_are_installed(version: str | None, package: Package, game: Path) -> None:
    package(OXWHIRL)
    installation.require("3m", version)
    build = 69232 if version == "4.6.2" else 75689
    assert installation.examine("3m", version)[1].found == f"build {build} in {game}"


@pytest.mark.usefixtures("pysc2")
@pytest.mark.parametrize(
    ("version", "reason"), [("4.8", "4.8 is build 71061"), ("9.9", "9.9 is unknown to pysc2")]
)
def test_a_version_that_is_not_installed_is_reported_up_front(
    version: str, reason: str, package: Package, game: Path
) -> None:
    package(OXWHIRL)
    with pytest.raises(UserError) as error:
        SmacEnv("3m", options={"game_version": version})
    places = f"{game / 'Versions'} holds Base69232, Base75689"
    assert f"env.options.game_version: {reason}; {places}" in str(error.value)
    assert "Take null for the newest, or 4.6.2, or 4.10.0, or 4.10.9" in str(error.value)
    assert ("or download that build" in str(error.value)) is (version == "4.8")


@pytest.mark.usefixtures("pysc2")
def test_the_program_of_the_version_counts(package: Package, game: Path) -> None:
    package(OXWHIRL)
    (game / "Versions" / "Base69232" / "SC2_x64").unlink()
    installation.require("3m", "4.10")
    with pytest.raises(UserError, match="StarCraft II's build 69232 has no program"):
        installation.require("3m", "4.6.2")


def test_without_pysc2_any_build_may_be_the_version(
    game: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pysc2", None)
    assert installation.examine("3m", "9.9")[1].found == f"build 69232, 75689 in {game}"
    for build in (69232, 75689):
        (game / "Versions" / f"Base{build}" / "SC2_x64").unlink()
    assert "has no program" in str(installation.examine("3m", "9.9")[1].problem)


def test_a_map_must_be_where_smac_looks_for_it(package: Package, game: Path) -> None:
    package(OXWHIRL)
    place = game / "Maps" / "SMAC_Maps" / "3m.SC2Map"
    astray = place.rename(game / "Maps" / place.name)
    text = message()
    assert f"the map 3m cannot be found in {place.parent} ({astray} is not where SMAC" in text
    assert f'unzip SMAC_Maps.zip -d "{game / "Maps"}"' in text


def test_missing_maps_are_counted(game: Path) -> None:
    def maps() -> installation.Part:
        return installation.examine()[2]

    names = list(MAPS)
    assert maps().found is None
    assert "22 of SMAC's 23 maps (8m, 25m, 5m_vs_6m and others) cannot" in str(maps().problem)
    install_game(maps=names[:-2])
    assert f"2 of SMAC's 23 maps ({names[-2]}, {names[-1]}) cannot" in str(maps().problem)
    install_game(maps=names)
    assert maps().found == f"23 in {game / 'Maps' / 'SMAC_Maps'}"
    shutil.rmtree(game / "Maps" / "SMAC_Maps")
    melee = game / "Maps" / "Melee" / "Simple64.SC2Map"
    melee.parent.mkdir()
    melee.touch()
    assert str(maps().problem).startswith("SMAC's 23 maps cannot be found in ")


def test_an_unknown_map_is_reported(package: Package) -> None:
    package(OXWHIRL)
    assert "has no map '2c_vs_64z'" in message("2c_vs_64z")
    assert "Did you mean '2c_vs_64zg'" in message("2c_vs_64z")


def test_maps_registered_by_the_package_are_accepted(package: Package, game: Path) -> None:
    package(WITH_ARENA)
    assert "the map arena cannot be found" in message("arena")
    (game / "Maps" / "Mine").mkdir()
    (game / "Maps" / "Mine" / "arena.SC2Map").touch()
    installation.require("arena")


def test_the_default_folder_depends_on_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SC2PATH")
    monkeypatch.setattr(installation.sys, "platform", "linux")
    assert installation.game_folder() == Path.home() / "StarCraftII"
    monkeypatch.setattr(installation.sys, "platform", "darwin")
    assert installation.game_folder() == Path("/Applications/StarCraft II")
