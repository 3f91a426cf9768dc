"""Appending rows to HDF5 arrays, with the chunks hashed and compressed in threads.

HDF5 compresses inside its global lock, on one core. Here whole chunks go through the same filters
outside of it and are handed to HDF5 as they are to lie in the file. Files are the same to every
reader, but for the deflate strategy: run-length matches alone are three times as fast on floats as
zlib's level 1 and compress them better, and take a quarter more space on binary features, which
still shrink to a tenth.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import h5py
import numpy as np

from mads4.data.content import Array, StreamDigest

THREADS = min(4, os.cpu_count() or 1)
"""Threads that compress; one more hashes."""

_LEVEL = 1
_WINDOW_BITS, _MEMORY_LEVEL = 15, 9
_WEIGHTS = np.arange(1 << 16, 0, -1, dtype=np.float64)


class Encoder:
    """Threads that work on chunks, and the chunks that wait to be written in order."""

    def __init__(self, compressors: ThreadPoolExecutor, hasher: ThreadPoolExecutor) -> None:
        self._compressors, self._hasher = compressors, hasher
        self._waiting: deque[tuple[h5py.Dataset, int, Future[None], Future[bytes]]] = deque()

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Encoder]:
        """Yield an encoder whose threads end with the block."""
        with ThreadPoolExecutor(THREADS) as compressors, ThreadPoolExecutor(1) as hasher:
            yield cls(compressors, hasher)

    def add(self, stored: h5py.Dataset, first: int, rows: Array, stream: StreamDigest) -> None:
        """Take one chunk's rows, which nobody may change afterwards, and write earlier ones."""
        hashed = self._hasher.submit(stream.update, rows)
        encoded = self._compressors.submit(encode, rows, stored.chunks[0], filters(stored))
        self._waiting.append((stored, first, hashed, encoded))
        while len(self._waiting) > 4 * THREADS:
            self._write_oldest()

    def finish(self) -> None:
        """Write whatever waits."""
        while self._waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        stored, first, hashed, encoded = self._waiting.popleft()
        hashed.result()
        content = encoded.result()
        stored.id.write_direct_chunk((first, *(0,) * (stored.ndim - 1)), content)


class GrowingArray:
    """A resizable HDF5 array of whole rows per chunk, and the digest of what was appended."""

    def __init__(self, stored: h5py.Dataset, encoder: Encoder) -> None:
        self.stored = stored
        self._stream = StreamDigest()
        self._encoder = encoder
        self._flushed = self._filled = 0
        self._chunk = self._empty()

    @property
    def dtype(self) -> np.dtype:
        """Dtype of all rows."""
        dtype: np.dtype = self.stored.dtype
        return dtype

    def append(self, rows: Array) -> None:
        """Copy rows, and pass them on a chunk at a time."""
        done = 0
        while done < len(rows):
            count = min(len(rows) - done, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + count] = rows[done : done + count]
            self._filled, done = self._filled + count, done + count
            if self._filled == len(self._chunk):
                self._flush()

    def finish(self) -> StreamDigest:
        """Pass on the last rows; the digest is complete when the encoder has finished."""
        if self._filled:
            self._flush()
        return self._stream

    def _flush(self) -> None:
        self.stored.resize(self._flushed + self._filled, axis=0)
        rows = self._chunk[: self._filled]
        self._encoder.add(self.stored, self._flushed, rows, self._stream)
        self._flushed, self._filled = self._flushed + self._filled, 0
        self._chunk = self._empty()

    def _empty(self) -> Array:
        return np.empty(self.stored.chunks, self.stored.dtype)


def filters(stored: h5py.Dataset) -> tuple[int, ...]:
    """Return the codes of an array's filters in the order in which HDF5 applies them."""
    plan = stored.id.get_create_plist()
    return tuple(plan.get_filter(k)[0] for k in range(plan.get_nfilters()))


def encode(rows: Array, chunk_rows: int, codes: tuple[int, ...]) -> bytes:
    """Return the bytes of a chunk as HDF5 keeps them, zeros added where it is not full.

    Raises:
        ValueError: a filter other than shuffle, deflate and Fletcher-32.
    """
    missing = chunk_rows - len(rows)
    if missing:
        rows = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
    content = rows.view(np.uint8).reshape(-1) if rows.size else rows
    for code in codes:
        if code == h5py.h5z.FILTER_SHUFFLE:
            content = np.ascontiguousarray(content.reshape(-1, rows.dtype.itemsize).T).reshape(-1)
        elif code == h5py.h5z.FILTER_DEFLATE:
            content = np.frombuffer(_deflate(content), np.uint8)
        elif code == h5py.h5z.FILTER_FLETCHER32:
            checksum = np.array([fletcher32(content)], "<u4").view(np.uint8)
            content = np.concatenate([content, checksum])
        else:
            raise ValueError(f"chunks with the HDF5 filter {code} cannot be encoded")
    return content.tobytes()


def _deflate(content: Array) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_RLE)
    return stream.compress(content.data) + stream.flush()


def fletcher32(content: Array) -> int:
    """Return HDF5's checksum of bytes: Fletcher (1982) on big-endian words of 16 bits.

    Both sums are taken modulo 65535, with 65535 rather than 0 where they are multiples of it. They
    are sums of floats here, exact as they stay below 2^53; swapping a word's bytes multiplies it
    by 256 modulo 65535, so that little-endian words do.
    """
    padded = np.append(content, np.uint8(0)) if len(content) % 2 else content
    words = padded.view("<u2")
    simple = weighted = 0
    for first in range(0, len(words), len(_WEIGHTS)):
        piece = words[first : first + len(_WEIGHTS)].astype(np.float64)
        total = int(piece.sum())
        after = len(words) - first - len(piece)
        weighted += int(piece @ _WEIGHTS[-len(piece) :]) + total * after
        simple += total
    if not simple:
        return 0
    return ((256 * weighted - 1) % 65535 + 1) << 16 | ((256 * simple - 1) % 65535 + 1)
