"""Our own data set files, read as a stream instead of into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mads4.data.store_read import read_header
from mads4.data.store_stream import stream_episodes
from mads4.types import EnvSpec, Episode

FORMAT = "hdf5"
READER_VERSION = 1


def open_hdf5(path: Path | str, env: EnvSpec | None = None) -> Hdf5Recording:
    """Open a data set file.

    Args:
        path: the file.
        env: not used, as the file says what environment it was recorded in.

    Raises:
        UserError: when the file is missing, foreign, of a newer schema, or damaged.
    """
    path = Path(path).expanduser()
    header = read_header(path)
    origin = {
        "format": FORMAT,
        "reader_version": READER_VERSION,
        "fingerprint": header.fingerprint,
        "behavior": dict(header.behavior),
    }
    return Hdf5Recording(name=header.name, spec=header.spec, origin=origin, files=(path,))


@dataclass
class Hdf5Recording:
    """A `Recording` in a data set file."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    files: tuple[Path, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one at a time; the content's SHA-256 is compared after the last."""
        return stream_episodes(self.files[0])
