from __future__ import annotations

from pathlib import Path

import pytest

from mads4.io import atomic_folder


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


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".folder.tmp" / "old").touch()
    with atomic_folder(tmp_path / "folder") as beside:
        assert list(beside.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_with_content_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(OSError), atomic_folder(tmp_path / "folder") as beside:
        (beside / "other").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "mine"]
