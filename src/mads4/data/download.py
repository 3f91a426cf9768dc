"""Downloads that resume, that try one mirror after another, and that leave no half files."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

from mads4.data.directory import locked
from mads4.data.sources import file_sha256
from mads4.errors import UserError
from mads4.io import write_json, write_text

logger = logging.getLogger(__name__)

BLOCK = 1 << 18
"""Bytes between two looks at progress."""
LIMIT_BYTES = 100 * 2**30
"""No published data set is larger."""
ATTEMPTS = 4
"""Attempts at one address without a byte of progress."""
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be asked without encryption."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and those in all, None when the server does not say."""


class _RefusedError(Exception):
    """An address that gives no usable file; in words."""


class _BrokenOffError(Exception):
    """A connection that ended early; the rest may be had by asking again."""


@dataclass(frozen=True)
class Downloaded:
    """A complete file."""

    path: Path
    sha256: str
    address: str | None
    """Where it came from; None when it had been there already."""


def download(
    addresses: Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    limit_bytes: int = LIMIT_BYTES,
    timeout: float = 30.0,
    on_progress: Progress | None = None,
) -> Downloaded:
    """Download a file from the first of several addresses that gives it.

    What has arrived is kept in ``<path>.part``; another call, or another attempt after a broken
    connection, asks for the rest only. The file appears under its name when it is complete and,
    if its SHA-256 is known, right. ``<path>.sha256`` then records the hash in the form of
    ``sha256sum``; a file that is there already is checked against `sha256`, else against that.

    Args:
        addresses: tried in turn; https only, but for this machine itself.
        path: the file to be.
        sha256: of the whole file; None when it is not known.
        limit_bytes: larger files are refused.
        timeout: seconds without a byte after which a connection counts as broken.
        on_progress: told about what has arrived.

    Raises:
        UserError: no address gives the file, or what is there has changed; with what to do by
            hand.
    """
    with locked(path.with_name(f"{path.name}.lock"), f"downloads {path}"):
        if path.exists():
            return Downloaded(path, check_file(path, sha256), None)
        part = _Part(path.with_name(f"{path.name}.part"), sha256, limit_bytes, on_progress)
        problems = []
        for address in addresses:
            try:
                found = _fetch_whole(address, part, timeout)
            except _RefusedError as error:
                logger.info("%s: %s", address, error)
                problems.append(f"{address}: {error}")
                continue
            _record(path, found)
            part.file.replace(path)
            part.forget()
            return Downloaded(path, found, address)
    raise UserError(
        f"{path.name} could not be downloaded. {'; '.join(problems) or 'No address is known'}. "
        f"If this machine is offline, get the file from one of these addresses elsewhere, put it "
        f"at {path}, and repeat the command; what had arrived is kept and resumed."
    )


def check_file(path: Path, sha256: str | None = None) -> str:
    """Return the SHA-256 of a file after comparing it with what is known of it.

    Without `sha256` that is what ``<path>.sha256`` recorded when the file was first seen; where
    there is no record it is made.

    Raises:
        UserError: it differs.
    """
    record = _record_of(path)
    expected = sha256
    if expected is None and record.exists():
        expected = (record.read_text("utf-8").split() or [""])[0]
    found = file_sha256(path)
    if expected is not None and found != expected.lower():
        raise UserError(
            f"{path} has SHA-256 {found}, expected {expected}: it is damaged or another file. "
            f"Delete it (and {record.name}) and download it again."
        )
    if not record.exists():
        _record(path, found)
    return found


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(path: Path, sha256: str) -> None:
    write_text(_record_of(path), f"{sha256}  {path.name}\n")


