from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_fakes import SPEC, make_episodes
from scipy.stats import chisquare

from mads4.data.dataset import Dataset, EpisodeTable
from mads4.data.sampler import SAMPLINGS, SequenceSampler, trajectory_weights

TABLE = Dataset.from_episodes(SPEC, make_episodes(12)).table


def paying(returns: list[float]) -> EpisodeTable:
    return replace(TABLE.select(np.arange(len(returns))), episode_return=np.array(returns))


@pytest.mark.parametrize(
    ("returns", "temperature", "expected"),
    [
        ([1.0, 2.0, 5.0], None, [1, 2, 5]),
        ([0.0, 2.0, 5.0], None, [0, 2, 5]),
        ([-3.0, -1.0, 4.0], None, [0, 2, 7]),
        ([0.0, 0.0], None, [1, 1]),
        ([-2.0, -2.0], None, [1, 1]),
        ([7.0, 7.0], None, [7, 7]),
        ([10.0, 20.0, 30.0], 0.5, np.exp([-2, -1, 0])),
        ([-4.0, -4.0], 0.1, np.exp([-10, -10])),
    ],
)
def test_weights_by_return(
    returns: list[float], temperature: float | None, expected: list[float]
) -> None:
    found = trajectory_weights(paying(returns), "return", temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_weights_by_length_and_alike() -> None:
    np.testing.assert_array_equal(trajectory_weights(TABLE, "length"), TABLE.length)
    np.testing.assert_array_equal(trajectory_weights(TABLE, "uniform"), 1.0)
    with pytest.raises(ValueError, match="got 'rank', expected one of uniform, length, return"):
        trajectory_weights(TABLE, "rank")


@given(
    returns=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12),
    sampling=st.sampled_from(SAMPLINGS),
    temperature=st.none() | st.floats(0.01, 100),
)
@settings(deadline=None)
def test_weights_are_a_distribution_that_prefers_more(
    returns: list[float], sampling: str, temperature: float | None
) -> None:
    weights = trajectory_weights(paying(returns), sampling, temperature)
    assert np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    if sampling == "return":
        assert (np.diff(weights[np.argsort(returns, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("sampling", "temperature"), [("length", None), ("return", None), ("return", 0.5)]
)
def test_trajectories_come_in_proportion_to_their_weights(
    sampling: str, temperature: float | None, window: int | None
) -> None:
    dataset = Dataset.from_episodes(SPEC, make_episodes(12))
    sampler = SequenceSampler(
        dataset, 200, window, seed=4, sampling=sampling, return_temperature=temperature
    )
    owner = {
        step.tobytes(): k
        for k, episode in enumerate(make_episodes(12))
        for step in episode.observation
    }
    assert len(owner) == dataset.steps
    drawn = [
        owner[row.numpy().tobytes()]
        for s in range(20)
        for row in sampler.batch(s).observation[:, 0]
    ]
    weights = trajectory_weights(dataset.table, sampling, temperature)
    possible = weights > 0
    counts = np.bincount(drawn, minlength=12)
    assert counts[~possible].sum() == 0
    expected = weights[possible] / weights.sum() * len(drawn)
    assert chisquare(counts[possible], expected).pvalue > 0.01
