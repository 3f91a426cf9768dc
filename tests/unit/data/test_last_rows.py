"""What follows an episode's last step: recorded in real environments, and carried everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from recording_fakes import Make, Wanderer

from mads4.data.collect import STREAM, collect
from mads4.data.content import LAST_ARRAYS
from mads4.data.convert import convert
from mads4.data.dataset import Dataset
from mads4.data.formats import open_source
from mads4.data.formats.alberdice import open_alberdice, write_alberdice
from mads4.data.on_demand import on_demand
from mads4.data.store import read_dataset, write_dataset
from mads4.envs.matrix_game import MatrixGame
from mads4.envs.rware import RwareEnv
from mads4.envs.seeding import environment_seed
from mads4.types import Episode, TimeStep

ENVS = {
    "rware": partial(RwareEnv, state_encoding="alberdice", options={"max_steps": 20}),
    "matrix_game": partial(MatrixGame, episode_limit=7),
}
COUNT = 5


class StoppedError(Exception):
    """Stands for a kill in the middle of a recording."""


def record(path: Path, env: str, workers: int = 1, **options: object) -> Path:
    kind = Make(TwoActions) if env == "matrix_game" else Make(Wanderer)
    arguments = {"behavior": {"kind": "walk"}, "workers": workers, "flush_seconds": 0.0} | options
    return collect(ENVS[env], kind, COUNT, 3, path, **arguments)  # type: ignore[arg-type]


class TwoActions(Wanderer):
    """A wanderer in games of two actions."""

    def act(self, now: TimeStep) -> np.ndarray:
        return self._rng.integers(2, size=len(now.observation))


@pytest.fixture(scope="module", params=list(ENVS))
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp(request.param) / f"{request.param}.h5", request.param)


def episodes(data: Dataset) -> Iterator[Episode]:
    return (data.episode(k) for k in range(len(data)))


def assert_same_last_rows(one: Dataset, other: Dataset) -> None:
    assert one.fingerprint == other.fingerprint
    for left, right in zip(episodes(one), episodes(other), strict=True):
        for name in LAST_ARRAYS:
            mine, theirs = getattr(left, name), getattr(right, name)
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


def test_it_is_what_the_environment_showed(recorded: Path) -> None:
    for data in (read_dataset(recorded), on_demand(recorded)):
        for index, episode in enumerate(episodes(data)):
            assert episode.truncated
            with closing(ENVS[recorded.stem]()) as env:
                now = env.reset(environment_seed(STREAM + 3, index))
                for action in episode.action:
                    now = env.step(action)
            np.testing.assert_array_equal(episode.last_observation, now.observation)
            np.testing.assert_array_equal(episode.last_state, now.state)
            np.testing.assert_array_equal(episode.last_available_actions, now.available_actions)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_it(workers: int, recorded: Path, tmp_path: Path) -> None:
    again = record(tmp_path / "a.h5", recorded.stem, workers)
    assert_same_last_rows(read_dataset(again), read_dataset(recorded))


def test_an_interrupted_recording_keeps_it(recorded: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        record(tmp_path / "a.h5", recorded.stem, on_progress=stop)
    assert list((tmp_path / "a.h5.parts").glob("*.h5"))
    again = record(tmp_path / "a.h5", recorded.stem)
    assert_same_last_rows(read_dataset(again), read_dataset(recorded))


def test_converting_keeps_it(recorded: Path, tmp_path: Path) -> None:
    convert(open_source("hdf5", recorded), tmp_path / "a.h5")
    assert_same_last_rows(read_dataset(tmp_path / "a.h5"), read_dataset(recorded))


def test_alberdices_layout_keeps_it(recorded: Path, tmp_path: Path) -> None:
    data = read_dataset(recorded)
    source = open_alberdice(write_alberdice(tmp_path / "buffer", data.spec, episodes(data)))
    write_dataset(tmp_path / "back.h5", source.spec, source.episodes())
    back = read_dataset(tmp_path / "back.h5")
    for left, right in zip(episodes(back), episodes(data), strict=True):
        for name in LAST_ARRAYS:
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
