"""Installations of StarCraft II and of a package smac, with hardly anything in their files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from mads4.envs.smac import installation

OXWHIRL = {"env/__init__.py": "class StarCraft2Env: ...", "env/starcraft2/__init__.py": ""}
"""What tells oxwhirl's package smac from others."""
WITH_ARENA = {
    **OXWHIRL,
    "env/starcraft2/maps/__init__.py": "",
    "env/starcraft2/maps/smac_maps.py": "def get_smac_map_registry():\n    return {'arena': {}}\n",
}
"""The same, with a map that SMAC does not have."""


def install_package(site: Path, files: Mapping[str, str]) -> None:
    """Write a package called smac with these files into a folder of `sys.path`."""
    for name, text in {"__init__.py": "", **files}.items():
        path = site / "smac" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()


def forget_package(loaded: set[str]) -> None:
    """Unload a package called smac, except for modules that were `loaded` before."""
    for name in set(sys.modules) - loaded:
        if name.partition(".")[0] == "smac":
            del sys.modules[name]


def install_game(builds: Iterable[int] = (75689,), maps: Iterable[str] = ()) -> Path:
    """Put builds with their programs, and SMAC's maps, where ``$SC2PATH`` says; return where."""
    folder = installation.game_folder()
    for build in builds:
        program = installation.game_program(build)
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(mode=0o755)
    for name in maps:
        place = folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return folder
