"""The files that were sent, out of their packs again, each compared with its own SHA-256.

The index says where each piece of a file lies. Pieces are read in its order, pack by pack: nothing may lie in front of
the first, between two of them or behind the last, but what tar has there.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, BinaryIO

from archive.fetched_objects import BLOCK_BYTES, MALFORMED, Fetcher, whole_lines
from archive.manifest import FilesEntry

HEADER_BYTES = tarfile.BLOCKSIZE
END = bytes(2 * tarfile.BLOCKSIZE)

Piece = dict[str, Any]


def check_packs(fetcher: Fetcher, files: FilesEntry) -> None:
    """Read the index and the packs, and note what is not as it was sent. Raises PartUnavailableError."""
    with fetcher.fetched(files.index) as index:
        is_known = index is not None and fetcher.check_text(files.index, index)
        packed = _Files(fetcher)
        try:
            groups = groupby(_pieces(index) if index is not None and is_known else (), lambda piece: piece["pack"])
            for entry in files.packs:
                with fetcher.fetched(entry) as pack:
                    named, pieces = next(groups, (None, iter(())))
                    if is_known and not entry.key.startswith(f"{named}-"):
                        fetcher.differs("files_differ", entry.key, "holds no file that the index knows")
                    packed.read(entry.key, pack, pieces)
            is_over = next(groups, None) is None
        except MALFORMED as error:
            fetcher.differs("text_differs", files.index.key, f"has a line that is none ({error})")
            return
    packed.end()
    if is_known and not packed.unread and (not is_over or (packed.count, packed.bytes) != (files.count, files.bytes)):
        how = f"is of {packed.count:,} files with {packed.bytes:,} bytes, and of {files.count:,} with {files.bytes:,}"
        fetcher.differs("files_differ", files.index.key, f"{how} by the manifest")


def _pieces(index: BinaryIO) -> Iterator[Piece]:
    index.seek(0)
    for block in whole_lines(index):
        for line in block.split(b"\n")[:-1]:
            yield json.loads(line)


class _Files:
    """The files, one after the other, as their pieces come. One of which a pack could not be read is left out."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._digest = hashlib.sha256()
        self._sha256 = ""
        self._size, self._number = 0, 0
        self._is_readable = True
        self.count = self.bytes = self.unread = 0

    def read(self, key: str, pack: BinaryIO | None, pieces: Iterable[Piece]) -> None:
        """Take in the pieces of a pack; of None it is known only which files they are of."""
        end = 0
        for piece in pieces:
            self._begin(piece)
            if pack is None:
                self._is_readable = False
            elif piece["offset"] != end + HEADER_BYTES or not _is_header_of(piece, pack.read(HEADER_BYTES)):
                self._fetcher.differs("files_differ", key, f"has no piece of {piece['sha256']} at byte {end:,}")
                self._is_readable = False
            else:
                self._take(pack, piece["size"])
            end = piece["offset"] + piece["size"] + -piece["size"] % tarfile.BLOCKSIZE
            if pack is not None:
                pack.seek(end)
            self._size += piece["size"]
            self._number += 1
        if pack is not None and pack.read(len(END) + 1) != END:
            self._fetcher.differs("files_differ", key, f"does not end at byte {end:,}")

    def end(self) -> None:
        """See that the last file is the one that was sent."""
        if not self._sha256:
            return
        if not self._is_readable:
            self.unread += 1
        elif self._digest.hexdigest() != self._sha256:
            self._fetcher.differs("files_differ", f"files/{self._sha256}", "has other bytes than were sent")
        self.count += 1
        self.bytes += self._size

    def _begin(self, piece: Piece) -> None:
        if piece["number"] == 0:
            self.end()
            self._sha256, self._size, self._number = piece["sha256"], 0, 0
            self._digest, self._is_readable = hashlib.sha256(), True
        if (piece["sha256"], piece["start"], piece["number"]) != (self._sha256, self._size, self._number):
            raise ValueError(f"piece {piece['number']} of {piece['sha256']} does not go on where the one before ends")

    def _take(self, pack: BinaryIO, left: int) -> None:
        while left and (block := pack.read(min(BLOCK_BYTES, left))):
            self._digest.update(block)
            left -= len(block)


def _is_header_of(piece: Piece, header: bytes) -> bool:
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.HeaderError:
        return False
    name = f"files/{piece['sha256']}/{piece['number']:05}"
    return member.isreg() and (member.name, member.size) == (name, piece["size"])
