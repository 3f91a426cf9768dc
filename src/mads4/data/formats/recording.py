"""What a reader of somebody's data format gives: a stream of episodes, and where they come from."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from mads4.errors import UserError, did_you_mean
from mads4.types import EnvSpec, Episode


class Recording(Protocol):
    """Recorded episodes in somebody's format, opened but not yet read.

    Opening reads what is needed for the spec and checks what can be checked without reading all.
    """

    name: str
    """What the recording is called, for tables and file names."""
    spec: EnvSpec
    """Sizes of the data; family, scenario and definitions from the environment it was opened for,
    and without one empty, unless the data tell."""
    origin: Mapping[str, Any]
    """How the data came about, as JSON values; ``format`` and ``reader_version`` among them."""
    files: tuple[Path, ...]
    """All files that the recording consists of, sorted by name."""
    skipped: dict[str, str]
    """Episodes left out by rule so far (file or number → why); complete when all are read."""

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one at a time, from the first, holding no more than one in memory.

        Raises:
            UserError: a file that is damaged, foreign or unsafe, naming file, member and reason.
        """
        ...


READERS: Mapping[str, str] = {
    "alberdice": "mads4.data.formats.alberdice:open_alberdice",
    "hdf5": "mads4.data.formats.hdf5:open_hdf5",
    "madt": "mads4.data.formats.madt:open_madt",
    "og_marl": "mads4.data.formats.og_marl:open_og_marl",
}
"""Format → its reader, ``(path, env=None, **options) -> Recording``, imported when it is used."""


def names_of(env: EnvSpec | None) -> dict[str, Any]:
    """Return what no foreign format says of an environment, empty where it is not known."""
    names = ("name", "scenario", "reward", "state_encoding")
    return {name: getattr(env, name, "") for name in names}


def open_recording(
    data_format: str, path: Path | str, env: EnvSpec | None = None, **options: Any
) -> Recording:
    """Open recorded data of a format.

    Args:
        data_format: a key of `READERS`, or ``package.module:function``, a reader of the user's own
            with the same signature.
        path: the file or folder.
        env: the environment that the data were recorded in; names that the format does not hold
            are taken from it, while all sizes are those of the data, for the caller to compare.
        **options: what the format's reader takes besides (``uid`` of an OG-MARL vault …).

    Raises:
        UserError: an unknown format, a reader that cannot be imported, or data that cannot be read.
    """
    if data_format in READERS:
        module, _, function = READERS[data_format].partition(":")
        reader = getattr(importlib.import_module(module), function)
    elif ":" in data_format:
        reader = _own_reader(data_format)
    else:
        raise UserError(
            f"There is no data format '{data_format}'; there are {', '.join(READERS)}, and your "
            f"own readers as package.module:function.{did_you_mean(data_format, READERS)}"
        )
    return cast(Recording, reader(path, env, **options))


def _own_reader(path: str) -> Any:
    """Return the user's function ``package.module:function``."""
    module, _, function = path.partition(":")
    try:
        reader = getattr(importlib.import_module(module), function)
        inspect.signature(reader).bind(path, None)
        return reader
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"The reader '{path}' cannot be imported and called as (path, env): {error}. Is it "
            "installed, or its folder on PYTHONPATH?"
        ) from error
