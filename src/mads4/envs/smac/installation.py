"""What `env=smac` and `env=smaclite` need on this machine: what is there, and how to mend the rest.

Needs nothing but Python, so that `mads4 doctor` can use it whatever is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mads4.envs.smac import starcraft
from mads4.envs.smac.maps import MAPS
from mads4.errors import UserError, did_you_mean

SIMULATOR = "smac.env:StarCraft2Env"
"""The challenge's own environment."""

INSTALL = 'pip install "protobuf<3.21" "tensorboard<2.21" "git+https://github.com/oxwhirl/smac.git"'
INSTALL_LITE = "pip install git+https://github.com/uoe-agents/smaclite.git"
MAPS_ARCHIVE = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"


@dataclass(frozen=True)
class Part:
    """One of the things that are needed."""

    name: str
    found: str | None
    """Version or place; None if there is none that can be used."""
    problem: str | None
    """What is wrong and how to mend it."""


def examine(scenario: str | None = None, version: str | None = None) -> list[Part]:
    """Return package, game and maps of `env=smac`.

    Args:
        scenario: the map that is needed; None for all of SMAC's.
        version: the version of the game that is asked for, None for the newest build.
    """
    return [_package(), Part("StarCraft II", *starcraft.examine(version)), _maps(scenario)]


def require(scenario: str, version: str | None = None) -> None:
    """Raise one `UserError` with all that is missing to play `scenario` in a `version`."""
    problems = [part.problem for part in examine(scenario, version) if part.problem]
    if problems:
        raise UserError(
            "\n".join(
                [f"env=smac cannot play {scenario} on this machine:"]
                + [f"- {problem}" for problem in problems]
                + ["`mads4 doctor` looks again; env=smax plays StarCraft without the game."]
            )
        )


def unknown_map(scenario: str) -> str | None:
    """Return what is wrong with a map that neither the challenge nor the installed package has."""
    if scenario in MAPS or _registered(scenario):
        return None
    near = did_you_mean(scenario, MAPS)
    return f"env.scenario: SMAC has no map '{scenario}'; it has {', '.join(MAPS)}.{near}"


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
    """Return whether SMAClite is there; it is not imported."""
    found = package_version("smaclite")
    if importlib.util.find_spec("smaclite") is None:
        return Part("smaclite", None, f"the package smaclite is missing: {INSTALL_LITE}")
    return Part("smaclite", found or "of unknown version", None)


def lite_problem(error: Exception) -> str:
    """Return why SMAClite, which is there, cannot be imported, and what to do."""
    return _no_import("smaclite", error, INSTALL_LITE)


def _registered(scenario: str) -> bool:
    """Return whether the installed package knows a map that the challenge did not have."""
    try:
        maps = importlib.import_module("smac.env.starcraft2.maps.smac_maps")
        return scenario in maps.get_smac_map_registry()
    except Exception:  # what is wrong with the package is told by `require`
        return False


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
    return _no_import("smac", error, INSTALL)


def _no_import(package: str, error: Exception, install: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"package {error.name}, which {package} needs, is missing: {install}"
    return f"the package {package} cannot be imported ({_said(error)}): {install}"


def _maps(scenario: str | None) -> Part:
    """Return the state of one map, or of all of SMAC's, which lie in a folder of their own.

    A map that the challenge did not have may lie in any: its package says in which.
    """
    maps = starcraft.folder() / "Maps"
    if scenario is None or scenario in MAPS:
        folder, pattern = maps / "SMAC_Maps", "*.SC2Map"
    else:
        folder, pattern = maps, "**/*.SC2Map"
    found = {path.stem for path in folder.glob(pattern)}
    missing = [name for name in ([*MAPS] if scenario is None else [scenario]) if name not in found]
    if not missing:
        return Part("maps", f"{len(found)} in {folder}", None)
    what = f"the map {scenario}"
    if scenario is None:
        named = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        part = f"{len(missing)} of " if len(missing) < len(MAPS) else ""
        what = f"{part}SMAC's {len(MAPS)} maps{f' ({named})' if part else ''}"
    astray = next(maps.glob(f"**/{missing[0]}.SC2Map"), None)
    return Part(
        "maps",
        None,
        f"{what} cannot be found in {folder}"
        + (f" ({astray} is not where SMAC looks)" if astray else "")
        + f': curl -LO {MAPS_ARCHIVE} && mkdir -p "{maps}" && unzip SMAC_Maps.zip -d "{maps}"',
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
