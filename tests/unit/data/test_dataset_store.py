from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episode, make_episodes

from mads4.data import store, store_stream
from mads4.data.content import LAST_ARRAYS
from mads4.data.dataset import Dataset
from mads4.data.on_demand import on_demand
from mads4.data.store import read_dataset, read_header, write_dataset
from mads4.data.store_read import SCHEMA_VERSION
from mads4.data.store_stream import stream_episodes
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode


def assert_same(one: Episode, other: Episode) -> None:
    for field in fields(Episode):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype, field.name
        else:
            assert mine == theirs, field.name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "walk.h5", SPEC, make_episodes(6), {"kind": "random"}, "walk-6")
    return tmp_path / "walk.h5"


specs = st.builds(
    EnvSpec,
    name=st.just("fake"),
    scenario=st.text(max_size=5),
    n_agents=st.integers(1, 3),
    obs_dim=st.integers(1, 5),
    state_dim=st.integers(1, 5),
    n_actions=st.sampled_from([2, 5, 300]),
    episode_limit=st.integers(1, 9),
    reward=st.just("r"),
    state_encoding=st.sampled_from(["default", "float"]),
    state_per_agent=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(spec=specs, count=st.integers(1, 5), seed=st.integers(0, 99), name=st.text(max_size=4))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, spec: EnvSpec, count: int, seed: int, name: str
) -> None:
    path = tmp_path_factory.mktemp("store") / "set.h5"
    episodes = make_episodes(count, seed, spec)
    behavior = {"kind": "é", "noise": [0.0, 0.25], "nested": {"a": None}}
    written = write_dataset(path, spec, iter(episodes), behavior, name)
    dataset, header = read_dataset(path), read_header(path)
    assert len(dataset) == len(header) == count
    for i, episode in enumerate(episodes):
        assert_same(dataset.episode(i), episode)
    assert dataset.spec == header.spec == spec
    assert dataset.behavior == behavior and dataset.name == (name or "set")
    assert dataset.summary() == header.summary() == written.summary()
    assert dataset.fingerprint == Dataset.from_episodes(spec, episodes).fingerprint


def test_fingerprint_is_of_the_content_alone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = read_header(path).fingerprint
    monkeypatch.setattr(store, "COMPRESSION", {})
    monkeypatch.setattr(store, "CHUNK_BYTES", 512)
    again = write_dataset(tmp_path / "b.h5", SPEC, make_episodes(6), {"other": 1}, "other")
    assert again.fingerprint == original == read_dataset(tmp_path / "b.h5").fingerprint


def test_fingerprint_is_the_same_everywhere() -> None:
    episode = Episode(
        observation=np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 8,
        state=np.eye(2, 4, dtype=np.uint8)[:, None],
        available_actions=np.ones((2, 2, 3), bool),
        action=np.array([[0, 1], [2, 0]]),
        reward=np.array([0.0, 1.5], np.float32),
        terminated=False,
        truncated=True,
        seed=3,
        metrics={"deliveries": 1.0},
    )
    # Another machine, Python or year must arrive at the same value.
    assert (
        Dataset.from_episodes(SPEC, [episode]).fingerprint
        == "b9dfa0fc049da6d2aa13cd00a4efededfc96fcfa0114356b26a530d7a20a6b57"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda e: replace(e, reward=e.reward + 1),
        lambda e: replace(e, seed=77),
        lambda e: replace(e, metrics={**e.metrics, "noise": 3.0}),
        lambda e: replace(e, metrics={"renamed": 1.0}),
        lambda e: replace(e, state=1 - e.state),
        lambda e: replace(e, terminated=not e.terminated, truncated=not e.truncated),
    ],
)
def test_fingerprint_changes_with_any_content(change, path: Path, tmp_path: Path) -> None:
    episodes = make_episodes(6)
    episodes[3] = change(episodes[3])
    header = write_dataset(tmp_path / "changed.h5", SPEC, episodes)
    assert header.fingerprint != read_header(path).fingerprint


