"""Means and standard deviations with which a model scales its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.data.dataset import Dataset
from mads4.data.stored_array import Array, StoredArray, rows_into

STD_FLOOR = 1e-2
"""Least standard deviation to divide by: a feature that hardly varies must not be blown up."""

BLOCK_ROWS = 16_384
"""Most steps per block."""

BLOCK_VALUES = 1 << 23
"""Most values per block: its float64 copies take 64 MiB each."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Normalization:
    """Statistics over a data set's real steps; scaled value = (value - mean) / std.

    Features that are 0 or 1 everywhere keep their values (mean 0, std 1).
    """

    observation_mean: Float32Array
    """(obs_dim,) over steps and agents; (N, obs_dim) over steps, if per agent."""
    observation_std: Float32Array
    """As the mean."""
    state_mean: Float32Array
    """(state_dim,); (N or 1, state_dim) if per agent."""
    state_std: Float32Array
    """As the mean."""


def normalization(dataset: Dataset, per_agent: bool = False) -> Normalization:
    """Compute the statistics of `dataset` (of a view: of its own episodes only) in blocks.

    Args:
        dataset: In memory or on demand.
        per_agent: Each agent's statistics for itself, for agents that see different things.
    """
    observation_mean, observation_std = _statistics(dataset, dataset.observation, per_agent)
    if dataset.state.dtype == np.uint8:
        features = dataset.state.shape[1 if per_agent else 2 :]
        state_mean, state_std = np.zeros(features, np.float32), np.ones(features, np.float32)
    else:
        state_mean, state_std = _statistics(dataset, dataset.state, per_agent)
    return Normalization(observation_mean, observation_std, state_mean, state_std)


def _statistics(
    dataset: Dataset, values: Array | StoredArray, per_agent: bool
) -> tuple[Float32Array, Float32Array]:
    """Return mean and floored standard deviation of each feature of (S, N, D) `values`.

    Blocks are merged by Chan, Golub and LeVeque's update, which does not cancel as the plain sum
    of squares does.
    """
    features = values.shape[1 if per_agent else 2 :]
    count, mean, squares = 0, np.zeros(features), np.zeros(features)
    binary = np.ones(features, bool)
    for rows in _blocks(dataset, values):
        block = rows.reshape(-1, *features).astype(np.float64)
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


def _blocks(dataset: Dataset, values: Array | StoredArray) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows of the view's episodes, a block at a time, in memory that is reused."""
    width = int(np.prod(values.shape[1:]))
    size = max(1, min(BLOCK_ROWS, BLOCK_VALUES // width))
    block = np.empty((size, *values.shape[1:]), values.dtype)
    filled = 0
    for first, length in zip(dataset.start.tolist(), dataset.table.length.tolist(), strict=True):
        done = 0
        while done < length:
            rows = min(length - done, size - filled)
            rows_into(block[filled : filled + rows], values, first + done)
            filled, done = filled + rows, done + rows
            if filled == size:
                yield block
                filled = 0
    if filled:
        yield block[:filled]
