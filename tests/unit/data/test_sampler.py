from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from recording_fakes import SPEC, make_episode, make_episodes

from mads4.data.dataset import Dataset
from mads4.data.sampler import SequenceSampler, held_out_batches
from mads4.errors import UserError
from mads4.types import SequenceBatch, returns_to_go

EPISODES = make_episodes(10)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_episodes(SPEC, EPISODES)


def find(batch: SequenceBatch, b: int) -> tuple[int, int]:
    """Return the episode and its step at which row `b` of a batch starts."""
    first = batch.observation[b, 0].numpy()
    for k, episode in enumerate(EPISODES):
        steps = np.flatnonzero((episode.observation == first).all(axis=(1, 2)))
        if len(steps):
            return k, int(steps[0])
    raise AssertionError("the observation comes from no episode")


def check_row(batch: SequenceBatch, b: int) -> tuple[int, int, int]:
    """Compare row `b` with the episode it comes from; return (episode, first step, steps)."""
    k, first = find(batch, b)
    episode = EPISODES[k]
    steps = int(batch.mask[b].sum())
    assert batch.mask[b, :steps].all()
    rows = slice(first, first + steps)
    previous = np.concatenate([np.full((1, 2), -1), episode.action])[rows]
    expected = {
        "observation": episode.observation[rows],
        "state": episode.state[rows],
        "available_actions": episode.available_actions[rows],
        "action": episode.action[rows],
        "previous_action": previous,
        "return_to_go": returns_to_go(episode.reward)[rows],
    }
    for name, values in expected.items():
        found = getattr(batch, name)[b]
        np.testing.assert_array_equal(found[:steps].numpy(), values, err_msg=name)
        padding = found[steps:]
        assert padding.all() if name == "available_actions" else not padding.any(), name
    return k, first, steps


def test_whole_trajectories_are_exact_and_padded_to_the_longest(dataset: Dataset) -> None:
    batch = SequenceSampler(dataset, 4, seed=1).batch(0)
    found = [check_row(batch, b) for b in range(4)]
    assert all(first == 0 and steps == EPISODES[k].length for k, first, steps in found)
    assert batch.mask.shape == (4, max(steps for _, _, steps in found))
    assert batch.observation.shape[2:] == (2, 3) and batch.state.shape[2:] == (1, 4)
    dtypes = {f.name: getattr(batch, f.name).dtype for f in fields(batch)}
    assert dtypes == {
        "observation": torch.float32,
        "state": torch.uint8,
        "available_actions": torch.bool,
        "action": torch.int64,
        "previous_action": torch.int64,
        "return_to_go": torch.float32,
        "reward": torch.float32,
        "terminated": torch.bool,
        "follows": torch.bool,
        "mask": torch.bool,
    }


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_episode_comes_once_per_epoch(batch_size: int, dataset: Dataset) -> None:
    sampler = SequenceSampler(dataset, batch_size, seed=5)
    stream: list[int] = []
    for step in range(-(-40 // batch_size)):
        batch = sampler.batch(step)
        stream += [check_row(batch, b)[0] for b in range(batch_size)]
    epochs = [tuple(stream[first : first + 10]) for first in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 4


@pytest.mark.parametrize("window", [None, 4])
def test_a_batch_depends_on_seed_and_step_alone(window: int | None, dataset: Dataset) -> None:
    one = SequenceSampler(dataset, 3, window, seed=2)
    forward = [one.batch(step) for step in range(6)]
    other = SequenceSampler(dataset, 3, window, seed=2)
    for step in reversed(range(6)):
        again = other.batch(step)
        for field in fields(again):
            assert torch.equal(getattr(again, field.name), getattr(forward[step], field.name))
    different = SequenceSampler(dataset, 3, window, seed=3).batch(0)
    assert not torch.equal(different.observation, forward[0].observation)


def test_windows_start_everywhere_with_equal_chance(dataset: Dataset) -> None:
    sampler = SequenceSampler(dataset, 50, window=4, seed=0)
    counts: dict[tuple[int, int], int] = {}
    for step in range(40):
        batch = sampler.batch(step)
        assert batch.mask.shape == (50, 4)
        for b in range(50):
            k, first, steps = check_row(batch, b)
            assert steps == min(4, EPISODES[k].length - first)
            counts[k, first] = counts.get((k, first), 0) + 1
    starts = [(k, t) for k, e in enumerate(EPISODES) for t in range(max(e.length - 3, 1))]
    assert sorted(counts) == starts
    expected = 2000 / len(starts)
    assert max(abs(n - expected) for n in counts.values()) < 5 * expected**0.5


def test_a_window_is_no_longer_than_the_longest_episode(dataset: Dataset) -> None:
    sampler = SequenceSampler(dataset, 2, window=1000)
    longest = max(episode.length for episode in EPISODES)
    assert sampler.batch(0).mask.shape == (2, longest)
    assert sampler.batches_per_epoch == -(-dataset.steps // (2 * longest))
    assert SequenceSampler(dataset, 4).batches_per_epoch == 3


def test_views_are_sampled_without_their_neighbors(dataset: Dataset) -> None:
    train, held_out = dataset.split(0.3, seed=0)
    allowed = set(train.table.seed.tolist())
    for window in (None, 3):
        sampler = SequenceSampler(train, 5, window)
        for step in range(5):
            batch = sampler.batch(step)
            assert {check_row(batch, b)[0] for b in range(5)} <= allowed
    batches = list(held_out_batches(held_out, 2))
    found = [check_row(batch, b)[0] for batch in batches for b in range(len(batch.mask))]
    assert found == held_out.table.seed.tolist()
    assert [len(batch.mask) for batch in batches] == [2, 1]


def test_nonsense_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="at least 1"):
        SequenceSampler(dataset, 0)
    with pytest.raises(UserError, match="at least 1"):
        SequenceSampler(dataset, 1, window=0)
    with pytest.raises(UserError, match="no episodes"):
        SequenceSampler(dataset.select([]), 1)
    with pytest.raises(UserError, match="at least 1"):
        next(held_out_batches(dataset, 0))


def test_batches_do_not_alias_the_data(dataset: Dataset) -> None:
    batch = SequenceSampler(dataset, 2).batch(0)
    before = dataset.observation.copy()
    batch.observation.zero_()
    np.testing.assert_array_equal(dataset.observation, before)


def test_many_actions_keep_their_numbers() -> None:
    spec = replace(SPEC, n_actions=400)
    episode = make_episode(np.random.default_rng(0), 12, spec)
    batch = SequenceSampler(Dataset.from_episodes(spec, [episode]), 1).batch(0)
    np.testing.assert_array_equal(batch.action[0].numpy(), episode.action)
    assert episode.action.max() > 256
