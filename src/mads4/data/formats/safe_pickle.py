"""Reading files of ``torch.save`` and ``pickle`` from strangers: data comes out, no code runs.

``torch.load(weights_only=True)`` with NumPy's names allowed was tried first and falls short: it
builds every list as Python objects (3 to 5 times the file's size in memory, where twice is
allowed), trusts declared sizes, calls NumPy's own functions with the file's arguments (object
arrays, any codec by name), and needs torch 2.5 for `safe_globals`. So pickles are interpreted by
`mads4.data.formats.pickle_machine`, and of torch's file formats only the containers are read.

What comes back differs from what was saved in a few ways, all for the sake of memory:

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
from pathlib import Path
from typing import Any

from mads4.data.formats.pickle_machine import Machine
from mads4.data.formats.pickle_names import find
from mads4.data.formats.pickle_source import Source
from mads4.data.formats.pickle_values import Budget, RefusedError, memory_limit, naming
from mads4.data.formats.torch_file import LEGACY_HEAD, LEGACY_MAGIC, TorchZip, load_legacy


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
    """Tell the formats apart by their first bytes."""
    size = os.fstat(file.fileno()).st_size
    start = file.peek(LEGACY_HEAD)[:LEGACY_HEAD]
    budget = Budget(memory_limit(size))
    if start.startswith(b"PK"):
        return TorchZip(path, file, size, budget).load()
    machine = Machine(Source(file, size), budget, find)
    if LEGACY_MAGIC in start:
        machine.source.take(start.index(LEGACY_MAGIC) + len(LEGACY_MAGIC))
        return load_legacy(machine)
    if not start.startswith(b"\x80"):
        raise RefusedError("it is neither a file of torch.save nor a pickle of protocol 2 to 5")
    value = machine.load()
    machine.source.require_end()
    return value
