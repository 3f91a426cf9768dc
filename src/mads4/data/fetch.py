"""Bringing a published data set to its place on this machine, and finding it there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mads4.data.archive import extract
from mads4.data.directory import locked
from mads4.data.download import download
from mads4.data.registry import Entry
from mads4.errors import UserError

Progress = Callable[[int, int | None], None]


def fetch(entry: Entry, on_progress: Progress | None = None) -> Path:
    """Download and unpack a data set unless it is here; return where its files lie.

    Raises:
        UserError: it cannot be had; with what to do by hand.
    """
    if not entry.is_here:
        if not entry.addresses:
            raise UserError(f"{entry.name}: {entry.how_to_get()}")
        found = download(
            entry.addresses, entry.archive, sha256=entry.sha256, on_progress=on_progress
        )
        with locked(found.path.with_name(f"{found.path.name}.unpacking"), f"unpacks {found.path}"):
            _unpack(found.path, entry)
    return locate(entry)


def _unpack(archive: Path, entry: Entry) -> None:
    """Unpack an archive, unless another process has done so in the meantime."""
    if entry.is_here:
        return
    try:
        extract(archive, entry.place)
    except UserError as error:
        raise UserError(f"{error} ({archive} is kept; delete it before that.)") from error


def locate(entry: Entry) -> Path:
    """Return what to open of a data set that is here: the folder, or the vault in it.

    Raises:
        UserError: it is not here, or not complete; with what to do.
    """
    if not entry.is_here:
        raise UserError(f"The data set {entry.name} is not on this machine. {entry.how_to_get()}")
    if entry.format != "og_marl":
        return entry.place
    vaults = sorted(entry.place.rglob(f"{entry.scenario}.vlt"))
    if not vaults:
        raise UserError(
            f"{entry.place} has no folder {entry.scenario}.vlt. Delete it, and: "
            f"{entry.how_to_get()}"
        )
    return vaults[0]