def test_fingerprint_changes_with_the_spec(path: Path, tmp_path: Path) -> None:
    header = write_dataset(tmp_path / "c.h5", replace(SPEC, reward="other"), make_episodes(6))
    assert header.fingerprint != read_header(path).fingerprint


def test_reading_the_header_reads_no_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = []
    read_direct = h5py.Dataset.read_direct

    def spy(stored: h5py.Dataset, target: np.ndarray, rows: object) -> None:
        touched.append(stored.name)
        read_direct(stored, target, rows)

    monkeypatch.setattr(h5py.Dataset, "read_direct", spy)
    read_header(path)
    assert touched and all(name.startswith("/episodes/") for name in touched)


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


def test_no_flipped_bit_goes_unnoticed(path: Path, tmp_path: Path) -> None:
    original = path.read_bytes()
    sound = read_dataset(path)
    rng = np.random.default_rng(0)
    copy = tmp_path / "flipped.h5"
    noticed = 0
    for position in rng.choice(len(original), 300, replace=False):
        copy.write_bytes(original)
        flip(copy, int(position), int(rng.integers(8)))
        try:
            dataset = read_dataset(copy)
        except UserError as error:
            assert "flipped.h5" in str(error) and "mads4 collect" in str(error)
            noticed += 1
            continue
        # The bit lay in space that HDF5 does not use: the content must be untouched.
        assert dataset.fingerprint == sound.fingerprint and dataset.behavior == sound.behavior
        np.testing.assert_array_equal(dataset.observation, sound.observation)
        np.testing.assert_array_equal(dataset.state, sound.state)
        np.testing.assert_array_equal(dataset.returns, sound.returns)
    assert noticed > 30


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("read", [read_dataset, read_header])
def test_a_truncated_file_is_refused(share: float, read, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"walk\.h5 is .*(not an HDF5|cut short|damaged)"):
        read(path)


