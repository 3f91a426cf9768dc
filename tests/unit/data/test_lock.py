"""Locks: one at a time, and a plain message where there can be none."""

from __future__ import annotations

import errno
import sys
import threading
from pathlib import Path

import pytest

from mads4.data.directory import locked
from mads4.errors import UserError
from process_table import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks")


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


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"Cannot write to .*file.*MADS4_DATA_DIR"),
        locked(tmp_path / "file" / "lock", "counts"),
    ):
        pass


def test_a_file_system_without_locks_is_told(
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
