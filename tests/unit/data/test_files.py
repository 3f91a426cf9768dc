"""Source files' hashes and keys, and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mads4.data.files import LISTED, describe, described_aside, file_sha256, locked, source_key
from mads4.errors import UserError
from process_table import wait_for


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "sub").mkdir()
    found = [tmp_path / "b.npy", tmp_path / "a.npy", tmp_path / "sub" / "c.npy"]
    for path in found:
        path.write_bytes(path.name.encode() * 1000)
    return found


def test_names_sizes_and_hashes(files: list[Path]) -> None:
    about = describe(files)
    assert [row["name"] for row in about["files"]] == ["a.npy", "b.npy", "sub/c.npy"]
    assert about["count"] == 3 and about["bytes"] == 15_000
    assert about["files"][0]["sha256"] == hashlib.sha256(b"a.npy" * 1000).hexdigest()


def test_the_common_hash_is_what_sha256sum_gives(files: list[Path], tmp_path: Path) -> None:
    command = "sha256sum a.npy b.npy sub/c.npy | sha256sum"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("there is no sha256sum here")
    assert describe(files)["sha256"] == done.stdout.split()[0]
    assert describe(files[:1])["sha256"] == file_sha256(files[0])


def test_of_many_files_only_the_common_hash_is_kept(tmp_path: Path) -> None:
    many = [tmp_path / f"{k:03d}" for k in range(LISTED + 1)]
    for path in many:
        path.write_bytes(path.name.encode())
    about = describe(many)
    assert "files" not in about and about["count"] == LISTED + 1
    many[7].write_bytes(b"other")
    assert describe(many)["sha256"] != about["sha256"]


def test_the_key_follows_names_sizes_and_times(files: list[Path]) -> None:
    key = source_key(files)
    assert key == source_key(files[::-1])
    facts = files[0].stat()
    os.utime(files[0], ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**9))
    later = source_key(files)
    files[0].write_bytes(b"longer" * 1000)
    os.utime(files[0], ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert len({key, later, source_key(files), source_key(files[1:])}) == 4


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.npy"):
        source_key([tmp_path / "gone.npy"])
    with pytest.raises(UserError, match=r"gone\.npy"):
        file_sha256(tmp_path / "gone.npy")


def test_hashing_aside_ends_with_the_work_that_failed(files: list[Path]) -> None:
    with described_aside(files) as result:
        assert result()["count"] == 3
    with pytest.raises(ZeroDivisionError), described_aside(files):
        raise ZeroDivisionError
    assert not [t for t in threading.enumerate() if t.name.startswith("hash")]
    assert describe([]) == {
        "count": 0,
        "bytes": 0,
        "sha256": hashlib.sha256(b"").hexdigest(),
        "files": [],
    }


def test_one_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "sub" / "lock", "counts"):
            order.append("second")

    with locked(tmp_path / "sub" / "lock", "counts"):
        other = threading.Thread(target=second)
        other.start()
        wait_for(lambda: "Another process counts; waiting." in caplog.text)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert list((tmp_path / "sub").iterdir()) == []


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for target in ("mine", "new"):
        lock = tmp_path / f"{target}.lock"
        lock.symlink_to(tmp_path / target)
        with pytest.raises(UserError, match="Cannot write"), locked(lock, "counts"):
            pass
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"Cannot write to .*file.*MADS4_DATA_DIR"),
        locked(tmp_path / "file" / "lock", "counts"),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with (
        pytest.raises(UserError, match=r"Cannot lock .*No locks available.*network"),
        locked(tmp_path / "lock", "counts"),
    ):
        pass
