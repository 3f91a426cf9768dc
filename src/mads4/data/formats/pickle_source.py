"""Reading a pickle block by block, never past its declared end, large parts without a copy."""

from __future__ import annotations

import codecs
import struct
from typing import Any, Protocol

from mads4.data.formats.pickle_values import LONGEST_NAME, RUN, RUN_ITEMS, RefusedError

BLOCK = 1 << 16


class ByteStream(Protocol):
    """What is read from: a file, or a member of an archive."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer as far as possible and return how far."""
        ...


class Source:
    """The next `size` bytes of a stream."""

    def __init__(self, stream: ByteStream, size: int) -> None:
        self._stream = stream
        self._unread = size
        self._buffer = b""
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that have not been taken."""
        return self._unread + len(self._buffer) - self._at

    def take(self, size: int) -> bytes | bytearray:
        """Return the next `size` bytes; a bytearray if they are more than `BLOCK`.

        Raises:
            RefusedError: fewer are left.
        """
        if len(self._buffer) - self._at < size:
            self.require(size)
            if size > BLOCK:
                return self._take_large(size)
            self._fill(size)
        start = self._at
        self._at += size
        return self._buffer[start : self._at]

    def require(self, size: int) -> None:
        """Raise `RefusedError` if fewer than `size` bytes are left."""
        if size > self.left:
            raise RefusedError(f"it asks for {size} bytes where only {self.left} are left")

    def text(self, size: int) -> str:
        """Return the next `size` bytes of UTF-8 (lone surrogates, too) as text, read in blocks."""
        if size <= BLOCK:
            return self.take(size).decode("utf-8", "surrogatepass")
        decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        starts = range(0, size, BLOCK)
        blocks = [decoder.decode(self.take(min(BLOCK, size - at))) for at in starts]
        return "".join([*blocks, decoder.decode(b"", final=True)])

    def number(self, layout: str) -> Any:
        """Return the next number; `layout` as in `struct`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Return the text up to the next line feed."""
        self._fill(min(LONGEST_NAME, self.left))
        end = self._buffer.find(b"\n", self._at, self._at + LONGEST_NAME)
        if end < 0:
            raise RefusedError("a name has no end")
        line = self._buffer[self._at : end]
        self._at = end + 1
        return line.decode("utf-8")

    def run(self) -> bytes | None:
        """Return the opcodes of a run of numbers that ends a list's items, if one comes next."""
        self._fill(min(9 * RUN_ITEMS + 1, self.left))
        run = RUN.match(self._buffer, self._at)
        if run is None:
            return None
        self._at = run.end()
        return run[1]

    def _fill(self, size: int) -> None:
        """Have at least `size` bytes, which must be left, in the buffer."""
        have = len(self._buffer) - self._at
        if have >= size:
            return
        parts = [self._buffer[self._at :]]
        while have < size:
            part = self._stream.read(min(BLOCK, self._unread))
            if not part:
                raise RefusedError("it is shorter than it says")
            self._unread -= len(part)
            have += len(part)
            parts.append(part)
        self._buffer, self._at = b"".join(parts), 0

    def _take_large(self, size: int) -> bytearray:
        taken = bytearray(size)
        self.take_into(memoryview(taken))
        return taken

    def take_into(self, view: memoryview) -> None:
        """Fill a buffer with the next bytes."""
        size = len(view)
        self.require(size)
        have = min(size, len(self._buffer) - self._at)
        view[:have] = self._buffer[self._at : self._at + have]
        self._at += have
        while have < size:
            part = self._stream.readinto(view[have : have + BLOCK])
            if not part:
                raise RefusedError("it is shorter than it says")
            self._unread -= part
            have += part

    def require_end(self) -> None:
        """Raise `RefusedError` if anything is left."""
        if self.left:
            raise RefusedError(f"{self.left} bytes follow its end")
