"""Unpacking untrusted archives: regular files in one folder, of bounded number and size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from mads4.errors import UserError
from mads4.io import atomic_folder

MAX_BYTES = 1 << 36
"""Limit on the unpacked size: 64 GiB, more than any published data set."""
MAX_MEMBERS = 100_000

_BLOCK = 1 << 18
_LISTED_BYTES = 256
"""Bytes per member in a zip archive's central directory, with room for a path."""
_ZIP_END_BYTES = (1 << 16) + 22 + 20 + 56
"""Largest size of a zip archive's end records: comment, record, locator, 64-bit record."""
_TAR_HEADER_BYTES = 1 << 20
"""Most bytes per read of a tar archive: limits an extended header."""
_MOST_PADDING = 1 << 24
"""Bytes that may follow a tar archive's last member."""
_FAILURES = (
    *(EOFError, LookupError, ArithmeticError, RuntimeError, TypeError, ValueError),
    *(struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)
"""What Python's modules raise for damaged archives."""
_COMPRESSIONS: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""First bytes of a compressed tar archive → how to read it."""

Progress = Callable[[int, str], None]
"""Called with the bytes unpacked so far and the member's name."""


class BoundedReader:
    """Wrapper of an open file that raises when more than `most` bytes are read at once.

    Python's zip and tar modules read an archive's list of members, or the extended header of one,
    in one go, of whatever length the archive declares.
    """

    def __init__(self, file: IO[bytes], most: int | None) -> None:
        self._file = file
        self.most = most
        """Limit in bytes; None for no limit."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, or all that is left if `size` is negative.

        Raises:
            ValueError: these are more than `most`.
        """
        if size < 0:
            here = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        if self.most is not None and size > self.most:
            raise ValueError(f"its list of members asks for more than {self.most} bytes")
        return self._file.read(size)


class _Member(NamedTuple):
    """A file or folder in an archive, its name not checked yet."""

    name: str
    size: int
    is_folder: bool
    open: Callable[[], Any]


class _RefusedError(ValueError):
    """An archive or a member that is not unpacked; the message is the reason."""


def extract(
    archive: Path | str,
    folder: Path | str,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    on_progress: Progress | None = None,
) -> Path:
    """Unpack a zip or tar archive (plain, gzip, bzip2 or xz) into a new folder.

    The folder appears when all members are complete. Owners, dates and permissions in the archive
    are ignored. Members are copied as streams: the data filter of `tarfile` would accept links,
    and `zipfile` has none.

    Args:
        archive: the file; its kind is recognized by its content.
        folder: must not exist, or be empty.
        max_bytes: size of all files together, as declared and as found.
        max_members: number of files and folders.
        on_progress: called after every block that has been written.

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
    done = 0
    with _naming(archive), atomic_folder(folder) as beside:
        for number, member in enumerate(_members(archive, max_bytes, max_members), 1):
            if number > max_members:
                raise _RefusedError(f"it has more than {max_members} members")
            with _naming(archive, member.name):
                if member.size > max_bytes - done:
                    raise _RefusedError(f"it takes the content beyond {max_bytes} bytes")
                for size in _unpack(member, beside):
                    done += size
                    if on_progress is not None:
                        on_progress(done, member.name)
    return folder


def _unpack(member: _Member, folder: Path) -> Iterator[int]:
    """Write one member into a folder; yield the size of every block."""
    target = folder.joinpath(*_safe_parts(member.name))
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with member.open() as source, open(target, "xb") as file:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > member.size:
                raise _RefusedError(f"it says {member.size} bytes and has more")
            file.write(block)
            yield len(block)
    if written != member.size:
        raise _RefusedError(f"it says {member.size} bytes and has {written}")


def _safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's relative path; the same rules on every system."""
    if not name or "\0" in name or "\\" in name or ":" in name:
        raise _RefusedError("its name holds characters that some systems read as a path's")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise _RefusedError("it would lie outside the folder")
    return parts


def _members(archive: Path, max_bytes: int, max_members: int) -> Iterator[_Member]:
    """Yield the members of an archive, whose kind is recognized by its first bytes."""
    with open(archive, "rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"PK"):
            yield from _zip_members(archive, file, max_bytes, max_members)
            return
        kinds = (kind for magic, kind in _COMPRESSIONS.items() if start.startswith(magic))
        with next(kinds, nullcontext)(file) as plain:
            yield from _tar_members(archive, plain)
            for _ in range(_MOST_PADDING // _BLOCK):  # read on to the checksum at the end
                if not plain.read(_BLOCK):
                    return
        raise _RefusedError(f"more than {_MOST_PADDING} bytes follow its last member")


def _zip_members(
    archive: Path, file: IO[bytes], max_bytes: int, max_members: int
) -> Iterator[_Member]:
    bounded: Any = BoundedReader(file, max(_BLOCK, max_members * _LISTED_BYTES))
    with zipfile.ZipFile(bounded) as opened:
        bounded.most = None
        infos = opened.infolist()
        if len(infos) != (declared := _listed_members(file, len(infos))):
            raise zipfile.BadZipFile(f"its list has {len(infos)} members, of {declared}")
        total = sum(info.file_size for info in infos)
        if total > max_bytes:
            raise _RefusedError(f"it says {total} bytes, allowed are {max_bytes}")
        for info in infos:
            with _naming(archive, info.filename):
                if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _RefusedError("it is a link or a device, which no data set needs")
                if info.flag_bits & 1:
                    raise _RefusedError("it is encrypted")
                if info.is_dir() and info.file_size:
                    raise zipfile.BadZipFile("it is called a folder and has content")
            opening = partial(opened.open, info)
            yield _Member(info.filename, info.file_size, info.is_dir(), opening)


def _listed_members(file: IO[bytes], found: int) -> int:
    """Return the number of members that a zip archive declares; `zipfile` does not compare it.

    The number is in the record at the archive's end or, where it needs more than 16 bits, in the
    64-bit record before that (APPNOTE 6.3, sections 4.3.14 to 4.3.16). Some programs omit the
    latter: then it is `found` if it agrees in 16 bits.
    """
    file.seek(0, io.SEEK_END)
    file.seek(max(0, file.tell() - _ZIP_END_BYTES))
    end = file.read()
    at = end.rfind(b"PK\5\6")
    (count,) = struct.unpack_from("<H", end, at + 10)
    if count == 0xFFFF and (large := end.rfind(b"PK\6\6", 0, at)) >= 0:
        return int(struct.unpack_from("<Q", end, large + 32)[0])
    return found if found & 0xFFFF == count else int(count)


def _tar_members(archive: Path, file: IO[bytes]) -> Iterator[_Member]:
    bounded: Any = BoundedReader(file, _TAR_HEADER_BYTES)
    with tarfile.open(fileobj=bounded, mode="r:") as opened:
        while (info := opened.next()) is not None:
            opened.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            with _naming(archive, info.name):
                if info.issparse():
                    raise _RefusedError("it is sparse, which may hide its size")
                if not info.isreg() and not info.isdir():
                    raise _RefusedError("it is a link or a device, which no data set needs")
            yield _Member(info.name, info.size, info.isdir(), partial(opened.extractfile, info))


@contextmanager
def _naming(archive: Path, member: str = "") -> Iterator[None]:
    """Convert errors of unpacking to a `UserError` that names archive and member."""
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
