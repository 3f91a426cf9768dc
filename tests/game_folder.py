"""What an installation of StarCraft II has, with nothing in the files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mads4.envs.smac import installation


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
