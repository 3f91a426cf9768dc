"""Windows that follow one another, for training that carries the recurrent state along."""

from __future__ import annotations

import numpy as np

from mads4.data.collate import gather
from mads4.data.dataset import Dataset
from mads4.data.sampler import require_batches
from mads4.types import BoolArray, IntArray, SequenceBatch


class ConsecutiveSampler:
    """B rows, each of which walks through the episodes window by window; keeps no state.

    Row b of batch ``step + 1`` goes on where row b of batch ``step`` ended, or begins an episode:
    `begins` tells which. Rows walk through one shuffled circle of episodes, each from a place of
    its own, an equal number of episodes apart. Once around (as many steps as there are windows)
    each row has seen every episode exactly once, all are between two episodes, and the circle is
    reshuffled. So a batch is a function of (seed, step) alone, no window is cut short but an
    episode's last, and neighboring rows never show the same episode unless rows outnumber them.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        window: int,
        seed: int = 0,
        *,
        pin_memory: bool = False,
    ) -> None:
        """Check the settings; they mean what they do in `SequenceSampler`.

        Raises:
            UserError: when the data set is empty, or a size is not positive.
        """
        require_batches(dataset, batch_size, window)
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.pin_memory = pin_memory
        self.window = min(window, int(dataset.table.length.max()))
        self._windows = -(-dataset.table.length // self.window)

    def batch(self, step: int, bootstrap: bool = False) -> SequenceBatch:
        """Return the batch of training step `step` (from 0); `bootstrap`: see `gather`."""
        episode, index = self._rows(step)
        offset = index * self.window
        return gather(self.dataset, episode, offset, self.window, self.pin_memory, bootstrap)

    def begins(self, step: int) -> BoolArray:
        """(B,) Return which rows begin an episode at `step`; the others go on from step - 1."""
        first: BoolArray = self._rows(step)[1] == 0
        return first

    def _rows(self, step: int) -> tuple[IntArray, IntArray]:
        """Return each row's episode, and the number of its window in there, both (B,)."""
        total = len(self.dataset)
        around, place = divmod(step, int(self._windows.sum()))
        # The third word keeps this draw apart from those of `SequenceSampler`.
        order = np.random.default_rng([self.seed, around, 2]).permutation(total)
        windows = self._windows[order]
        end = np.cumsum(windows)
        row_episode = np.arange(self.batch_size) * total // self.batch_size
        at = (end[row_episode] - windows[row_episode] + place) % end[-1]
        found = np.searchsorted(end, at, side="right")
        return order[found], at - (end[found] - windows[found])
