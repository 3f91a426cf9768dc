"""Step arrays that stay in their file: rows are read on demand.

Rows of an array without filters (no compression, no checksums) are read by the operating system
straight into the caller's memory: HDF5 is asked once, when the file is opened, where its chunks
lie. That takes neither HDF5's global lock nor a copy, and keeps up with arrays in memory as long
as the operating system caches the file. All other arrays go through HDF5, which decompresses whole
chunks: many times slower where episodes are taken at random.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from mads4.errors import UserError

Array = npt.NDArray[Any]

CACHE_BYTES = 1 << 24
"""Decompressed chunks that HDF5 keeps, for each array."""

Read = Callable[[int, Array], None]
"""Fill an array (rows, …) with stored rows from a first one on."""


@dataclass(frozen=True)
class StoredArray:
    """A step array (S, …) in a file, as far as slices of rows go; safe to read from threads."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _read: Read

    @classmethod
    def of(cls, path: Path, stored: h5py.Dataset) -> StoredArray:
        """Return the array that `stored`, of the open file `path`, holds; it may be closed then."""
        read = _direct(path, stored) if hasattr(os, "preadv") else None
        if read is None:
            read = _through_hdf5(path, stored.name)
        return cls(stored.shape, stored.dtype, read)

    @property
    def nbytes(self) -> int:
        """Bytes that the whole array would need in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        """Return the number of rows S."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Return a copy of the rows first:last (without a step)."""
        first, last, _ = rows.indices(len(self))
        result = np.empty((max(last - first, 0), *self.shape[1:]), self.dtype)
        self.read_into(result, first)
        return result

    def read_into(self, target: Array, first: int) -> None:
        """Fill the contiguous `target` (rows, …), of this array's dtype, from row `first` on.

        Raises:
            UserError: when the file cannot be read (any more).
        """
        if len(target):
            self._read(first, target)

    def view(self, dtype: npt.DTypeLike) -> StoredArray:
        """Return the array with another dtype of the same size: bytes as flags, say."""
        stored = self.dtype

        def read(first: int, target: Array) -> None:
            self._read(first, target.view(stored))

        return replace(self, dtype=np.dtype(dtype), _read=read)


def rows_into(target: Array, rows: Array | StoredArray, first: int) -> None:
    """Copy rows from `first` on into the contiguous `target`, wherever they are kept."""
    if isinstance(rows, StoredArray):
        rows.read_into(target, first)
    else:
        target[...] = rows[first : first + len(target)]


def _through_hdf5(path: Path, name: str) -> Read:
    stored = h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)[name]

    def read(first: int, target: Array) -> None:
        try:
            stored.read_direct(target, np.s_[first : first + len(target)])
        except (OSError, RuntimeError) as error:
            raise _unreadable(str(path), str(error)) from error

    return read


def _direct(path: Path, stored: h5py.Dataset) -> Read | None:
    """Return a reader that goes past HDF5, or None where there are filters or holes."""
    rows_per_chunk, offsets = _layout(stored)
    if not offsets or min(offsets) < 0:
        return None
    file = _File(path)

    def read(first: int, target: Array) -> None:
        row_bytes = target[:1].nbytes
        view, done, last = target.data.cast("B"), 0, first + len(target)
        while first < last:
            chunk, within = divmod(first, rows_per_chunk)
            rows = min(rows_per_chunk - within, last - first)
            file.read(view[done : done + rows * row_bytes], offsets[chunk] + within * row_bytes)
            done, first = done + rows * row_bytes, first + rows

    return read


def _layout(stored: h5py.Dataset) -> tuple[int, list[int]]:
    """Return rows per chunk and each chunk's place in the file; no place where HDF5 has to read."""
    if stored.chunks is None:
        offset = stored.id.get_offset()
        return len(stored), [] if offset is None else [offset]
    whole_rows = stored.chunks[1:] == stored.shape[1:]
    if stored.id.get_create_plist().get_nfilters() or not whole_rows:
        return 0, []
    rows = stored.chunks[0]
    offsets = [-1] * -(-len(stored) // rows)

    def note(chunk: Any) -> None:
        offsets[chunk.chunk_offset[0] // rows] = chunk.byte_offset

    stored.id.chunk_iter(note)
    return rows, offsets


class _File:
    """A file opened for reading at given places; closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)

    def read(self, target: memoryview, offset: int) -> None:
        """Fill `target` from byte `offset` on."""
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._file.fileno(), [target[done:]], offset + done)
            except OSError as error:
                raise _unreadable(str(self._path), str(error)) from error
            if not count:
                raise _unreadable(str(self._path), "its end is missing")
            done += count


def _unreadable(path: str, why: str) -> UserError:
    return UserError(
        f"Cannot read {path} any more: {why}. Check the disk, restore the file from a copy, or "
        "copy it to a disk of this machine."
    )
