"""Text files of an archive: lines, compressed with zstd, and the digests of both forms.

Rules:
1. What identifies the content is the digest of the text; that of the compressed bytes is for the way to the store and
   back. The compressed bytes are the same for the same text, cut in the same way, and the same version of zstd.
2. Compression is zstd, level 1: on rows of payments it gave smaller files than level 3, in less time (40.3 MB in 3.2 s
   and 41.8 MB in 5.1 s of 113.8 MB).
3. A file counts as written when the bytes on the disk were read again, decoded, and came to the same digests.
4. However well a text was compressed, little of it is in memory at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import zstandard

from ledger.errors import LedgerError, PartUnavailableError

LEVEL = 1
READ_BYTES = 1 << 20
DECOMPRESSED_AT_ONCE_BYTES = 1 << 8  # compressed: a text that repeats itself comes to 10,000 times as much


class SpoolError(PartUnavailableError):
    """The spool folder does not take what is exported, or does not give it back as it was."""

    code = "spool_failed"


class TextDamagedError(LedgerError):
    """Compressed text is not what it was when it was written."""

    code = "text_damaged"


@dataclass(frozen=True)
class TextFacts:
    """What a text comes to, and its compressed form."""

    lines: int
    raw_bytes: int
    raw_sha256: str
    bytes: int
    sha256: str


class TextWriter:
    """Writes one text into a file of the spool folder, in the place of what is there.

    What it comes to can be asked for after it was closed without an error. Every method raises SpoolError when the
    disk is full or broken.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._raw = hashlib.sha256()
        self._compressed = hashlib.sha256()
        self._lines = self._raw_bytes = self._bytes = 0

    def __enter__(self) -> Self:
        with spooling(self._target):
            self._file: BinaryIO = self._target.open("wb")
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
        return self

    def write(self, data: bytes) -> int:
        """Add text."""
        self._raw.update(data)
        self._raw_bytes += len(data)
        self._lines += data.count(b"\n")
        self._keep(self._compressor.compress(data))
        return len(data)

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with spooling(self._target), self._file:
            if kind is None:
                self._keep(self._compressor.flush())
                self._file.flush()
                os.fsync(self._file.fileno())

    def facts(self) -> TextFacts:
        """What was written."""
        assert self._file.closed, "it is still being written"
        return TextFacts(self._lines, self._raw_bytes, self._raw.hexdigest(), self._bytes, self._compressed.hexdigest())

    def _keep(self, data: bytes) -> None:
        self._compressed.update(data)
        self._bytes += len(data)
        with spooling(self._target):
            self._file.write(data)


def raw_blocks(compressed: Iterable[bytes], what: str) -> Iterator[bytes]:
    """The text of compressed blocks, block by block.

    Raises:
        TextDamagedError: it is no compressed text, is cut, or more stands behind it. `what` names it.
    """
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        for piece in _cut(compressed):
            if decompressor.eof:
                raise TextDamagedError(f"There is something behind the end of the text of {what}.")
            if raw := decompressor.decompress(piece):
                yield raw
    except zstandard.ZstdError as error:
        raise TextDamagedError(
            f"{what} cannot be decompressed ({error}).", "It was changed since it was written."
        ) from error
    if not decompressor.eof or decompressor.unused_data:
        raise TextDamagedError(f"The text of {what} is cut, or has more than one end.", "It was changed since.")


def facts_of(compressed: Iterable[bytes], what: str) -> TextFacts:
    """What a compressed text comes to. Raises TextDamagedError: see `raw_blocks`."""
    raw, digest = hashlib.sha256(), hashlib.sha256()
    lines = raw_bytes = size = 0

    def taken() -> Iterator[bytes]:
        nonlocal size
        for block in compressed:
            digest.update(block)
            size += len(block)
            yield block

    for block in raw_blocks(taken(), what):
        raw.update(block)
        raw_bytes += len(block)
        lines += block.count(b"\n")
    return TextFacts(lines, raw_bytes, raw.hexdigest(), size, digest.hexdigest())


def check_text(file: Path, expected: TextFacts) -> None:
    """Read a file back from the disk, and compare it with what was written.

    Raises:
        SpoolError: it is something else.
    """
    found: TextFacts | None = None
    damage: TextDamagedError | None = None
    try:
        with spooling(file):
            found = facts_of(file_blocks(file), file.name)
    except TextDamagedError as error:
        damage = error
    if found != expected:
        raise SpoolError(
            f"The spool file {file} does not hold what was written to it.", "Mend the disk, or name another folder."
        ) from damage


def file_blocks(file: Path) -> Iterator[bytes]:
    """The bytes of a file, block by block."""
    with file.open("rb") as source:
        while block := source.read(READ_BYTES):
            yield block


@contextmanager
def spooling(file: Path) -> Iterator[None]:
    """Work on a file of the spool folder. Raises SpoolError: the disk is full or broken."""
    try:
        yield
    except OSError as error:
        raise SpoolError(
            f"The spool file {file} cannot be used ({error.strerror or error}).",
            "Make room or mend the disk; it goes on then.",
        ) from error


def _cut(blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), DECOMPRESSED_AT_ONCE_BYTES):
            yield block[start : start + DECOMPRESSED_AT_ONCE_BYTES]
