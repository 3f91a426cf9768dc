"""Batches, row by row, against what the episodes say, with and without a bootstrap row."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episodes

from mads4.data.collate import gather
from mads4.data.consecutive import ConsecutiveSampler
from mads4.data.dataset import Dataset
from mads4.data.on_demand import on_demand
from mads4.data.sampler import SequenceSampler, held_out_batches
from mads4.data.store import write_dataset
from mads4.types import Episode, SequenceBatch, returns_to_go

EPISODES = make_episodes(12)


@pytest.fixture(scope="module", params=["memory", "disk"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if request.param == "memory":
        return Dataset.from_episodes(SPEC, EPISODES)
    path = tmp_path_factory.mktemp("collate") / "data.h5"
    write_dataset(path, SPEC, EPISODES, compress=False)
    return on_demand(path)


def test_the_episodes_end_in_every_way() -> None:
    ends = {(e.terminated, e.last_observation is not None) for e in EPISODES}
    assert len(ends) == 4


def expected_row(
    episode: Episode, first: int, steps: int, rows: int, bootstrap: bool
) -> dict[str, np.ndarray]:
    """Return one row of a batch, built step by step; `steps` are real, of `rows` in all."""
    row = {
        "observation": np.zeros((rows, 2, 3), np.float32),
        "state": np.zeros((rows, 1, 4), np.uint8),
        "available_actions": np.ones((rows, 2, 3), bool),
        "action": np.zeros((rows, 2), np.int64),
        "previous_action": np.zeros((rows, 2), np.int64),
        "return_to_go": np.zeros(rows, np.float32),
        "reward": np.zeros(rows, np.float32),
        "terminated": np.zeros(rows, bool),
        "follows": np.zeros(rows, bool),
        "mask": np.zeros(rows, bool),
    }
    end = first + steps
    inside = end < episode.length
    for k in range(steps + (bootstrap and inside)):
        t = first + k
        for name in ("observation", "state", "available_actions", "action"):
            row[name][k] = getattr(episode, name)[t]
        row["previous_action"][k] = episode.action[t - 1] if t else -1
        row["return_to_go"][k] = returns_to_go(episode.reward)[t]
    row["reward"][:steps] = episode.reward[first:end]
    row["mask"][:steps] = True
    row["follows"][: steps - 1] = True
    row["terminated"][steps - 1] = episode.terminated and not inside
    if bootstrap and inside:
        row["follows"][steps - 1] = True
    elif bootstrap and not episode.terminated and episode.last_observation is not None:
        row["follows"][steps - 1] = True
        row["observation"][steps] = episode.last_observation
        row["state"][steps] = episode.last_state
        row["available_actions"][steps] = episode.last_available_actions
        row["action"][steps] = row["previous_action"][steps] = episode.action[-1]
    return row


def check(batch: SequenceBatch, rows: list[dict[str, np.ndarray]]) -> None:
    for field in fields(batch):
        found = getattr(batch, field.name).numpy()
        np.testing.assert_array_equal(
            found, np.stack([row[field.name] for row in rows]), err_msg=field.name
        )


@given(data=st.data(), bootstrap=st.booleans())
@settings(max_examples=60, deadline=None)
def test_batches_are_what_the_episodes_say(
    dataset: Dataset, data: st.DataObject, bootstrap: bool
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(EPISODES) - 1), min_size=1, max_size=6))
    window = data.draw(st.none() | st.integers(1, 14))
    offsets = [data.draw(st.integers(0, EPISODES[k].length - 1)) for k in chosen]
    batch = gather(dataset, np.array(chosen), np.array(offsets), window, bootstrap=bootstrap)
    steps = [
        min(EPISODES[k].length - offset, window or 99)
        for k, offset in zip(chosen, offsets, strict=True)
    ]
    rows = (window or max(steps)) + bootstrap
    check(
        batch,
        [
            expected_row(EPISODES[k], offset, count, rows, bootstrap)
            for k, offset, count in zip(chosen, offsets, steps, strict=True)
        ],
    )


def test_a_view_of_some_episodes_keeps_their_last_rows(dataset: Dataset) -> None:
    order = [7, 2, 4, 11, 3]
    batch = gather(dataset.select(order), np.arange(5), bootstrap=True)
    rows = max(EPISODES[k].length for k in order) + 1
    check(batch, [expected_row(EPISODES[k], 0, EPISODES[k].length, rows, True) for k in order])


def test_samplers_add_one_row_and_change_no_other(dataset: Dataset) -> None:
    for sampler in (
        SequenceSampler(dataset, 5, seed=1),
        SequenceSampler(dataset, 5, 4, seed=1),
        ConsecutiveSampler(dataset, 5, 4, seed=1),
    ):
        for step in range(6):
            plain, longer = sampler.batch(step), sampler.batch(step, bootstrap=True)
            assert longer.mask.shape[1] == plain.mask.shape[1] + 1
            assert not longer.mask[:, -1].any()
            for field in fields(plain):
                one, other = getattr(plain, field.name), getattr(longer, field.name)
                if field.name != "follows":
                    assert torch.equal(one[plain.mask], other[:, :-1][plain.mask]), field.name
            assert (longer.follows[:, :-1] | ~plain.follows).all()
    plain, longer = (list(held_out_batches(dataset, 5, flag)) for flag in (False, True))
    assert [b.mask.shape[1] + 1 for b in plain] == [b.mask.shape[1] for b in longer]


def test_an_agent_without_an_available_action_has_all() -> None:
    index = next(
        k for k, e in enumerate(EPISODES) if e.truncated and e.last_observation is not None
    )
    none = np.array([[False] * 3, [True, False, False]])
    data = Dataset.from_episodes(SPEC, [replace(EPISODES[index], last_available_actions=none)])
    batch = gather(data, np.array([0]), bootstrap=True)
    assert batch.available_actions[0, -1].tolist() == [[True] * 3, [True, False, False]]
    assert data.episode(0).last_available_actions.tolist() == none.tolist()  # type: ignore[union-attr]
