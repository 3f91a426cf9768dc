"""The writer of AlberDICE's layout, and its reader on what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_fakes import SPEC, make_episode, make_episodes

from mads4.data.content import LAST_ARRAYS
from mads4.data.dataset import Dataset
from mads4.data.formats import alberdice
from mads4.data.formats.alberdice import open_alberdice, write_alberdice
from mads4.data.store import read_dataset, write_dataset
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode
from recorded import ALBERDICE, needs_alberdice

NAMES = {"obs": "observation", "state": "state", "avail_actions": "available_actions"}
LENGTHS = (5, 1, SPEC.episode_limit, 7)


def episodes(spec: EnvSpec = SPEC) -> list[Episode]:
    """Return episodes that lack what the layout has no place for."""
    rng = np.random.default_rng(0)
    made = [make_episode(rng, length, spec, k) for k, length in enumerate(LENGTHS)]
    return [
        replace(episode, metrics={}, terminated=in_time, truncated=not in_time)
        for k, episode in enumerate(made)
        for in_time in [k in (0, 1)]
    ]


@pytest.mark.parametrize("encoding", ["default", "float"])
@pytest.mark.parametrize("block", [1, 2000, 1 << 26])
def test_what_is_written_is_read_back(
    tmp_path: Path, encoding: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alberdice, "MAPPED_BYTES", block)
    spec = replace(SPEC, state_encoding=encoding)
    folder = write_alberdice(tmp_path / "walk", spec, iter(episodes(spec)))
    recording = open_alberdice(folder, spec)
    assert recording.spec == spec
    assert recording.name == "walk"
    assert [path.name for path in recording.files] == sorted(
        path.name for path in folder.iterdir() if path.name != "actions_onehot.npy"
    )
    read = Dataset.from_episodes(recording.spec, recording.episodes())
    assert read.fingerprint == Dataset.from_episodes(spec, episodes(spec)).fingerprint
    for k, episode in enumerate(episodes(spec)):
        for name in LAST_ARRAYS:
            given = getattr(episode, name)
            given = getattr(episode, name.removeprefix("last_"))[-1] if given is None else given
            found = getattr(read.episode(k), name)
            np.testing.assert_array_equal(found, given)
            assert found.dtype == given.dtype


def test_the_files_are_as_alberdice_makes_them(tmp_path: Path) -> None:
    folder = write_alberdice(tmp_path / "walk", SPEC, episodes())
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    rows = (len(LENGTHS), SPEC.episode_limit + 1)
    assert {key: (array.dtype.name, array.shape) for key, array in arrays.items()} == {
        "actions": ("int64", (*rows, 2, 1)),
        "actions_onehot": ("float32", (*rows, 2, 3)),
        "avail_actions": ("int32", (*rows, 2, 3)),
        "filled": ("int64", (*rows, 1)),
        "obs": ("float32", (*rows, 2, 3)),
        "reward": ("float32", (*rows, 1)),
        "state": ("float32", (*rows, 4)),
        "terminated": ("uint8", (*rows, 1)),
    }
    meta = json.loads((folder / "meta.json").read_text())
    assert meta == {"buffer_index": 0, "episodes_in_buffer": 4, "buffer_size": 4}
    assert arrays["filled"].sum(axis=(1, 2)).tolist() == [length + 1 for length in LENGTHS]
    for k, length in enumerate(LENGTHS):
        onehot = arrays["actions_onehot"][k]
        np.testing.assert_array_equal(onehot.argmax(-1), arrays["actions"][k, ..., 0])
        np.testing.assert_array_equal(onehot[:length].sum(-1), 1)
        for key in ("obs", "state", "avail_actions"):
            # What followed the last step; where that is not known, the last step again.
            given = getattr(episodes()[k], f"last_{NAMES[key]}")
            expected = arrays[key][k, length - 1] if given is None else given
            np.testing.assert_array_equal(arrays[key][k, length], expected.squeeze())
            assert not arrays[key][k, length + 1 :].any()
        # The flag is set where the episode ended by itself or by reaching the limit.
        assert arrays["terminated"][k, length - 1, 0] == (k != 3)


def test_what_the_layout_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one state for all agents.*env\.state_encoding"):
        write_alberdice(tmp_path / "a", replace(SPEC, state_per_agent=True), episodes())
    with pytest.raises(UserError, match="at least one episode"):
        write_alberdice(tmp_path / "a", SPEC, [])
    wrong = replace(episodes()[0], reward=np.full(5, np.nan, np.float32))
    with pytest.raises(UserError, match="Episode 1 cannot be stored"):
        write_alberdice(tmp_path / "a", SPEC, [episodes()[0], wrong])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    with pytest.raises(UserError, match="walk exists already"):
        write_alberdice(tmp_path / "walk", SPEC, make_episodes(1))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        write_alberdice(tmp_path / "file" / "walk", SPEC, make_episodes(1))


REAL = {"buffer_02": 50.0, "buffer_02_20": 50.0, "buffer_00_02_20": 33.29, "buffer_random": 0.15}


@needs_alberdice
@pytest.mark.parametrize("name", REAL)
def test_real_recordings_convert_and_come_back(tmp_path: Path, name: str) -> None:
    source = ALBERDICE / name
    recording = open_alberdice(source)
    header = write_dataset(tmp_path / "x.h5", recording.spec, recording.episodes())
    data = read_dataset(tmp_path / "x.h5")
    assert data.fingerprint == header.fingerprint
    assert data.table.length.tolist() == [50] * 100
    assert round(float(data.returns.mean()), 2) == REAL[name]
    exported = write_alberdice(
        tmp_path / "back", data.spec, (data.episode(k) for k in range(len(data)))
    )
    again = open_alberdice(exported)
    assert Dataset.from_episodes(again.spec, again.episodes()).fingerprint == data.fingerprint
    for key in ("actions", "actions_onehot", "avail_actions", "filled", "obs", "state"):
        ours, theirs = np.load(exported / f"{key}.npy"), np.load(source / f"{key}.npy")
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), key
        np.testing.assert_array_equal(ours[:, :50], theirs[:, :50])
    for key in ("filled", "reward", "terminated"):
        theirs = np.load(source / f"{key}.npy")
        np.testing.assert_array_equal(np.load(exported / f"{key}.npy"), theirs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and memory in KiB")
def test_a_folder_larger_than_the_memory_it_takes(tmp_path: Path) -> None:
    spec = replace(SPEC, obs_dim=1500, episode_limit=500, n_agents=4)
    shape = (200, 501, 4)
    for key, dtype, axes in (
        ("actions", "i8", (*shape, 1)),
        ("avail_actions", "u1", (*shape, 3)),
        ("filled", "u1", (*shape[:2], 1)),
        ("obs", "f4", (*shape, 1500)),  # 2.4 GB of zeros that take no space
        ("reward", "f4", (*shape[:2], 1)),
        ("state", "f4", (*shape[:2], 4)),
        ("terminated", "u1", (*shape[:2], 1)),
    ):
        array = np.lib.format.open_memmap(tmp_path / f"{key}.npy", "w+", dtype, axes)
        if key in ("avail_actions", "filled"):
            array[...] = 1
    (tmp_path / "meta.json").write_text('{"episodes_in_buffer": 200}')
    script = (
        "import sys\n"
        "from mads4.data.formats.alberdice import open_alberdice\n"
        "episodes = open_alberdice(sys.argv[1]).episodes()\n"
        "seen = sum(e.observation.sum() + e.length for e in episodes)\n"
        # getrusage's figure would be that of the process that started this one, if larger
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(int(seen), int(status['VmHWM'].split()[0]) // 1024)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    steps, mib = map(int, told.split())
    assert steps == 200 * spec.episode_limit
    assert mib < 300
