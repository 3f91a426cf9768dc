"""Writing vaults that OG-MARL's systems train on; the layout is in `og_marl` and `vault`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mads4.data.content import Array
from mads4.data.formats.base import checked, new_folder
from mads4.data.formats.vault import INDEX, METADATA, TIME, VERSION, array_spec, tensorstore
from mads4.errors import UserError
from mads4.types import EnvSpec, Episode

CHUNK_BYTES = 1 << 22
"""Uncompressed size of the largest array's chunks, about that of flashbax."""

COMPRESSION = {"id": "gzip", "level": 5}
TRAILING_ACTION_AXIS = ("rware",)
"""Environments whose published vaults have actions of shape (1, T, n, 1)."""


def write_og_marl(folder: Path | str, spec: EnvSpec, episodes: Iterable[Episode], uid: str) -> Path:
    """Write episodes as the recording `uid` of a vault, which may have others.

    Rewards are given to every agent; ``terminals`` are set at the last step of every episode, also
    where ``truncations`` mark that the step limit ended it. Metrics and seeds are not stored.

    Args:
        folder: ``<scenario>.vlt``.
        spec: what every episode has to fit.
        episodes: consumed one at a time; memory holds about a chunk of each array.
        uid: name of the recording, for example ``Good`` or ``Expert``.

    Returns:
        The recording's folder, which appears complete or not at all.

    Raises:
        UserError: the recording exists, an episode does not fit, or there is none.
    """
    target = uid_folder(Path(folder).expanduser(), uid)
    with new_folder(target) as beside:
        writer = _Writer(beside)
        for episode, columns in checked(spec, episodes):
            writer.append(_experience(spec, episode, columns))
        writer.finish()
    return target


def uid_folder(folder: Path, uid: str) -> Path:
    """Return the folder of the recording `uid` in a vault.

    Raises:
        UserError: a vault that OG-MARL would not find, or a `uid` that is no folder's name.
    """
    if folder.suffix != ".vlt":
        raise UserError(f"{folder}: OG-MARL looks for folders named <scenario>.vlt. Add .vlt.")
    if not uid or uid != Path(uid).name or uid.startswith("."):
        raise UserError(f"uid is '{uid}', expected a folder's name such as Good or Expert.")
    return folder / uid


def _experience(spec: EnvSpec, episode: Episode, columns: dict[str, Array]) -> dict[str, Array]:
    """Return an episode's arrays (T, …) under the names that they have in a vault."""
    length, n = episode.length, spec.n_agents
    last = (np.arange(length) == length - 1)[:, None].repeat(n, axis=1)
    action = columns["action"].astype(np.int32)
    state = columns["state"].astype(np.float32)
    return {
        "actions": action[..., None] if spec.name in TRAILING_ACTION_AXIS else action,
        "infos.legals": columns["available_actions"].astype(np.float32),
        "infos.state": state if spec.state_per_agent else state[:, 0],
        "observations": columns["observation"],
        "rewards": columns["reward"][:, None].repeat(n, axis=1),
        "terminals": last.astype(np.float32),
        "truncations": (last & bool(episode.truncated)).astype(np.float32),
    }


class _Writer:
    """Buffers steps until they fill a chunk, so that every chunk is written once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ts = tensorstore()
        self._stores: dict[str, Any] = {}
        self._buffer: dict[str, list[Array]] = {}
        self._rows = 0
        self._written = 0

    def append(self, steps: dict[str, Array]) -> None:
        """Add an episode."""
        if not self._stores:
            widest = max(array[0].nbytes for array in steps.values())
            self._chunk = max(1, CHUNK_BYTES // widest)
            self._stores = {name: self._create(name, array) for name, array in steps.items()}
            self._buffer = {name: [] for name in steps}
        for name, array in steps.items():
            self._buffer[name].append(array)
        self._rows += len(steps["rewards"])
        if self._rows >= self._chunk:
            self._flush(self._rows - self._rows % self._chunk)

    def finish(self) -> None:
        """Write the buffered steps, the number of steps and the metadata."""
        self._flush(self._rows)
        if self._written > np.iinfo(np.int32).max:
            raise UserError(f"A vault holds up to 2^31 - 1 steps, not {self._written}.")
        index = self._ts.open(
            array_spec(self._folder, INDEX), dtype="int32", shape=(1,), create=True
        )
        index.result().write(self._written).result()
        shapes = {name: str((1, self._written, *s.shape[2:])) for name, s in self._stores.items()}
        dtypes = {name: s.dtype.name for name, s in self._stores.items()}
        metadata = {
            "version": VERSION,
            "structure_shape": _nested(shapes),
            "structure_dtype": _nested(dtypes),
        }
        (self._folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")

    def _create(self, name: str, array: Array) -> Any:
        row = array.shape[1:]
        chunks = {"chunks": [1, self._chunk, *row], "compressor": COMPRESSION}
        # Names end in a point, as flashbax joins the keys of its nested experience.
        spec = array_spec(self._folder, f"{name}.") | {"metadata": chunks}
        return self._ts.open(
            spec, dtype=array.dtype.name, shape=(1, TIME, *row), create=True
        ).result()

    def _flush(self, rows: int) -> None:
        """Write the first `rows` buffered rows and keep the rest."""
        if not rows:
            return
        pending = []
        for name, blocks in self._buffer.items():
            joined = np.concatenate(blocks)
            target = self._stores[name][0, self._written : self._written + rows]
            pending.append(target.write(joined[:rows]))
            self._buffer[name] = [joined[rows:]]
        for future in pending:
            future.result()
        self._written += rows
        self._rows -= rows


def _nested(values: dict[str, str]) -> dict[str, Any]:
    """Turn ``{"infos.state": x}`` into ``{"infos": {"state": x}}``."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split(".")
        node = result
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return result
