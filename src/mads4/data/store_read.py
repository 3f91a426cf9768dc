"""Reading of data set files, with a plain message for everything that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mads4.data.content import (
    LAST_ARRAYS,
    STATE_DTYPES,
    STEP_ARRAYS,
    Array,
    ArrayDigest,
    content_fingerprint,
    digest,
    last_problem,
    step_dtypes,
    step_shapes,
    value_problem,
)
from mads4.data.dataset import Dataset, DatasetHeader, EpisodeTable
from mads4.errors import UserError
from mads4.types import EnvSpec, IntArray

FORMAT = "mads4-dataset"
SCHEMA_VERSION = 2

_AGAIN = "Restore it from a copy, or delete it and record it again (mads4 collect)."

_COLUMN_DTYPES = {
    "length": "<i8",
    "return": "<f8",
    "terminated": "|u1",
    "truncated": "|u1",
    "seed": "<i8",
    "metrics": "<f8",
}


class _DamageError(Exception):
    """A finding about a file's content, turned into a `UserError` that names the file."""


def read_header(path: Path | str) -> DatasetHeader:
    """Read everything but the steps: cheap, whatever the size of the file.

    Raises:
        UserError: when the file is missing, foreign, of a newer schema, or damaged.
    """
    with open_store(Path(path)) as (_, header, _):
        return header


def read_dataset(path: Path | str, verify: bool = True) -> Dataset:
    """Read a data set into memory.

    Args:
        path: The file.
        verify: Also compare the content's SHA-256 (about 0.6 s per GB of arrays). Structure,
            ranges and chunk checksums are checked in any case.

    Raises:
        UserError: when the file is missing, foreign, of a newer schema, or damaged.
    """
    with open_store(Path(path)) as (file, header, digests):
        steps = read_steps(file, digests, 0, header.steps)
        check_steps(header, steps)
        last = read_last(file, digests)
        if verify:
            for name, array in (steps | last).items():
                verify_digest(name, digest(array), digests[name])
        return Dataset.from_arrays(header, steps, last)


@contextmanager
def open_store(
    path: Path,
) -> Iterator[tuple[h5py.File, DatasetHeader, dict[str, ArrayDigest]]]:
    """Open a data set file, checked but for its steps, and yield it with what its header says.

    Every failure inside becomes a `UserError` that names the file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a data set file. Give the .h5 file itself.")
    if not path.exists():
        raise UserError(
            f"There is no data set file {path}. Check the path, or record one (mads4 collect)."
        )
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from error
    if not h5py.is_hdf5(path):
        raise UserError(
            f"{path} is not an HDF5 file, or its beginning is damaged. Data sets are .h5 files "
            f"written by mads4. {_AGAIN}"
        )
    try:
        with h5py.File(path, "r", rdcc_nbytes=1 << 24) as file:
            _check_kind(path, file)
            header, digests = _read_header(file)
            yield file, header, digests
    except _DamageError as error:
        raise UserError(f"{path} is damaged: {error}. {_AGAIN}") from error
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        what = "cut short (its end is missing)" if "truncated file" in str(error) else "damaged"
        raise UserError(f"{path} is {what}: {error}. {_AGAIN}") from error


def _check_kind(path: Path, file: h5py.File) -> None:
    """Tell foreign files and those of a newer schema from ours."""
    if file.attrs.get("format") != FORMAT:
        raise UserError(
            f"{path} is an HDF5 file, but not a mads4 data set (it lacks format='{FORMAT}'). "
            "Convert it first, or record one (mads4 collect)."
        )
    schema = int(file.attrs["schema_version"])
    if schema > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {schema}; this mads4 reads versions up to "
            f"{SCHEMA_VERSION}. Install a newer mads4."
        )


def _digests(entries: Mapping[str, Any]) -> dict[str, ArrayDigest]:
    """Return what the header's JSON says of arrays."""
    return {
        name: ArrayDigest(entry["dtype"], tuple(entry["shape"]), entry["sha256"])
        for name, entry in entries.items()
    }


def _read_header(file: h5py.File) -> tuple[DatasetHeader, dict[str, ArrayDigest]]:
    text = bytes(file["header"][()])
    if hashlib.sha256(text).hexdigest() != file.attrs["header_sha256"]:
        raise _DamageError("the header's checksum does not match")
    values = json.loads(text)
    digests, last = _digests(values["arrays"]), _digests(values.get("last", {}))
    if content_fingerprint(values["spec"], digests, values["metrics"]) != values["fingerprint"]:
        raise _DamageError("the fingerprint does not match the array digests")
    spec = EnvSpec.from_dict(values["spec"])
    table = _read_table(file, digests, last, values["metrics"])
    counts = dict.fromkeys(STEP_ARRAYS, int(table.length.sum()))
    counts |= dict.fromkeys(LAST_ARRAYS if last else (), int((table.last_row >= 0).sum()))
    _check_layout(spec, counts, digests | last)
    header = DatasetHeader(
        name=values["name"],
        spec=spec,
        behavior=values["behavior"] if "behavior" in values else values["behaviour"],  # until 0.1
        fingerprint=values["fingerprint"],
        table=table,
    )
    return header, digests | last