class _Part:
    """The beginning of a file, and whose beginning it is."""

    def __init__(
        self, file: Path, sha256: str | None, limit_bytes: int, on_progress: Progress | None
    ) -> None:
        self.file = file
        self.sha256 = sha256
        self.limit_bytes = limit_bytes
        self.tell = on_progress or (lambda done, total: None)
        self._about = file.with_name(f"{file.name}.json")

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.file.stat().st_size if self.file.exists() else 0

    def validator(self, address: str) -> str | None:
        """Return the server's mark of the version that the beginning is of.

        None if that is not known, or it came from another address: then nothing can be added.
        """
        try:
            about = json.loads(self._about.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        mark = about.get("validator") if about.get("address") == address else None
        return mark if isinstance(mark, str) else None

    def begin(self, address: str, headers: Message) -> None:
        """Note whose beginning is going to be written."""
        mark = headers.get("ETag") or headers.get("Last-Modified")
        weak = mark is not None and mark.startswith("W/")
        write_json(self._about, {"address": address, "validator": None if weak else mark})

    def forget(self) -> None:
        """Remove what is kept."""
        self.file.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)


def _fetch_whole(address: str, part: _Part, timeout: float) -> str:
    """Bring `part` to its end from one address; return its SHA-256."""
    _require_safe(address)
    part.file.parent.mkdir(parents=True, exist_ok=True)
    barren = 0
    while True:
        before = part.size
        try:
            _fetch(address, part, timeout)
            break
        except _BrokenOffError as error:
            barren = 0 if part.size > before else barren + 1
            if barren == ATTEMPTS:
                raise _RefusedError(str(error)) from error
            logger.info("%s: %s; asking for the rest", address, error)
    found = file_sha256(part.file)
    if part.sha256 is not None and found != part.sha256.lower():
        part.forget()
        raise _RefusedError(f"what it gives has SHA-256 {found}, expected {part.sha256}")
    return found


def _fetch(address: str, part: _Part, timeout: float) -> None:
    """Ask once for what is missing and write down what comes."""
    mark, have = part.validator(address), part.size
    headers = {"User-Agent": "mads4", "Accept-Encoding": "identity"}
    if have and mark:
        headers |= {"Range": f"bytes={have}-", "If-Range": mark}
    request = urllib.request.Request(address, headers=headers)
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            resumed = response.status == 206 and _first_byte(response.headers) == have
            if response.status == 206 and not resumed:
                part.forget()
                raise _BrokenOffError("the server answered with another range")
            start = have if resumed else 0
            total = _total(response.headers, start)
            _require_room(part, total, start)
            if not resumed:
                part.begin(address, response.headers)
            with part.file.open("ab" if resumed else "wb") as file:
                _copy(response, file, part, start, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is here is longer than the file: it is of another version
            part.forget()
            raise _BrokenOffError("the server has no such range") from error
        if error.code >= 500 or error.code == 429:
            raise _BrokenOffError(f"the server answered {error.code} {error.reason}") from error
        raise _RefusedError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _RefusedError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke ({error or type(error).__name__})") from error


def _copy(response: IO[bytes], file: IO[bytes], part: _Part, start: int, total: int | None) -> None:
    """Append what comes to the file, counting from `start`."""
    done = start
    part.tell(done, total)
    while block := response.read(BLOCK):
        done += len(block)
        if done > part.limit_bytes:
            raise _RefusedError(f"it is larger than {part.limit_bytes} bytes")
        file.write(block)
        part.tell(done, total)
    if total is not None and done < total:
        raise _BrokenOffError(f"the connection ended after {done} of {total} bytes")


def _first_byte(headers: Message) -> int | None:
    """Return where the server's range begins."""
    words = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0].strip()
    return int(words) if words.isdigit() else None


def _total(headers: Message, start: int) -> int | None:
    """Return the size of the whole file, None when the server does not say."""
    length = headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _require_room(part: _Part, total: int | None, start: int) -> None:
    if total is None:
        return
    if total > part.limit_bytes:
        raise _RefusedError(f"it has {total} bytes, more than the {part.limit_bytes} allowed")
    free = shutil.disk_usage(part.file.parent).free
    if total - start > free:
        raise _RefusedError(
            f"it needs {total - start} more bytes, the disk of {part.file.parent} has {free}"
        )


def _require_safe(address: str) -> None:
    """Refuse what could be read or changed on the way."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL):
        return
    raise _RefusedError("only https addresses are used")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to safe addresses only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request that follows the redirection."""
        _require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)
