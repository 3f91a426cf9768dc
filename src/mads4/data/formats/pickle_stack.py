"""Stack and memo of the pickle interpreter; every place in them is booked before it is used.

The memo does not keep what picklers never refer to again, arguments of calls and long texts (the
content of arrays in protocol 2): they would double the memory. A file that does is refused.
"""

from __future__ import annotations

from typing import Any

from mads4.data.formats.pickle_source import LONGEST_NAME
from mads4.data.formats.pickle_values import Budget, Pending, RefusedError

_FORGOTTEN = object()


class Stack:
    """Values under construction, marks between them, and those that may be referred to again.

    Args:
        budget: memory for the places, and for the values that are pushed.
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
        """Push a new value that takes `size` bytes, beside its place on the stack."""
        self.budget.book(size + 8)
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
        """Note the last value in the memo, in the next place or instead of another."""
        value = self._top()
        if place > len(self._memo):
            raise RefusedError(f"its memo jumps to place {place}, {len(self._memo)} was next")
        if type(value) is Pending and value.place < 0:
            value.place = place
        kept = _FORGOTTEN if type(value) is str and len(value) > LONGEST_NAME else value
        if place < len(self._memo):
            self._memo[place] = kept
        else:
            self.budget.book(8)
            self._memo.append(kept)

    def memoize(self) -> None:
        """Note the last value in the next place."""
        self.put(len(self._memo))

    def get(self, place: int) -> None:
        """Push a value from the memo."""
        if place >= len(self._memo):
            raise RefusedError(f"its memo has no place {place}")
        if self._memo[place] is _FORGOTTEN:
            raise RefusedError("it refers back to a long text or to arguments, as no pickler does")
        self.push(self._memo[place])

    def _forget(self, value: Any) -> None:
        """Let go of arguments that were noted last."""
        if self._memo and self._memo[-1] is value:
            self._memo[-1] = _FORGOTTEN
