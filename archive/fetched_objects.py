"""Objects of an archive as whoever verifies it reads them: fetched whole, hashed, and only then looked into."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from archive.manifest import ObjectEntry, TextEntry
from archive.stores import ColdStore, NotRestoredError, ObjectDamagedError
from ledger.errors import NotFoundError
from ledger.findings import Finding, Findings, NotCompared

BLOCK_BYTES = 1 << 20
# What taking a line apart may raise that is no such line. It was signed, so whoever wrote it is to blame.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)

# Is told how many `parts` (objects, each as often as it is looked at) of `parts_total` were looked at, and the `bytes`
# that were read.
Tell = Callable[[dict[str, int]], None]


class Place:
    """The objects under a prefix of a store, and where it is noted what is wrong with them."""

    def __init__(self, store: ColdStore, prefix: str, found: Findings) -> None:
        self.store = store
        self.prefix = prefix
        self.found = found

    def differs(self, code: str, name: str, how: str) -> None:
        """Note that something is not as it was signed."""
        key = f"{self.prefix}/{name}"
        self.found.add(Finding(code, f"{key} {how}.", object=key))

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Take what the store cannot give for a finding, or for something that was not compared."""
        try:
            yield
        except NotFoundError:
            self.differs("object_missing", name, "is not there in the version that was put")
        except ObjectDamagedError as damaged:
            self.differs("object_damaged", name, f"is not what was put: {damaged.message}")
        except NotRestoredError:
            self.found.add(NotCompared(f"{self.prefix}/{name} has to be restored before it can be read."))


class Counter:
    """Counts what was looked at, and tells of it."""

    def __init__(self, parts_total: int, tell: Tell) -> None:
        self._told = {"parts": 0, "parts_total": parts_total, "bytes": 0}
        self._tell = tell

    def expect(self, parts: int) -> None:
        """Count on more objects."""
        self._told["parts_total"] += parts

    def add(self, bytes_read: int = 0) -> None:
        """Count an object."""
        self._told["parts"] += 1
        self._told["bytes"] += bytes_read
        self._tell(dict(self._told))


class Fetcher(Place):
    """Reads objects by way of a file in a folder."""

    def __init__(self, place: Place, folder: Path, counter: Counter) -> None:
        super().__init__(place.store, place.prefix, place.found)
        self._folder = folder
        self._counter = counter

    @contextmanager
    def fetched(self, entry: ObjectEntry) -> Iterator[BinaryIO | None]:
        """A file with the bytes of an object, gone afterwards; None if they are not those that were put."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            is_whole = self._fetch(entry, file)
            self._counter.add(file.tell())
            file.seek(0)
            yield file if is_whole else None

    def text(self, entry: TextEntry, take: Callable[[bytes], object] = lambda block: None) -> bool:
        """Read a text, and give it to `take` in blocks of whole lines; whether it is the one that was signed."""
        with self.fetched(entry) as file:
            return file is not None and self.check_text(entry, file, take)

    def check_text(
        self, entry: TextEntry, file: BinaryIO, take: Callable[[bytes], object] = lambda block: None
    ) -> bool:
        """Read a text that was fetched, likewise."""
        digest, size, lines = hashlib.sha256(), 0, 0
        try:
            for block in whole_lines(file):
                digest.update(block)
                size += len(block)
                lines += block.count(b"\n")
                take(block)
        except zstandard.ZstdError as error:
            self.differs("text_differs", entry.key, f"cannot be decompressed ({error})")
            return False
        except MALFORMED as error:
            self.differs("text_differs", entry.key, f"has a line behind the first {lines:,} that is none ({error})")
            return False
        if (size, lines, digest.hexdigest()) != (entry.raw_bytes, entry.lines, entry.raw_sha256):
            self.differs("text_differs", entry.key, "comes to another text than was signed")
            return False
        return True

    def _fetch(self, entry: ObjectEntry, file: Any) -> bool:
        digest, size = hashlib.sha256(), 0
        with self.noting(entry.key):
            for block in self.store.read(f"{self.prefix}/{entry.key}", entry.version):
                digest.update(block)
                size += len(block)
                file.write(block)
            if (size, digest.hexdigest()) == (entry.bytes, entry.sha256):
                return True
            self.differs("object_damaged", entry.key, "reads other bytes than were put")
        return False


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """A compressed text in blocks that end where a line does, but for what is behind the last one."""
    reader = zstandard.ZstdDecompressor().stream_reader(file)
    left = b""
    while block := reader.read(BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield left + block[:end]
            left = block[end:]
        else:
            left += block
    if left:
        yield left
