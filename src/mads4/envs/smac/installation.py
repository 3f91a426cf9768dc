"""What `env=smac` and `env=smaclite` need on this machine: what is there, and how to mend the rest.

Needs nothing but Python, so that `mads4 doctor` can use it whatever is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mads4.errors import UserError

SIMULATOR = "smac.env:StarCraft2Env"
"""The challenge's own environment."""

INSTALL = 'pip install "protobuf<3.21" "tensorboard<2.21" "git+https://github.com/oxwhirl/smac.git"'
INSTALL_LITE = "pip install git+https://github.com/uoe-agents/smaclite.git"
GAME_PAGE = "https://github.com/Blizzard/s2client-proto#linux-packages"
MAPS_ARCHIVE = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"

_FOLDERS = {
    "darwin": "/Applications/StarCraft II",
    "win32": "C:/Program Files (x86)/StarCraft II",
}


@dataclass(frozen=True)
class Part:
    """One of the things that are needed."""

    name: str
    found: str | None
    """Version or place; None if there is none that can be used."""
    problem: str | None
    """What is wrong and how to mend it."""


def examine(scenario: str | None = None) -> list[Part]:
    """Return package, game and maps of `env=smac`; of the maps one, or all that the package has."""
    return [_package(), _game(), _maps(scenario)]


def require(scenario: str) -> None:
    """Raise one `UserError` with everything that is missing to play `scenario`."""
    problems = [part.problem for part in examine(scenario) if part.problem]
    if problems:
        raise UserError(
            "\n".join(
                [f"env=smac cannot play {scenario} on this machine:"]
                + [f"- {problem}" for problem in problems]
                + ["`mads4 doctor` looks again; env=smax plays StarCraft without the game."]
            )
        )


def game_folder() -> Path:
    """Return where the game is looked for: ``$SC2PATH``, or its usual place on this system."""
    usual = _FOLDERS.get(sys.platform, "~/StarCraftII")
    return Path(os.environ.get("SC2PATH") or usual).expanduser()


def game_build() -> int | None:
    """Return the build of the game that is started unless another is asked for: the newest."""
    try:
        names = os.listdir(game_folder() / "Versions")
    except OSError:
        return None
    builds = [int(match[1]) for name in names if (match := re.fullmatch(r"Base(\d+)", name))]
    return max(builds, default=None)


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution, None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load(simulator: str) -> Callable[..., Any]:
    """Import the simulator's class from ``package.module:class``.

    Raises:
        UserError: it cannot be imported; says why and what to do.
    """
    module, _, name = simulator.partition(":")
    try:
        made: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # protobuf raises TypeError, libraries OSError
        reason = _package().problem if simulator == SIMULATOR else None
        raise UserError(
            reason or f"env.simulator: cannot import '{simulator}': {_said(error)}."
        ) from error
    return made


def lite() -> Part:
    """Return whether SMAClite is there."""
    found = package_version("smaclite")
    if importlib.util.find_spec("smaclite") is None:
        return Part("smaclite", None, f"the package smaclite is missing: {INSTALL_LITE}")
    return Part("smaclite", found or "of unknown version", None)


def _package() -> Part:
    """Return the state of oxwhirl's package, which shares its name with AutoML's."""
    spec = importlib.util.find_spec("smac")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    if not places:
        return Part("package smac", None, f"oxwhirl's package smac is missing: {INSTALL}")
    if not any((place / "env" / "starcraft2").is_dir() for place in places):
        return Part(
            "package smac",
            None,
            "the installed package smac is not the StarCraft challenge; PyPI's smac is AutoML's, "
            f"and both have one name: pip uninstall -y smac && {INSTALL}",
        )
    try:
        importlib.import_module("smac.env")
    except Exception as error:  # protobuf raises TypeError, libraries OSError
        return Part("package smac", None, _import_problem(error))
    return Part("package smac", package_version("smac") or "of unknown version", None)


def _import_problem(error: Exception) -> str:
    protobuf = package_version("protobuf")
    if isinstance(error, TypeError) and "escriptor" in str(error):
        return (
            f"protobuf {protobuf} is too new for the game's protocol (pysc2), which needs one "
            'below 3.21: pip install "protobuf<3.21" "tensorboard<2.21" (or, more slowly: export '
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python)"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"package {error.name}, which smac needs, is missing: {INSTALL}"
    return f"the package smac cannot be imported ({_said(error)}): {INSTALL}"


def _game() -> Part:
    folder, build = game_folder(), game_build()
    if build is not None:
        return Part("StarCraft II", f"build {build} in {folder}", None)
    place = "SC2PATH" if os.environ.get("SC2PATH") else "SC2PATH is not set; the usual place"
    return Part(
        "StarCraft II",
        None,
        f"StarCraft II is not in {folder} ({place}; no Versions/Base<build> in there). Download "
        f"4.10 from {GAME_PAGE}, unzip it with the password that its licence page gives, and "
        "export SC2PATH=<folder>/StarCraftII",
    )


def _maps(scenario: str | None) -> Part:
    folder = game_folder() / "Maps"
    found = {path.stem for path in folder.glob("**/*.SC2Map")}
    if scenario in found or (scenario is None and found):
        return Part("maps", f"{len(found)} in {folder}", None)
    what = f"the map {scenario}" if scenario else "SMAC's maps"
    return Part(
        "maps",
        None,
        f"{what} cannot be found in {folder}: curl -LO {MAPS_ARCHIVE} && "
        f'mkdir -p "{folder}" && unzip SMAC_Maps.zip -d "{folder}"',
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
