"""Where data sets are kept on this machine, and how processes share that folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mads4.errors import UserError

_LOG = logging.getLogger(__name__)


def data_directory() -> Path:
    """Return the folder of recorded data sets: $MADS4_DATA_DIR, else in the user's cache."""
    chosen = os.environ.get("MADS4_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "mads4"


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that holds it.

    A killed process holds no lock; the file is removed when the work is done.

    Args:
        path: the lock file; its folder is created.
        what: what the other process is doing, for the log, for example ``records into <file>``.

    Raises:
        UserError: the lock file cannot be written, or its file system has no locks.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UserError(
            f"Cannot write to {path.parent}: {error.strerror}. Check its permissions, or choose "
            "another folder (the data directory's is MADS4_DATA_DIR)."
        ) from error
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _LOG.warning("Another process %s; waiting.", what)
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"Cannot lock {path}: {error.strerror}. Some network file systems have no locks; "
            "choose a folder on another (the data directory's is MADS4_DATA_DIR)."
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: waiters notice and take a new file
        lock.release()
