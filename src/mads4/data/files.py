"""Files on this machine: where data sets are kept, locks between processes, hashes of sources."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mads4.errors import UserError

BLOCK = 1 << 22
"""Bytes read at a time."""
LISTED = 64
"""Most files that are listed individually; beyond it only their number and common hash are."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0)

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
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | NO_LINK, 0o666))
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
        path.unlink(missing_ok=True)  # while held: waiting processes notice and create a new file
        lock.release()


def file_sha256(path: Path, stop: threading.Event | None = None) -> str:
    """Return the SHA-256 of a file; incomplete, and to be discarded, when `stop` is set.

    Raises:
        UserError: the file cannot be read.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while (block := file.read(BLOCK)) and not (stop and stop.is_set()):
                found.update(block)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    return found.hexdigest()


def describe(files: Sequence[Path], stop: threading.Event | None = None) -> dict[str, Any]:
    """Return what identifies source files, as JSON values.

    All files are read once more, at 0.5 to 2 GB a second and core (SHA-256).

    Args:
        files: the files; names are relative to their common folder.
        stop: set to stop early.

    Returns:
        ``count``, ``bytes``, ``sha256`` and, of up to `LISTED` files, ``files`` with ``name``,
        ``bytes`` and ``sha256`` each. The hash of several files is that of the text which
        ``sha256sum`` prints for them, sorted by name.
    """
    names = relative_names(files)
    rows: list[dict[str, Any]] = [
        {"name": name, "bytes": path.stat().st_size, "sha256": file_sha256(path, stop)}
        for name, path in names.items()
    ]
    text = "".join(f"{row['sha256']}  {row['name']}\n" for row in rows)
    one = rows[0]["sha256"] if len(rows) == 1 else hashlib.sha256(text.encode()).hexdigest()
    about = {"count": len(rows), "bytes": sum(row["bytes"] for row in rows), "sha256": one}
    return about | ({"files": rows} if len(rows) <= LISTED else {})


@contextmanager
def described_aside(files: Sequence[Path]) -> Iterator[Callable[[], dict[str, Any]]]:
    """Hash `files` in a thread while the block does other work; yields what waits for the result.

    Hashing releases the GIL, so on two cores it hardly slows a conversion. It is stopped when the
    block raises.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        future = pool.submit(describe, files, stop)
        try:
            yield future.result
        finally:
            stop.set()


def source_key(files: Sequence[Path]) -> str:
    """Return a key that changes with names, sizes or times of change, reading no content.

    Raises:
        UserError: a file is missing.
    """
    found = hashlib.sha256()
    for name, path in relative_names(files).items():
        try:
            facts = path.stat()
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from error
        found.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return found.hexdigest()


def relative_names(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by name below the folder they share, with slashes, sorted by name."""
    if not files:
        return {}
    absolute = [Path(os.path.abspath(path)) for path in files]
    shared = Path(os.path.commonpath([path.parent for path in absolute]))
    return dict(sorted((path.relative_to(shared).as_posix(), path) for path in absolute))
