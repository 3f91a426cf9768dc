"""Data sets as HDF5 files: one file each, written whole or not at all, checked when read.

Layout (schema 2)::

    /                    attributes: format, schema_version, header_sha256
    /header              JSON text: name, spec, behavior, array digests, fingerprint, version, and
                         ``last``: the digests of the arrays ``/episodes/last_*``
    /steps/<array>       (S, …) step arrays, concatenated over episodes (see `Dataset`)
    /episodes/offsets    (E + 1,) first row of each episode, and S
    /episodes/<column>   (E,) length, return, terminated, truncated, seed
    /episodes/metrics    (E, M) columns in the alphabetical order of the header's ``metrics``
    /episodes/last_row   (E,) row of each episode in the next three; -1 where it has none
    /episodes/last_observation, last_state, last_available_actions
                         (K, …) what followed the last step of K of the episodes

The arrays ``last_*`` are absent if K is 0. They are no part of the fingerprint, which is that of
the steps and the episode table. Schema 1 has none, and says ``behaviour`` for ``behavior``.

Chunks are byte-shuffled deflate streams (``gzip``), which every HDF5 build reads; on binary
features they read as fast as LZF and take half the space.
The 1.10 file format puts checksums on HDF5's own structures, Fletcher-32 on the chunks, and
SHA-256 on the content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import mads4
from mads4.data.content import (
    Array,
    StreamDigest,
    content_fingerprint,
    digest,
    last_rows,
    step_columns,
)
from mads4.data.dataset import DatasetHeader, EpisodeRow, EpisodeTable
from mads4.data.store_read import FORMAT, SCHEMA_VERSION, read_dataset, read_header
from mads4.errors import UserError
from mads4.io import atomic_path, json_safe
from mads4.types import EnvSpec, Episode

__all__ = ["read_dataset", "read_header", "write_dataset"]

CHUNK_BYTES = 1 << 18
"""Uncompressed size of a chunk: large enough to compress well, small enough for HDF5's cache."""

LARGE_CHUNK_BYTES = 1 << 20
"""Size of an uncompressed chunk: an episode is read in one or two pieces."""

COMPRESSION: dict[str, Any] = {
    "compression": "gzip",
    "compression_opts": 1,
    "shuffle": True,
    "fletcher32": True,
}


