"""Downloads against a server of our own that breaks off, lies and is not there; unpacking."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mads4.data.download import check_file, download, fetch
from mads4.data.registry import Entry, find, locate
from mads4.errors import UserError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked."""

    address: str = ""
    cut: list[int] = field(default_factory=list)
    """For each coming answer, after how many bytes the connection ends."""
    etag: str | None = '"one"'
    ranges: list[str | None] = field(default_factory=list)
    tell_length: bool = True
    content: bytes = CONTENT

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/missing"):
            request.send_error(404)
            return
        if request.path.startswith("/away"):
            request.send_response(302)
            request.send_header("Location", "http://example.org/file.zip")
            request.end_headers()
            return
        self.ranges.append(request.headers.get("Range"))
        asked = request.headers.get("Range")
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        same = request.headers.get("If-Range") == self.etag
        body = self.content[first:] if asked and same else self.content
        request.send_response(206 if asked and same else 200)
        if self.tell_length:
            request.send_header("Content-Length", str(len(body)))
        if asked and same:
            size = len(self.content)
            request.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        request.wfile.write(body[: self.cut.pop(0)] if self.cut else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()


def leftovers(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def test_a_whole_file_with_its_hash_beside_it(server: Server, tmp_path: Path) -> None:
    path, seen = tmp_path / "cache" / "3m.zip", []
    found = download(
        [f"{server.address}/3m.zip"],
        path,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert path.read_bytes() == CONTENT
    assert (found.sha256, found.address) == (SHA256, f"{server.address}/3m.zip")
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert (path.parent / "3m.zip.sha256").read_text() == f"{SHA256}  3m.zip\n"
    assert leftovers(path) == {"3m.zip", "3m.zip.sha256"}
    again = download([], path)  # nothing is asked for a second time
    assert again.address is None and len(server.ranges) == 1


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, tell_length: bool) -> None:
    server.cut, server.tell_length = [300_000, 1, 200_000], tell_length
    path = tmp_path / "3m.zip"
    if not tell_length:  # without a length nobody can see that the end is missing, but the hash
        with pytest.raises(UserError, match="has SHA-256"):
            download([f"{server.address}/3m.zip"], path, sha256=SHA256)
        assert not path.exists()
        return
    download([f"{server.address}/3m.zip"], path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut = [400_000, 0, 0, 0, 0]
    path = tmp_path / "3m.zip"
    with pytest.raises(UserError, match="connection"):
        download([f"{server.address}/3m.zip"], path)
    assert (tmp_path / "3m.zip.part").stat().st_size == 400_000
    server.ranges.clear()
    download([f"{server.address}/3m.zip"], path)
    assert server.ranges == ["bytes=400000-"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"two"', 'W/"weak"', None])
def test_a_beginning_of_another_version_is_not_continued(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    server.cut = [400_000, 0, 0, 0, 0]
    path = tmp_path / "3m.zip"
    with pytest.raises(UserError):
        download([f"{server.address}/3m.zip"], path)
    server.etag, server.content = etag, CONTENT[::-1]
    download([f"{server.address}/3m.zip"], path)
    assert path.read_bytes() == CONTENT[::-1]


def test_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "3m.zip"
    found = download([f"{server.address}/missing.zip", f"{server.address}/3m.zip"], path)
    assert found.address == f"{server.address}/3m.zip"


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "3m.zip"
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, expected 0000"):
        download([f"{server.address}/3m.zip"], path, sha256="0" * 64)
    assert leftovers(path) == set()


def test_a_file_that_changed_after_the_first_download(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "3m.zip"
    download([f"{server.address}/3m.zip"], path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="damaged or another file"):
        download([f"{server.address}/3m.zip"], path)


def test_a_file_put_there_by_hand_is_taken_and_its_hash_noted(tmp_path: Path) -> None:
    path = tmp_path / "3m.zip"
    path.write_bytes(CONTENT)
    assert download([], path).sha256 == SHA256
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match="expected " + SHA256):
        check_file(path)


def test_what_is_too_large_is_refused(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "3m.zip"
    with pytest.raises(UserError, match=r"more than the 1000 allowed"):
        download([f"{server.address}/3m.zip"], path, limit_bytes=1000)
    server.tell_length = False
    with pytest.raises(UserError, match=r"larger than 500000 bytes"):
        download([f"{server.address}/3m.zip"], path, limit_bytes=500_000)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://example.org/3m.zip", "only https"),
        ("ftp://127.0.0.1/3m.zip", "only https"),
        ("file:///etc/hostname", "only https"),
        ("http://127.0.0.1:1/3m.zip", "no connection"),
    ],
)
def test_without_a_way_it_says_what_to_do_by_hand(tmp_path: Path, address: str, why: str) -> None:
    path = tmp_path / "3m.zip"
    with pytest.raises(UserError) as caught:
        download([address], path)
    message = str(caught.value)
    assert why in message and address in message
    assert f"put it at {path}" in message


def test_a_redirection_to_an_unsafe_address_is_not_followed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only https"):
        download([f"{server.address}/away"], tmp_path / "3m.zip")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    """OG-MARL's 3m from a server of our own."""
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "data"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "www").mkdir()
    with zipfile.ZipFile(tmp_path / "www" / "3m.zip", "w") as archive:
        archive.writestr("smac_v1/3m.vlt/Good/metadata.json", "{}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield replace(find("og-marl/3m-good"), addresses=(f"{address}/gone.zip", f"{address}/3m.zip"))
    server.shutdown()
    server.server_close()


def test_download_unpack_and_find(entry: Entry) -> None:
    with pytest.raises(UserError, match="mads4 data download og-marl/3m-good"):
        locate(entry)
    progress: list[int] = []
    vault = fetch(entry, lambda done, total: progress.append(done))
    assert vault == entry.place / "smac_v1" / "3m.vlt"
    assert (vault / "Good" / "metadata.json").read_text() == "{}"
    assert progress[-1] == entry.archive.stat().st_size
    offline = replace(entry, addresses=())
    assert fetch(offline) == locate(offline) == vault  # nothing is asked for again


def test_an_archive_put_there_by_hand_is_unpacked(entry: Entry, tmp_path: Path) -> None:
    entry.archive.parent.mkdir(parents=True)
    (tmp_path / "www" / "3m.zip").rename(entry.archive)
    assert fetch(entry).name == "3m.vlt"


def test_two_who_fetch_at_once_both_get_it(entry: Entry) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fetch, [entry, entry]))
    assert found == [entry.place / "smac_v1" / "3m.vlt"] * 2


def test_a_damaged_archive_leaves_nothing_in_place(entry: Entry, tmp_path: Path) -> None:
    whole = (tmp_path / "www" / "3m.zip").read_bytes()
    (tmp_path / "www" / "3m.zip").write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"3m\.zip.*delete it before"):
        fetch(entry)
    assert not entry.is_here


def test_an_archive_without_the_vault(entry: Entry, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "www" / "3m.zip", "w") as archive:
        archive.writestr("8m.vlt/Good/metadata.json", "{}")
    with pytest.raises(UserError, match=r"has no folder 3m\.vlt"):
        fetch(entry)


def test_what_cannot_be_downloaded(entry: Entry) -> None:
    madt = find("madt/3m-poor")
    with pytest.raises(UserError, match=f"put the folder at {madt.place}"):
        fetch(madt)
    with pytest.raises(UserError, match="not on this machine"):
        locate(madt)
    madt.place.mkdir(parents=True)
    (madt.place / "0.pt").touch()
    assert fetch(madt) == madt.place
