"""Published data sets: downloads that resume, try mirrors in turn and leave no partial files."""

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
from pathlib import Path

from mads4.data.archive import extract
from mads4.data.files import file_sha256, locked
from mads4.data.registry import Entry, locate
from mads4.errors import UserError
from mads4.io import write_json, write_text

logger = logging.getLogger(__name__)

BLOCK = 1 << 18
"""Bytes between two reports of progress."""
LIMIT_BYTES = 100 * 2**30
"""Default size limit; no published data set is larger."""
ATTEMPTS = 4
"""Consecutive attempts at one address without progress."""
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Hosts for which plain http is allowed."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the total, None where the server does not report it."""


class _RefusedError(Exception):
    """An address that has no usable file; the message is the reason."""


class _BrokenOffError(Exception):
    """A connection that ended early; another request may get the rest."""


@dataclass(frozen=True)
class Downloaded:
    """A complete file."""

    path: Path
    sha256: str
    address: str | None
    """URL of the download; None if the file existed already."""


def fetch(entry: Entry, on_progress: Progress | None = None) -> Path:
    """Download and unpack a data set unless it is present; return the path to open.

    Raises:
        UserError: it cannot be downloaded; the message says what to do by hand.
    """
    if not entry.is_here:
        if not entry.addresses:
            raise UserError(f"{entry.name}: {entry.how_to_get()}")
        path = download(
            entry.addresses, entry.archive, sha256=entry.sha256, on_progress=on_progress
        ).path
        with locked(path.with_name(f"{path.name}.unpacking"), f"unpacks {path}"):
            if not entry.is_here:  # another process may have unpacked it in the meantime
                try:
                    extract(path, entry.place)
                except UserError as error:
                    raise UserError(f"{error} ({path} is kept; delete it before that.)") from error
    return locate(entry)


def download(
    addresses: Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    limit_bytes: int = LIMIT_BYTES,
    timeout: float = 30.0,
    on_progress: Progress | None = None,
) -> Downloaded:
    """Download a file from the first of several addresses that works.

    What has arrived is kept in ``<path>.part``; another call, or another attempt after a broken
    connection, asks for the rest only. The file appears under its name when it is complete and,
    if its SHA-256 is known, right. ``<path>.sha256`` then records the hash in the form of
    ``sha256sum``; a file that is there already is checked against `sha256`, else against that.

    Args:
        addresses: URLs, tried in turn; https only, except for localhost.
        path: the file to write.
        sha256: of the whole file; None if unknown.
        limit_bytes: largest size of the file.
        timeout: seconds without a byte after which a connection counts as broken.
        on_progress: called after every block.

    Raises:
        UserError: no address works, or the existing file has changed; the message says what to
            do by hand.
    """
    with locked(path.with_name(f"{path.name}.lock"), f"downloads {path}"):
        if path.exists():
            return Downloaded(path, check_file(path, sha256), None)
        report = on_progress or (lambda done, total: None)
        part = _Part(path.with_name(f"{path.name}.part"), sha256, limit_bytes, timeout, report)
        problems = []
        for address in addresses:
            try:
                found = part.complete(address)
            except _RefusedError as error:
                logger.info("%s: %s", address, error)
                problems.append(f"{address}: {error}")
                continue
            _record(path, found)
            part.file.replace(path)
            part.remove()
            return Downloaded(path, found, address)
    raise UserError(
        f"{path.name} could not be downloaded. {'; '.join(problems) or 'No address is known'}. "
        f"If this machine is offline, get the file from one of these addresses elsewhere, put it "
        f"at {path}, and repeat the command; what had arrived is kept and resumed."
    )


def check_file(path: Path, sha256: str | None = None) -> str:
    """Return the SHA-256 of a file after comparing it with the expected one.

    Without `sha256` that is the one in ``<path>.sha256``, which is written when the file is first
    seen.

    Raises:
        UserError: it differs.
    """
    record = path.with_name(f"{path.name}.sha256")
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


def _record(path: Path, sha256: str) -> None:
    write_text(path.with_name(f"{path.name}.sha256"), f"{sha256}  {path.name}\n")


