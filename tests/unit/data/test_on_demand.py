"""Data sets that stay in their file: the same bits as in memory, whatever is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episode, make_episodes

from mads4.data import on_demand, stored_array
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.content import LAST_ARRAYS
from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler, held_out_batches
from mads4.data.statistics import normalization
from mads4.data.store import read_dataset, write_dataset
from mads4.data.stored_array import StoredArray, rows_into
from mads4.errors import UserError
from mads4.types import SequenceBatch

EPISODES = make_episodes(40)


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Dataset, Dataset]:
    """A data set in memory and on demand."""
    path = tmp_path / "data.h5"
    write_dataset(path, SPEC, EPISODES, {"kind": "walk"}, compress=request.param)
    return read_dataset(path), on_demand.on_demand(path)


def assert_equal(one: SequenceBatch, other: SequenceBatch) -> None:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype and torch.equal(a, b), field.name


def test_batches_are_the_same_bit_for_bit(both: tuple[Dataset, Dataset]) -> None:
    memory, disk = (data.split(0.25, 3)[0] for data in both)
    assert disk.on_demand and not memory.on_demand
    make: list[Callable[[Dataset], SequenceSampler | ConsecutiveSampler]] = [
        lambda data: SequenceSampler(data, 7, seed=1),
        lambda data: SequenceSampler(data, 7, 4, seed=1, sampling="return"),
        lambda data: ConsecutiveSampler(data, 7, 5, seed=1),
    ]
    for sampler in make:
        for step in (0, 3, 50):
            for flag in (False, True):
                assert_equal(sampler(memory).batch(step, flag), sampler(disk).batch(step, flag))


def test_all_else_is_the_same(both: tuple[Dataset, Dataset]) -> None:
    memory, disk = both
    assert memory.summary() == disk.summary()
    np.testing.assert_array_equal(memory.return_to_go, disk.return_to_go)
    for one, other in zip(memory.split(0.3, 0), disk.split(0.3, 0), strict=True):
        assert one.fingerprint == other.fingerprint
        for per_agent in (False, True):
            found = normalization(one, per_agent), normalization(other, per_agent)
            for field in fields(found[0]):
                np.testing.assert_array_equal(*(getattr(n, field.name) for n in found))
        for a, b in zip(held_out_batches(one, 6), held_out_batches(other, 6), strict=True):
            assert_equal(a, b)
        for k in (0, len(one) - 1):
            expected, episode = one.episode(k), other.episode(k)
            for field in fields(episode):
                np.testing.assert_equal(getattr(episode, field.name), getattr(expected, field.name))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, StoredArray]]:
    """Arrays in all layouts that a file may have, with what is in them."""
    path = tmp_path_factory.mktemp("arrays") / "arrays.h5"
    values = np.random.default_rng(0).normal(size=(100, 2, 3)).astype(np.float32)
    layouts = {
        "contiguous": {},
        "chunked": {"chunks": (7, 2, 3)},
        "split rows": {"chunks": (7, 1, 3)},
        "compressed": {"chunks": (7, 2, 3), "compression": "gzip"},
    }
    with h5py.File(path, "w", libver="v110") as file:
        for name, layout in layouts.items():
            file.create_dataset(name, data=values, **layout)
        return {name: (values, StoredArray.of(path, file[name])) for name in layouts}


@given(layout=st.sampled_from(range(4)), first=st.integers(0, 100), last=st.integers(0, 100))
@settings(deadline=None)
def test_rows_are_the_ones_asked_for(
    stored: dict[str, tuple[np.ndarray, StoredArray]], layout: int, first: int, last: int
) -> None:
    values, array = list(stored.values())[layout]
    assert (array.shape, array.dtype, len(array)) == (values.shape, values.dtype, 100)
    np.testing.assert_array_equal(array[first:last], values[first:last])
    target = np.full((max(last - first, 0), 2, 3), np.nan, np.float32)
    rows_into(target, array, first)
    np.testing.assert_array_equal(target, values[first:last])
    np.testing.assert_array_equal(
        array.view(np.int32)[first:last], values.view(np.int32)[first:last]
    )


def test_where_rows_cannot_be_read_directly_hdf5_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data.h5", SPEC, EPISODES, compress=False)
    expected = on_demand.on_demand(tmp_path / "data.h5").observation[:]
    monkeypatch.setattr(stored_array, "os", SimpleNamespace())
    data = on_demand.on_demand(tmp_path / "data.h5")
    np.testing.assert_array_equal(data.observation[:], expected)


def test_a_file_that_loses_its_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    spec = replace(SPEC, obs_dim=500, episode_limit=400)
    episodes = [make_episode(np.random.default_rng(k), 400, spec, k) for k in range(4)]
    write_dataset(path, spec, episodes, compress=False)
    data = on_demand.on_demand(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"Cannot read .*data\.h5 any more: its end is missing"):
        SequenceSampler(data, 4).batch(0)


def test_by_default_a_small_file_is_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.h5"
    header = write_dataset(path, SPEC, EPISODES)
    needed = on_demand.step_bytes(path)
    assert needed == header.steps * (2 * 3 * 4 + 4 + 2 * 3 + 2 + 4)
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "cache"))
    for available, in_memory in ((None, True), (2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr(on_demand, "available_memory", lambda found=available: found)
        assert on_demand.open_dataset(path).on_demand is not in_memory
        assert on_demand.open_dataset(path, True).on_demand is False
        assert on_demand.open_dataset(path, False).on_demand is True


def test_a_compressed_file_is_sampled_from_a_working_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "cache"))
    compressed, plain = tmp_path / "data.h5", tmp_path / "plain.h5"
    header = write_dataset(compressed, SPEC, EPISODES)
    write_dataset(plain, SPEC, EPISODES, compress=False)
    with caplog.at_level("INFO", "mads4"):
        data = on_demand.open_dataset(compressed, False)
    (copy,) = (tmp_path / "cache").rglob("*.h5")
    assert str(copy) in caplog.text and data.fingerprint == header.fingerprint
    made = copy.stat().st_mtime_ns
    on_demand.open_dataset(compressed, False)
    on_demand.open_dataset(plain, False)
    assert list((tmp_path / "cache").rglob("*.h5")) == [copy]
    assert copy.stat().st_mtime_ns == made


def test_a_working_copy_without_last_rows_is_not_taken_for_one_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "cache"))
    bare = [replace(e, **dict.fromkeys(LAST_ARRAYS)) for e in EPISODES]  # type: ignore[arg-type]
    one = write_dataset(tmp_path / "bare.h5", SPEC, bare)
    other = write_dataset(tmp_path / "data.h5", SPEC, EPISODES)
    assert one.fingerprint == other.fingerprint
    assert not on_demand.open_dataset(tmp_path / "bare.h5", False).last
    assert set(on_demand.open_dataset(tmp_path / "data.h5", False).last) == set(LAST_ARRAYS)


def test_a_full_disk_is_said_before_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADS4_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(on_demand.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    write_dataset(tmp_path / "data.h5", SPEC, EPISODES)
    with pytest.raises(UserError, match=r"working copy .* needs .* dataset\.in_memory=true"):
        on_demand.open_dataset(tmp_path / "data.h5", False)


def test_actions_and_returns_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    for name, value, wrong in (("action", 3, "outside 0 to 2"), ("reward", 99, "do not follow")):
        write_dataset(path, SPEC, EPISODES, compress=False)
        with h5py.File(path, "r+") as file:
            file[f"steps/{name}"][5] = value
        with pytest.raises(UserError, match=wrong):
            on_demand.on_demand(path)


def test_available_memory_is_plausible() -> None:
    found = on_demand.available_memory()
    assert found is not None and 1 << 20 < found < 1 << 50