def _read_table(
    file: h5py.File,
    digests: Mapping[str, ArrayDigest],
    last: Mapping[str, ArrayDigest],
    metrics: list[str],
) -> EpisodeTable:
    columns = {}
    for name, dtype in _COLUMN_DTYPES.items():
        columns[name] = _read_rows(file, f"episodes/{name}", digests[name])
        if columns[name].dtype != dtype:
            raise _DamageError(f"episodes/{name} is {columns[name].dtype}, expected {dtype}")
        verify_digest(name, digest(columns[name]), digests[name])
    length = columns["length"]
    shapes = {name: column.shape for name, column in columns.items()}
    expected = {name: length.shape for name in columns} | {"metrics": (len(length), len(metrics))}
    if length.ndim != 1 or len(length) == 0 or shapes != expected:
        raise _DamageError(f"the episode columns have shapes {shapes}, expected {expected}")
    offsets = file["episodes/offsets"][()]
    if length.min() < 1 or not np.array_equal(offsets, np.concatenate([[0], np.cumsum(length)])):
        raise _DamageError("the episodes' offsets do not follow from their lengths")
    return EpisodeTable(
        length=length,
        episode_return=columns["return"],
        terminated=columns["terminated"].view(np.bool_),
        truncated=columns["truncated"].view(np.bool_),
        seed=columns["seed"],
        metrics={name: columns["metrics"][:, j].copy() for j, name in enumerate(metrics)},
        last_row=_read_last_row(file, last, len(length)),
    )


def _read_last_row(file: h5py.File, digests: Mapping[str, ArrayDigest], episodes: int) -> IntArray:
    """Return each episode's row (E,) in the arrays ``last_*``, -1 where it has none."""
    if not digests:
        return np.full(episodes, -1, "<i8")
    rows = _read_rows(file, "episodes/last_row", digests["last_row"])
    verify_digest("last_row", digest(rows), digests["last_row"])
    known = rows >= 0
    if rows.shape != (episodes,) or not np.array_equal(
        rows, np.where(known, np.cumsum(known) - 1, -1)
    ):
        raise _DamageError("episodes/last_row does not count the episodes that have a last row")
    return rows


def _check_layout(
    spec: EnvSpec, counts: Mapping[str, int], digests: Mapping[str, ArrayDigest]
) -> None:
    """Compare shapes and dtypes with what the spec asks for, before anything is allocated.

    Args:
        spec: the environment's sizes.
        counts: rows of every array.
        digests: what the header says.
    """
    state_dtype = digests["state"].dtype
    if state_dtype not in STATE_DTYPES:
        raise _DamageError(f"steps/state is {state_dtype}, expected one of {STATE_DTYPES}")
    dtypes, shapes = step_dtypes(spec, state_dtype), step_shapes(spec)
    for name, rows in counts.items():
        kind = name.removeprefix("last_")
        found = (digests[name].dtype, digests[name].shape)
        expected = (dtypes[kind], (rows, *shapes[kind]))
        if found != expected:
            raise _DamageError(f"{_path(name)} is {found}, expected {expected}")


def _path(name: str) -> str:
    """Return where in the file an array is."""
    return f"steps/{name}" if name in STEP_ARRAYS else f"episodes/{name}"


def read_steps(
    file: h5py.File, digests: Mapping[str, ArrayDigest], first: int, last: int
) -> dict[str, Array]:
    """Return rows `first` to `last` - 1 of all step arrays, unchecked but for dtype and shape."""
    return {
        name: _read_rows(file, f"steps/{name}", digests[name], slice(first, last))
        for name in STEP_ARRAYS
    }


def read_last(
    file: h5py.File, digests: Mapping[str, ArrayDigest], rows: slice = slice(None)
) -> dict[str, Array]:
    """Return rows of what followed the last steps, checked but for their SHA-256.

    Empty if the file has none. Call it inside `open_store`.
    """
    last = {
        name: _read_rows(file, _path(name), digests[name], rows)
        for name in LAST_ARRAYS
        if name in digests
    }
    wrong = last_problem(last)
    if wrong:
        raise _DamageError(wrong)
    return last


def _read_rows(
    file: h5py.File, name: str, expected: ArrayDigest, rows: slice = slice(None)
) -> Array:
    stored = file[name]
    if (stored.dtype.str, stored.shape) != (expected.dtype, expected.shape):
        raise _DamageError(
            f"{name} is {stored.dtype.str} {stored.shape}, the header says "
            f"{expected.dtype} {expected.shape}"
        )
    first, last, _ = rows.indices(len(stored))
    array = np.empty((last - first, *stored.shape[1:]), stored.dtype)
    if array.size:
        stored.read_direct(array, np.s_[first:last])
    return array


def verify_digest(name: str, found: ArrayDigest, expected: ArrayDigest) -> None:
    """Raise when an array's content is not what the header says; call it inside `open_store`."""
    if found != expected:
        raise _DamageError(f"the content of '{name}' does not match its SHA-256")


def check_steps(header: DatasetHeader, steps: Mapping[str, Array]) -> None:
    """Check the values' ranges and what the episode table says; call it inside `open_store`."""
    if steps["available_actions"].max(initial=0) > 1:
        raise _DamageError("available_actions has values other than 0 and 1")
    wrong = value_problem(header.spec, steps)
    if wrong:
        raise _DamageError(wrong)
    check_returns(header, steps["reward"])


def check_returns(header: DatasetHeader, reward: Array) -> None:
    """Compare rewards (S,) with the table's returns; call it inside `open_store`."""
    start = np.cumsum(header.table.length) - header.table.length
    returns = np.add.reduceat(reward.astype(np.float64), start)
    if not np.allclose(returns, header.returns, rtol=1e-6, atol=1e-6):
        raise _DamageError("the episodes' returns do not follow from their rewards")
