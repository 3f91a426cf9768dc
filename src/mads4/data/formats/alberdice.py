"""AlberDICE's recorded data (Matsunaga et al. 2023): a folder with one ``.npy`` file per key.

E episodes of at most T rows, n agents, A actions::

    actions.npy        (E, T, n, 1) integers      obs.npy         (E, T, n, d) floats
    avail_actions.npy  (E, T, n, A) 0 or 1        state.npy       (E, T, s) floats or bytes
    filled.npy         (E, T, 1)    0 or 1        reward.npy      (E, T, 1) floats, of the team
    terminated.npy     (E, T, 1)    0 or 1        meta.json       {"episodes_in_buffer": E, …}

The last filled row of an episode is the *bootstrap row*: it shows what followed the last action
(`Episode.last_observation` and its like) and is no step. So an episode has ``filled.sum() - 1``
steps, ``terminated`` is set at the last of them, and T is the longest episode's number of steps
plus one. ``actions_onehot.npy``, which repeats the actions, is not read.

``terminated`` does not tell the task's end from the clock's. Episodes that last T - 1 steps are
taken to have been cut by the time limit (truncated); shorter ones ended by themselves if the flag
is set, and were cut if it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from mads4.data.content import Array, last_problem
from mads4.data.formats.alberdice_write import META, write_alberdice
from mads4.data.formats.base import Format, Layout, axis_lengths, names_of
from mads4.data.settings import DATASETS, RecordedDataset
from mads4.errors import UserError
from mads4.settings import lower
from mads4.types import EnvSpec, Episode, IntArray

READER_VERSION = 2
DEFINITIONS: Mapping[str, Mapping[str, str]] = {
    "rware": {"reward": "alberdice", "state_encoding": "alberdice"}
}
"""Environment family → how the data's rewards and states are defined, where there is a choice."""

MAPPED_BYTES = 1 << 26
"""Mapped files are let go after so many bytes, as pages that were read count as memory."""

LAYOUT: Layout = {
    "actions": ("iu", ("E", "T", "n", "1")),
    "avail_actions": ("iufb", ("E", "T", "n", "A")),
    "filled": ("iufb", ("E", "T", "1")),
    "obs": ("f", ("E", "T", "n", "d")),
    "reward": ("f", ("E", "T", "1")),
    "state": ("fu", ("E", "T", "s")),
    "terminated": ("iufb", ("E", "T", "1")),
}
_UNREADABLE = (
    *(OSError, ValueError, TypeError, ArithmeticError, EOFError),
    *(SyntaxError, TokenError, RecursionError, MemoryError),  # a head is a Python literal
)


@DATASETS.register("alberdice")
class AlberdiceDataset(RecordedDataset):
    """A data set in AlberDICE's layout: a folder of NumPy arrays, recorded in `env`."""

    name: Literal["alberdice"] = "alberdice"
    """Kind of data set."""
    quality: Annotated[str, BeforeValidator(lower)] = "expert"
    """Which of the listed data sets for the environment, for example expert."""


def open_alberdice(path: Path | str, env: EnvSpec | None = None) -> AlberdiceSource:
    """Open a folder in AlberDICE's layout.

    Args:
        path: the folder.
        env: the environment that the data were recorded in; it gives what the layout does not
            hold (family, scenario, definition of rewards and states), while all sizes are those of
            the data, for the caller to compare. Without it those names are empty.

    Raises:
        UserError: a file that is missing, is no plain array, or whose shape, type or values do not
            fit the others.
    """
    folder = Path(path).expanduser()
    names = [f"{key}.npy" for key in LAYOUT] + [META]
    _require_files(folder, names)
    arrays = _mapped(folder)
    facts = {key: (array.dtype, array.shape) for key, array in arrays.items()}
    size = axis_lengths(facts, LAYOUT, lambda key: f"{folder / key}.npy")
    size["E"] = _episodes_in_use(folder / META, size["E"])
    return AlberdiceSource(
        name=folder.name,
        spec=_spec(size, env),
        origin={"format": "alberdice", "reader_version": READER_VERSION, "folder": folder.name},
        files=tuple(folder / name for name in sorted(names)),
        folder=folder,
        length=_lengths(folder, arrays, size),
    )


