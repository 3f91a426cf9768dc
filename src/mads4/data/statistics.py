"""Means and standard deviations with which a model scales its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.data.dataset import Dataset

STD_FLOOR = 1e-2
"""Least standard deviation to divide by: a feature that hardly varies must not be blown up."""

BLOCK_ROWS = 16_384
"""Steps per block: bounds the float64 copies to some tens of megabytes."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Normalisation:
    """Statistics over a data set's real steps; scaled value = (value - mean) / std.

    Features that are 0 or 1 everywhere keep their values (mean 0, std 1).
    """

    observation_mean: Float32Array
    """(obs_dim,) over steps and agents."""
    observation_std: Float32Array
    """(obs_dim,)"""
    state_mean: Float32Array
    """(state_dim,)"""
    state_std: Float32Array
    """(state_dim,)"""
    return_to_go_mean: float
    return_to_go_std: float


def normalisation(dataset: Dataset) -> Normalisation:
    """Compute the statistics of `dataset` (of a view: of its own episodes only) in blocks."""
    observation_mean, observation_std = _feature_statistics(dataset, dataset.observation)
    if dataset.state.dtype == np.uint8:
        state_mean = np.zeros(dataset.spec.state_dim, np.float32)
        state_std = np.ones(dataset.spec.state_dim, np.float32)
    else:
        state_mean, state_std = _feature_statistics(dataset, dataset.state)
    return_to_go = dataset.return_to_go[dataset.rows()].astype(np.float64)
    return Normalisation(
        observation_mean=observation_mean,
        observation_std=observation_std,
        state_mean=state_mean,
        state_std=state_std,
        return_to_go_mean=float(return_to_go.mean()),
        return_to_go_std=max(float(return_to_go.std()), STD_FLOOR),
    )


def _feature_statistics(
    dataset: Dataset, values: npt.NDArray[Any]
) -> tuple[Float32Array, Float32Array]:
    """Return mean and floored standard deviation of each feature of (S, N, D) `values`.

    Blocks are merged by Chan, Golub and LeVeque's update, which does not cancel as the plain sum
    of squares does.
    """
    width = values.shape[-1]
    count, mean, squares = 0, np.zeros(width), np.zeros(width)
    binary = np.ones(width, bool)
    for block in _blocks(dataset, values):
        binary &= ((block == 0) | (block == 1)).all(axis=0)
        block_mean = block.mean(axis=0)
        delta, total = block_mean - mean, count + len(block)
        squares += ((block - block_mean) ** 2).sum(axis=0) + delta**2 * count * len(block) / total
        mean += delta * len(block) / total
        count = total
    std = np.maximum(np.sqrt(squares / count), STD_FLOOR)
    return (
        np.where(binary, 0.0, mean).astype(np.float32),
        np.where(binary, 1.0, std).astype(np.float32),
    )


def _blocks(dataset: Dataset, values: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float64]]:
    rows = dataset.rows()
    for first in range(0, len(rows), BLOCK_ROWS):
        block = values[rows[first : first + BLOCK_ROWS]]
        yield block.reshape(-1, values.shape[-1]).astype(np.float64)
