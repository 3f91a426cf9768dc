"""How one experiment's seed becomes the seeds and random numbers of its parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mads4.types import BoolArray

Numbers = npt.NDArray[np.float64]

_BLOCK = 128
"""Steps for which numbers are drawn at once; the values are the same for any block."""


def environment_seed(seed: int, episode: int) -> int:
    """Return the seed of episode `episode`'s environment, a 31-bit hash of (seed, episode)."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0] >> 1)


class EpisodeStreams:
    """The random numbers of R episodes at a time, each from streams that are its own.

    Episode k's actions are drawn from the stream (seed, k), its agents' order and its messages'
    losses from the stream (seed, k, 1): neither changes what the other gives.

    Args:
        seed: of all episodes.
        rows: R, episodes at a time.
        agents: N, numbers a step.
    """

    def __init__(self, seed: int, rows: int, agents: int) -> None:
        self._seed = seed
        self._actions = _Streams(rows, agents)
        self._messages = _Streams(rows, agents)
        self.order_key: Numbers = np.zeros((rows, agents))
        """(R, N) in [0, 1), drawn when an episode begins."""

    def begin(self, row: int, episode: int) -> None:
        """Let `row` draw from the streams of `episode`, from their beginning."""
        self._actions.begin(row, np.random.default_rng([self._seed, episode]))
        messages = np.random.default_rng([self._seed, episode, 1])
        self.order_key[row] = messages.random(self.order_key.shape[1])
        self._messages.begin(row, messages)

    def action_numbers(self, running: BoolArray) -> Numbers:
        """Return new numbers (R, N) in [0, 1) for the rows (R,) that run, any for the others."""
        return self._actions.draw(running)

    def message_numbers(self, running: BoolArray) -> Numbers:
        """Return new numbers (R, N) in [0, 1) for the rows (R,) that run, any for the others."""
        return self._messages.draw(running)


class _Streams:
    """R generators, drawn from in blocks, for one call for each row and step costs too much."""

    def __init__(self, rows: int, width: int) -> None:
        self._generators: list[np.random.Generator | None] = [None] * rows
        self._block = np.zeros((rows, _BLOCK, width))
        self._used = np.zeros(rows, dtype=np.int64)
        self._rows = np.arange(rows)

    def begin(self, row: int, generator: np.random.Generator) -> None:
        self._generators[row] = generator
        self._used[row] = _BLOCK

    def draw(self, running: BoolArray) -> Numbers:
        for row in np.flatnonzero(running & (self._used == _BLOCK)):
            generator = self._generators[row]
            if generator is None:
                raise ValueError(f"row {row} runs but has not begun")
            generator.random(out=self._block[row])
            self._used[row] = 0
        numbers: Numbers = self._block[self._rows, np.minimum(self._used, _BLOCK - 1)]
        self._used += running
        return numbers
