"""Writing data in AlberDICE's layout, which is described in `alberdice`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mads4.data.content import Array, last_rows
from mads4.data.formats.base import checked, new_folder
from mads4.errors import UserError
from mads4.io import write_json
from mads4.types import EnvSpec, Episode

META = "meta.json"


def write_alberdice(folder: Path | str, spec: EnvSpec, episodes: Iterable[Episode]) -> Path:
    """Write episodes as a folder of arrays with ``spec.episode_limit`` + 1 rows per episode.

    The bootstrap row repeats the last step's observation, state and available actions where it is
    not known what followed the last action. The layout cannot say that an episode of full length
    terminated by itself: it reads back as truncated. Metrics and seeds have no place there.

    Args:
        folder: a new folder.
        spec: what every episode has to fit.
        episodes: consumed one at a time, so that memory holds only one.

    Returns:
        The folder, which appears complete or not at all.

    Raises:
        UserError: the folder exists, an episode does not fit, there is none, or states differ
            from agent to agent, for which the layout has no place.
    """
    folder = Path(folder).expanduser()
    if spec.state_per_agent:
        raise UserError(
            "AlberDICE's layout has one state for all agents, but here every agent has its own. "
            "Record with another env.state_encoding, or export an OG-MARL vault."
        )
    with new_folder(folder) as beside:
        count = 0
        with ExitStack() as stack:
            files: dict[str, _GrowingArray] = {}
            for episode, columns in checked(spec, episodes):
                last = last_rows(spec, episode, count) or {}
                for key, rows in _arrays(spec, episode, columns | last).items():
                    if key not in files:
                        file = stack.enter_context((beside / f"{key}.npy").open("wb"))
                        files[key] = _GrowingArray(file, rows)
                    files[key].append(rows)
                count += 1
            for array in files.values():
                array.finish()
        meta = {"buffer_index": 0, "episodes_in_buffer": count, "buffer_size": count}
        write_json(beside / META, meta)
    return folder


class _GrowingArray:
    """A ``.npy`` file to which episodes are added; its head is written again at the end.

    NumPy leaves room in the head for the first axis to grow, so that it keeps its length.
    """

    def __init__(self, file: BinaryIO, rows: Array) -> None:
        self._file, self._rows, self._count = file, rows, 0
        self._start = self._write_head()

    def append(self, rows: Array) -> None:
        """Add an episode's rows (T, …)."""
        self._file.write(np.ascontiguousarray(rows).data)
        self._count += 1

    def finish(self) -> None:
        """Say in the head how many there are."""
        self._file.seek(0)
        if self._write_head() != self._start:
            raise AssertionError("the head of a .npy file has grown into its content")

    def _write_head(self) -> int:
        """Write the head and return where it ends."""
        head = {
            "descr": np.lib.format.dtype_to_descr(self._rows.dtype),
            "fortran_order": False,
            "shape": (self._count, *self._rows.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, head)
        return self._file.tell()


def _arrays(spec: EnvSpec, episode: Episode, columns: dict[str, Array]) -> dict[str, Array]:
    """Return an episode's rows under the names and in the dtypes that AlberDICE gives them."""
    length, rows = episode.length, spec.episode_limit + 1
    action = columns["action"].astype(np.int64)
    onehot = np.eye(spec.n_actions, dtype=np.float32)[action]
    row = np.arange(rows)[:, None]
    ends = bool(episode.terminated) or length == spec.episode_limit
    return {
        "actions": _padded(action[..., None], rows),
        "actions_onehot": _padded(onehot, rows),
        "avail_actions": _bootstrapped(columns, "available_actions", rows).astype(np.int32),
        "filled": (row <= length).astype(np.int64),
        "obs": _bootstrapped(columns, "observation", rows),
        "reward": _padded(columns["reward"][:, None], rows),
        "state": _bootstrapped(columns, "state", rows)[:, 0].astype(np.float32),
        "terminated": ((row == length - 1) & ends).astype(np.uint8),
    }


def _bootstrapped(columns: Mapping[str, Array], name: str, rows: int) -> Array:
    """Return a step array, then what followed it (the last step again if unknown), and zeros."""
    last = columns.get(f"last_{name}", columns[name][-1:])
    return _padded(np.concatenate([columns[name], last]), rows)


def _padded(steps: Array, rows: int) -> Array:
    """Return `steps` (T, …) with zeros up to `rows`."""
    padded = np.zeros((rows, *steps.shape[1:]), steps.dtype)
    padded[: len(steps)] = steps
    return padded
