"""AlberDICE's recorded data (Matsunaga et al. 2023): a folder with one ``.npy`` file per key.

E episodes of at most T rows, n agents, A actions::

    actions.npy        (E, T, n, 1) integers      obs.npy         (E, T, n, d) floats
    avail_actions.npy  (E, T, n, A) 0 or 1        state.npy       (E, T, s) floats or bytes
    filled.npy         (E, T, 1)    0 or 1        reward.npy      (E, T, 1) floats, of the team
    terminated.npy     (E, T, 1)    0 or 1        meta.json       {"episodes_in_buffer": E, …}

The last filled row of an episode is the *bootstrap row*: it shows what followed the last action and
is no step. So an episode has ``filled.sum() - 1`` steps, ``terminated`` is set at the last of them,
and T is the longest episode's number of steps plus one. ``actions_onehot.npy``, which repeats the
actions, is not read.

``terminated`` does not tell the task's end from the clock's. Episodes that last T - 1 steps are
taken to have been cut by the time limit (truncated); shorter ones ended by themselves if the flag
is set, and were cut if it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mads4.data.content import Array
from mads4.data.dataset import Dataset
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode, IntArray

FORMAT = "alberdice"
META = "meta.json"
DEFINITIONS: Mapping[str, Mapping[str, str]] = {
    "rware": {"reward": "alberdice", "state_encoding": "alberdice"}
}
"""Environment family → how the data's rewards and states are defined, where there is a choice."""

_LAYOUT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "actions": ("iu", ("E", "T", "n", "1")),
    "avail_actions": ("iufb", ("E", "T", "n", "A")),
    "filled": ("iufb", ("E", "T", "1")),
    "obs": ("f", ("E", "T", "n", "d")),
    "reward": ("f", ("E", "T", "1")),
    "state": ("fu", ("E", "T", "s")),
    "terminated": ("iufb", ("E", "T", "1")),
}
"""Key → kinds of NumPy dtype, axes; axes of one name have one length."""
_NAMES = ("name", "scenario", "reward", "state_encoding")
_KINDS = {"i": "integers", "u": "unsigned integers", "f": "floats", "b": "flags"}


def read_alberdice(path: Path | str, env: EnvSpec | None = None) -> Dataset:
    """Read a folder in AlberDICE's layout into memory.

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
    buffer = _open(folder)
    spec = _spec(buffer, env)
    return Dataset.from_episodes(
        spec, buffer.episodes(), {"format": FORMAT, "folder": folder.name}, folder.name
    )


@dataclass(frozen=True)
class _Buffer:
    """The folder's arrays, mapped into memory and checked against each other."""

    folder: Path
    arrays: Mapping[str, Array]
    size: Mapping[str, int]
    """Length of each axis of `_LAYOUT`; E counts the episodes in use."""
    length: IntArray
    """(E,) steps of each episode, the bootstrap row left out."""

    @property
    def limit(self) -> int:
        """Steps of the longest episode that the arrays have room for."""
        return self.size["T"] - 1

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one after another; observations and rewards are views."""
        state_dtype = np.dtype(np.uint8 if self._binary() else np.float32)
        for index, length in enumerate(self.length.tolist()):
            rows = (index, slice(0, length))
            ended = bool(self.arrays["terminated"][index, length - 1, 0])
            yield Episode(
                observation=self.arrays["obs"][rows].astype(np.float32, copy=False),
                state=self.arrays["state"][rows][:, None, :].astype(state_dtype),
                available_actions=self.arrays["avail_actions"][rows].astype(np.bool_),
                action=self.arrays["actions"][rows][..., 0].astype(np.int64),
                reward=self.arrays["reward"][rows][:, 0].astype(np.float32),
                terminated=ended and length < self.limit,
                truncated=not ended or length == self.limit,
                seed=index,
            )

    def _binary(self) -> bool:
        """Whether all states' features are 0 or 1, so that they can be kept as bytes."""
        state = self.arrays["state"]
        return all(
            bool(((rows == 0) | (rows == 1)).all())
            for rows in (state[k, :length] for k, length in enumerate(self.length.tolist()))
        )


def _open(folder: Path) -> _Buffer:
    """Map all files and check their shapes, their types and the episodes' ends."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Check the path of the data set.")
    names = [f"{key}.npy" for key in _LAYOUT] + [META]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a data set in AlberDICE's layout: it lacks {', '.join(missing)}. "
            f"Expected are {', '.join(names)}."
        )
    arrays = {key: _load(folder / f"{key}.npy") for key in _LAYOUT}
    size = _sizes(folder, arrays)
    size["E"] = _episodes_in_use(folder / META, size["E"])
    return _Buffer(folder, arrays, size, _lengths(folder, arrays, size))


def _load(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as a plain NumPy array: {error}. Restore it from a copy."
        ) from error
    return array


def _sizes(folder: Path, arrays: Mapping[str, Array]) -> dict[str, int]:
    """Return the length of every axis, after finding it the same in all files."""
    size: dict[str, int] = {"1": 1}
    source: dict[str, str] = {}
    for key, (kinds, axes) in _LAYOUT.items():
        array, what = arrays[key], f"{folder / key}.npy"
        if array.dtype.kind not in kinds:
            allowed = " or ".join(_KINDS[kind] for kind in kinds)
            raise UserError(f"{what} holds {array.dtype}, expected {allowed}.")
        if array.ndim != len(axes):
            raise UserError(f"{what} has shape {array.shape}, expected ({', '.join(axes)}).")
        for axis, length in zip(axes, array.shape, strict=True):
            if length != size.setdefault(axis, length):
                told = f" as in {source[axis]}.npy" if axis in source else ""
                raise UserError(
                    f"{what} has shape {array.shape}, expected ({', '.join(axes)}) with "
                    f"{axis} = {size[axis]}{told}."
                )
            source.setdefault(axis, key)
    empty = [axis for axis, length in size.items() if length == 0]
    if empty:
        raise UserError(f"{folder} is empty: no {', '.join(empty)} in its arrays.")
    return size


def _episodes_in_use(path: Path, room: int) -> int:
    """Return how many episodes of the buffer have been recorded."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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


def _spec(buffer: _Buffer, env: EnvSpec | None) -> EnvSpec:
    """Return the environment's names with the data's sizes; who simulated it is not known."""
    size = buffer.size
    names: dict[str, Any] = {key: getattr(env, key, "") for key in _NAMES}
    names |= DEFINITIONS.get(names["name"], {})
    return EnvSpec(
        **names,
        n_agents=size["n"],
        obs_dim=size["d"],
        state_dim=size["s"],
        n_actions=size["A"],
        episode_limit=buffer.limit,
    )
