"""A data set: concatenated step arrays, an episode table, and views of some episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mads4.data.content import (
    LAST_ARRAYS,
    STEP_ARRAYS,
    Array,
    content_fingerprint,
    digest,
    last_rows,
    step_columns,
    view_fingerprint,
)
from mads4.data.stored_array import StoredArray
from mads4.errors import UserError
from mads4.types import BoolArray, EnvSpec, Episode, FloatArray, IntArray, returns_to_go


@dataclass(frozen=True)
class EpisodeTable:
    """One row per episode; small even where the steps are many."""

    length: IntArray
    """(E,) int64, steps."""
    episode_return: FloatArray
    """(E,) float64, undiscounted sum of team rewards."""
    terminated: BoolArray
    """(E,) the task itself ended."""
    truncated: BoolArray
    """(E,) the episode was cut."""
    seed: IntArray
    """(E,) int64, index in the (seed, index) pair that the episode's randomness derives from."""
    metrics: Mapping[str, FloatArray]
    """(E,) float64 each; NaN in episodes that did not report that metric."""
    last_row: IntArray
    """(E,) int64, each episode's row in the data set's `Dataset.last` arrays, which hold what
    followed its last step; -1 where the source does not have it. Not part of the fingerprint."""

    @classmethod
    def from_episodes(cls, episodes: Sequence[EpisodeRow]) -> EpisodeTable:
        """Build the table from rows, with one metric column per name found in any row."""
        names = sorted({name for row in episodes for name in row.metrics})
        known = np.array([row.has_last for row in episodes], dtype=bool)
        return cls(
            length=np.array([row.length for row in episodes], dtype="<i8"),
            episode_return=np.array([row.episode_return for row in episodes], dtype="<f8"),
            terminated=np.array([row.terminated for row in episodes], dtype=bool),
            truncated=np.array([row.truncated for row in episodes], dtype=bool),
            seed=np.array([row.seed for row in episodes], dtype="<i8"),
            metrics={
                name: np.array([row.metrics.get(name, np.nan) for row in episodes], dtype="<f8")
                for name in names
            },
            last_row=np.where(known, np.cumsum(known) - 1, -1).astype("<i8"),
        )

    def arrays(self) -> dict[str, Array]:
        """Return the columns as they are hashed; metrics as one (E, M) array."""
        metrics = [self.metrics[name] for name in sorted(self.metrics)]
        return {
            "length": self.length,
            "return": self.episode_return,
            "terminated": self.terminated.view(np.uint8),
            "truncated": self.truncated.view(np.uint8),
            "seed": self.seed,
            "metrics": np.stack(metrics, axis=1) if metrics else np.empty((len(self.length), 0)),
        }

    def select(self, index: IntArray) -> EpisodeTable:
        """Return the rows at `index`."""
        return EpisodeTable(
            length=self.length[index],
            episode_return=self.episode_return[index],
            terminated=self.terminated[index],
            truncated=self.truncated[index],
            seed=self.seed[index],
            metrics={name: column[index] for name, column in self.metrics.items()},
            last_row=self.last_row[index],
        )


@dataclass(frozen=True)
class EpisodeRow:
    """What the episode table keeps of one episode."""

    length: int
    episode_return: float
    terminated: bool
    truncated: bool
    seed: int
    metrics: Mapping[str, float]
    has_last: bool
    """Whether it is known what followed the last step."""

    @classmethod
    def of(cls, episode: Episode) -> EpisodeRow:
        """Return the row of `episode`, without its arrays."""
        return cls(
            length=episode.length,
            episode_return=episode.episode_return,
            terminated=bool(episode.terminated),
            truncated=bool(episode.truncated),
            seed=int(episode.seed),
            metrics={name: float(value) for name, value in episode.metrics.items()},
            has_last=episode.last_observation is not None,
        )


