"""Rows into HDF5 arrays and out of them, with whole chunks encoded and decoded in threads.

HDF5 filters chunks inside its global lock, on one core. Here they go through the same filters
outside of it, and HDF5 only puts them into the file, which is the same to every reader, and takes
them out. An array's first chunk decides who writes the deflate streams: ISA-L, which is five times
as fast as zlib's level 1 and mostly as small or smaller (features of a warehouse's robots: 5.6
instead of 6.7%), unless zlib's run lengths alone save clearly more (random bits: 10.3 instead of
13.5%).
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import h5py
import numpy as np

from mads4.data.content import Array, StreamDigest

try:
    from isal import isal_zlib as _zlib
except ImportError:  # no wheels for this machine: the same files, more slowly
    _zlib = zlib  # type: ignore[misc]

THREADS = min(4, os.cpu_count() or 1)
"""Threads that compress; one more hashes."""

Deflate = Callable[[Array], bytes]
"""Compresses bytes to a zlib stream, as HDF5's filter ``gzip`` reads it."""

_CLEARLY = 0.87
"""Run lengths alone are looked for where they make a chunk smaller by this factor."""
_WIDTH = 1024
"""Words in a line of the grid in which the checksum is summed up."""


class Encoder:
    """Threads that work on chunks, and the chunks that wait to be written in order."""

    def __init__(self, compressors: ThreadPoolExecutor, hasher: ThreadPoolExecutor) -> None:
        self._compressors, self._hasher = compressors, hasher
        self._waiting: deque[tuple[GrowingArray, int, Future[None], Future[bytes]]] = deque()

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Encoder]:
        """Yield an encoder whose threads end with the block."""
        with ThreadPoolExecutor(THREADS) as compressors, ThreadPoolExecutor(1) as hasher:
            yield cls(compressors, hasher)

    def add(self, array: GrowingArray, first: int, rows: Array) -> None:
        """Take one chunk's rows, which nobody may change afterwards, and write earlier ones."""
        hashed = self._hasher.submit(array.stream.update, rows)
        encoded = self._compressors.submit(array.encode, rows)
        self._waiting.append((array, first, hashed, encoded))
        while len(self._waiting) > 4 * THREADS:
            self._write_oldest()

    def finish(self) -> None:
        """Write whatever waits."""
        while self._waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        array, first, hashed, encoded = self._waiting.popleft()
        hashed.result()
        array.write(first, encoded.result())


