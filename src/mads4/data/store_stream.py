"""Data set files read one episode at a time, for those that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mads4.data.content import LAST_ARRAYS, STEP_ARRAYS, StreamDigest
from mads4.data.dataset import Dataset, DatasetHeader
from mads4.data.store_read import (
    check_steps,
    open_store,
    read_last,
    read_steps,
    verify_digest,
)
from mads4.types import Episode

BLOCK_BYTES = 1 << 25
"""About so many bytes of steps are read at once."""


def stream_episodes(path: Path) -> Iterator[Episode]:
    """Yield a file's episodes from the first, holding a block of them in memory.

    Raises:
        UserError: when the file is missing, foreign or damaged. Values are checked before an
            episode is yielded, the content's SHA-256 after the last.
    """
    with open_store(path) as (file, header, arrays):
        names = [name for name in (*STEP_ARRAYS, *LAST_ARRAYS) if name in arrays]
        digests = {name: StreamDigest() for name in names}
        known = header.table.last_row >= 0
        row_bytes = sum(
            np.dtype(arrays[name].dtype).itemsize * int(np.prod(arrays[name].shape[1:]))
            for name in STEP_ARRAYS
        )
        for block in _blocks(header, max(1, BLOCK_BYTES // row_bytes)):
            before = int(known[: block[0]].sum())
            table = header.table.select(block)
            table = replace(table, last_row=np.where(known[block], table.last_row - before, -1))
            part = DatasetHeader("", header.spec, {}, "", table)
            ends = read_last(file, arrays, slice(before, before + int(known[block].sum())))
            first = int(header.table.length[: block[0]].sum())
            steps = read_steps(file, arrays, first, first + part.steps)
            check_steps(part, steps)
            for name, rows in (steps | ends).items():
                digests[name].update(rows)
            data = Dataset.from_arrays(part, steps, ends)
            yield from (data.episode(k) for k in range(len(data)))
        for name, stream in digests.items():
            verify_digest(name, stream.result(), arrays[name])


def _blocks(header: DatasetHeader, room: int) -> Iterator[np.ndarray]:
    """Yield the numbers of consecutive episodes that fit into `room` rows together, or of one."""
    stop = np.cumsum(header.table.length)
    first = 0
    while first < len(stop):
        before = int(stop[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(stop, before + room, "right")))
        yield np.arange(first, last)
        first = last
