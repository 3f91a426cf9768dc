from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episode, make_episodes

from mads4.data.dataset import Dataset
from mads4.data.statistics import STD_FLOOR, normalization
from mads4.errors import UserError
from mads4.types import returns_to_go


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_episodes(SPEC, make_episodes(20), {"kind": "random"}, "walk")


def test_summary_has_every_promised_fact(dataset: Dataset) -> None:
    returns = [episode.episode_return for episode in make_episodes(20)]
    lengths = [episode.length for episode in make_episodes(20)]
    assert dataset.summary() == {
        "name": "walk",
        "env": "fake",
        "scenario": "walk",
        "episodes": 20,
        "steps": sum(lengths),
        "n_agents": 2,
        "obs_dim": 3,
        "state_dim": 4,
        "state_encoding": "default",
        "n_actions": 3,
        "episode_limit": 12,
        "return_mean": pytest.approx(np.mean(returns)),
        "return_std": pytest.approx(np.std(returns)),
        "return_min": min(returns),
        "return_max": max(returns),
        "length_mean": np.mean(lengths),
        "reward_definition": "steps",
        "behavior": {"kind": "random"},
        "fingerprint": dataset.fingerprint,
    }


def test_return_to_go_counts_the_first_step_and_stays_within_the_episode(dataset: Dataset) -> None:
    np.testing.assert_allclose(dataset.return_to_go[dataset.start], dataset.returns, rtol=1e-5)
    last = dataset.start + dataset.table.length - 1
    np.testing.assert_array_equal(dataset.return_to_go[last], dataset.reward[last])


@given(count=st.integers(2, 20), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_split_is_a_partition_without_copies(count: int, fraction: float, seed: int) -> None:
    dataset = Dataset.from_episodes(SPEC, make_episodes(count))
    train, held_out = dataset.split(fraction, seed)
    assert len(train) >= 1 and len(held_out) >= 1
    assert abs(len(held_out) - fraction * count) <= 1
    both = np.concatenate([train.table.seed, held_out.table.seed])
    assert sorted(both) == list(range(count))
    assert np.shares_memory(train.observation, dataset.observation)
    again = dataset.split(fraction, seed)
    np.testing.assert_array_equal(again[1].table.seed, held_out.table.seed)
    assert again[1].fingerprint == held_out.fingerprint
    assert len({train.fingerprint, held_out.fingerprint, dataset.fingerprint}) == 3


def test_a_view_shows_its_own_episodes(dataset: Dataset) -> None:
    view = dataset.select([7, 2])
    episodes = make_episodes(20)
    for i, expected in enumerate([episodes[7], episodes[2]]):
        np.testing.assert_array_equal(view.episode(i).observation, expected.observation)
        assert view.episode(i).metrics == expected.metrics
    assert view.steps == episodes[7].length + episodes[2].length
    expected_rows = np.concatenate([episodes[7].reward, episodes[2].reward])
    np.testing.assert_array_equal(view.reward[view.rows()], expected_rows)
    expected = np.concatenate([returns_to_go(episodes[k].reward) for k in (7, 2)])
    np.testing.assert_array_equal(view.return_to_go[view.rows()], expected)


def test_split_seeds_differ_and_nonsense_is_refused(dataset: Dataset) -> None:
    held_out = {tuple(dataset.split(0.3, seed)[1].table.seed) for seed in range(5)}
    assert len(held_out) > 1
    for fraction in (0.0, 1.0, -0.1, 5.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            dataset.split(fraction, 0)
    train, nothing = dataset.select([0]).split(0.5, 0)
    assert (len(train), len(nothing)) == (1, 0)
    assert nothing.summary()["return_mean"] is None


@pytest.mark.parametrize(("rows", "values"), [(7, 1 << 23), (1 << 14, 20), (1 << 14, 1)])
def test_normalization_of_each_agent(
    rows: int, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mads4.data.statistics.BLOCK_ROWS", rows)
    monkeypatch.setattr("mads4.data.statistics.BLOCK_VALUES", values)
    spec = replace(SPEC, state_encoding="float", state_per_agent=True)
    rng = np.random.default_rng(1)
    scale = np.array([[1.0], [50.0]], np.float32)
    episodes = []
    for k in range(6):
        episode = make_episode(rng, 9, spec, k)
        observation = (episode.observation + 3) * scale
        observation[:, 1, 0] = 1
        episodes.append(replace(episode, observation=observation))
    view = Dataset.from_episodes(spec, episodes).select([0, 3, 4])
    found = normalization(view, per_agent=True)
    for name in ("observation", "state"):
        exact = np.concatenate([getattr(episodes[k], name) for k in (0, 3, 4)]).astype(np.float64)
        mean, std = exact.mean(0), exact.std(0)
        if name == "observation":
            mean[1, 0], std[1, 0] = 0, 1  # always 1: kept as it is, for that agent alone
        assert mean.shape == (2, exact.shape[-1])
        np.testing.assert_allclose(getattr(found, f"{name}_mean"), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(getattr(found, f"{name}_std"), std, rtol=1e-5)
    shared = normalization(view).observation_mean
    assert shared.shape == (spec.obs_dim,)


@pytest.mark.parametrize("encoding", ["default", "float"])
def test_normalization_is_that_of_the_view(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mads4.data.statistics.BLOCK_ROWS", 7)
    spec = replace(SPEC, state_encoding=encoding, state_per_agent=True)
    rng = np.random.default_rng(0)
    episodes = []
    for k in range(12):
        episode = make_episode(rng, int(rng.integers(1, 13)), spec, k)
        observation = episode.observation * 3 + 1000
        observation[..., 0] = rng.integers(0, 2, observation.shape[:2])
        observation[..., 1] = 5
        episodes.append(replace(episode, observation=observation))
    view = Dataset.from_episodes(spec, episodes).select([1, 5, 8])
    found = normalization(view)
    rows = np.concatenate([episodes[k].observation for k in (1, 5, 8)]).reshape(-1, 3)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(found.observation_mean, [0, 5, exact[:, 2].mean()], rtol=1e-6)
    np.testing.assert_allclose(found.observation_std, [1, STD_FLOOR, exact[:, 2].std()], rtol=1e-5)
    state = np.concatenate([episodes[k].state for k in (1, 5, 8)]).reshape(-1, 4)
    binary = encoding == "default"
    np.testing.assert_allclose(found.state_mean, 0 if binary else state.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.state_std, 1 if binary else state.std(0), rtol=1e-5)
