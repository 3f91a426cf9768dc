"""Reading untrusted files of ``torch.save`` and ``pickle``: no code runs.

``torch.load(weights_only=True)`` with NumPy's names allowed is not enough: it
builds every list as Python objects (3 to 5 times the file's size in memory, where twice is
allowed), trusts declared sizes, calls NumPy's own functions with the file's arguments (object
arrays, any codec by name), and needs torch 2.5 for `safe_globals`. So pickles are interpreted by
`mads4.data.formats.pickle_machine`, and of torch's file formats only the containers are read.

The result differs from what was saved in a few ways, to save memory:

- Of four or more floats, small whole numbers or flags in a list, `Run` arrays stand in the list in
  their place; `as_array` makes one array of such a list.
- Tensors come back as NumPy arrays, and most arrays cannot be written to.
- An OrderedDict is a dict, bytes beyond 64 KiB are a bytearray.

Zip members carry checksums, which are verified. Files that torch wrote before 1.6 (or with
``_use_new_zipfile_serialization=False``) and plain pickles carry none: a changed number in them is
only found by comparing the file's SHA-256 with its source's.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mads4.data.archive import BoundedReader
from mads4.data.formats.pickle_machine import Machine
from mads4.data.formats.pickle_names import StorageType, find
from mads4.data.formats.pickle_source import Source
from mads4.data.formats.pickle_values import Budget, RefusedError, memory_limit, naming

Array = npt.NDArray[Any]

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Pickled number that identifies files of torch before 1.6: it is in their first pickle, after the
protocol (and a frame)."""
_LEGACY_HEAD = 24
"""Bytes within which `_LEGACY_MAGIC` ends."""
_LEGACY_PROTOCOL = 1001
_MEMBER_BYTES = 1024
"""Upper bound on the memory that `zipfile` takes for a member."""
_LISTED_BYTES = 46
"""Least length of a member's entry in the central directory."""


def load_data(path: Path | str) -> Any:
    """Return what a file of ``torch.save`` (either format) or ``pickle.dump`` holds.

    Raises:
        UserError: the file cannot be read, is damaged, wants a name that is not allowed, or needs
            more than twice its size in memory; naming file, member and reason.
    """
    path = Path(path)
    with naming(path):
        if not path.is_file():
            raise RefusedError(
                "it is no regular file" if path.exists() else "there is no such file"
            )
        with open(path, "rb") as file:
            return _load(path, file)


def _load(path: Path, file: io.BufferedReader[Any]) -> Any:
    """Recognize the format by its first bytes."""
    size = os.fstat(file.fileno()).st_size
    start = file.peek(_LEGACY_HEAD)[:_LEGACY_HEAD]
    budget = Budget(memory_limit(size))
    if start.startswith(b"PK"):
        return _TorchZip(path, file, size, budget).load()
    machine = Machine(Source(file, size), budget, find)
    if _LEGACY_MAGIC in start:
        machine.source.take(start.index(_LEGACY_MAGIC) + len(_LEGACY_MAGIC))
        return _load_legacy(machine)
    if not start.startswith(b"\x80"):
        raise RefusedError("it is neither a file of torch.save nor a pickle of protocol 2 to 5")
    value = machine.load()
    machine.source.require_end()
    return value


class _Reference(NamedTuple):
    """A pickle's reference to a storage outside it."""

    dtype: np.dtype[Any]
    key: str
    size: int