def test_changed_content_is_found_by_its_fingerprint(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["steps/observation"][4, 0, 0] += 1
    with pytest.raises(UserError, match="'observation' does not match its SHA-256"):
        read_dataset(path)
    assert len(read_dataset(path, verify=False)) == 6


def change_header(path: Path, **changes: object) -> None:
    """Rewrite the header as a file made by other hands would have it: consistent, but wrong."""
    with h5py.File(path, "r+") as file:
        values = json.loads(bytes(file["header"][()])) | changes
        text = json.dumps(values).encode()
        del file["header"]
        file["header"] = np.bytes_(text)
        file.attrs["header_sha256"] = store.hashlib.sha256(text).hexdigest()


def set_attribute(path: Path, name: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value


def delete(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def replace_array(path: Path, name: str, values: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_text("not data"), "is not an HDF5 file"),
        (lambda p: p.write_bytes(b""), "is not an HDF5 file"),
        (lambda p: set_attribute(p, "format", "robomimic"), "not a mads4 data set"),
        (
            lambda p: set_attribute(p, "schema_version", SCHEMA_VERSION + 1),
            f"schema version {SCHEMA_VERSION + 1}; .* newer mads4",
        ),
        (lambda p: set_attribute(p, "header_sha256", "0"), "header's checksum"),
        (lambda p: change_header(p, fingerprint="0"), "fingerprint does not match"),
        (lambda p: change_header(p, spec={"name": "fake"}), "damaged"),
        (lambda p: delete(p, "header"), "damaged"),
        (lambda p: delete(p, "steps/action"), "damaged"),
        (lambda p: delete(p, "episodes"), "damaged"),
        (lambda p: replace_array(p, "steps/reward", np.zeros(3, "f4")), "steps/reward is"),
        (lambda p: replace_array(p, "episodes/offsets", np.arange(7)), "offsets do not follow"),
        (lambda p: replace_array(p, "episodes/seed", np.arange(6)[::-1]), "SHA-256"),
        (lambda p: delete(p, "episodes/last_row"), "damaged"),
        (lambda p: delete(p, "episodes/last_state"), "damaged"),
        (lambda p: replace_array(p, "episodes/last_row", np.arange(6)), "'last_row'.*SHA-256"),
        (
            lambda p: replace_array(
                p, "episodes/last_observation", np.zeros((4, 2, 3), np.float32)
            ),
            "'last_observation'.*SHA-256",
        ),
        (
            lambda p: replace_array(p, "episodes/last_state", np.full((4, 1, 4), 2, np.uint8)),
            "last_state is uint8 but has values other than 0 and 1",
        ),
    ],
)
def test_damage_is_named(damage, message: str, path: Path) -> None:
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        read_dataset(path)
    assert str(path) in str(caught.value)


def test_foreign_hdf5_missing_file_and_folder(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.arange(3)
    with pytest.raises(UserError, match="not a mads4 data set"):
        read_dataset(tmp_path / "other.h5")
    with pytest.raises(UserError, match="There is no data set file"):
        read_dataset(tmp_path / "missing.h5")
    with pytest.raises(UserError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        write_dataset(tmp_path, SPEC, make_episodes(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": np.zeros((5, 2, 4), np.float32)}, "observation has shape"),
        ({"observation": np.full((5, 2, 3), np.nan, np.float32)}, "not finite"),
        ({"reward": np.array([0, 0, np.inf, 0, 0], np.float32)}, "not finite"),
        ({"reward": np.zeros(4, np.float32)}, "reward has shape"),
        ({"action": np.full((5, 2), 3)}, "action has values outside 0 to 2"),
        ({"action": np.full((5, 2), -1)}, "action has values outside"),
        ({"available_actions": np.zeros((5, 2, 3), bool)}, "not among the available"),
        ({"state": np.full((5, 1, 4), 2, np.uint8)}, "values other than 0 and 1"),
        ({"state": np.zeros((5, 1, 4))}, "state is float64"),
        ({"last_state": None}, "has no last_state"),
        ({"last_observation": np.zeros((3, 2), np.float32)}, "last_observation has shape"),
        ({"last_observation": np.full((2, 3), np.inf, np.float32)}, "not finite"),
        ({"last_state": np.full((1, 4), 0.5, np.float32)}, "last_state has values other than"),
        ({"last_state": np.full((1, 4), 2, np.uint8)}, "last_state is uint8 but has values"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(changes, message: str, tmp_path: Path) -> None:
    good = make_episode(np.random.default_rng(0), 5, index=1)
    path = tmp_path / "x.h5"
    with pytest.raises(UserError, match=f"Episode 1 .*{message}"):
        write_dataset(path, SPEC, [good, replace(good, **changes)])
    assert list(tmp_path.iterdir()) == []


def test_lengths_and_dtypes_are_checked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = make_episode(rng, 5)
    with pytest.raises(UserError, match="13 steps, allowed are 1 to 12"):
        write_dataset(tmp_path / "x.h5", SPEC, [make_episode(rng, 13)])
    with pytest.raises(UserError, match="at least one episode"):
        write_dataset(tmp_path / "x.h5", SPEC, [])
    mixed = [good, replace(good, state=good.state.astype(np.float32))]
    with pytest.raises(UserError, match="one dtype"):
        write_dataset(tmp_path / "x.h5", SPEC, mixed)
    with pytest.raises(UserError, match="one dtype"):
        Dataset.from_episodes(SPEC, mixed)


def test_huge_finite_values_are_no_reason_to_refuse(tmp_path: Path) -> None:
    episode = make_episode(np.random.default_rng(0), 5)
    huge = replace(episode, observation=np.full_like(episode.observation, 3e38))
    write_dataset(tmp_path / "x.h5", SPEC, [huge])
    assert_same(read_dataset(tmp_path / "x.h5").episode(0), huge)


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()

    def interrupted() -> Iterator[Episode]:
        yield from make_episodes(3, seed=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(path, SPEC, interrupted())
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["walk.h5"]


def test_kill_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    script = (
        "import sys, time, recording_fakes as f\n"
        "from mads4.data.store import write_dataset\n"
        "def slow():\n"
        "    yield from f.make_episodes(3)\n"
        "    print('going', flush=True)\n"
        "    time.sleep(60)\n"
        "write_dataset(sys.argv[1], f.SPEC, slow())\n"
    )
    path = tmp_path / "killed.h5"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == b"going\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()
    header = write_dataset(path, SPEC, make_episodes(3))
    assert read_dataset(path).fingerprint == header.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["killed.h5"]


@pytest.mark.slow
def test_a_thousand_long_episodes_load_in_seconds(tmp_path: Path) -> None:
    spec = replace(SPEC, obs_dim=71, state_dim=300, episode_limit=500)
    rng = np.random.default_rng(0)
    some = [make_episode(rng, 500, spec, k) for k in range(10)]
    binary = [
        replace(e, observation=(e.observation > 0.5).astype(np.float32), state=e.state & (k % 2))
        for k, e in enumerate(some)
    ]
    write_dataset(tmp_path / "big.h5", spec, (binary[k % 10] for k in range(1000)))
    began = time.process_time()  # not the time that others have the processor
    assert read_dataset(tmp_path / "big.h5").steps == 500_000
    assert time.process_time() - began < 20


NO_LAST = dict.fromkeys(LAST_ARRAYS)


def test_what_follows_the_last_step_is_no_part_of_the_fingerprint(
    path: Path, tmp_path: Path
) -> None:
    without = [replace(episode, **NO_LAST) for episode in make_episodes(6)]  # type: ignore[arg-type]
    header = write_dataset(tmp_path / "without.h5", SPEC, without)
    assert header.fingerprint == read_header(path).fingerprint
    assert header.table.last_row.tolist() == [-1] * 6
    assert read_header(path).table.last_row.tolist() == [-1, 0, 1, -1, 2, 3]
    assert read_dataset(tmp_path / "without.h5").last == {}
    with h5py.File(tmp_path / "without.h5") as file:
        assert not [name for name in file["episodes"] if name.startswith("last")]


def test_files_of_schema_1_are_read(path: Path) -> None:
    expected = read_dataset(path)
    with h5py.File(path, "r+") as file:
        values = json.loads(bytes(file["header"][()]))
        values["behaviour"] = values.pop("behavior")
        del values["last"]
        text = json.dumps(values).encode()
        for name in ("header", "episodes/last_row", *(f"episodes/{name}" for name in LAST_ARRAYS)):
            del file[name]
        file["header"] = np.bytes_(text)
        file.attrs["header_sha256"] = store.hashlib.sha256(text).hexdigest()
        file.attrs["schema_version"] = 1
    for found in (read_dataset(path), on_demand(path)):
        assert found.summary() == expected.summary()
        for k in range(6):
            want = replace(expected.episode(k), **NO_LAST)  # type: ignore[arg-type]
            assert_same(found.episode(k), want)
    for k, episode in enumerate(stream_episodes(path)):
        assert_same(episode, replace(expected.episode(k), **NO_LAST))  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [1, 400, 1 << 25])
def test_a_stream_carries_what_follows(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_stream, "BLOCK_BYTES", block)
    episodes = make_episodes(9)
    write_dataset(tmp_path / "a.h5", SPEC, episodes)
    streamed = list(stream_episodes(tmp_path / "a.h5"))
    for one, other in zip(streamed, episodes, strict=True):
        assert_same(one, other)
    replace_array(tmp_path / "a.h5", "episodes/last_state", np.zeros((6, 1, 4), np.uint8))
    with pytest.raises(UserError, match=r"'last_state'.*SHA-256"):
        list(stream_episodes(tmp_path / "a.h5"))
