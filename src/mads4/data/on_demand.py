"""Data sets that stay in their file, for those larger than memory; training sees no difference.

What is sampled from must lie uncompressed in its file: decompressing takes twenty times as long as
copying. Of a compressed file a working copy is therefore made once, on disk, named by its content.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from mads4.data.content import LAST_ARRAYS, STEP_ARRAYS
from mads4.data.dataset import Dataset, DatasetHeader
from mads4.data.files import data_directory, locked
from mads4.data.store import write_dataset
from mads4.data.store_read import (
    check_returns,
    open_store,
    read_dataset,
    read_header,
    read_last,
    read_steps,
)
from mads4.data.store_stream import stream_episodes
from mads4.data.stored_array import StoredArray
from mads4.errors import UserError

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Part of the available memory that a data set may take before it is left in its file."""

IN_MEMORY = ("action", "reward")
"""Small arrays, a few bytes a step, that are read at once."""


def open_dataset(path: Path | str, in_memory: bool | None = None) -> Dataset:
    """Return a data set file's episodes, in memory or on demand.

    Args:
        path: The file.
        in_memory: None reads it into memory if that takes at most half of what is available.

    Raises:
        UserError: when the file is missing, foreign or damaged, or there is no room for a working
            copy of it.
    """
    path = Path(path)
    needed = step_bytes(path)
    if in_memory is None:
        available = available_memory()
        in_memory = available is None or needed <= MEMORY_SHARE * available
    if in_memory:
        return read_dataset(path)
    logger.info("%s stays on disk: its steps (%.1f GB) are read on demand", path, needed / 1e9)
    return on_demand(path if _samples_fast(path) else working_copy(path))


def on_demand(path: Path) -> Dataset:
    """Return a data set of which only the episode table, actions and rewards are in memory.

    Structure, lengths, actions and returns are checked; the other arrays' content is not (see
    `mads4.data.store_read.read_dataset` for that).

    Raises:
        UserError: when the file is missing, foreign or damaged.
    """
    with open_store(path) as (file, header, digests):
        read_steps(file, digests, 0, 0)  # compares dtypes and shapes with the header
        arrays = {name: StoredArray.of(path, file[f"steps/{name}"]) for name in STEP_ARRAYS}
        small = {name: arrays[name][:] for name in IN_MEMORY}
        if small["action"].max(initial=0) >= header.spec.n_actions:
            raise ValueError(f"action has values outside 0 to {header.spec.n_actions - 1}")
        check_returns(header, small["reward"])
        read_last(file, digests, slice(0, 0))
        last = {
            name: StoredArray.of(path, file[f"episodes/{name}"])
            for name in LAST_ARRAYS
            if name in digests
        }
        return Dataset.from_arrays(header, {**arrays, **small}, last)


def working_copy(path: Path) -> Path:
    """Return an uncompressed copy of a data set file in the data directory, made if need be.

    Raises:
        UserError: when the file is damaged, or the disk has no room.
    """
    header, needed = read_header(path), step_bytes(path)
    folder = data_directory() / "uncompressed"
    copy = folder / f"{_copy_name(path, header)}.h5"
    with locked(copy.with_suffix(".lock"), f"makes {copy}"):
        if not copy.exists():
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise UserError(
                    f"{path} is compressed, and an uncompressed working copy to read from needs "
                    f"{needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. Make "
                    "room, set MADS4_DATA_DIR to a larger disk, or use dataset.in_memory=true."
                )
            logger.info("making the uncompressed working copy %s (delete it at will)", copy)
            write_dataset(
                copy,
                header.spec,
                stream_episodes(path),
                header.behavior,
                header.name,
                compress=False,
            )
    return copy


def _copy_name(path: Path, header: DatasetHeader) -> str:
    """Return the content's identity; the fingerprint does not cover what follows last steps."""
    with open_store(path) as (_, _, digests):
        last = "".join(digests[name].sha256 for name in LAST_ARRAYS if name in digests)
    whole = hashlib.sha256((header.fingerprint + last).encode()).hexdigest()
    return (whole if last else header.fingerprint)[:16]


def step_bytes(path: Path) -> int:
    """Return what a file's step arrays take in memory."""
    with open_store(path) as (_, _, digests):
        return sum(
            int(np.prod(digests[name].shape)) * np.dtype(digests[name].dtype).itemsize
            for name in STEP_ARRAYS
        )


def _samples_fast(path: Path) -> bool:
    with open_store(path) as (file, _, _):
        return all(
            file[f"steps/{name}"].id.get_create_plist().get_nfilters() == 0
            for name in STEP_ARRAYS
            if name not in IN_MEMORY
        )


def available_memory() -> int | None:
    """Return the bytes that this process may still take, or None if unknown.

    The least of what Linux has to spare and what the control group (a container, a Slurm job)
    leaves; elsewhere all of the physical memory.
    """
    found = []
    meminfo = _words(Path("/proc/meminfo"))
    if "MemAvailable:" in meminfo:
        found.append(int(meminfo[meminfo.index("MemAvailable:") + 1]) * 1024)
    elif hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    group = Path("/sys/fs/cgroup")
    limit, used = _words(group / "memory.max"), _words(group / "memory.current")
    if limit and used and limit[0].isdigit():
        found.append(max(int(limit[0]) - int(used[0]), 0))
    return min(found, default=None)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
