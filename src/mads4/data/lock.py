"""One process at a time."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mads4.errors import UserError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that holds it.

    The lock goes with the process, so that one that was killed holds none; the file goes when the
    work is done. Windows has no such locks; there two processes at the same work both do it.

    Args:
        path: the lock file; its folder is made.
        what: what the other process is doing, for the log, for example ``records into <file>``.

    Raises:
        UserError: the lock file cannot be written, or its file system has no locks.
    """
    with _held(path, what):
        try:
            yield
        finally:
            if sys.platform != "win32":
                path.unlink(missing_ok=True)


def _held(path: Path, what: str) -> TextIO:
    """Return the lock file, open and locked; anew where its last holder has removed it."""
    while True:
        lock = _opened(path)
        try:
            if sys.platform != "win32":
                _wait(lock, path, what)
            if _is_file_of(lock, path):
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _is_file_of(lock: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise UserError(
            f"Cannot write to {path.parent}: {error.strerror}. Check its permissions, or choose "
            "another (the data directory's is MADS4_DATA_DIR)."
        ) from error


def _wait(lock: TextIO, path: Path, what: str) -> None:
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("Another process %s; waiting.", what)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"Cannot lock {path}: {error.strerror}. Some network file systems have no locks; "
            "choose a folder on another (the data directory's is MADS4_DATA_DIR)."
        ) from error
