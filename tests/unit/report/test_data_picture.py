"""Pictures of data sets of every kind: many agents, one episode, one length, whole numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mads4.report.data_picture import DataFacts, _bins, data_picture, headline


def facts(episodes: int, agents: int, actions: int, one_length: bool = False) -> DataFacts:
    rng = np.random.default_rng(0)
    return DataFacts(
        title="toys/pair-good",
        place="toy pair",
        reward="steps",
        returns=rng.normal(size=episodes),
        lengths=np.full(episodes, 7) if one_length else rng.integers(1, 9, episodes),
        episode_limit=9,
        action_counts=rng.integers(0, 50, (agents, actions)),
    )


@pytest.mark.parametrize(
    "given", [facts(1, 1, 1), facts(30, 2, 5, one_length=True), facts(500, 27, 36)]
)
def test_a_picture_is_written(given: DataFacts, tmp_path: Path) -> None:
    data_picture(given, tmp_path / "data.png")
    assert (tmp_path / "data.png").read_bytes().startswith(b"\x89PNG")


def test_the_headline() -> None:
    assert headline(facts(1000, 2, 3)).startswith("toy pair: 1 000 episodes, mean return ")


@pytest.mark.parametrize(
    "values", [np.arange(10.0), np.arange(0, 1000, 7.0), np.full(5, 2.5), np.linspace(0, 1, 99)]
)
def test_bins_hold_all_values_evenly(values: np.ndarray) -> None:
    edges = np.array(_bins(values))
    assert np.histogram(values, edges)[0].sum() == len(values)
    assert np.ptp(np.diff(edges)) < 1e-9 and len(edges) <= 52