@dataclass(frozen=True)
class DatasetHeader:
    """Everything about a data set but its steps."""

    name: str
    spec: EnvSpec
    behavior: Mapping[str, Any]
    """Free description of how the data was made (JSON values)."""
    fingerprint: str
    """SHA-256 of the content; of the whole's and the episodes' numbers in a view of some."""
    table: EpisodeTable

    def __len__(self) -> int:
        """Return the number of episodes E."""
        return len(self.table.length)

    @property
    def returns(self) -> FloatArray:
        """(E,) float64, undiscounted returns."""
        return self.table.episode_return

    @property
    def steps(self) -> int:
        """Number of real steps in all episodes."""
        return int(self.table.length.sum())

    def summary(self) -> dict[str, Any]:
        """Return the facts that ``mads4 data show`` prints, as plain Python values."""
        spec = self.spec
        filled = len(self) > 0
        won = self.table.metrics.get("win")
        won = won[~np.isnan(won)] if won is not None else np.empty(0)
        return {
            "name": self.name,
            "env": spec.name,
            "scenario": spec.scenario,
            "episodes": len(self),
            "steps": self.steps,
            "n_agents": spec.n_agents,
            "obs_dim": spec.obs_dim,
            "state_dim": spec.state_dim,
            "state_encoding": spec.state_encoding,
            "n_actions": spec.n_actions,
            "episode_limit": spec.episode_limit,
            "return_mean": float(self.returns.mean()) if filled else None,
            "return_std": float(self.returns.std()) if filled else None,
            "return_min": float(self.returns.min()) if filled else None,
            "return_max": float(self.returns.max()) if filled else None,
            **({"win_rate": float(won.mean())} if len(won) else {}),
            "length_mean": float(self.table.length.mean()) if filled else None,
            "reward_definition": spec.reward,
            "behavior": dict(self.behavior),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, eq=False)