def write_dataset(
    path: Path | str,
    spec: EnvSpec,
    episodes: Iterable[Episode],
    behavior: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    name: str = "",
    *,
    compress: bool = True,
) -> DatasetHeader:
    """Write episodes to an HDF5 file as they come; the file appears complete or not at all.

    Args:
        path: The file; one that exists is replaced when the new one is complete.
        spec: What every episode has to fit.
        episodes: Consumed one at a time, so that memory holds only one.
        behavior: Free description of how the data is made, as JSON values; a function is called
            after the last episode, for what is known only then.
        name: Name of the data set; the file's stem when empty.
        compress: Compress the steps, and give their chunks checksums; False for files from which
            episodes are sampled on demand. The content's SHA-256 is stored in any case.

    Returns:
        The header of what was written.

    Raises:
        UserError: when there is no episode, one does not fit `spec`, or the folder cannot be
            written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"Cannot write the data set {path}: it is a folder. Give a file name.")
    try:
        with atomic_path(path) as beside, h5py.File(beside, "w", libver="v110") as file:
            writer = _Writer(file, spec, compress)
            for episode in episodes:
                writer.append(episode)
            about = behavior() if callable(behavior) else behavior or {}
            return writer.finish(dict(json_safe(about)), name or path.stem)
    except OSError as error:
        raise UserError(
            f"Cannot write the data set {path}: {error}. Check the folder's permissions and space."
        ) from error


class _GrowingArray:
    """A resizable HDF5 array that is written whole chunks at a time, and its digest."""

    def __init__(self, stored: h5py.Dataset) -> None:
        self.dtype: np.dtype = stored.dtype
        self.stream = StreamDigest()
        self._stored = stored
        self._chunk = np.empty(stored.chunks, stored.dtype)
        self._filled = self._written = 0

    def append(self, rows: Array) -> None:
        """Copy rows, and write them once they fill a chunk."""
        self.stream.update(rows)
        done = 0
        while done < len(rows):
            count = min(len(rows) - done, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + count] = rows[done : done + count]
            self._filled, done = self._filled + count, done + count
            if self._filled == len(self._chunk):
                self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        end = self._written + self._filled
        if self._filled:
            self._stored.resize(end, axis=0)
            self._stored[self._written : end] = self._chunk[: self._filled]
        self._written, self._filled = end, 0


class _Writer:
    """Appends episodes to an open HDF5 file and digests them on the way."""

    def __init__(self, file: h5py.File, spec: EnvSpec, compress: bool) -> None:
        self._file = file
        self._spec = spec
        self._compress = compress
        self._steps: dict[str, _GrowingArray] = {}
        self._last: dict[str, _GrowingArray] = {}
        self._rows: list[EpisodeRow] = []

    def append(self, episode: Episode) -> None:
        """Store one episode."""
        number = len(self._rows)
        self._append("steps", self._steps, step_columns(self._spec, episode, number))
        self._append("episodes", self._last, last_rows(self._spec, episode, number) or {})
        self._rows.append(EpisodeRow.of(episode))

    def _append(
        self, group: str, arrays: dict[str, _GrowingArray], blocks: Mapping[str, Array]
    ) -> None:
        for name, block in blocks.items():
            if name not in arrays:
                arrays[name] = _GrowingArray(self._create(f"{group}/{name}", block))
            stored = arrays[name]
            if stored.dtype != block.dtype:
                raise UserError(
                    f"Episode {len(self._rows)} has a {name} of {block.dtype}, those before have "
                    f"{stored.dtype}. All must have one dtype."
                )
            stored.append(block)

    def finish(self, behavior: Mapping[str, Any], name: str) -> DatasetHeader:
        """Store the episode table and the header."""
        if not self._rows:
            raise UserError("A data set needs at least one episode; none was given.")
        table = EpisodeTable.from_episodes(self._rows)
        columns = table.arrays()
        last_row = {"last_row": table.last_row} if self._last else {}
        group = self._file.require_group("episodes")
        for column, values in (columns | last_row).items():
            group.create_dataset(column, data=values)
        group.create_dataset("offsets", data=np.concatenate([[0], np.cumsum(table.length)]))
        for stored in (*self._steps.values(), *self._last.values()):
            stored.flush()
        digests = {key: stored.stream.result() for key, stored in self._steps.items()}
        last = {key: digest(values) for key, values in last_row.items()}
        last |= {key: stored.stream.result() for key, stored in self._last.items()}
        digests |= {key: digest(values) for key, values in columns.items()}
        spec = self._spec.to_dict()
        fingerprint = content_fingerprint(spec, digests, table.metrics)
        self._write_header(
            {
                "name": name,
                "spec": spec,
                "behavior": behavior,
                "metrics": sorted(table.metrics),
                "arrays": {key: asdict(value) for key, value in digests.items()},
                "last": {key: asdict(value) for key, value in last.items()},
                "fingerprint": fingerprint,
                "mads4_version": mads4.__version__,
            }
        )
        return DatasetHeader(name, self._spec, behavior, fingerprint, table)

    def _create(self, name: str, block: Array) -> h5py.Dataset:
        row_bytes = block.dtype.itemsize * int(np.prod(block.shape[1:]))
        chunk_bytes = CHUNK_BYTES if self._compress else LARGE_CHUNK_BYTES
        rows = int(np.clip(chunk_bytes // row_bytes, 16, 8192))
        return self._file.create_dataset(
            name,
            shape=(0, *block.shape[1:]),
            maxshape=(None, *block.shape[1:]),
            chunks=(rows, *block.shape[1:]),
            dtype=block.dtype,
            **(COMPRESSION if self._compress else {}),
        )

    def _write_header(self, header: Mapping[str, Any]) -> None:
        text = json.dumps(header).encode()
        self._file.create_dataset("header", data=np.bytes_(text))
        self._file.attrs["header_sha256"] = hashlib.sha256(text).hexdigest()
        self._file.attrs["format"] = FORMAT
        self._file.attrs["schema_version"] = SCHEMA_VERSION
