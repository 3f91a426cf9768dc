"""Our own data set files, read as a stream instead of into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mads4.data.formats.base import Format, head
from mads4.data.store_read import read_header
from mads4.data.store_stream import stream_episodes
from mads4.types import EnvSpec, Episode

HEAD = b"\x89HDF\r\n\x1a\n"
READER_VERSION = 1


def open_hdf5(path: Path | str, env: EnvSpec | None = None) -> Hdf5Source:
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
        "format": "hdf5",
        "reader_version": READER_VERSION,
        "fingerprint": header.fingerprint,
        "behavior": dict(header.behavior),
    }
    return Hdf5Source(name=header.name, spec=header.spec, origin=origin, files=(path,))


@dataclass
class Hdf5Source:
    """A `Source` in a data set file."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    files: tuple[Path, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one at a time; the content's SHA-256 is compared after the last."""
        return stream_episodes(self.files[0])


def _matches(path: Path) -> bool:
    return path.is_file() and head(path) == HEAD


FORMAT = Format(open_hdf5, _matches, "an .h5 file")
