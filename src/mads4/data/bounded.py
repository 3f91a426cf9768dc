"""A file that never gives much at once, for libraries that trust what archives declare."""

from __future__ import annotations

import io
from typing import IO


class BoundedReader(io.RawIOBase):
    """Stands for an open file and refuses to hand out more than `most` bytes at a time.

    Python's zip and tar modules read an archive's list of members, or the extended header of one,
    in one go, of whatever length the archive declares.
    """

    def __init__(self, file: IO[bytes], most: int | None) -> None:
        self._file = file
        self.most = most
        """Bytes; None hands out any number."""

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, or all that is left if `size` is negative.

        Raises:
            ValueError: these are more than `most`.
        """
        if size < 0:
            here = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        if self.most is not None and size > self.most:
            raise ValueError(f"its list of members asks for more than {self.most} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move as in any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Return that `seek` works."""
        return True

    def readable(self) -> bool:
        """Return that `read` works."""
        return True
