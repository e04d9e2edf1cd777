"""Files: what a reader may count on when a library, or a decoder, reads a file.

Rules:
1. `read` gives as many bytes as it was asked for unless the file ends, however few its source gives at a time.
2. An error of the source (a disk, a blob store) stays what it is. A library may wrap it in an error of its own; it is
   kept, so that a reader does not take it for a flaw of the file.
"""

from __future__ import annotations

import errno
import io
from typing import BinaryIO, Protocol

PIECE_BYTES = 1 << 16


class Readable(Protocol):
    """Something that is read from where it stands."""

    def read(self, size: int = -1, /) -> bytes:
        """At most that many bytes; none only at the end."""


def read_up_to(file: Readable, length: int) -> bytes:
    """That many bytes from where the file stands, fewer only if the file ends."""
    data = file.read(length)
    if not data or len(data) >= length:
        return data
    pieces = [data]
    missing = length - len(data)
    while missing and (data := file.read(missing)):
        pieces.append(data)
        missing -= len(data)
    return b"".join(pieces)


def size_of(file: BinaryIO) -> int:
    """The file's size in bytes; the file is left standing at its start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


class SteadyFile(io.RawIOBase):
    """A file under the rules above. Closing it leaves its source open."""

    def __init__(self, source: BinaryIO) -> None:
        self.failure: BaseException | None = None
        self._source = source
        self._size = source.seek(0, io.SEEK_END)
        self._position = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """That many bytes, all for a negative number; fewer only at the end."""
        rest = max(self._size - self._position, 0)
        wanted = rest if size is None or size < 0 else min(size, rest)
        try:
            self._source.seek(self._position)
            data = read_up_to(self._source, wanted)
        except BaseException as error:
            self.failure = error
            raise
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Stand elsewhere: at an offset from the start, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "a place before the start of the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The offset at which the next byte is read."""
        return self._position

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def raise_failure(self) -> None:
        """Raise the source's own error, if it had one."""
        if self.failure is not None:
            raise self.failure
