"""Telling a data format by what lies in a folder, without opening anything that could run."""

from __future__ import annotations

from pathlib import Path

from mads4.data import registry
from mads4.errors import UserError

HDF5_HEAD = b"\x89HDF\r\n\x1a\n"
TORCH_HEADS = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of files by `torch.save`: archives, and pickles before version 1.6."""


def guess_format(path: Path) -> str:
    """Return the format that files look like, a key of the readers.

    Raises:
        UserError: there is nothing, or it looks like none of the formats.
    """
    if not path.exists():
        raise UserError(
            f"There is no file or folder {path}, nor a data set of that name in the registry "
            f"(mads4 data list).{registry.near(str(path))}"
        )
    found = looks_like(path)
    if found is None:
        raise UserError(
            f"{path} looks like none of the known formats: an .h5 file (hdf5), a folder with "
            "actions.npy and filled.npy (alberdice), a vault <scenario>.vlt (og_marl), or a "
            "folder of files by torch.save, one per episode (madt). Say which with --from."
        )
    return found


def looks_like(path: Path) -> str | None:
    """Return the format that a file or folder looks like, None if it is none of them."""
    if path.is_file():
        return "hdf5" if _head(path).startswith(HDF5_HEAD) else None
    return _of_folder(path)


def _of_folder(folder: Path) -> str | None:
    if (folder / "filled.npy").is_file() and (folder / "actions.npy").is_file():
        return "alberdice"
    if folder.suffix == ".vlt" or folder.parent.suffix == ".vlt":
        return "og_marl"
    if any(folder.glob("*/metadata.json")) or (folder / "metadata.json").is_file():
        return "og_marl"
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}.") from error
    episodes = (file for file in inside if file.is_file())
    first = next((file for file in episodes if not file.name.startswith(".")), None)
    return "madt" if first is not None and _head(first).startswith(TORCH_HEADS) else None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