class GrowingArray:
    """A resizable HDF5 array of whole rows per chunk, and the digest of what was appended."""

    def __init__(self, stored: h5py.Dataset, encoder: Encoder) -> None:
        self.filters = filters(stored)
        self.chunk_shape: tuple[int, ...] = stored.chunks
        self.dtype: np.dtype = stored.dtype
        self.stream = StreamDigest()
        """Complete when the encoder has finished."""
        self._stored, self._encoder = stored, encoder
        self._deflate: Deflate | None = None  # not decided yet
        self._room = self._passed_on = self._filled = 0
        self._chunk = np.empty(self.chunk_shape, self.dtype)

    def append(self, rows: Array) -> None:
        """Copy rows, and pass them on a chunk at a time."""
        done = 0
        while done < len(rows):
            count = min(len(rows) - done, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + count] = rows[done : done + count]
            self._filled, done = self._filled + count, done + count
            if self._filled == len(self._chunk):
                self._pass_on()

    def flush(self) -> None:
        """Pass on the last rows, before the encoder finishes."""
        if self._filled:
            self._pass_on()

    def encode(self, rows: Array) -> bytes:
        """Return a chunk's bytes as HDF5 keeps them."""
        return encode(rows, self.chunk_shape[0], self.filters, self._deflate or fast)

    def write(self, first: int, content: bytes) -> None:
        """Write an encoded chunk; HDF5 is slow to resize, so the array grows by halves."""
        if first >= self._room:
            self._room = max(first + self.chunk_shape[0], first * 3 // 2)
            self._stored.resize(self._room, axis=0)
        self._stored.id.write_direct_chunk((first, *(0,) * (len(self.chunk_shape) - 1)), content)

    def close(self) -> None:
        """Cut the array to its rows, after the encoder has finished."""
        self._stored.resize(self._passed_on, axis=0)

    def _pass_on(self) -> None:
        if self._deflate is None:
            self._deflate = self._best_deflate(self._chunk[: self._filled])
        self._encoder.add(self, self._passed_on, self._chunk[: self._filled])
        self._passed_on, self._filled = self._passed_on + self._filled, 0
        self._chunk = np.empty(self.chunk_shape, self.dtype)

    def _best_deflate(self, rows: Array) -> Deflate:
        quick, runs = (
            len(encode(rows, self.chunk_shape[0], self.filters, deflate))
            for deflate in (fast, run_lengths)
        )
        return run_lengths if runs < _CLEARLY * quick else fast


def encode(rows: Array, chunk_rows: int, codes: tuple[int, ...], deflate: Deflate) -> bytes:
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
            content = np.frombuffer(deflate(content), np.uint8)
        elif code == h5py.h5z.FILTER_FLETCHER32:
            checksum = np.array([fletcher32(content)], "<u4").view(np.uint8)
            content = np.concatenate([content, checksum])
        else:
            raise ValueError(f"chunks with the HDF5 filter {code} cannot be encoded")
    return content.tobytes()


def decode(content: bytes, target: Array, codes: tuple[int, ...]) -> None:
    """Fill `target`, a whole chunk, from its bytes as HDF5 keeps them: `encode` backwards.

    Raises:
        ValueError: another filter, or content that is damaged.
    """
    plain = np.frombuffer(content, np.uint8)
    size, planes = target.dtype.itemsize, 1
    for code in reversed(codes):
        if code == h5py.h5z.FILTER_FLETCHER32:
            plain, checksum = plain[:-4], plain[-4:]
            if int.from_bytes(checksum.tobytes(), "little") != fletcher32(plain):
                raise ValueError("the checksum of a chunk does not match")
        elif code == h5py.h5z.FILTER_DEFLATE:
            plain = np.frombuffer(_inflate(plain.data, target.nbytes), np.uint8)
        elif code == h5py.h5z.FILTER_SHUFFLE and code == codes[0]:
            planes = size
        else:
            raise ValueError(f"chunks with the HDF5 filters {codes} cannot be decoded")
    if len(plain) != target.nbytes:
        raise ValueError(f"a chunk has {len(plain)} bytes, not {target.nbytes}")
    flat = target.reshape(-1).view(np.uint8)
    for k, plane in enumerate(plain.reshape(planes, -1)):  # faster than a transposed copy
        flat[k::planes] = plane


def read_rows(stored: h5py.Dataset, first: int, target: Array) -> None:
    """Fill the contiguous `target` (rows, …), of the array's dtype, with rows from `first` on.

    Where whole rows lie in filtered chunks, threads take a chunk each. HDF5 reads everything else,
    and whatever cannot be decoded here, so that what is wrong is said in its words.

    Raises:
        OSError: HDF5 cannot read the rows.
    """
    codes = filters(stored)
    whole_rows = stored.chunks is not None and stored.chunks[1:] == stored.shape[1:]
    if codes and whole_rows and len(target) > stored.chunks[0]:
        try:
            _decode_rows(stored, first, target, codes)
            return
        except (ValueError, OSError, RuntimeError):
            pass  # HDF5 knows more filters, fills holes and says what is damaged
    stored.read_direct(target, np.s_[first : first + len(target)])


def _decode_rows(stored: h5py.Dataset, first: int, target: Array, codes: tuple[int, ...]) -> None:
    rows, last = stored.chunks[0], first + len(target)

    def fill(start: int) -> None:
        place = (start, *(0,) * (stored.ndim - 1))
        skipped, content = stored.id.read_direct_chunk(place)
        if skipped:
            raise ValueError("a chunk was stored without some of the filters")
        if first <= start <= last - rows:
            decode(content, target[start - first : start - first + rows], codes)
        else:
            chunk = np.empty(stored.chunks, stored.dtype)
            decode(content, chunk, codes)
            low, high = max(start, first), min(start + rows, last)
            target[low - first : high - first] = chunk[low - start : high - start]

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(fill, range(first // rows * rows, last, rows)):
            pass


def filters(stored: h5py.Dataset) -> tuple[int, ...]:
    """Return the codes of the filters in the order in which HDF5 applies them."""
    plan = stored.id.get_create_plist()
    return tuple(plan.get_filter(k)[0] for k in range(plan.get_nfilters()))


def _inflate(content: memoryview, size: int) -> bytes:
    """Return the `size` bytes of a zlib stream; it is read no further than one byte more."""
    stream = _zlib.decompressobj()
    try:
        return stream.decompress(content, size + 1)
    except _zlib.error as error:  # type: ignore[misc]
        raise ValueError(f"a compressed chunk is damaged: {error}") from error


def fast(content: Array) -> bytes:
    """Compress bytes with ISA-L's level 1, or zlib's where there is no ISA-L."""
    return _zlib.compress(content.data, 1)


def run_lengths(content: Array) -> bytes:
    """Compress bytes with zlib, which looks for repetitions of single bytes only."""
    stream = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return stream.compress(content.data) + stream.flush()


def fletcher32(content: Array) -> int:
    """Return HDF5's checksum of bytes: Fletcher (1982) on big-endian words of 16 bits.

    Both sums are taken modulo 65535, with 65535 rather than 0 where they are multiples of it;
    swapping a word's bytes multiplies it by 256 modulo 65535, so that little-endian words do. Of n
    words the i-th (from 0) weighs n - i, which is a sum over the lines and one over the columns of
    a grid; no sum overflows below a gigabyte.
    """
    count = -(-len(content) // 2)
    grid = np.zeros((-(-count // _WIDTH), _WIDTH), "<u2")
    grid.view(np.uint8).reshape(-1)[: len(content)] = content
    lines, columns = (grid.sum(axis, dtype=np.uint64) for axis in (1, 0))
    simple = int(lines.sum())
    if not simple:
        return 0
    before = _WIDTH * _by_place(lines) + _by_place(columns)
    weighted = count * simple - before
    return ((256 * weighted - 1) % 65535 + 1) << 16 | ((256 * simple - 1) % 65535 + 1)


def _by_place(sums: Array) -> int:
    return int((sums * np.arange(len(sums), dtype=np.uint64)).sum())
