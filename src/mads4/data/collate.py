"""Trajectories, or windows of them, copied side by side into a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mads4.data.dataset import Dataset
from mads4.data.stored_array import Array, StoredArray, rows_into
from mads4.types import BoolArray, IntArray, SequenceBatch

READERS = 4
"""Threads that share a batch's episodes when they are read from a file: the system copies, and
disks answer, several requests at once."""

Map: TypeAlias = Callable[..., Iterator[Any]]
"""`map`, or that of a thread pool."""


def gather(
    dataset: Dataset,
    episode: IntArray,
    offset: IntArray | None = None,
    window: int | None = None,
    pin_memory: bool = False,
) -> SequenceBatch:
    """Copy episodes (B,), from step `offset` (B,) on for at most `window` steps, into a batch.

    Each trajectory is one contiguous block of rows. Copying block by block is a tenth faster than
    one index operation over all rows (`numpy.take`), and reads files in long runs.

    Args:
        dataset: Where the episodes come from.
        episode: Their numbers.
        offset: First step of each; None for 0.
        window: Steps of the batch, T; None for those of the longest episode.
        pin_memory: Gather into page-locked memory, from where a GPU copies asynchronously.

    Raises:
        UserError: when the data set stays in a file that cannot be read any more.
    """
    skipped = np.zeros_like(episode) if offset is None else offset
    length = dataset.table.length[episode] - skipped
    if window is not None:
        length = np.minimum(length, window)
    steps = int(length.max()) if window is None else window
    with _map_for(dataset) as each:
        blocks = _Blocks(dataset.start[episode] + skipped, length, steps, each, pin_memory)
        left = dataset.table.length[episode] - skipped - length
        ended = dataset.table.terminated[episode] & (left == 0)
        return _copied(dataset, blocks, skipped, ended)


@contextmanager
def _map_for(dataset: Dataset) -> Iterator[Map]:
    """Yield what does something for each share of a batch's episodes, in threads if it reads."""
    if not dataset.on_demand:
        yield map
        return
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        yield pool.map


@dataclass(frozen=True)
class _Blocks:
    """B blocks of rows, padded at the end to a common number of steps T."""

    start: IntArray
    """(B,) first row of each."""
    length: IntArray
    """(B,) rows of each."""
    steps: int
    each: Map
    pin_memory: bool

    def empty(self, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> Tensor:
        """Return an uninitialized tensor (B, T, …).

        NumPy asks the system for large pages, which PyTorch does not: fresh memory is filled
        several times faster.
        """
        shape = (len(self.start), self.steps, *row_shape)
        if self.pin_memory:
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty(shape, dtype=kind, pin_memory=True)
        return torch.from_numpy(np.empty(shape, dtype))

    def copy(
        self,
        rows: Array | StoredArray,
        dtype: npt.DTypeLike | None = None,
        padding: bool = False,
    ) -> Tensor:
        """Return (B, T, …) copies of the blocks of `rows`, filled up with `padding` (0 or 1).

        A thread takes a share of the blocks of an array in a file, not one block after another:
        handing over costs as much as reading 200 KB. An array in memory is copied at once.
        """
        result = self.empty(rows.shape[1:], rows.dtype if dtype is None else dtype)
        blocks = list(zip(result.numpy(), self.start.tolist(), self.length.tolist(), strict=True))

        def fill(share: slice) -> None:
            for target, start, length in blocks[share]:
                rows_into(target[:length], rows, start)
                target[length:] = padding

        if isinstance(rows, StoredArray):
            size = max(1, -(-len(blocks) // READERS))
            shares = [slice(k, k + size) for k in range(0, len(blocks), size)]
            list(self.each(fill, shares))  # raises what a thread raised
        else:
            fill(slice(None))
        return result


def _copied(
    dataset: Dataset, blocks: _Blocks, skipped: IntArray, ended: BoolArray
) -> SequenceBatch:
    """Return the blocks of all arrays.

    Args:
        dataset: where they come from.
        blocks: which rows.
        skipped: (B,) steps of the episodes before the blocks.
        ended: (B,) blocks at whose last row the task ended.
    """
    action = blocks.copy(dataset.action, np.int64)
    mask, previous = blocks.empty((), np.bool_), blocks.empty(tuple(action.shape[2:]), np.int64)
    # NumPy fills them, as PyTorch would share so little work out to threads that may be busy.
    real, before = mask.numpy(), previous.numpy()
    real[...] = np.arange(blocks.steps) < blocks.length[:, None]
    before[:, 1:] = action.numpy()[:, :-1]
    # Row -1 of the first episode does not exist, but is not taken either: it starts at step 0.
    last = dataset.action[blocks.start - 1].astype(np.int64)
    before[:, 0] = np.where(skipped[:, None] > 0, last, -1)
    before[~real] = 0
    terminated, follows = blocks.empty((), np.bool_), blocks.empty((), np.bool_)
    place, last_row = np.arange(blocks.steps), blocks.length[:, None] - 1
    terminated.numpy()[...] = (place == last_row) & ended[:, None]
    follows.numpy()[...] = place < last_row
    return SequenceBatch(
        observation=blocks.copy(dataset.observation),
        state=blocks.copy(dataset.state),
        available_actions=blocks.copy(dataset.available_actions, padding=True),
        action=action,
        previous_action=previous,
        return_to_go=blocks.copy(dataset.return_to_go),
        reward=blocks.copy(dataset.reward),
        terminated=terminated,
        follows=follows,
        mask=mask,
    )
