"""AlberDICE's layout: what is read, what is left out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mads4.data.dataset import Dataset
from mads4.data.formats import open_source
from mads4.data.store import read_dataset, write_dataset
from mads4.envs.matrix_game import MatrixGame
from mads4.errors import UserError
from mads4.types import EnvSpec
from recorded import ALBERDICE, needs_alberdice

LENGTHS = (4, 2, 1)
LIMIT = 4
SPEC = EnvSpec("bridge", "easy", 2, 3, 5, 6, LIMIT, reward="sparse")


def read_alberdice(path: Path, env: EnvSpec | None = None) -> Dataset:
    recording = open_source("alberdice", path, env)
    return Dataset.from_episodes(
        recording.spec, recording.episodes(), recording.origin, recording.name
    )


def arrays(lengths: tuple[int, ...] = LENGTHS, binary: bool = False) -> dict[str, Any]:
    """Return episodes of random content; rows that are not filled hold what must never be read."""
    rng = np.random.default_rng(0)
    shape = (len(lengths), LIMIT + 1)
    row = np.arange(LIMIT + 1)
    steps = np.array(lengths)[:, None]
    real, filled = row < steps, row <= steps
    state = rng.integers(2, size=(*shape, 5)) if binary else rng.normal(size=(*shape, 5))
    actions = rng.integers(6, size=(*shape, 2, 1))
    available = rng.random((*shape, 2, 6)) < 0.5
    np.put_along_axis(available, actions, True, axis=-1)
    return {
        "actions": np.where(real[..., None, None], actions, 99).astype(np.int64),
        "avail_actions": available.astype(np.int32),
        "filled": filled.astype(np.int64)[..., None],
        "obs": np.where(filled[..., None, None], rng.normal(size=(*shape, 2, 3)), np.nan).astype(
            "f4"
        ),
        "reward": np.where(real, rng.normal(size=shape), np.inf).astype(np.float32)[..., None],
        "state": np.where(filled[..., None], state, 7).astype(np.float32),
        "terminated": (row == steps - 1).astype(np.uint8)[..., None],
    }


def write(folder: Path, content: dict[str, Any], episodes: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in content.items():
        np.save(folder / f"{key}.npy", array)
    count = len(content["actions"]) if episodes is None else episodes
    meta = {"buffer_index": 0, "episodes_in_buffer": count, "buffer_size": 9}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "buffer", arrays())


def test_steps_end_before_the_bootstrap_row(folder: Path) -> None:
    data, given = read_alberdice(folder, SPEC), arrays()
    assert data.spec == SPEC
    assert data.table.length.tolist() == list(LENGTHS)
    assert data.name == "buffer"
    assert data.behavior == {"format": "alberdice", "reader_version": 2, "folder": "buffer"}
    for k, length in enumerate(LENGTHS):
        episode = data.episode(k)
        np.testing.assert_array_equal(episode.observation, given["obs"][k, :length])
        np.testing.assert_array_equal(episode.state[:, 0], given["state"][k, :length])
        np.testing.assert_array_equal(episode.action, given["actions"][k, :length, :, 0])
        np.testing.assert_array_equal(episode.reward, given["reward"][k, :length, 0])
        np.testing.assert_array_equal(episode.available_actions, given["avail_actions"][k, :length])
        assert episode.seed == k


def test_the_bootstrap_row_is_what_followed(folder: Path) -> None:
    data, given = read_alberdice(folder, SPEC), arrays()
    for k, length in enumerate(LENGTHS):
        episode = data.episode(k)
        assert episode.last_state is not None
        np.testing.assert_array_equal(episode.last_observation, given["obs"][k, length])
        np.testing.assert_array_equal(episode.last_state[0], given["state"][k, length])
        np.testing.assert_array_equal(
            episode.last_available_actions, given["avail_actions"][k, length]
        )


@pytest.mark.parametrize("what", ["nan", "no action", "other state"])
def test_a_bootstrap_row_that_shows_nothing_is_left_out(what: str, tmp_path: Path) -> None:
    content = arrays(binary=True)
    length = LENGTHS[1]
    if what == "nan":
        content["obs"][1, length, 0, 0] = np.nan
    elif what == "no action":
        content["avail_actions"][1, length, 1] = 0
    else:
        content["state"][1, length, 0] = 0.5
    data = read_alberdice(write(tmp_path / "odd", content))
    whole = read_alberdice(write(tmp_path / "whole", arrays(binary=True)))
    assert data.fingerprint == whole.fingerprint
    found = [data.episode(k).last_state is None for k in range(len(LENGTHS))]
    assert found == [k == 1 for k in range(len(LENGTHS))]


def test_the_clock_truncates_and_the_task_terminates(tmp_path: Path) -> None:
    content = arrays((4, 2, 3, 4))
    content["terminated"][2:] = 0
    table = read_alberdice(write(tmp_path, content)).table
    assert table.terminated.tolist() == [False, True, False, False]
    assert table.truncated.tolist() == [True, False, True, True]


def test_binary_states_are_kept_as_bytes(tmp_path: Path) -> None:
    floats = read_alberdice(write(tmp_path / "f", arrays()))
    binary = read_alberdice(write(tmp_path / "b", arrays(binary=True)))
    content = arrays(binary=True)
    content["state"] = content["state"].astype(np.uint8)
    stored_as_bytes = read_alberdice(write(tmp_path / "u", content))
    assert floats.state.dtype == np.float32
    assert binary.state.dtype == np.uint8
    assert stored_as_bytes.fingerprint == binary.fingerprint


def test_the_fingerprint_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    data = read_alberdice(folder, SPEC)
    moved = read_alberdice(write(tmp_path / "elsewhere", arrays()), SPEC)
    assert moved.fingerprint == data.fingerprint
    path = tmp_path / "own.h5"
    write_dataset(path, data.spec, [data.episode(k) for k in range(len(data))])
    assert read_dataset(path).fingerprint == data.fingerprint
    content = arrays()
    content["reward"][0, 0] += 1
    assert read_alberdice(write(folder, content), SPEC).fingerprint != data.fingerprint


def test_rows_of_the_buffer_that_were_never_filled_are_left_out(tmp_path: Path) -> None:
    content = arrays()
    content["filled"][2] = 0
    assert len(read_alberdice(write(tmp_path, content, episodes=2))) == 2


def test_the_warehouses_reward_and_state_are_those_of_the_recordings(folder: Path) -> None:
    rware = EnvSpec("rware", "tiny-2ag", 2, 71, 40, 5, 500, reward="deliveries")
    spec = read_alberdice(folder, rware).spec
    assert (spec.name, spec.scenario) == ("rware", "tiny-2ag")
    assert (spec.reward, spec.state_encoding) == ("alberdice", "alberdice")
    assert (spec.obs_dim, spec.state_dim, spec.n_actions, spec.episode_limit) == (3, 5, 6, LIMIT)
    assert not spec.state_per_agent


def test_without_an_environment_there_are_no_names(folder: Path) -> None:
    spec = read_alberdice(folder).spec
    assert (spec.name, spec.scenario, spec.reward, spec.state_encoding) == ("", "", "", "")


@pytest.mark.parametrize("name", ["actions.npy", "filled.npy", "meta.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"buffer is not a data set in .*: it lacks {name}\."):
        read_alberdice(folder)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        read_alberdice(tmp_path / "nowhere")


def damaged(key: str, change: Any) -> dict[str, Any]:
    content = arrays()
    content[key] = change(content[key])
    return content


def with_value(index: tuple[int, ...], value: float) -> Any:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("obs", lambda a: a[:2], r"obs.npy has shape \(2, 5, 2, 3\).*E = 3 as in .*actions.npy"),
        ("state", lambda a: a[:, :-1], r"state.npy has .* with T = 5 as in .*actions.npy"),
        ("obs", lambda a: a[:, :, :1], r"obs.npy has .* with n = 2 as in .*actions.npy"),
        ("reward", lambda a: a[..., 0], r"reward.npy has shape \(3, 5\), expected \(E, T, 1\)"),
        ("actions", lambda a: a.repeat(2, axis=-1), r"actions.npy has .* with 1 = 1\."),
        ("actions", lambda a: a.astype(np.float32), r"actions.npy holds float32, expected integ"),
        ("obs", lambda a: a[..., :0], r"obs.npy is empty: its axis d has length 0"),
        ("filled", with_value((0, 2), 0), r"filled.npy: episode 0 has gaps"),
        ("filled", with_value((2, 1), 0), r"filled.npy: episode 2 has no step"),
        ("terminated", with_value((1, 0), 1), r"terminated.npy: episode 1 is terminated elsewh"),
        ("terminated", with_value((1, 2), 1), r"terminated.npy: episode 1 is terminated elsewh"),
        ("actions", with_value((1, 1), 6), r"Episode 1 .*action has values outside 0 to 5"),
        ("avail_actions", with_value((1, 1), 0), r"Episode 1 .*not among the available"),
        ("obs", with_value((0, 0), np.nan), r"Episode 0 .*observation has values .* not finite"),
    ],
)
def test_damage_is_named(tmp_path: Path, key: str, change: Any, message: str) -> None:
    folder = write(tmp_path / "buffer", damaged(key, change))
    with pytest.raises(UserError, match=message):
        read_alberdice(folder)


@pytest.mark.parametrize("count", [0, 4, "3", True, None])
def test_a_wrong_number_of_episodes_is_named(folder: Path, count: Any) -> None:
    (folder / "meta.json").write_text(json.dumps({"episodes_in_buffer": count}))
    with pytest.raises(UserError, match=r"episodes_in_buffer is .*from 1 to 3"):
        read_alberdice(folder)


def test_nothing_is_unpickled(folder: Path) -> None:
    np.save(folder / "obs.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"obs.npy cannot be read as a plain NumPy array"):
        read_alberdice(folder)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello"])
def test_files_that_are_no_arrays(folder: Path, content: bytes) -> None:
    (folder / "state.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"state.npy cannot be read as a plain NumPy array"):
        read_alberdice(folder)


def test_a_meta_file_that_is_no_json(folder: Path) -> None:
    (folder / "meta.json").write_text("{")
    with pytest.raises(UserError, match=r"meta.json cannot be read as JSON"):
        read_alberdice(folder)


PUBLISHED = {
    "buffer_02": (50.0, 50.0, 50.0),
    "buffer_02_20": (50.0, 50.0, 50.0),
    "buffer_00_02_20": (33.29, 25.0, 42.0),
    "buffer_random": (0.15, -25.0, 20.0),
}
"""Mean, lowest and highest return of the recordings of the penalty-XOR game."""


@needs_alberdice
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_real_recordings(name: str) -> None:
    game = MatrixGame()
    data = read_alberdice(ALBERDICE / name, game.spec)
    assert data.spec.differences(game.spec) == []
    assert data.table.length.tolist() == [50] * 100
    assert data.table.truncated.all()
    assert not data.table.terminated.any()
    mean, low, high = PUBLISHED[name]
    assert round(float(data.returns.mean()), 2) == mean
    assert (data.returns.min(), data.returns.max()) == (low, high)
    np.testing.assert_array_equal(data.reward, game.rewards(data.action))
    first = game.reset(0)
    np.testing.assert_array_equal(data.observation[7], first.observation)
    np.testing.assert_array_equal(data.state[7], first.state)
    assert data.state.dtype == first.state.dtype
