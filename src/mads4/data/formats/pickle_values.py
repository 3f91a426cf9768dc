"""What the pickle interpreter builds besides Python's own values, and the memory it may take."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mads4.errors import UserError

if TYPE_CHECKING:
    from mads4.data.formats.pickle_machine import Machine

Array = npt.NDArray[Any]

SPARE_BYTES = 1 << 24
"""Memory allowed beyond twice a file's size, for the overhead of many small values."""
RUN_ITEMS = 1024
"""Most numbers in a run; picklers write lists in batches of 1000."""
RUN = re.compile(
    rb"((?:G.{8}){4,%d}|(?:K.){4,%d}|[\x88\x89]{4,%d})e" % ((RUN_ITEMS,) * 3), re.DOTALL
)
"""Opcodes of four or more floats, bytes or flags, and the one that adds them to a list."""

_FLOATS = np.dtype([("opcode", "u1"), ("value", ">f8")])


class RefusedError(ValueError):
    """Why a pickle is not read: damage, a name that is not allowed, or too much memory."""


_NUMBERS = (bool, int, float)
_FAILURES = (
    *(EOFError, IndexError, KeyError, NotImplementedError, OverflowError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile),
)
"""What Python's modules raise for damaged input."""


@contextmanager
def naming(path: Path, member: str = "") -> Iterator[None]:
    """Turn whatever goes wrong in reading a file into a `UserError` that names it."""
    where = f"{path}, member {member}," if member else f"{path}"
    advice = "Restore the file from its source, or leave it out"
    try:
        yield
    except RefusedError as error:
        raise UserError(f"{where} is refused: {error}. {advice}.") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error}. Check path and permissions.") from error
    except MemoryError as error:
        raise UserError(f"{where} needs more memory than there is.") from error
    except _FAILURES as error:
        raise UserError(
            f"{where} is damaged: {error or type(error).__name__}. {advice}."
        ) from error


def memory_limit(size: int) -> int:
    """Return how many bytes the content of a file of `size` bytes may take in memory."""
    return 2 * size + SPARE_BYTES


class Budget:
    """Bytes that what is built may take in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def book(self, size: int) -> None:
        """Take `size` bytes off; raise `RefusedError` when there are not as many."""
        self.left -= size
        if self.left < 0:
            raise RefusedError(
                f"its content needs more than {self.limit} bytes of memory, the limit for a file "
                "of its size"
            )

    def free(self, size: int) -> None:
        """Give back `size` bytes that were booked for a moment."""
        self.left += size


class Run(np.ndarray):
    """Consecutive numbers of a list (float64, uint8 or bool), standing in it in their place."""

    __slots__ = ()


class Call:
    """A name that is allowed, and how it builds a value from its arguments."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[[Machine, tuple[Any, ...]], Any]) -> None:
        self.name = name
        self.build = build


class Pending:
    """A value that a call has begun and that a state completes."""

    __slots__ = ("complete", "place")

    def __init__(self, complete: Callable[[Machine, Any], Any]) -> None:
        self.complete = complete
        self.place = -1
        """Where the memo keeps it, to be replaced by the complete value."""


def decode_run(run: bytes) -> Run:
    """Return the numbers of consecutive opcodes of one kind."""
    if run[0] == ord("G"):
        floats: Run = np.frombuffer(run, _FLOATS)["value"].astype("<f8").view(Run)
        return floats
    if run[0] == ord("K"):
        small: Run = np.frombuffer(run, np.uint8)[1::2].copy().view(Run)
        return small
    flags: npt.NDArray[np.bool_] = np.frombuffer(run, np.uint8) == 0x88
    marks: Run = flags.view(Run)
    return marks


def as_array(value: Any) -> Array:
    """Return a number, or a list, tuple or array of numbers, as an array of as many axes.

    Raises:
        ValueError: anything else, among it a list in a list.
    """
    if type(value) in _NUMBERS or isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if type(value) not in (list, tuple):
        raise ValueError(f"a {type(value).__name__}")
    if len(value) == 1 and type(value[0]) is Run:
        return np.asarray(value[0]).view(np.ndarray)
    if all(type(item) in _NUMBERS for item in value):
        return np.asarray(value)
    return np.concatenate([item if type(item) is Run else _one(item) for item in value])


def _one(item: Any) -> Array:
    array = np.asarray(item) if isinstance(item, (*_NUMBERS, np.ndarray, np.generic)) else None
    if array is None or array.size != 1:
        raise ValueError(f"a list with a {type(item).__name__} in it")
    return array.reshape(1)
