"""What the file formats share: `Format`, the `Source` that a reader returns, and checks.

A new format is one module that defines ``FORMAT = Format(open=..., matches=..., write=...)``. In
`mads4.data.formats` it is found by its name; elsewhere it is given as ``package.module:function``.
For ``dataset=<name>`` it needs ``conf/dataset/<name>.yaml``, too, and for settings beyond those of
`mads4.data.settings.RecordedDataset` a subclass of it in the module, registered in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mads4.data.content import Array, step_columns
from mads4.errors import UserError
from mads4.io import atomic_folder
from mads4.types import EnvSpec, Episode

Layout = Mapping[str, tuple[str, tuple[str, ...]]]
"""Array → kinds of NumPy dtype, names of its axes; axes of one name have one length."""

_KINDS = {"i": "integers", "u": "unsigned integers", "f": "floats", "b": "flags"}


class Source(Protocol):
    """Episodes in a file format of ours or of another project, opened but not yet read.

    Opening reads what is needed for the spec and checks what can be checked without reading all.
    """

    name: str
    """Name of the data, for tables and file names."""
    spec: EnvSpec
    """Sizes of the data; family, scenario and definitions from the environment it was opened for,
    and without one empty, unless the data name them."""
    origin: Mapping[str, Any]
    """Provenance of the data, as JSON values; includes ``format`` and ``reader_version``."""
    files: tuple[Path, ...]
    """All files that the data consist of, sorted by name."""
    skipped: dict[str, str]
    """Episodes left out by rule so far (file or number → why); complete when all are read."""

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one at a time, from the first, holding no more than one in memory.

        Raises:
            UserError: a file that is damaged, foreign or unsafe, naming file, member and reason.
        """
        ...


@dataclass(frozen=True)
class Format:
    """One file format: how to recognize, read and write it."""

    open: Callable[..., Source]
    """``(path, env=None, **options) -> Source``."""
    matches: Callable[[Path], bool]
    """Whether a file or folder looks like this format, from names and first bytes only.

    Raises `OSError` where it cannot look."""
    looks: str
    """What it looks like, for error messages: ``an .h5 file``."""
    write: Callable[..., Path] | None = None
    """``(folder, spec, episodes, **options) -> Path``; None where nothing can be exported to it."""


def names_of(env: EnvSpec | None) -> dict[str, Any]:
    """Return the names that no other project's format holds; empty where `env` is None."""
    names = ("name", "scenario", "reward", "state_encoding")
    return {name: getattr(env, name, "") for name in names}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which appears as `path` complete or not at all.

    Raises:
        UserError: `path` exists, or cannot be written to.
    """
    if path.exists():
        raise UserError(f"{path} exists already. Delete it, or give another name.")
    try:
        with atomic_folder(path) as beside:
            yield beside
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error}. Check the folder's permissions and space."
        ) from error


def checked(
    spec: EnvSpec, episodes: Iterable[Episode]
) -> Iterator[tuple[Episode, dict[str, Array]]]:
    """Yield episodes and their step arrays as our store would keep them.

    Raises:
        UserError: an episode that does not fit `spec`, or no episode at all.
    """
    number = -1
    for number, episode in enumerate(episodes):
        yield episode, step_columns(spec, episode, number)
    if number < 0:
        raise UserError("A data set needs at least one episode; none was given.")


def head(path: Path) -> bytes:
    """Return the first bytes of a file, enough to recognize a format by."""
    with path.open("rb") as file:
        return file.read(8)


def axis_lengths(
    arrays: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    layout: Layout,
    label: Callable[[str], str],
) -> dict[str, int]:
    """Return the length of every axis, after finding it the same in all arrays.

    Args:
        arrays: dtype and shape of each array of `layout`.
        layout: what is expected; the axis ``1`` has length 1.
        label: what an array is called in messages (a path, mostly).

    Raises:
        UserError: an array of another kind or shape, or an axis of length 0.
    """
    size: dict[str, int] = {"1": 1}
    source: dict[str, str] = {}
    for key, (kinds, axes) in layout.items():
        dtype, shape = arrays[key]
        expected = f"({', '.join(axes)})"
        if dtype.kind not in kinds:
            allowed = " or ".join(_KINDS[kind] for kind in kinds)
            raise UserError(f"{label(key)} holds {dtype}, expected {allowed}.")
        if len(shape) != len(axes):
            raise UserError(f"{label(key)} has shape {shape}, expected {expected}.")
        for axis, length in zip(axes, shape, strict=True):
            if length != size.setdefault(axis, length):
                as_in = f" as in {source[axis]}" if axis in source else ""
                raise UserError(
                    f"{label(key)} has shape {shape}, expected {expected} with "
                    f"{axis} = {size[axis]}{as_in}."
                )
            source.setdefault(axis, label(key))
        if 0 in shape:
            empty = axes[shape.index(0)]
            raise UserError(f"{label(key)} is empty: its axis {empty} has length 0.")
    return size
