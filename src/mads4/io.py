"""Atomic writes: a reader finds the old file or the new one, never a part. JSON."""

from __future__ import annotations

import glob
import json
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LONGEST_STEM = 150  # a temporary name must not be longer than file systems allow


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a new temporary file to write to; it replaces `path` when the block ends without error.

    The file has a random name in the same folder and is created exclusively, so that no link
    somebody placed there is followed, and processes that write the same `path` do not meet. What
    killed processes of this machine have left of `path` is removed.

    Raises:
        OSError: when the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _temporary(path)
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; it becomes `path` when the block ends without error.

    Its name is chosen as in `atomic_path`.

    Raises:
        OSError: when the folder cannot be written to, or `path` exists and is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _temporary(path)
    beside.mkdir()
    try:
        yield beside
        for file in beside.rglob("*"):
            _sync(file)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _sync(path.parent)


def _temporary(path: Path) -> Path:
    """Return a new name beside `path`; remove what dead processes have left under such names."""
    stem, host = f".{path.name[:_LONGEST_STEM]}", re.sub(r"\W", "_", platform.node())[:40]
    for name in glob.glob(f"{glob.escape(stem)}.{host}-*.tmp", root_dir=path.parent):
        process = re.fullmatch(r"(\d+)-[0-9a-f]{16}", name[len(f"{stem}.{host}-") : -len(".tmp")])
        if process and not _runs(int(process[1])):
            _remove(path.parent / name)
    return path.with_name(f"{stem}.{host}-{os.getpid()}-{secrets.token_hex(8)}.tmp")


def _runs(process: int) -> bool:
    import psutil  # rarely needed

    return bool(psutil.pid_exists(process))


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON atomically; NaN and infinities become ``null``."""
    write_text(path, json.dumps(json_safe(values), indent=2, allow_nan=False) + "\n")


def json_safe(value: Any) -> Any:
    """Return `value` with arrays and scalars as plain Python and non-finite numbers as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [json_safe(item) for item in value]
    return value if isinstance(value, int | str | bool | None) else str(value)


def _sync(path: Path) -> None:
    """Ask the disk to keep what was written; folders cannot be synced on every system."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
