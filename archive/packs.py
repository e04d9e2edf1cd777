"""Packs: the files that were sent, many in one object, for Glacier charges for each object as for 40 KB.

Rules:
1. A pack is a tar file (POSIX ustar) of at most `OBJECT_BYTES_MAX`. Its members are named by the SHA-256 of the file
   and the number of the piece: `files/<sha256>/00000`. Files that do not fit into what is left of a pack go on in the
   next one; a file is its pieces one after the other.
2. The same files in the same order make the same packs, to the byte: no name, time or owner of this machine is in them.
3. The index has a line for each piece: of which file, in which pack, from which byte, how many. So one file can be read
   out of a pack without the rest of it.
4. Every file is hashed before it is packed. One that is not what its name says stops the archive.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from archive.stores import OBJECT_BYTES_MAX
from ledger.errors import LedgerError

READ_BYTES = 1 << 20
RESTORE_IT = "Restore it into the blob store from a backup, then go on."
# Gives bytes of a file, from an offset, as `BlobStore.read` does.
Read = Callable[[str, int, int], bytes]
BLOCK_BYTES = tarfile.BLOCKSIZE
END_BYTES = 2 * BLOCK_BYTES
# A piece that is smaller than this begins in the next pack instead.
PIECE_BYTES_MIN = 1 << 20


class FileDamagedError(LedgerError):
    """A file is not in the blob store as it was received."""

    code = "file_damaged"


@dataclass(frozen=True)
class PackedFile:
    """A file to pack: its SHA-256 and its size in bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Piece:
    """A piece of a file from its byte `start` on: in which pack it lies, from which byte. A file has one or more."""

    sha256: str
    number: int
    start: int
    size_bytes: int
    pack: int
    offset: int

    @property
    def name(self) -> str:
        """The name of the member of the pack."""
        return f"files/{self.sha256}/{self.number:05}"


def plan_packs(files: Iterable[PackedFile], bytes_max: int = OBJECT_BYTES_MAX) -> Iterator[Piece]:
    """How files are cut and packed, in their order, each once."""
    assert bytes_max >= 2 * BLOCK_BYTES + END_BYTES, "a pack that holds nothing"
    seen: set[str] = set()
    pack, used = 0, 0
    for file in files:
        if file.sha256 in seen:
            continue
        seen.add(file.sha256)
        start, number = 0, 0
        while number == 0 or start < file.size_bytes:  # an empty file is one piece
            left = file.size_bytes - start
            room = (bytes_max - END_BYTES - used) // BLOCK_BYTES * BLOCK_BYTES - BLOCK_BYTES
            if used and room < min(left, PIECE_BYTES_MIN):
                pack, used = pack + 1, 0
                continue
            size = min(left, room)
            yield Piece(file.sha256, number, start, size, pack, used + BLOCK_BYTES)
            used += BLOCK_BYTES + size + -size % BLOCK_BYTES
            start, number = start + size, number + 1


def check_file(read: Read, file: PackedFile) -> None:
    """Hash a file, as it lies in the blob store.

    Raises:
        FileDamagedError: its bytes are not those of its SHA-256.
        NotFoundError, PartUnavailableError: it cannot be read.
    """
    digest = hashlib.sha256()
    for block in _blocks(read, file.sha256, 0, file.size_bytes):
        digest.update(block)
    if digest.hexdigest() != file.sha256:
        raise FileDamagedError(f"The file {file.sha256} has other bytes than were received.", RESTORE_IT)


def write_pack(read: Read, pieces: Iterable[Piece], target: Path) -> None:
    """Write the pieces of one pack, in their order, into a file. Raises as `check_file`."""
    with target.open("wb") as out:
        for piece in pieces:
            assert out.tell() == piece.offset - BLOCK_BYTES, "the plan of packs and what is written differ"
            out.write(_header(piece))
            for block in _blocks(read, piece.sha256, piece.start, piece.size_bytes):
                out.write(block)
            out.write(bytes(-piece.size_bytes % BLOCK_BYTES))
        out.write(bytes(END_BYTES))


def _blocks(read: Read, sha256: str, start: int, size: int) -> Iterator[bytes]:
    position, end = start, start + size
    while position < end:
        block = read(sha256, position, min(READ_BYTES, end - position))
        if not block:
            raise FileDamagedError(f"The file {sha256} ends at byte {position:,}, before {end:,}.", RESTORE_IT)
        yield block
        position += len(block)


def _header(piece: Piece) -> bytes:
    member = tarfile.TarInfo(piece.name)
    member.size = piece.size_bytes
    member.mode = 0o444
    return member.tobuf(tarfile.USTAR_FORMAT)
