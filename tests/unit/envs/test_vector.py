from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import fake_env
from fake_env import MatchingEnv, TroubledEnv
from fakes import make_policy
from mads4.envs.seeding import environment_seed
from mads4.envs.vector import SharedBuffers
from mads4.rollout import rollout
from mads4.rollout.local import LocalVector
from mads4.rollout.workers import WorkerVector


@pytest.mark.parametrize(
    ("binary", "dtype"), [([1, 1, 1], np.uint8), ([0, 0, 0], np.float32), ([1, 0, 1], np.float32)]
)
def test_each_row_is_read_where_it_was_written(binary: list[int], dtype: type) -> None:
    buffers = SharedBuffers.over(fake_env.SPEC, 3)
    buffers.binary[:] = binary
    buffers.binary_state[:] = 3
    buffers.state[:] = 0.5
    states = buffers.states(slice(0, 3))
    assert states.dtype == dtype
    assert states[:, 0, 0].tolist() == [3 if flag else 0.5 for flag in binary]


def test_a_row_that_was_never_written_does_not_change_the_others() -> None:
    buffers = SharedBuffers.over(fake_env.SPEC, 3)
    buffers.binary[:] = [True, False, True]
    buffers.binary_state[::2] = 3
    states = buffers.states(slice(0, 3))
    assert states.dtype == np.uint8
    assert states[:, 0, 0].tolist() == [3, 0, 3]


@pytest.mark.parametrize("at", [0, 1, 3], ids=["reset", "first step", "third step"])
@pytest.mark.parametrize("episode", [0, 4])
def test_a_worker_that_dies_hides_no_state_from_the_others(
    episode: int, at: int, tmp_path: Path
) -> None:
    """Binary states of all environments of a group were zero while one had not been reset."""
    policy, play = make_policy(), partial(rollout, seed=5, target_return=1.0, record=True)
    make_env = partial(TroubledEnv, "kill", environment_seed(5, episode), str(tmp_path), 1, at)
    with closing(WorkerVector(make_env, 6, 3)) as envs:
        played = list(play(policy, envs, 8))
    expected = list(play(policy, LocalVector([MatchingEnv() for _ in range(6)]), 8))
    assert sum(result.restarts for result in played) >= 1
    for one, other in zip(
        *(sorted(results, key=lambda result: result.index) for results in (played, expected)),
        strict=True,
    ):
        assert one.episode is not None and other.episode is not None
        assert one.episode.state.dtype == np.uint8
        assert np.array_equal(one.episode.state, other.episode.state)
        assert np.array_equal(one.episode.action, other.episode.action)
