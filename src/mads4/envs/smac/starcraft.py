"""StarCraft II itself: where it is, which builds there are, and whether one could be started.

pysc2, which starts it, is not asked where it looks, and what it has to say about a version only
where it can be imported.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = "https://github.com/Blizzard/s2client-proto#linux-packages"
_FOLDERS = {
    "darwin": "/Applications/StarCraft II",
    "win32": "C:/Program Files (x86)/StarCraft II",
}
_PROGRAMS = {
    "darwin": "SC2.app/Contents/MacOS/SC2",
    "win32": "SC2_x64.exe",
    "cygwin": "SC2_x64.exe",
}
"""System → the game's program in the folder of a build; elsewhere it is SC2_x64."""
_LATEST = "latest"
"""What pysc2 calls the newest build that is installed."""


def folder() -> Path:
    """Return where the game is looked for: ``$SC2PATH``, or its usual place on this system."""
    usual = _FOLDERS.get(sys.platform, "~/StarCraftII")
    return Path(os.environ.get("SC2PATH") or usual).expanduser()


def newest_build() -> int | None:
    """Return the build of the game that is started unless another is asked for: the newest."""
    return max(_builds(), default=None)


def program(build: int) -> Path:
    """Return where pysc2 looks for the program of a build."""
    name = _PROGRAMS.get(sys.platform, "SC2_x64")
    return folder() / "Versions" / f"Base{build:05d}" / name


def build_of(game_version: str) -> int | None:
    """Return the build that a version of the game is, for example 75689 of 4.10, as pysc2 has it.

    None where pysc2 is not there, or knows no such version.
    """
    return (_known_versions() or {}).get(_full(game_version))


def examine(version: str | None) -> tuple[str | None, str | None]:
    """Return what can be started, and what speaks against it and how to mend that.

    Args:
        version: that is asked for, None for the newest build.
    """
    newest = newest_build()
    if newest is None:
        return None, _no_build()
    builds, problem = [newest], None
    if version not in (None, _LATEST):
        builds, problem = _builds_of(str(version))
    lacking = [_no_program(build) for build in builds]
    if problem is None and all(lacking):
        problem = lacking[0]
    said = ", ".join(map(str, builds))
    found = None if problem else f"build {said} in {folder()}"
    return found, problem


def _builds() -> list[int]:
    """Return the builds for which there is a folder, in no order."""
    try:
        names = os.listdir(folder() / "Versions")
    except OSError:
        return []
    return [int(match[1]) for name in names if (match := re.fullmatch(r"Base(\d+)", name))]


def _no_build() -> str:
    place = "SC2PATH" if os.environ.get("SC2PATH") else "SC2PATH is not set; the usual place"
    return (
        f"StarCraft II is not in {folder()} ({place}; no Versions/Base<build> in there). "
        f"Download 4.10 from {PAGE}, unzip it with the password that its license page gives, "
        "and export SC2PATH=<folder>/StarCraftII"
    )


def _builds_of(version: str) -> tuple[list[int], str | None]:
    """Return the installed builds that may be a version, and what speaks against the version.

    Any may be it where pysc2, which knows the versions' builds, is missing itself.
    """
    known, builds = _known_versions(), sorted(_builds())
    if known is None:
        return builds, None
    full = _full(version)
    if known.get(full) in builds:
        return [known[full]], None
    ways = ["null for the newest", *(name for name, build in known.items() if build in builds)]
    what = "is unknown to pysc2"
    if full in known:
        what = f"is build {known[full]}"
        ways.append(f"download that build from {PAGE}")
    folders = ", ".join(f"Base{build}" for build in builds)
    return [], (
        f"env.options.game_version: {version} {what}; {folder() / 'Versions'} holds "
        f"{folders}. Take {', or '.join(ways)}"
    )


def _full(version: str) -> str:
    """Return 4.10.0 for 4.10, as pysc2 completes it."""
    return f"{version}.0" if version.count(".") == 1 else version


def _known_versions() -> Mapping[str, int] | None:
    """Return pysc2's versions and their builds; None where it cannot be imported."""
    try:
        versions = importlib.import_module("pysc2.run_configs.lib").VERSIONS
        return {name: int(version.build_version) for name, version in versions.items()}
    except Exception:  # what is wrong with the packages is told by `installation`
        return None


def _no_program(build: int) -> str | None:
    """Return what speaks against starting a build."""
    path = program(build)
    if not path.is_file():
        return (
            f"StarCraft II's build {build} has no program: there is no {path}. Download the game "
            f"again from {PAGE} and unzip all of it, or remove the build's folder if it is "
            "not the one to be played"
        )
    if not os.access(path, os.X_OK):
        return f'StarCraft II may not be started: chmod +x "{path}"'
    return None
