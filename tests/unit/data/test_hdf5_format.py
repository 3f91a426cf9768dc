"""Our own files as a stream: the same episodes, little memory, the same refusals."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import pytest
from recording_fakes import SPEC, make_episodes

from mads4.data import store_stream
from mads4.data.dataset import Dataset
from mads4.data.formats import open_source
from mads4.data.store import read_header, write_dataset
from mads4.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "walk.h5", SPEC, make_episodes(20), {"kind": "random"}, "walk-20")
    return tmp_path / "walk.h5"


@pytest.mark.parametrize("block", [1, 1000, 1 << 25])
def test_the_episodes_are_those_of_the_file(
    path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_stream, "BLOCK_BYTES", block)
    recording = open_source("hdf5", path)
    assert (recording.name, recording.spec, recording.skipped) == ("walk-20", SPEC, {})
    assert recording.files == (path,)
    assert recording.origin == {
        "format": "hdf5",
        "reader_version": 1,
        "fingerprint": read_header(path).fingerprint,
        "behavior": {"kind": "random"},
    }
    for _ in range(2):  # from the first, each time
        read = Dataset.from_episodes(SPEC, recording.episodes())
        assert read.fingerprint == read_header(path).fingerprint


def test_part_of_a_stream_may_be_taken(path: Path) -> None:
    recording = open_source("hdf5", path)
    some = list(itertools.islice(recording.episodes(), 3))
    assert [episode.seed for episode in some] == [0, 1, 2]


def test_changed_content_is_found(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["steps/observation"][4, 0, 0] += 1
    with pytest.raises(UserError, match=r"walk\.h5 is damaged: .*'observation' does not match"):
        list(open_source("hdf5", path).episodes())


def test_values_are_checked_before_an_episode_is_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(path, "r+") as file:
        file["steps/reward"][0] += 1
    with pytest.raises(UserError, match="returns do not follow from their rewards"):
        next(iter(open_source("hdf5", path).episodes()))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UserError, match="is not an HDF5 file"):
        open_source("hdf5", tmp_path / "text.h5")
    with pytest.raises(UserError, match="There is no data set file"):
        open_source("hdf5", tmp_path / "none.h5")
