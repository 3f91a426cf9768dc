"""Waiting for processes; what has become of them, and of the games of `smac_stand_in`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds to wait for what takes one or two; a machine under load is slow, not broken."""


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, for at most `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def assert_gone(folder: Path) -> None:
    """Wait until no game and no player is in the process table, not even as a zombie of ours."""
    wait_for(lambda: not any(is_there(pid) for pid in games(folder) + players(folder)))


def end_run(
    script: Path, folder: Path, number: int, ready: Callable[[], Any] = lambda: True
) -> int | None:
    """Run `script` until its two games and players are there and `ready`; end it by a signal.

    Returns:
        Its exit code.
    """
    run = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE)
    try:
        wait_for(lambda: (len(players(folder)) == 2 and ready()) or run.poll() is not None)
        started = games(folder) + players(folder)
        assert len(started) == 4 and all(is_there(pid) for pid in started)
        assert run.poll() is None
        run.send_signal(number)
        run.communicate(timeout=PATIENCE)
    finally:
        run.kill()
    return run.returncode


def games(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "games").glob("*")]


def players(folder: Path) -> list[int]:
    """Return the processes that have launched games."""
    return [int(path.name) for path in (folder / "players").glob("*")]


def hung(folder: Path) -> bool:
    """Return whether two games have hung."""
    return len(list(folder.glob("hang-*"))) == 2


def is_there(pid: int) -> bool:
    """Return whether a game or player of ours is there; numbers may be given out again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return False
    ours = (b"sleep\x001000", b"bytearray", b"spawn_main")
    return any(words in command for words in ours) or (state, int(parent)) == ("Z", os.getpid())
