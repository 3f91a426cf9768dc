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
    bootstrap: bool = False,
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
        bootstrap: Return T + 1 rows, for critics. The row after a trajectory's real ones then
            holds what followed them, and ``follows`` is True at the last real one: the episode's
            next step if the window ends inside it; at a truncated end the last observation, state
            and available actions, if the data set has them. (Nobody acted there: each agent's
            last action stands for its action; an agent without an available action has all.)
            ``mask`` is False there, the reward 0, the return-to-go what remains. Nothing follows
            a terminated end.

    Raises:
        UserError: when the data set stays in a file that cannot be read any more.
    """
    skipped = np.zeros_like(episode) if offset is None else offset
    length = dataset.table.length[episode] - skipped
    if window is not None:
        length = np.minimum(length, window)
    steps = int(length.max()) if window is None else window
    left = dataset.table.length[episode] - skipped - length
    ended = dataset.table.terminated[episode] & (left == 0)
    inside = (left > 0) & bootstrap
    last_row = np.where(bootstrap & (left == 0) & ~ended, dataset.table.last_row[episode], -1)
    start = dataset.start[episode] + skipped
    with _map_for(dataset) as each:
        blocks = _Blocks(start, length, inside, last_row, steps + bootstrap, each, pin_memory)
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
    """(B,) real rows of each."""
    inside: BoolArray
    """(B,) whose next row is copied as well."""
    last_row: IntArray
    """(B,) row of `Dataset.last` that is copied after the real ones; -1 for none."""
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
        last: Array | StoredArray | None = None,
    ) -> Tensor:
        """Return (B, T, …) copies of the blocks of `rows`, filled up with `padding` (0 or 1).

        The row after the real ones is of `rows`, too, where `inside`; else of `last`, if given.

        A thread takes a share of the blocks of an array in a file, not one block after another:
        handing over costs as much as reading 200 KB. An array in memory is copied at once.
        """
        result = self.empty(rows.shape[1:], rows.dtype if dtype is None else dtype)
        length = self.length + self.inside
        places = (self.start.tolist(), length.tolist(), self.last_row.tolist())
        blocks = list(zip(result.numpy(), *places, strict=True))

        def fill(share: slice) -> None:
            for target, start, length, last_row in blocks[share]:
                rows_into(target[:length], rows, start)
                target[length:] = padding
                if last is not None and last_row >= 0:
                    rows_into(target[length : length + 1], last, last_row)

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
    action, reward = blocks.copy(dataset.action, np.int64), blocks.copy(dataset.reward)
    available = blocks.copy(
        dataset.available_actions, padding=True, last=dataset.last.get("last_available_actions")
    )
    cut = np.flatnonzero(blocks.last_row >= 0)
    after = cut, blocks.length[cut]
    action.numpy()[after] = action.numpy()[cut, blocks.length[cut] - 1]
    free = available.numpy()[after]
    available.numpy()[after] = free | ~free.any(axis=-1, keepdims=True)
    mask, previous = blocks.empty((), np.bool_), blocks.empty(tuple(action.shape[2:]), np.int64)
    # NumPy fills them, as PyTorch would share so little work out to threads that may be busy.
    real, before = mask.numpy(), previous.numpy()
    real[...] = np.arange(blocks.steps) < blocks.length[:, None]
    before[:, 1:] = action.numpy()[:, :-1]
    # Row -1 of the first episode does not exist, but is not taken either: it starts at step 0.
    last = dataset.action[blocks.start - 1].astype(np.int64)
    before[:, 0] = np.where(skipped[:, None] > 0, last, -1)
    reward.numpy()[~real] = 0.0
    follower = blocks.inside | (blocks.last_row >= 0)
    before[np.arange(blocks.steps) >= (blocks.length + follower)[:, None]] = 0
    terminated, follows = blocks.empty((), np.bool_), blocks.empty((), np.bool_)
    place, last_row = np.arange(blocks.steps), blocks.length[:, None] - 1
    terminated.numpy()[...] = (place == last_row) & ended[:, None]
    follows.numpy()[...] = place < last_row + follower[:, None]
    return SequenceBatch(
        observation=blocks.copy(dataset.observation, last=dataset.last.get("last_observation")),
        state=blocks.copy(dataset.state, last=dataset.last.get("last_state")),
        available_actions=available,
        action=action,
        previous_action=previous,
        return_to_go=blocks.copy(dataset.return_to_go),
        reward=reward,
        terminated=terminated,
        follows=follows,
        mask=mask,
    )
