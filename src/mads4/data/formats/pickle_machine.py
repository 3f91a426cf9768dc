"""A pickle interpreter for data: it builds numbers, text, arrays and containers, and calls nothing.

Pickle is a program for a stack machine, and Python's own machine may call whatever a file names.
This one has the opcodes that describe data (protocols 2 to 5) and passes every name to its caller,
which builds the value or refuses the name. Four more differences:

- Memory is reserved before it is used, from a `Budget` in proportion to the file: a few bytes
  that request gigabytes (declared lengths, gaps in the memo, millions of empty lists) are refused.
- A run of four or more floats, small whole numbers or flags in a list is decoded in one go into a
  `Run`, a NumPy array of 1 to 8 bytes a number, where a list of Python's floats takes 32.
- The input is read in blocks, so that the file itself is never in memory.
- Nothing recurses, and every opcode takes time in proportion to its bytes.

Its stack and memo are `Stack` in `pickle_values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mads4.data.formats.pickle_source import Source
from mads4.data.formats.pickle_values import (
    LONGEST_NAME,
    Budget,
    Call,
    Pending,
    RefusedError,
    Stack,
    decode_run,
)


class Machine(Stack):
    """Interprets the pickles of a source, one after another.

    Args:
        source: where they are read from.
        budget: memory for what they build.
        find: dotted name → `Call`, or any value; raises `RefusedError` for what is not allowed.
    """

    def __init__(self, source: Source, budget: Budget, find: Callable[[str], Any]) -> None:
        super().__init__(budget)
        self.source = source
        self._find = find

    def load(self, persistent: Callable[[Machine, Any], Any] | None = None) -> Any:
        """Interpret up to the next end of a pickle and return what it describes.

        Args:
            persistent: builds values stored outside the pickle from (machine, key).

        Raises:
            RefusedError: a pickle that is damaged, wants a foreign name or too much memory.
        """
        self._persistent = persistent
        self._clear()
        operations = _OPERATIONS
        while True:
            code = self.source.take(1)[0]
            if code == 0x2E:
                break
            if code not in operations:
                raise RefusedError(f"opcode {code:#04x} is not one of those that describe data")
            operations[code](self)
        return self._result()

    def mark(self) -> None:
        """Begin a sequence of items; read it at once if it is a run of numbers in a list."""
        below = self._marks[-1] if self._marks else 0
        if len(self._stack) > below and type(self._stack[-1]) is list:
            run = self.source.run()
            if run is not None:
                numbers = decode_run(run)
                self.budget.reserve(136 + numbers.nbytes)
                self._stack[-1].append(numbers)
                return
        self.budget.reserve(8)
        self._marks.append(len(self._stack))

    def text(self, layout: str) -> None:
        """Push a text in UTF-8 whose length comes first; it may hold lone surrogates."""
        size = self.source.number(layout)
        self.source.require(size)
        self.budget.reserve(size)
        value = self.source.text(size)
        self.budget.free(size)
        widest = 1 if value.isascii() or max(value) < "\u0100" else 4
        self.push(value, 64 + widest * len(value))

    def binary(self, layout: str) -> None:
        """Push bytes whose length comes first."""
        size = self.source.number(layout)
        self.source.require(size)
        self.budget.reserve(48 + size)
        self.push(self.source.take(size))

    def mutable_binary(self) -> None:
        """Push a bytearray."""
        size = self.source.number("<Q")
        self.source.require(size)
        self.budget.reserve(64 + 2 * size)
        self.push(bytearray(self.source.take(size)))

    def whole(self) -> None:
        """Push a whole number of up to 64 bits; longer ones could be made to collide as keys."""
        size = self.source.take(1)[0]
        if size > 8:
            raise RefusedError("a whole number has more than 64 bits")
        self.push(int.from_bytes(self.source.take(size), "little", signed=True), 32)

    def tuple_of(self, count: int | None) -> None:
        """Push a tuple of the last `count` values, or of those since the mark."""
        items = self._since_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self.push(tuple(items), 56 + 8 * len(items))

    def append(self) -> None:
        """Add the last value to the list below."""
        item = self._pop()
        self.budget.reserve(8)
        self._owner(list).append(item)

    def extend(self) -> None:
        """Add the values since the mark to the list below."""
        items = self._since_mark()
        self.budget.reserve(8 * len(items))
        self._owner(list).extend(items)

    def set_item(self) -> None:
        """Add the last key and value to the dict below."""
        value, key = self._pop(), self._pop()
        self.budget.reserve(256)
        self._owner(dict)[as_key(key)] = value

    def set_items(self) -> None:
        """Add the keys and values since the mark to the dict below."""
        items = self._since_mark()
        if len(items) % 2:
            raise RefusedError("a dict has a key without a value")
        self.budget.reserve(128 * len(items))
        self._owner(dict).update(zip(map(as_key, items[::2]), items[1::2], strict=True))

    def add_items(self) -> None:
        """Add the values since the mark to the set below."""
        items = self._since_mark()
        self.budget.reserve(64 * len(items))
        self._owner(set).update(map(as_key, items))

    def frozen(self) -> None:
        """Push a frozenset of the items since the mark."""
        items = self._since_mark()
        self.push(frozenset(map(as_key, items)), 216 + 64 * len(items))

    def _owner(self, kind: type) -> Any:
        owner = self._pop()
        if type(owner) is not kind:
            raise RefusedError(f"it adds items to a {type(owner).__name__} as to a {kind.__name__}")
        self._stack.append(owner)
        return owner

    def name_in_lines(self) -> None:
        """Push the value of the global whose module and name follow, a line each."""
        module, name = self.source.line(), self.source.line()
        self.push(self._find(f"{module}.{name}"))

    def name_on_stack(self) -> None:
        """Push the value of the global whose module and name are on the stack."""
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise RefusedError("a name is not a text")
        if max(len(name), len(module)) > LONGEST_NAME:
            raise RefusedError("a name has no end")
        self.push(self._find(f"{module}.{name}"))

    def call(self) -> None:
        """Build a value by an allowed name."""
        arguments, function = self._pop(), self._pop()
        if type(function) is not Call or type(arguments) is not tuple:
            kind = type(function).__name__
            raise RefusedError(f"it calls a {kind}, which is no allowed function")
        self._forget(arguments)
        try:
            value = function.build(self, arguments)
        except (TypeError, ValueError, OverflowError) as error:
            reason = error if isinstance(error, RefusedError) else "its arguments are wrong"
            raise RefusedError(f"{function.name}: {reason}") from error
        self.push(value, 64)

    def complete(self) -> None:
        """Complete a value that a call has begun."""
        state, begun = self._pop(), self._pop()
        if type(begun) is not Pending:
            raise RefusedError(f"it gives a state to a {type(begun).__name__}, which takes none")
        self._forget(state)
        value = begun.complete(self, state)
        if begun.place >= 0:
            self._memo[begun.place] = value
        self.push(value)

    def persistent(self) -> None:
        """Push a value that is stored outside the pickle."""
        if self._persistent is None:
            raise RefusedError("it refers to data outside itself")
        key = self._pop()
        self._forget(key)
        self.push(self._persistent(self, key))

    def protocol(self) -> None:
        """Check the protocol version."""
        version = self.source.take(1)[0]
        if not 2 <= version <= 5:
            raise RefusedError(f"it is written in pickle protocol {version}; read are 2 to 5")

    def frame(self) -> None:
        """Skip the frame length."""
        self.source.take(8)


def as_key(value: Any) -> Any:
    """Return a key or member; simple ones only, whose hashes cannot be made to collide."""
    if type(value) not in (str, bytes, int, bool, type(None)):
        raise RefusedError(
            f"a key is a {type(value).__name__}; allowed are texts and whole numbers"
        )
    return value


def _fixed(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.push(value)


_OPERATIONS: Mapping[int, Callable[[Machine], None]] = {
    ord(code): operation
    for code, operation in {
        b"\x80": lambda m: m.protocol(),
        b"\x95": lambda m: m.frame(),
        b"N": _fixed(None),
        b"\x88": _fixed(True),
        b"\x89": _fixed(False),
        b"K": lambda m: m.push(m.source.take(1)[0]),
        b"M": lambda m: m.push(m.source.number("<H"), 32),
        b"J": lambda m: m.push(m.source.number("<i"), 32),
        b"\x8a": Machine.whole,
        b"G": lambda m: m.push(m.source.number(">d"), 24),
        b"X": lambda m: m.text("<I"),
        b"\x8c": lambda m: m.text("<B"),
        b"\x8d": lambda m: m.text("<Q"),
        b"C": lambda m: m.binary("<B"),
        b"B": lambda m: m.binary("<I"),
        b"\x8e": lambda m: m.binary("<Q"),
        b"\x96": Machine.mutable_binary,
        b"(": Machine.mark,
        b")": _fixed(()),
        b"\x85": lambda m: m.tuple_of(1),
        b"\x86": lambda m: m.tuple_of(2),
        b"\x87": lambda m: m.tuple_of(3),
        b"t": lambda m: m.tuple_of(None),
        b"]": lambda m: m.push([], 64),
        b"a": Machine.append,
        b"e": Machine.extend,
        b"}": lambda m: m.push({}, 64),
        b"s": Machine.set_item,
        b"u": Machine.set_items,
        b"\x8f": lambda m: m.push(set(), 216),
        b"\x90": Machine.add_items,
        b"\x91": Machine.frozen,
        b"c": Machine.name_in_lines,
        b"\x93": Machine.name_on_stack,
        b"R": Machine.call,
        b"b": Machine.complete,
        b"Q": Machine.persistent,
        b"q": lambda m: m.put(m.source.take(1)[0]),
        b"r": lambda m: m.put(m.source.number("<I")),
        b"\x94": Machine.memoize,
        b"h": lambda m: m.get(m.source.take(1)[0]),
        b"j": lambda m: m.get(m.source.number("<I")),
    }.items()
}
"""Opcode → what it does. Omitted are those for objects, calls by number, and protocols 0 and 1."""
