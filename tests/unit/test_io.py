from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mads4.io import atomic_folder, atomic_path, write_text


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with atomic_folder(target) as beside:
        (beside / "sub").mkdir()
        (beside / "sub" / "file").write_text("text")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "text"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "folder") as beside:
        (beside / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def killed_while_writing(kind: str, path: Path) -> None:
    """Let a process die inside `kind`, ``atomic_path`` or ``atomic_folder``."""
    script = f"""
import os, pathlib, signal
from mads4.io import {kind}
with {kind}(pathlib.Path({str(path)!r})) as beside:
    (beside / "old" if beside.is_dir() else beside).write_text("a part")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9


@pytest.mark.parametrize("name", ["folder", "a[b] c", "long" * 60])
def test_what_a_killed_process_left_is_removed(name: str, tmp_path: Path) -> None:
    killed_while_writing("atomic_folder", tmp_path / name)
    killed_while_writing("atomic_path", tmp_path / name)
    assert len(list(tmp_path.iterdir())) >= 1
    with atomic_folder(tmp_path / name) as beside:
        assert list(beside.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("planted", [".file.tmp", "file"])
def test_no_link_is_followed(planted: str, tmp_path: Path) -> None:
    """A link in a folder that others may write to must not lead to the user's own files."""
    (tmp_path / "mine").write_text("precious")
    (tmp_path / planted).symlink_to(tmp_path / "mine")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_with_content_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(OSError), atomic_folder(tmp_path / "folder") as beside:
        (beside / "other").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "mine"]
