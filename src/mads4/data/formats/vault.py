"""Vaults, the folders in which flashbax keeps experience: zarr arrays in an OCDBT database.

``<scenario>.vlt/<uid>/`` holds one recording: the database (``manifest.ocdbt``, ``d/``) and
``metadata.json`` with version, shapes and dtypes. An array of the nested experience has the keys
on its path, each followed by a point, as its name (``infos.state.``); its axes are (1, T, …), where
T is declared as 10^13 and ``vault_index`` is the number of steps written.

TensorStore alone reads and writes them; it is imported when the first vault is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mads4.data.content import Array
from mads4.errors import UserError, did_you_mean

METADATA = "metadata.json"
VERSION = 1.2
INDEX = "vault_index"
TIME = 10**13
"""Declared length of the time axis, so that a vault can grow."""

CACHE_BYTES = 1 << 26
"""Decoded chunks kept, as blocks of rows end in the middle of chunks."""
CHUNK_LIMIT = 1 << 30
"""Larger declared chunks are treated as damage (flashbax's have 4 MB)."""


def tensorstore() -> ModuleType:
    """Import TensorStore.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import tensorstore as module
    except ImportError as error:
        raise UserError(
            "OG-MARL vaults need TensorStore, which is not installed. Install it with "
            "pip install 'mads4[og_marl]' (or pip install tensorstore)."
        ) from error
    return module


def array_spec(folder: Path, name: str) -> dict[str, Any]:
    """Return where TensorStore finds an array of a vault."""
    database = {"driver": "ocdbt", "base": f"file://{folder.resolve()}/", "path": f"{name}/"}
    return {"driver": "zarr", "kvstore": database}


@dataclass(frozen=True)
class Vault:
    """An opened vault: arrays by name, without the first axis and cut to the written rows."""

    folder: Path
    steps: int
    arrays: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Vault:
        """Open all arrays of a vault and read nothing but their heads.

        Raises:
            UserError: what is missing or damaged, or too new.
        """
        _check_version(folder / METADATA)
        ts = tensorstore()
        context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
        with _damage_named(folder, "its database"):
            database = {"driver": "ocdbt", "base": f"file://{folder.resolve()}/"}
            keys = ts.KvStore.open(database, context=context).result().list().result()
        names = [key.decode(errors="replace")[: -len("/.zarray")] for key in keys if _is_head(key)]
        if INDEX not in names:
            raise UserError(f"{folder} is not a vault of flashbax: it has no array '{INDEX}'.")
        opened = {name: _open_array(folder, name, context) for name in names}
        steps = _steps(folder, opened.pop(INDEX))
        arrays = {name.rstrip("."): _rows(folder, name, a, steps) for name, a in opened.items()}
        return cls(folder, steps, arrays)

    def facts(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Return dtype and shape of each array."""
        return {name: (a.dtype.numpy_dtype, tuple(a.shape)) for name, a in self.arrays.items()}

    def row_bytes(self, names: list[str]) -> int:
        """Return the bytes that one step takes in the given arrays together."""
        facts = self.facts()
        return sum(
            dtype.itemsize * int(np.prod(shape[1:], dtype=object))
            for dtype, shape in (facts[name] for name in names)
        )

    def read(self, names: list[str], first: int, last: int) -> dict[str, Array]:
        """Read steps `first` to `last` - 1 of some arrays at once.

        Raises:
            UserError: a chunk that is missing or damaged.
        """
        with _damage_named(self.folder, f"steps {first} to {last - 1}"):
            waiting = {name: self.arrays[name][first:last].read() for name in names}
            return {name: np.asarray(future.result()) for name, future in waiting.items()}

    def label(self, name: str) -> str:
        """Return what messages call an array."""
        return f"{self.folder}: {name.replace('.', '/')}"


def _is_head(key: bytes) -> bool:
    return key.endswith(b"/.zarray")


@contextmanager
def _damage_named(folder: Path, what: str) -> Iterator[None]:
    """Turn TensorStore's exceptions, which list its whole specification, into one sentence."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, LookupError, TypeError, OverflowError) as error:
        reason = str(error).partition(" [")[0]
        raise UserError(
            f"{folder} is damaged: {what} cannot be read ({reason}). Restore it from a copy."
        ) from error


def _check_version(path: Path) -> None:
    """Refuse vaults of another generation; versions 1.x have one layout."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["version"]
        known = int(version) == int(VERSION)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is not the description of a vault: {error!r}. Restore it from a copy."
        ) from error
    if not known:
        raise UserError(f"{path}: the vault has version {version!r}; versions 1.x can be read.")


def _open_array(folder: Path, name: str, context: Any) -> Any:
    """Open an array such that a missing chunk is an error rather than zeros."""
    spec = array_spec(folder, name) | {"fill_missing_data_reads": False}
    with _damage_named(folder, f"the array '{name}'"):
        array = tensorstore().open(spec, read=True, context=context).result()
        chunk = array.chunk_layout.read_chunk.shape or ()
        size = int(np.prod(chunk, dtype=object)) * array.dtype.numpy_dtype.itemsize
    if size > CHUNK_LIMIT:
        raise UserError(
            f"{folder} is damaged: the array '{name}' claims chunks of {size} bytes "
            f"(at most {CHUNK_LIMIT} are believed)."
        )
    return array


def _steps(folder: Path, index: Any) -> int:
    """Return how many steps have been written."""
    with _damage_named(folder, f"the array '{INDEX}'"):
        steps = int(np.asarray(index.read().result()).reshape(-1)[0])
    if steps < 1:
        raise UserError(f"{folder} is empty: {INDEX} is {steps}.")
    return steps


def _rows(folder: Path, name: str, array: Any, steps: int) -> Any:
    shape = tuple(array.shape)
    if len(shape) < 2 or shape[0] != 1 or shape[1] < steps:
        raise UserError(
            f"{folder}: the array '{name}' has shape {shape}, expected (1, T, …) with T of at "
            f"least {steps}, the number of steps written."
        )
    with _damage_named(folder, f"the array '{name}'"):
        return array[0, :steps]


def recording_folder(path: Path, uid: str | None) -> Path:
    """Return the folder of a recording.

    Args:
        path: ``<scenario>.vlt``, or the uid's folder in it.
        uid: which of the vault's recordings, in any case; needed if it has several.

    Raises:
        UserError: no vault, or an unknown uid.
    """
    if not path.is_dir():
        raise UserError(f"There is no folder {path}. Check the path of the vault.")
    if (path / METADATA).is_file():
        if uid is not None and uid.lower() != path.name.lower():
            raise UserError(
                f"{path} is the recording {path.name}, but '{uid}' was requested. Leave out the "
                f"uid, or give the vault {path.parent}."
            )
        path, uid = path.parent, path.name
    there = sorted(entry.parent.name for entry in path.glob(f"[!.]*/{METADATA}"))
    if not there:
        raise UserError(
            f"{path} is not a vault of flashbax: neither it nor a folder in it has a {METADATA}. "
            "Give <scenario>.vlt or the folder of a uid in it."
        )
    if uid is None and len(there) > 1:
        raise UserError(f"{path} has several recordings: {', '.join(there)}. Choose one as uid.")
    found = [name for name in there if uid is None or name.lower() == uid.lower()]
    exact = [name for name in found if name == uid] or found
    if not exact:
        raise UserError(
            f"{path} has no recording '{uid}'; it has {', '.join(there)}."
            f"{did_you_mean(str(uid), there)}"
        )
    return path / exact[0]
