from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episodes

from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.dataset import Dataset
from mads4.errors import UserError

EPISODES = make_episodes(9)
DATA = Dataset.from_episodes(SPEC, EPISODES)
OWNER = {
    step.tobytes(): (k, t)
    for k, episode in enumerate(EPISODES)
    for t, step in enumerate(episode.observation)
}


def place(sampler: ConsecutiveSampler, step: int, row: int) -> tuple[int, int, int]:
    """Return episode, first step and number of steps of a row, which must be one run of steps."""
    batch = sampler.batch(step)
    length = int(batch.mask[row].sum())
    steps = [OWNER[now.numpy().tobytes()] for now in batch.observation[row, :length]]
    episode, first = steps[0]
    assert steps == [(episode, first + t) for t in range(length)]
    return episode, first, length


@given(rows=st.integers(1, 12), window=st.integers(1, 14), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_rows_walk_through_every_episode_once(rows: int, window: int, seed: int) -> None:
    sampler = ConsecutiveSampler(DATA, rows, window, seed)
    around = sum(-(-episode.length // sampler.window) for episode in EPISODES)
    for row in {0, rows // 2, rows - 1}:
        whole: list[int] = []
        now = (-1, 0, 0)
        for step in range(around):
            episode, first, length = place(sampler, step, row)
            if sampler.begins(step)[row]:
                assert first == 0
                assert now[0] < 0 or now[1] + now[2] == EPISODES[now[0]].length
                whole.append(episode)
            else:
                assert (episode, first) == (now[0], now[1] + now[2])
            assert length == min(sampler.window, EPISODES[episode].length - first)
            now = (episode, first, length)
        assert sorted(whole) == list(range(9))
        assert sampler.begins(around).all()


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, other = (ConsecutiveSampler(DATA, 4, 3, seed=2) for _ in range(2))
    forward = [one.batch(step) for step in range(30)]
    for step in reversed(range(30)):
        again = other.batch(step)
        for field in fields(again):
            assert torch.equal(getattr(again, field.name), getattr(forward[step], field.name))
        np.testing.assert_array_equal(one.begins(step), other.begins(step))
    different = ConsecutiveSampler(DATA, 4, 3, seed=3).batch(0)
    assert not torch.equal(different.observation, forward[0].observation)


def test_rows_show_different_episodes_and_know_the_action_before() -> None:
    sampler = ConsecutiveSampler(DATA, 9, 3)
    assert {place(sampler, 0, row)[0] for row in range(9)} == set(range(9))
    before, after = sampler.batch(0), sampler.batch(1)
    goes_on = torch.from_numpy(~sampler.begins(1))
    assert goes_on.any()
    assert torch.equal(after.previous_action[goes_on, 0], before.action[goes_on, -1])


def test_nonsense_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        ConsecutiveSampler(DATA, 2, 0)
    with pytest.raises(UserError, match="no episodes"):
        ConsecutiveSampler(DATA.select([]), 2, 3)