@dataclass
class _Part:
    """A partial download; a JSON file beside it holds its address and version."""

    file: Path
    sha256: str | None
    limit_bytes: int
    timeout: float
    report: Progress

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return self.file.stat().st_size if self.file.exists() else 0

    @property
    def _about(self) -> Path:
        return self.file.with_name(f"{self.file.name}.json")

    def remove(self) -> None:
        """Delete the partial file."""
        self.file.unlink(missing_ok=True)
        self._about.unlink(missing_ok=True)

    def complete(self, address: str) -> str:
        """Download the rest from one address; return the SHA-256 of the whole."""
        failures = 0
        while True:
            before = self.size
            try:
                self._request(address)
                break
            except _BrokenOffError as error:
                failures = 0 if self.size > before else failures + 1
                if failures == ATTEMPTS:
                    raise _RefusedError(str(error)) from error
                logger.info("%s: %s; asking for the rest", address, error)
        found = file_sha256(self.file)
        if self.sha256 is not None and found != self.sha256.lower():
            self.remove()
            raise _RefusedError(f"what it gives has SHA-256 {found}, expected {self.sha256}")
        return found

    def _validator(self, address: str) -> str | None:
        """Return the server's validator (ETag or date) of the partial file.

        None if unknown or from another address: then the download starts again.
        """
        try:
            about = json.loads(self._about.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        mark = about.get("validator") if about.get("address") == address else None
        return mark if isinstance(mark, str) else None

    def _request(self, address: str) -> None:
        """Send one request for the missing bytes and append the response."""
        mark, have = self._validator(address), self.size
        headers = {"User-Agent": "mads4", "Accept-Encoding": "identity"}
        if have and mark:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        try:
            request = urllib.request.Request(address, headers=headers)
            with _OPENER.open(request, timeout=self.timeout) as response:
                self._receive(address, response, have)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is longer than the file: another version
                self.remove()
            again = error.code in (416, 429) or error.code >= 500
            words = f"the server answered {error.code} {error.reason}"
            raise (_BrokenOffError if again else _RefusedError)(words) from error
        except (urllib.error.URLError, ValueError) as error:
            raise _RefusedError(f"no connection ({getattr(error, 'reason', error)})") from error
        except (OSError, http.client.HTTPException) as error:
            words = f"the connection broke ({error or type(error).__name__})"
            raise _BrokenOffError(words) from error

    def _receive(self, address: str, response: http.client.HTTPResponse, have: int) -> None:
        """Append a response to the first `have` bytes, or start again if it is the whole file."""
        done = 0
        if response.status == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self.remove()
                raise _BrokenOffError("the server answered with another range")
            done = have
        total = None if response.length is None else done + response.length
        if total is not None:
            self._require_room(total, done)
        if not done:
            mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
            weak = mark is not None and mark.startswith("W/")
            write_json(self._about, {"address": address, "validator": None if weak else mark})
        with self.file.open("ab" if done else "wb") as file:
            self.report(done, total)
            while block := response.read(BLOCK):
                done += len(block)
                if done > self.limit_bytes:
                    raise _RefusedError(f"it is larger than {self.limit_bytes} bytes")
                file.write(block)
                self.report(done, total)
        if total is not None and done < total:
            raise _BrokenOffError(f"the connection ended after {done} of {total} bytes")

    def _require_room(self, total: int, have: int) -> None:
        if total > self.limit_bytes:
            raise _RefusedError(f"it has {total} bytes, more than the {self.limit_bytes} allowed")
        free = shutil.disk_usage(self.file.parent).free
        if total - have > free:
            raise _RefusedError(
                f"it needs {total - have} more bytes, the disk of {self.file.parent} has {free}"
            )


class _SafeAddresses(urllib.request.BaseHandler):
    """Allows https, and plain http to this machine, after redirections, too."""

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        """Return the request if it goes to this machine."""
        host = urllib.parse.urlsplit(request.full_url).hostname
        if request.type != "http" or host not in LOCAL:
            raise _RefusedError("only https addresses are used")
        return request

    ftp_request = file_request = data_request = http_request


_OPENER = urllib.request.build_opener(_SafeAddresses)
