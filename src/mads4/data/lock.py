"""One process at a time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that holds it.

    The lock goes with the process, so that one that was killed leaves none behind. Windows has no
    such locks; there two processes at the same work both do it.

    Args:
        path: the lock file; its folder is made.
        what: what the other process is doing, for the log, for example ``records into <file>``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("Another process %s; waiting.", what)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