class Dataset(DatasetHeader):
    """Episodes of one environment. S steps are concatenated; views share them without copies.

    The three large arrays and `last` may stay in a file (see `mads4.data.on_demand`); slices of
    rows, which all else here makes do with, are read then. Actions and rewards are always in
    memory.
    """

    observation: FloatArray | StoredArray
    """(S, N, obs_dim) float32."""
    state: npt.NDArray[Any] | StoredArray
    """(S, N or 1, state_dim) uint8 (0 or 1) or float32."""
    available_actions: BoolArray | StoredArray
    """(S, N, n_actions)."""
    action: IntArray
    """(S, N) uint8, or int64 beyond 256 actions."""
    reward: FloatArray
    """(S,) float32."""
    start: IntArray
    """(E,) int64, row of each episode's first step; it ends ``table.length`` rows later."""
    last: Mapping[str, Array | StoredArray]
    """What followed the last steps, by name (`mads4.data.content.LAST_ARRAYS`): (K, …) rows of the
    K episodes where that is known; ``table.last_row`` tells which. Empty where K is 0."""

    @classmethod
    def from_episodes(
        cls,
        spec: EnvSpec,
        episodes: Iterable[Episode],
        behavior: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> Dataset:
        """Build a data set in memory, equal (in fingerprint, too) to one written and read back.

        Raises:
            UserError: when there is no episode, or one does not fit `spec`.
        """
        rows, blocks, ends = [], [], []
        for number, episode in enumerate(episodes):
            blocks.append(step_columns(spec, episode, number))
            end = last_rows(spec, episode, number)
            ends += [end] if end else []
            rows.append(EpisodeRow.of(episode))
        if not rows:
            raise UserError("A data set needs at least one episode; none was given.")
        if len({block["state"].dtype for block in blocks}) > 1:
            raise UserError("All episodes' states must have one dtype, uint8 or float32.")
        steps = {key: np.concatenate([block[key] for block in blocks]) for key in STEP_ARRAYS}
        table = EpisodeTable.from_episodes(rows)
        digests = {key: digest(array) for key, array in (steps | table.arrays()).items()}
        fingerprint = content_fingerprint(spec.to_dict(), digests, table.metrics)
        last = {key: np.concatenate([end[key] for end in ends]) for key in LAST_ARRAYS if ends}
        return cls.from_arrays(
            DatasetHeader(name, spec, dict(behavior or {}), fingerprint, table), steps, last
        )

    @classmethod
    def from_arrays(
        cls,
        header: DatasetHeader,
        steps: Mapping[str, Array | StoredArray],
        last: Mapping[str, Array | StoredArray],
    ) -> Dataset:
        """Join a header, checked step arrays and last rows (flags as bytes) into a data set."""
        flags = steps["available_actions"].view(np.bool_)
        ends = {
            name: rows.view(np.bool_) if name == "last_available_actions" else rows
            for name, rows in last.items()
        }
        return cls(
            name=header.name,
            spec=header.spec,
            behavior=header.behavior,
            fingerprint=header.fingerprint,
            table=header.table,
            start=np.cumsum(header.table.length) - header.table.length,
            last=ends,
            **(dict(steps) | {"available_actions": flags}),  # type: ignore[arg-type]
        )

    def episode(self, i: int) -> Episode:
        """Return episode `i`; its arrays are views, but for the actions."""
        rows = slice(int(self.start[i]), int(self.start[i] + self.table.length[i]))
        metrics = {name: float(column[i]) for name, column in self.table.metrics.items()}
        return Episode(
            observation=self.observation[rows],
            state=self.state[rows],
            available_actions=self.available_actions[rows],
            action=self.action[rows].astype(np.int64),
            reward=self.reward[rows],
            terminated=bool(self.table.terminated[i]),
            truncated=bool(self.table.truncated[i]),
            seed=int(self.table.seed[i]),
            metrics={name: value for name, value in metrics.items() if not np.isnan(value)},
            **self._last_rows(int(self.table.last_row[i])),
        )

    def _last_rows(self, row: int) -> dict[str, Array]:
        """Return what followed the last step of one episode, by name; empty if that is unknown."""
        if row < 0:
            return {}
        return {name: rows[row : row + 1][0] for name, rows in self.last.items()}

    @property
    def on_demand(self) -> bool:
        """Whether observations, and what else is large, are read from a file when needed."""
        return isinstance(self.observation, StoredArray)

    @cached_property
    def return_to_go(self) -> FloatArray:
        """(S,) float32, R^t of every step of this view's episodes; 0 on other episodes' rows."""
        result = np.zeros_like(self.reward)
        for start, length in zip(self.start.tolist(), self.table.length.tolist(), strict=True):
            result[start : start + length] = returns_to_go(self.reward[start : start + length])
        return result

    def rows(self) -> IntArray:
        """Return the rows (int64) of this view's real steps, episode by episode."""
        length = self.table.length
        first = np.repeat(self.start - (np.cumsum(length) - length), length)
        return first + np.arange(len(first))

    def select(self, episodes: Sequence[int] | IntArray) -> Dataset:
        """Return a view of the given episodes: no step is copied."""
        index = np.asarray(episodes, dtype=np.int64)
        return replace(
            self,
            table=self.table.select(index),
            start=self.start[index],
            fingerprint=view_fingerprint(self.fingerprint, index),
        )

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """Split by episodes into views (train, held out), the same for the same `seed`.

        Args:
            fraction: Share of episodes to hold out, in (0, 1). With two episodes or more, each
                side has at least one; a single episode is for training.
            seed: Decides which episodes are held out.

        Raises:
            UserError: when `fraction` is not between 0 and 1.
        """
        if not 0.0 < fraction < 1.0:
            raise UserError(
                f"The share of held-out episodes must lie between 0 and 1 (for example 0.05), "
                f"got {fraction}."
            )
        held_out = min(max(1, round(fraction * len(self))), len(self) - 1)
        order = np.random.default_rng(seed).permutation(len(self))
        return self.select(np.sort(order[held_out:])), self.select(np.sort(order[:held_out]))
