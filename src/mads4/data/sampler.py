"""Batches of trajectories or windows, as a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from mads4.data.dataset import Dataset
from mads4.errors import UserError
from mads4.types import IntArray, SequenceBatch


class SequenceSampler:
    """Draws training batches; keeps no state, so that exact resume needs only the step counter.

    Whole trajectories (`window` None) come in an endless stream of shuffled epochs: every episode
    exactly once per epoch, every batch of the same size, so that a batch may straddle two epochs.
    Windows are drawn uniformly, with replacement, from all windows of the data set.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, window: int | None = None, seed: int = 0
    ) -> None:
        """Check the settings.

        Args:
            dataset: Where episodes come from.
            batch_size: Trajectories (or windows) per batch, B.
            window: Steps per window; None takes whole trajectories, padded to the batch's
                longest. No window is longer than the data set's longest episode.
            seed: Decides, together with the step, what a batch contains.

        Raises:
            UserError: when the data set is empty, or a size is not positive.
        """
        if len(dataset) == 0:
            raise UserError("Cannot draw batches: the data set has no episodes.")
        if batch_size < 1 or (window is not None and window < 1):
            raise UserError(
                f"Batch size and window must be at least 1, got {batch_size} and {window}."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        longest = int(dataset.table.length.max())
        self.window = None if window is None else min(window, longest)
        # Number of window starts in each episode; episodes shorter than a window have one.
        self._starts_end = np.cumsum(
            np.maximum(dataset.table.length - (self.window or longest) + 1, 1)
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which as many steps have been drawn as the data set has (rounded up)."""
        if self.window is None:
            return math.ceil(len(self.dataset) / self.batch_size)
        return math.ceil(self.dataset.steps / (self.batch_size * self.window))

    def batch(self, step: int) -> SequenceBatch:
        """Return the batch of training step `step` (from 0)."""
        if self.window is None:
            return _gather(self.dataset, self._episodes(step))
        return self._windows(step, self.window)

    def _episodes(self, step: int) -> IntArray:
        """Return the episodes at positions step · B … of the stream of shuffled epochs."""
        total = len(self.dataset)
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epoch, place = np.divmod(position, total)
        chosen = np.empty_like(position)
        for number in np.unique(epoch):
            order = np.random.default_rng([self.seed, int(number)]).permutation(total)
            chosen[epoch == number] = order[place[epoch == number]]
        return chosen

    def _windows(self, step: int, window: int) -> SequenceBatch:
        # The third word keeps these draws apart from the permutations of `_episodes`.
        rng = np.random.default_rng([self.seed, step, 1])
        drawn = rng.integers(self._starts_end[-1], size=self.batch_size)
        episode = np.searchsorted(self._starts_end, drawn, side="right")
        first_start = np.concatenate([[0], self._starts_end])[episode]
        return _gather(self.dataset, episode, offset=drawn - first_start, window=window)


def held_out_batches(dataset: Dataset, batch_size: int) -> Iterator[SequenceBatch]:
    """Yield every episode once, whole, in order; the last batch may be smaller.

    Raises:
        UserError: when the batch size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"Batch size must be at least 1, got {batch_size}.")
    for first in range(0, len(dataset), batch_size):
        yield _gather(dataset, np.arange(first, min(first + batch_size, len(dataset))))


def _gather(
    dataset: Dataset,
    episode: IntArray,
    offset: IntArray | None = None,
    window: int | None = None,
) -> SequenceBatch:
    """Copy episodes (B,), from step `offset` (B,) on for at most `window` steps, into a batch.

    Each trajectory is one contiguous block of rows, so that block copies are the fastest gather.
    """
    skipped = np.zeros_like(episode) if offset is None else offset
    length = dataset.table.length[episode] - skipped
    if window is not None:
        length = np.minimum(length, window)
    steps = int(length.max()) if window is None else window
    blocks = _Blocks(dataset.start[episode] + skipped, length, steps)
    action = blocks.copy(dataset.action, np.int64)
    previous = np.zeros_like(action)
    previous[:, 1:] = action[:, :-1]
    # Row -1 of the first episode does not exist, but is not taken either: it starts at step 0.
    before = dataset.action[dataset.start[episode] + skipped - 1].astype(np.int64)
    previous[:, 0] = np.where(skipped[:, None] > 0, before, -1)
    mask = np.arange(steps) < length[:, None]
    previous[~mask] = 0
    return SequenceBatch(
        observation=torch.from_numpy(blocks.copy(dataset.observation)),
        state=torch.from_numpy(blocks.copy(dataset.state)),
        available_actions=torch.from_numpy(blocks.copy(dataset.available_actions, padding=True)),
        action=torch.from_numpy(action),
        previous_action=torch.from_numpy(previous),
        return_to_go=torch.from_numpy(blocks.copy(dataset.return_to_go)),
        mask=torch.from_numpy(mask),
    )


class _Blocks:
    """B blocks of rows, padded at the end to a common number of steps T."""

    def __init__(self, start: IntArray, length: IntArray, steps: int) -> None:
        self._spans = list(zip(start.tolist(), length.tolist(), strict=True))
        self._steps = steps

    def copy(
        self,
        rows: npt.NDArray[np.generic],
        dtype: npt.DTypeLike | None = None,
        padding: bool = False,
    ) -> npt.NDArray[np.generic]:
        """Return (B, T, …) copies of the blocks of `rows`, filled up with `padding` (0 or 1)."""
        shape = (len(self._spans), self._steps, *rows.shape[1:])
        result = np.empty(shape, rows.dtype if dtype is None else dtype)
        for target, (start, length) in zip(result, self._spans, strict=True):
            target[:length] = rows[start : start + length]
            target[length:] = padding
        return result
