"""What `env=smac` needs: oxwhirl's package smac, StarCraft II and SMAC's maps."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mads4.envs import requirements
from mads4.envs.smac.maps import MAPS
from mads4.errors import UserError, did_you_mean, first_line
from mads4.provenance import version as package_version

SIMULATOR = "smac.env:StarCraft2Env"
"""SMAC's own environment."""

MAPS_ARCHIVE = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"
GAME_PAGE = "https://github.com/Blizzard/s2client-proto#linux-packages"
_PLACES = {
    "darwin": ("/Applications/StarCraft II", "SC2.app/Contents/MacOS/SC2"),
    "win32": ("C:/Program Files (x86)/StarCraft II", "SC2_x64.exe"),
    "cygwin": ("~/StarCraftII", "SC2_x64.exe"),
}
"""System → the game's default folder, and its executable within a build's folder."""
_LINUX = ("~/StarCraftII", "SC2_x64")


class Part(NamedTuple):
    """A requirement: its version or location if it is usable, else what is wrong and the fix."""

    name: str
    found: str | None
    problem: str | None


def examine(scenario: str | None = None, version: str | None = None) -> list[Part]:
    """Return the states of the package, the game (in a `version`) and the maps, in this order.

    By default of the newest build and all of SMAC's maps, else of one version and one map.
    """
    checks: dict[str, Callable[[], str]] = {
        "package smac": _package,
        "StarCraft II": lambda: _game(version),
        "maps": lambda: _maps(scenario),
    }
    parts = []
    for name, check in checks.items():
        try:
            parts.append(Part(name, check(), None))
        except UserError as error:
            parts.append(Part(name, None, str(error)))
    return parts


def problems(scenario: str, version: str | None = None) -> list[str]:
    """Return one line for each requirement that playing `scenario` in a `version` lacks."""
    return [part.problem for part in examine(scenario, version) if part.problem]


def require(scenario: str, version: str | None = None) -> None:
    """Raise one `UserError` listing everything that playing `scenario` in a `version` lacks."""
    if unknown := unknown_map(scenario):
        raise UserError(unknown)
    if lines := [f"- {problem}" for problem in problems(scenario, version)]:
        head = f"env=smac cannot play {scenario} on this machine:"
        tail = "`mads4 doctor` checks again; env=smax plays StarCraft without the game."
        raise UserError("\n".join([head, *lines, tail]))


def unknown_map(scenario: str) -> str | None:
    """Return the error message for a map that neither SMAC nor the installed package has."""
    if scenario in MAPS:
        return None
    with contextlib.suppress(Exception):  # `_package` reports what is wrong with the package
        maps = importlib.import_module("smac.env.starcraft2.maps.smac_maps")
        if scenario in maps.get_smac_map_registry():
            return None
    near = did_you_mean(scenario, MAPS)
    return f"env.scenario: SMAC has no map '{scenario}'; it has {', '.join(MAPS)}.{near}"


def load(simulator: str) -> Callable[..., Any]:
    """Import the simulator's class from ``package.module:class``.

    Raises:
        UserError: it cannot be imported; the message has the reason and the fix.
    """
    module, _, name = simulator.partition(":")
    try:
        made: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # protobuf raises TypeError, libraries OSError
        if simulator == SIMULATOR:
            _package()
        raise UserError(
            f"env.simulator: cannot import '{simulator}': {first_line(error)}."
        ) from error
    return made


def game_folder() -> Path:
    """Return the game's folder: ``$SC2PATH``, or the default location on this system."""
    return Path(os.environ.get("SC2PATH") or _PLACES.get(sys.platform, _LINUX)[0]).expanduser()


def game_program(build: int) -> Path:
    """Return the path at which pysc2 expects the executable of a build."""
    program = _PLACES.get(sys.platform, _LINUX)[1]
    return game_folder() / "Versions" / f"Base{build:05d}" / program


def build_of(version: str | None = None) -> int | None:
    """Return the build of a version of the game, for example 75689 for 4.10; None if unknown.

    Without a version it is the newest installed build. Others are looked up in pysc2.
    """
    if not version:
        return max(_builds(), default=None)
    return _known_versions().get(f"{version}.0" if version.count(".") == 1 else version)


