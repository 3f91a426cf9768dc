"""Unpacking archives from strangers: plain files inside one folder, of bounded number and size."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mads4.data.bounded import BoundedReader
from mads4.errors import UserError

MAX_BYTES = 1 << 36
"""64 GiB: more than any published set, less than a bomb."""
MAX_MEMBERS = 100_000

_BLOCK = 1 << 18
_LISTED_BYTES = 256
"""Bytes that a zip archive's list has for a member, its path of some length included."""
_ZIP_END_BYTES = (1 << 16) + 22 + 20 + 56
"""Most that the records at a zip archive's end take: comment, record, locator, 64-bit record."""
_TAR_HEADER_BYTES = 1 << 20
"""Most that is read at a time of a tar archive, so also of an extended header."""
_FAILURES = (
    *(EOFError, IndexError, KeyError, NotImplementedError, OverflowError, RuntimeError),
    *(TypeError, ValueError, struct.error, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(tarfile.TarError, zipfile.BadZipFile),
)
"""What Python's modules raise for damaged archives."""

_MOST_PADDING = 1 << 24

_COMPRESSIONS: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""First bytes of a compressed file → how to read it."""

Progress = Callable[[int, str], None]
"""Called with the bytes unpacked so far and the member's name."""


@dataclass(frozen=True)
class _Member:
    """A file or folder in an archive, its name not checked yet."""

    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


def extract(
    archive: Path | str,
    folder: Path | str,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    on_progress: Progress | None = None,
) -> Path:
    """Unpack a zip or tar archive (plain, gzip, bzip2 or xz) into a new folder.

    Members are unpacked beside `folder`, which appears when all of them are complete. Owners, dates
    and permissions in the archive are ignored.

    Args:
        archive: the file; what it is, is told by its content.
        folder: must not exist, or be empty.
        max_bytes: size of all files together, as the archive says it and as it turns out to be.
        max_members: number of files and folders.
        on_progress: told about every block that has been written.

    Returns:
        `folder`.

    Raises:
        UserError: an archive that is damaged or too large, or a member that would lie outside the
            folder, is a link or a device, or comes twice; naming archive, member and reason.
    """
    archive, folder = Path(archive).expanduser(), Path(folder).expanduser()
    if not archive.is_file():
        raise UserError(f"There is no archive {archive}. Check the path.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"Cannot unpack into {folder}: it is there and not empty. Choose another.")
    limits = _Limits(archive, max_bytes, max_members, on_progress or (lambda done, name: None))
    with _naming(archive):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
            inside = Path(beside) / "content"
            inside.mkdir()
            for member in _members(archive, limits):
                with _naming(archive, member.name):
                    limits.unpack(member, inside)
            if folder.exists():
                folder.rmdir()
            inside.replace(folder)
    return folder


class _RefusedError(ValueError):
    """Why an archive or a member is not unpacked."""


@dataclass
class _Limits:
    """Unpacks members and keeps count of them."""

    archive: Path
    max_bytes: int
    max_members: int
    on_progress: Progress
    done_bytes: int = 0
    members: int = 0

    def count(self) -> None:
        """Count a member, before anything is kept of it."""
        self.members += 1
        if self.members > self.max_members:
            raise _RefusedError(f"it has more than {self.max_members} members")

    def unpack(self, member: _Member, inside: Path) -> None:
        """Write one member into the folder `inside`."""
        target = inside.joinpath(*_safe_parts(member.name))
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            return
        if member.size > self.max_bytes - self.done_bytes:
            raise _RefusedError(f"it takes the content beyond {self.max_bytes} bytes")
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, open(target, "xb") as file:
            written = self._copy(source, file, member)
        if written != member.size:
            raise _RefusedError(f"it says {member.size} bytes and has {written}")

    def _copy(self, source: IO[bytes], file: IO[bytes], member: _Member) -> int:
        written = 0
        while block := source.read(_BLOCK):
            written += len(block)
            if written > member.size:
                raise _RefusedError(f"it says {member.size} bytes and has more")
            file.write(block)
            self.done_bytes += len(block)
            self.on_progress(self.done_bytes, member.name)
        return written


def _safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's relative path; the same rules on every system."""
    if not name or "\0" in name or "\\" in name or ":" in name:
        raise _RefusedError("its name holds characters that some systems read as a path's")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise _RefusedError("it would lie outside the folder")
    return parts


def _members(archive: Path, limits: _Limits) -> Iterator[_Member]:
    """Yield the members of an archive; the kind is told by its first bytes."""
    with open(archive, "rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"PK"):
            yield from _zip_members(archive, file, limits)
            return
        for magic, opener in _COMPRESSIONS.items():
            if start.startswith(magic):
                with opener(file) as plain:
                    yield from _tar_members(archive, plain, limits)
                    _verify(plain)
                return
        yield from _tar_members(archive, file, limits)


def _zip_members(archive: Path, file: IO[bytes], limits: _Limits) -> Iterator[_Member]:
    bounded = BoundedReader(file, max(_BLOCK, limits.max_members * _LISTED_BYTES))
    with zipfile.ZipFile(bounded) as opened:
        bounded.most = None
        infos = opened.infolist()
        if len(infos) != (said := _listed_members(file, len(infos))):
            raise zipfile.BadZipFile(f"its list has {len(infos)} members, of {said}")
        total = sum(info.file_size for info in infos)
        if total > limits.max_bytes:
            raise _RefusedError(f"it says {total} bytes, allowed are {limits.max_bytes}")
        for info in infos:
            limits.count()
            with _naming(archive, info.filename):
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _RefusedError("it is a link or a device, which no data set needs")
                if info.flag_bits & 1:
                    raise _RefusedError("it is encrypted")
                if info.is_dir() and info.file_size:
                    raise zipfile.BadZipFile("it is called a folder and has content")
            open_it = partial(opened.open, info)
            yield _Member(info.filename, info.file_size, info.is_dir(), open_it)


def _listed_members(file: IO[bytes], found: int) -> int:
    """Return how many members a zip archive says it lists; Python's module does not compare.

    The number stands in the record at the archive's end, and where that has no room for it, in the
    one of the 64-bit format before it (APPNOTE 6.3, sections 4.3.14 to 4.3.16). Some programs never
    write that one: then it is `found` if it agrees in 16 bits.
    """
    file.seek(0, 2)
    file.seek(max(0, file.tell() - _ZIP_END_BYTES))
    end = file.read()
    at = end.rfind(b"PK\5\6")
    (count,) = struct.unpack_from("<H", end, at + 10)
    if count == 0xFFFF and (large := end.rfind(b"PK\6\6", 0, at)) >= 0:
        return int(struct.unpack_from("<Q", end, large + 32)[0])
    return found if found & 0xFFFF == count else int(count)


def _tar_members(archive: Path, file: IO[bytes], limits: _Limits) -> Iterator[_Member]:
    with tarfile.open(fileobj=BoundedReader(file, _TAR_HEADER_BYTES), mode="r:") as opened:
        while (info := opened.next()) is not None:
            limits.count()
            opened.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
            with _naming(archive, info.name):
                if info.issparse():
                    raise _RefusedError("it is sparse, which may hide its size")
                if not info.isreg() and not info.isdir():
                    raise _RefusedError("it is a link or a device, which no data set needs")
            yield _Member(info.name, info.size, info.isdir(), partial(_open, opened, info))


def _verify(compressed: IO[bytes]) -> None:
    """Read on to the end, where the checksum is compared; tar pads with some zeros."""
    for _ in range(_MOST_PADDING // _BLOCK):
        if not compressed.read(_BLOCK):
            return
    raise _RefusedError(f"more than {_MOST_PADDING} bytes follow its last member")


def _open(opened: tarfile.TarFile, info: Any) -> IO[bytes]:
    file = opened.extractfile(info)
    if file is None:
        raise _RefusedError("it has no content")
    return file


@contextmanager
def _naming(archive: Path, member: str = "") -> Iterator[None]:
    """Turn whatever goes wrong in unpacking into a `UserError` that names where it was."""
    where = f"{archive}, member {member!r:.200}," if member else f"{archive}"
    try:
        yield
    except _RefusedError as error:
        raise UserError(f"{where} is not unpacked: {error}.") from error
    except FileExistsError as error:
        raise UserError(f"{where} is not unpacked: it comes twice.") from error
    except OSError as error:
        raise UserError(f"{where} cannot be unpacked: {error}. Check space and names.") from error
    except _FAILURES as error:
        what = str(error) or type(error).__name__
        raise UserError(f"{where} is damaged: {what}. Download it again.") from error