@dataclass
class AlberdiceSource:
    """A `Source` whose arrays are mapped into memory, and checked against each other."""

    name: str
    spec: EnvSpec
    origin: Mapping[str, Any]
    files: tuple[Path, ...]
    folder: Path
    length: IntArray
    """(E,) steps of each episode, the bootstrap row left out."""
    skipped: dict[str, str] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one after another; observations and rewards may be views.

        A bootstrap row that shows nothing is left out: one without an available action for every
        agent, or with values that are not finite or do not fit the other states' dtype.
        """
        state_dtype = np.dtype(np.uint8 if self._binary() else np.float32)
        for first, arrays in self._blocks(LAYOUT):
            for place, length in enumerate(self._lengths_of(arrays, first)):
                yield self._episode(arrays, place, length, first + place, state_dtype)

    def _episode(
        self, arrays: Mapping[str, Array], place: int, length: int, index: int, state: np.dtype
    ) -> Episode:
        rows = (place, slice(0, length))
        ended = bool(arrays["terminated"][place, length - 1, 0])
        in_time = length < self.spec.episode_limit
        with np.errstate(over="ignore", invalid="ignore"):  # whoever stores it checks the values
            episode = Episode(
                observation=arrays["obs"][rows].astype(np.float32, copy=False),
                state=arrays["state"][rows][:, None, :].astype(state),
                available_actions=arrays["avail_actions"][rows].astype(np.bool_),
                action=arrays["actions"][rows][..., 0].astype(np.int64),
                reward=arrays["reward"][rows][:, 0].astype(np.float32),
                terminated=ended and in_time,
                truncated=not (ended and in_time),
                seed=index,
            )
            last = {
                "last_observation": arrays["obs"][place, length].astype(np.float32),
                "last_state": arrays["state"][place, length][None].astype(state),
                "last_available_actions": arrays["avail_actions"][place, length].astype(np.bool_),
            }
        usable = (
            last["last_available_actions"].any(axis=-1).all()
            and np.array_equal(last["last_state"][0], arrays["state"][place, length])
            and last_problem(last) is None
        )
        return replace(episode, **last) if usable else episode

    def _binary(self) -> bool:
        """Whether all states' features are 0 or 1, so that they can be kept as bytes."""
        return all(
            bool(((rows == 0) | (rows == 1)).all())
            for first, arrays in self._blocks(["state"])
            for rows in (
                arrays["state"][place, :length]
                for place, length in enumerate(self._lengths_of(arrays, first))
            )
        )

    def _lengths_of(self, arrays: Mapping[str, Array], first: int) -> list[int]:
        """Return the lengths of the episodes of a block of `_blocks`."""
        (count,) = {len(array) for array in arrays.values()}
        lengths: list[int] = self.length[first : first + count].tolist()
        return lengths

    def _blocks(self, keys: Iterable[str]) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield (number of the first episode, arrays of some episodes), mapped again each time."""
        first = 0
        while first < len(self.length):
            arrays = _mapped(self.folder, keys)
            each = sum(array.nbytes // len(array) for array in arrays.values())
            last = min(first + max(1, MAPPED_BYTES // each), len(self.length))
            yield first, {key: array[first:last] for key, array in arrays.items()}
            first = last


def _require_files(folder: Path, names: list[str]) -> None:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Check the path of the data set.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a data set in AlberDICE's layout: it lacks {', '.join(missing)}. "
            f"Expected are {', '.join(names)}."
        )


def _mapped(folder: Path, keys: Iterable[str] = LAYOUT) -> dict[str, Array]:
    return {key: _map(folder / f"{key}.npy") for key in keys}


def _map(path: Path) -> Array:
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as a plain NumPy array: {error}. Restore it from a copy."
        ) from error


def _episodes_in_use(path: Path, room: int) -> int:
    """Return how many episodes of the buffer have been recorded."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    count = meta.get("episodes_in_buffer") if isinstance(meta, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= room:
        raise UserError(
            f"{path}: episodes_in_buffer is {count!r}, expected a whole number from 1 to {room}, "
            "the number of episodes in the arrays."
        )
    return count


def _lengths(folder: Path, arrays: Mapping[str, Array], size: Mapping[str, int]) -> IntArray:
    """Return every episode's number of steps, after checking where it is filled and ends."""
    filled = np.asarray(arrays["filled"][: size["E"], :, 0]) != 0
    rows = filled.sum(axis=1)
    expected = np.arange(size["T"]) < rows[:, None]
    _require(
        folder,
        "filled.npy",
        (filled == expected).all(axis=1),
        "has gaps: its filled rows must be the first ones",
    )
    _require(
        folder,
        "filled.npy",
        rows >= 2,
        "has no step: a step and the bootstrap row after it make two filled rows",
    )
    terminated = np.asarray(arrays["terminated"][: size["E"], :, 0]) != 0
    last = np.arange(size["T"]) == rows[:, None] - 2
    _require(
        folder,
        "terminated.npy",
        ~(terminated & ~last & filled).any(axis=1),
        "is terminated elsewhere than at its last step, the row before the last filled one",
    )
    length: IntArray = (rows - 1).astype(np.int64)
    return length


def _require(folder: Path, name: str, fine: Array, wrong: str) -> None:
    """Raise a `UserError` that names the first of the episodes (E,) that are not `fine`."""
    if not fine.all():
        raise UserError(f"{folder / name}: episode {int(np.argmin(fine))} {wrong}.")


def _spec(size: Mapping[str, int], env: EnvSpec | None) -> EnvSpec:
    """Return the environment's names with the data's sizes; who simulated it is not known."""
    names = names_of(env)
    names |= DEFINITIONS.get(names["name"], {})
    return EnvSpec(
        **names,
        n_agents=size["n"],
        obs_dim=size["d"],
        state_dim=size["s"],
        n_actions=size["A"],
        episode_limit=size["T"] - 1,
    )


def _matches(path: Path) -> bool:
    return (path / "filled.npy").is_file() and (path / "actions.npy").is_file()


FORMAT = Format(
    open_alberdice, _matches, "a folder with actions.npy and filled.npy", write_alberdice
)