def _package() -> str:
    """Return the version of oxwhirl's package, which shares its name with AutoML's on PyPI."""
    spec, install = importlib.util.find_spec("smac"), requirements.PACKAGES["smac"].install
    places = (spec.submodule_search_locations or []) if spec else []
    if not places:
        raise UserError(f"oxwhirl's package smac is missing: {install}")
    if not any(Path(place, "env", "starcraft2").is_dir() for place in places):
        raise UserError(
            "the installed package smac is not oxwhirl's (PyPI's smac is AutoML's): "
            f"pip uninstall -y smac && {install}"
        )
    try:
        importlib.import_module("smac.env")
    except Exception as error:  # protobuf raises TypeError, libraries OSError
        problem = requirements.import_problem("smac", error)
        if isinstance(error, TypeError) and "escriptor" in str(error):
            problem = (
                f"protobuf {package_version('protobuf')} is too new for the game's protocol "
                '(pysc2), which needs one below 3.21: pip install "protobuf<3.21" '
                '"tensorboard<2.21" (or, more slowly: '
                "export PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python)"
            )
        raise UserError(problem) from error
    return package_version("smac") or "of unknown version"


def _game(version: str | None) -> str:
    """Return which builds of a version can be started, and where they are."""
    builds, place = _builds(), game_folder()
    if not builds:
        origin = "SC2PATH" if os.environ.get("SC2PATH") else "the default; SC2PATH is not set"
        raise UserError(
            f"StarCraft II is not in {place} ({origin}; it has no Versions/Base<build>). Download "
            f"4.10 from {GAME_PAGE}, unzip it with the password given on its license page, and "
            "export SC2PATH=<folder>/StarCraftII"
        )
    if version in (None, "latest"):
        builds = builds[-1:]
    elif known := _known_versions():  # without pysc2, any build may be the requested version
        build = build_of(version)
        if build not in builds:
            ways = ["null for the newest", *(key for key in known if known[key] in builds)]
            ways += [f"download that build from {GAME_PAGE}"] if build else []
            raise UserError(
                f"env.options.game_version: {version} is "
                f"{f'build {build}' if build else 'unknown to pysc2'}; {place / 'Versions'} holds "
                f"{', '.join(f'Base{number}' for number in builds)}. Take {', or '.join(ways)}"
            )
        builds = [build]
    against = [_not_startable(build) for build in builds]
    if all(against):
        raise UserError(against[0])
    return f"build {', '.join(map(str, builds))} in {place}"


def _builds() -> list[int]:
    """Return the installed builds, the newest last."""
    numbers = [path.name[4:] for path in (game_folder() / "Versions").glob("Base*")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def _known_versions() -> Mapping[str, int]:
    """Return pysc2's table of versions and builds; empty if pysc2 cannot be imported."""
    try:
        versions = importlib.import_module("pysc2.run_configs.lib").VERSIONS
        return {name: int(version.build_version) for name, version in versions.items()}
    except Exception:  # `_package` reports what is wrong with the packages
        return {}


def _not_startable(build: int) -> str | None:
    """Return why a build cannot be started, None if it can."""
    program = game_program(build)
    if not program.is_file():
        return (
            f"StarCraft II's build {build} has no program: there is no {program}. Download the "
            f"game again from {GAME_PAGE} and unzip all of it, or remove the build's folder"
        )
    if not os.access(program, os.X_OK):
        return f'StarCraft II may not be started: chmod +x "{program}"'
    return None


def _maps(scenario: str | None) -> str:
    """Return where one map is, or SMAC's 23, which have a folder of their own.

    Other maps may be in any folder: the package that registers a map also gives its folder.
    """
    if scenario is not None and (unknown := unknown_map(scenario)):
        raise UserError(unknown)
    # without the game all maps are missing, and are installed together
    required = list(MAPS) if scenario is None or not _builds() else [scenario]
    maps = game_folder() / "Maps"
    own = required[0] in MAPS
    folder, pattern = (maps / "SMAC_Maps", "*.SC2Map") if own else (maps, "**/*.SC2Map")
    found = {path.stem for path in folder.glob(pattern)}
    missing = [name for name in required if name not in found]
    if not missing:
        return f"{len(found)} in {folder}"
    what = f"the map {missing[0]}"
    if len(required) > 1:
        named = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        some = len(missing) < len(MAPS)
        what = f"{len(missing)} of SMAC's 23 maps ({named})" if some else "SMAC's 23 maps"
    astray = next(maps.glob(f"**/{missing[0]}.SC2Map"), None)
    hint = f" ({astray} is not where SMAC looks)" if astray else ""
    command = f'curl -LO {MAPS_ARCHIVE} && mkdir -p "{maps}" && unzip SMAC_Maps.zip -d "{maps}"'
    raise UserError(f"{what} cannot be found in {folder}{hint}: {command}")
