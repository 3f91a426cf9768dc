"""Batches of trajectories or windows, as a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from mads4.data.collate import gather
from mads4.data.dataset import Dataset, EpisodeTable
from mads4.errors import UserError
from mads4.types import FloatArray, IntArray, SequenceBatch

SAMPLINGS = ("uniform", "length", "return")


class SequenceSampler:
    """Draws training batches; keeps no state, so that exact resume needs only the step counter.

    ``uniform``: whole trajectories (`window` None) come in an endless stream of shuffled epochs:
    every episode exactly once per epoch, every batch of the same size, so that a batch may straddle
    two epochs. Windows are drawn uniformly, with replacement, from all windows of the data set.

    ``length`` and ``return``: trajectories are drawn with replacement, in proportion to their
    weights (see `trajectory_weights`); of a drawn one, every window is equally likely.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        window: int | None = None,
        seed: int = 0,
        *,
        sampling: str = "uniform",
        return_temperature: float | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Check the settings.

        Args:
            dataset: Where episodes come from.
            batch_size: Trajectories (or windows) per batch, B.
            window: Steps per window; None takes whole trajectories, padded to the batch's
                longest. No window is longer than the data set's longest episode.
            seed: Decides, together with the step, what a batch contains.
            sampling: ``uniform``, ``length`` or ``return``.
            return_temperature: For ``return``: None for weights proportional to the returns.
            pin_memory: Batches in page-locked memory, for asynchronous copies to a GPU.

        Raises:
            UserError: when the data set is empty, or a size is not positive.
        """
        require_batches(dataset, batch_size, window)
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.pin_memory = pin_memory
        longest = int(dataset.table.length.max())
        self.window = None if window is None else min(window, longest)
        # Number of window starts in each episode; episodes shorter than a window have one.
        self._starts = np.maximum(dataset.table.length - (self.window or longest) + 1, 1)
        self._weights = (
            None
            if sampling == "uniform"
            else trajectory_weights(dataset.table, sampling, return_temperature)
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which as many steps have been drawn as the data set has (rounded up)."""
        if self.window is None:
            return math.ceil(len(self.dataset) / self.batch_size)
        return math.ceil(self.dataset.steps / (self.batch_size * self.window))

    def batch(self, step: int, bootstrap: bool = False) -> SequenceBatch:
        """Return the batch of training step `step` (from 0); `bootstrap`: see `gather`."""
        episode: IntArray
        offset: IntArray | None
        # The third word keeps these draws apart from the permutations of `_epochs`.
        rng = np.random.default_rng([self.seed, step, 1])
        if self._weights is not None:
            episode = np.searchsorted(self._shares_end, rng.random(self.batch_size), side="right")
            offset = None if self.window is None else rng.integers(self._starts[episode])
        elif self.window is None:
            episode, offset = self._epochs(step), None
        else:
            drawn = rng.integers(self._starts_end[-1], size=self.batch_size)
            episode = np.searchsorted(self._starts_end, drawn, side="right")
            offset = drawn - (self._starts_end - self._starts)[episode]
        return gather(self.dataset, episode, offset, self.window, self.pin_memory, bootstrap)

    @cached_property
    def _starts_end(self) -> IntArray:
        """(E,) window starts up to and with each episode."""
        return np.cumsum(self._starts)

    @cached_property
    def _shares_end(self) -> FloatArray:
        """(E,) probability of each episode and those before it; the last is exactly 1."""
        assert self._weights is not None
        end = np.cumsum(self._weights)
        share: FloatArray = end / end[-1]
        return share

    def _epochs(self, step: int) -> IntArray:
        """Return the episodes at positions step · B … of the stream of shuffled epochs."""
        total = len(self.dataset)
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epoch, place = np.divmod(position, total)
        chosen = np.empty_like(position)
        for number in np.unique(epoch):
            order = np.random.default_rng([self.seed, int(number)]).permutation(total)
            chosen[epoch == number] = order[place[epoch == number]]
        return chosen


def require_batches(dataset: Dataset, batch_size: int, window: int | None) -> None:
    """Raise `UserError` when no batches of this size can be drawn."""
    if len(dataset) == 0:
        raise UserError("Cannot draw batches: the data set has no episodes.")
    if batch_size < 1 or (window is not None and window < 1):
        raise UserError(f"Batch size and window must be at least 1, got {batch_size} and {window}.")


def held_out_batches(
    dataset: Dataset, batch_size: int, bootstrap: bool = False
) -> Iterator[SequenceBatch]:
    """Yield every episode once, whole, in order; the last batch may be smaller.

    Args:
        dataset: The episodes.
        batch_size: How many at once.
        bootstrap: See `gather`.

    Raises:
        UserError: when the batch size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"Batch size must be at least 1, got {batch_size}.")
    for first in range(0, len(dataset), batch_size):
        episode = np.arange(first, min(first + batch_size, len(dataset)))
        yield gather(dataset, episode, bootstrap=bootstrap)


def trajectory_weights(
    table: EpisodeTable, sampling: str, return_temperature: float | None = None
) -> FloatArray:
    """Return (E,) float64, what trajectories are drawn in proportion to; not all 0.

    Args:
        table: Lengths and returns of the episodes.
        sampling: ``uniform``; ``length``: the number of steps, so that every step is equally
            likely (Chen et al. 2021, Decision Transformer); ``return``: the return. Where some
            return is negative, all are shifted so that the least is 0; where all are 0 then, the
            weights are equal.
        return_temperature: For ``return``: weights exp((R - min R) / (max R - min R) / α) instead,
            which no shift or scale of the rewards changes (Hong et al. 2023, Harnessing Mixed
            Offline RL Datasets via Trajectory Weighting, use α = 0.1); a large α is uniform.

    Raises:
        ValueError: an unknown `sampling`.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling: got '{sampling}', expected one of {', '.join(SAMPLINGS)}.")
    if sampling == "uniform":
        return np.ones(len(table.length))
    if sampling == "length":
        return table.length.astype(np.float64)
    returns = table.episode_return.astype(np.float64)
    if return_temperature is not None:
        above, spread = returns - returns.min(), np.ptp(returns)
        share = above / spread if spread > 0 else np.zeros_like(above)
        likely: FloatArray = np.exp((share - 1.0) / return_temperature)
        return likely
    weights = returns - min(returns.min(), 0.0)
    return weights if weights.any() else np.ones_like(weights)
