"""The pickle interpreter's values, its memory budget, and its stack and memo.

The memo does not store what picklers never refer to again, arguments of calls and long texts (the
content of arrays in protocol 2): they would double the memory. A file that does is refused.
"""

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
LONGEST_NAME = 256
"""Characters of half a global's name."""
RUN_ITEMS = 1024
"""Most numbers in a run; picklers write lists in batches of 1000."""
RUN = re.compile(
    rb"((?:G.{8}){4,%d}|(?:K.){4,%d}|[\x88\x89]{4,%d})e" % ((RUN_ITEMS,) * 3), re.DOTALL
)
"""Opcodes of four or more floats, bytes or flags, and the one that adds them to a list."""

_FORGOTTEN = object()
_FLOATS = np.dtype([("opcode", "u1"), ("value", ">f8")])


class RefusedError(ValueError):
    """A pickle that is not read: damage, a name that is not allowed, or too much memory."""


_NUMBERS = (bool, int, float)
_FAILURES = (
    *(EOFError, IndexError, KeyError, NotImplementedError, OverflowError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile),
)
"""What Python's modules raise for damaged input."""


@contextmanager
def naming(path: Path, member: str = "") -> Iterator[None]:
    """Convert errors of reading a file to a `UserError` that names it."""
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
    """Memory limit, in bytes, for all values that are built."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def reserve(self, size: int) -> None:
        """Reserve `size` bytes; raise `RefusedError` when fewer are left."""
        self.left -= size
        if self.left < 0:
            raise RefusedError(
                f"its content needs more than {self.limit} bytes of memory, the limit for a file "
                "of its size"
            )

    def free(self, size: int) -> None:
        """Release `size` reserved bytes."""
        self.left += size


class Run(np.ndarray):
    """Array of consecutive numbers of a list (float64, uint8 or bool), in place of them."""

    __slots__ = ()


class Call:
    """An allowed name and the function that builds its value from arguments."""

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
        """Index in the memo, whose entry is replaced by the complete value."""


class Stack:
    """Values under construction, marks between them, and the memo.

    Args:
        budget: memory for the entries, and for the values that are pushed.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._clear()

    def _clear(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []

    def _result(self) -> Any:
        """Return the one value that a finished pickle leaves."""
        if len(self._stack) != 1 or self._marks:
            raise RefusedError("it ends with an unfinished value")
        return self._stack[0]

    def push(self, value: Any, size: int = 0) -> None:
        """Push a new value that takes `size` bytes in addition to its entry."""
        self.budget.reserve(size + 8)
        self._stack.append(value)

    def _pop(self) -> Any:
        self._top()
        self.budget.free(8)
        return self._stack.pop()

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise RefusedError("it needs a value where there is none")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise RefusedError("a mark is missing")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        self.budget.free(8 * len(items))
        return items

    def put(self, place: int) -> None:
        """Store the last value in the memo, as the next entry or in place of another."""
        value = self._top()
        if place > len(self._memo):
            raise RefusedError(f"its memo jumps to place {place}, {len(self._memo)} was next")
        if type(value) is Pending and value.place < 0:
            value.place = place
        kept = _FORGOTTEN if type(value) is str and len(value) > LONGEST_NAME else value
        if place < len(self._memo):
            self._memo[place] = kept
        else:
            self.budget.reserve(8)
            self._memo.append(kept)

    def memoize(self) -> None:
        """Store the last value as the next entry."""
        self.put(len(self._memo))

    def get(self, place: int) -> None:
        """Push a value from the memo."""
        if place >= len(self._memo):
            raise RefusedError(f"its memo has no place {place}")
        if self._memo[place] is _FORGOTTEN:
            raise RefusedError("it refers back to a long text or to arguments, as no pickler does")
        self.push(self._memo[place])

    def _forget(self, value: Any) -> None:
        """Drop arguments that were stored last."""
        if self._memo and self._memo[-1] is value:
            self._memo[-1] = _FORGOTTEN


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
