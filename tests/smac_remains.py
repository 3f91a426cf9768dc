"""What runs of `smac_stand_in` have left in the process table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def assert_gone(folder: Path) -> None:
    """Wait until no game and no player is in the process table, not even as a zombie of ours."""
    wait_for(lambda: not any(is_there(pid) for pid in games(folder) + players(folder)))


def games(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "games").glob("*")]


def players(folder: Path) -> list[int]:
    """Return the processes that have launched games."""
    return [int(path.name) for path in (folder / "players").glob("*")]


def is_there(pid: int) -> bool:
    """Return whether a game or player of ours is there; numbers may be given out again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    ours = (b"sleep\x001000", b"bytearray", b"spawn_main")
    return any(words in command for words in ours) or (state, int(parent)) == ("Z", os.getpid())


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
