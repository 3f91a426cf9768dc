"""A published data set from its address to its place, and what is said where it is not there."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mads4.data.fetch import fetch, locate
from mads4.data.registry import Entry, find
from mads4.errors import UserError


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
    told: list[int] = []
    vault = fetch(entry, lambda done, total: told.append(done))
    assert vault == entry.place / "smac_v1" / "3m.vlt"
    assert (vault / "Good" / "metadata.json").read_text() == "{}"
    assert told[-1] == entry.archive.stat().st_size
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