class _TorchZip:
    """A file of ``torch.save`` since torch 1.6: an archive of a pickle and the tensors' bytes."""

    def __init__(self, path: Path, file: io.BufferedReader[Any], size: int, budget: Budget) -> None:
        self._path = path
        self._budget = budget
        bounded: Any = BoundedReader(
            file, max(1 << 17, budget.left // _MEMBER_BYTES * _LISTED_BYTES)
        )
        self._zip = zipfile.ZipFile(bounded)
        bounded.most = None
        members = self._zip.infolist()
        self._members = {info.filename: info for info in members}
        budget.reserve(_MEMBER_BYTES * len(members))
        if len(self._members) < len(members):
            raise RefusedError("two members have one name")
        if sum(info.file_size for info in members) > size:
            raise RefusedError("its members are larger than itself")
        roots = [name for name in self._members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise RefusedError(f"it has {len(roots)} members data.pkl where torch.save writes one")
        self._root = roots[0].removesuffix("data.pkl")
        self._storages: dict[str, Array] = {}

    def load(self) -> Any:
        """Return what was saved."""
        name = f"{self._root}data.pkl"
        with self._zip:
            if f"{self._root}byteorder" in self._members:
                self._require_little(f"{self._root}byteorder")
            with naming(self._path, name), self._open(name) as member:
                source = Source(member, self._members[name].file_size)
                value = Machine(source, self._budget, find).load(self._storage)
                source.require_end()
                _verify(member)
                return value

    def _require_little(self, name: str) -> None:
        with naming(self._path, name), self._open(name) as member:
            order = member.read(16)
            _verify(member)
            if order != b"little":
                raise RefusedError(f"its numbers are in {order!r} order; read is b'little'")

    def _open(self, name: str) -> Any:
        """Open a member, which must be uncompressed, as torch writes all."""
        if name not in self._members:
            raise RefusedError("there is no such member")
        info = self._members[name]
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED:
            raise RefusedError("it is compressed or encrypted, which torch.save never does")
        if info.file_size != info.compress_size:
            raise RefusedError("it has two sizes")
        return self._zip.open(info)

    def _storage(self, machine: Machine, reference: Any) -> Array:
        dtype, key, size = _storage_reference(reference)
        name = f"{self._root}data/{key}"
        if key not in self._storages:
            with naming(self._path, name), self._open(name) as member:
                stored = self._members[name].file_size
                if stored != size * dtype.itemsize:
                    raise RefusedError(f"it has {stored} bytes for {size} numbers of type {dtype}")
                machine.budget.reserve(stored + 256)
                content = Source(member, stored).take(stored)
                _verify(member)
                self._storages[key] = np.frombuffer(content, dtype)
        return _same_type(self._storages[key], dtype, key)


def _load_legacy(machine: Machine) -> Any:
    """Return the content of a file in torch's older format: pickles, then the storages.

    Args:
        machine: at the second pickle, after the one with `_LEGACY_MAGIC`.
    """
    if machine.load() != _LEGACY_PROTOCOL:
        raise RefusedError("it is in a version of torch's older format that was never released")
    system = machine.load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise RefusedError("its numbers are not in little-endian order")
    storages: dict[str, Array] = {}

    def storage(machine: Machine, reference: Any) -> Array:
        dtype, key, size = _storage_reference(reference)
        if key not in storages:
            if size * dtype.itemsize > machine.source.left:
                raise RefusedError(f"storage {key} is larger than the rest of the file")
            machine.budget.reserve(size * dtype.itemsize + 256)
            storages[key] = np.zeros(size, dtype)
        return _same_type(storages[key], dtype, key)

    value = machine.load(storage)
    keys = machine.load()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
        raise RefusedError("its list of storages is not that of its content")
    for key in keys:
        if machine.source.number("<q") != storages[key].size:
            raise RefusedError(f"storage {key} has two sizes")
        machine.source.take_into(storages[key].data.cast("B"))
    machine.source.require_end()
    return value


def _storage_reference(reference: Any) -> _Reference:
    """Return a persistent reference after checking its form."""
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
        raise RefusedError("it refers to something outside that is no storage of a tensor")
    _, kind, key, _, size = reference[:5]
    if not isinstance(kind, StorageType) or type(key) is not str or type(size) is not int:
        raise RefusedError("it refers to a storage in a way that torch does not")
    if size < 0 or reference[5:] not in ((), (None,)):
        raise RefusedError(f"storage {key} is a part of another or has a negative size")
    return _Reference(np.dtype(kind.dtype), key, size)


def _same_type(storage: Array, dtype: np.dtype[Any], key: str) -> Array:
    if storage.dtype != dtype:
        raise RefusedError(f"storage {key} is wanted as {dtype} and as {storage.dtype}")
    return storage


def _verify(member: Any) -> None:
    """Read to the member's end, where `zipfile` compares its checksum."""
    if member.read(1):
        raise RefusedError("it is longer than it says")
