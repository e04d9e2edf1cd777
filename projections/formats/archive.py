"""Archive: the files inside a zip file, by its central directory.

Rules:
1. Folders, `__MACOSX/` and `.DS_Store` are no files. What is left has names that differ.
2. Refused: a directory that is longer than its `members_max` files can need, names that lead out of a folder, files
   that are encrypted, compressed otherwise than by "deflate" or not at all, or whose bytes overlap (a small archive
   can stand for any size by that), and a file that its own header calls by another name than the directory does.
3. A file has the size and the check sum that the directory says, or it is refused.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from ledger.errors import FileRefusedError
from projections.formats.files import SteadyFile, read_up_to
from projections.formats.rows import Limits
from projections.formats.streams import PLAIN_BYTES, RAW_DEFLATE, Source, deflate_pieces

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
DIRECTORY_BYTES_PER_MEMBER = 1 << 10  # its entry: 46 bytes, its name, and what tools add
DIRECTORY_BYTES_MIN = 1 << 17  # the end record with the longest comment
LOCAL_HEADER_BYTES = 30
ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: a password, strong encryption, an encrypted directory
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
WORKBOOK_NAMES = ("[Content_Types].xml", "mimetype")
REPACK = "Pack the files again as an ordinary zip file and send it."


@dataclass(frozen=True)
class Member:
    """A file in an archive. Sizes in bytes; its compressed bytes start at `offset` in the archive."""

    name: str
    size: int
    compressed_size: int
    offset: int
    method: int
    crc: int


def members_of(file: BinaryIO, size: int, limits: Limits) -> tuple[Member, ...]:
    """The files in an archive, in the directory's order.

    Raises:
        FileRefusedError: archive_invalid, archive_too_many_members, archive_encrypted, archive_name_unsafe,
            archive_name_repeated, archive_method or archive_overlap.
    """
    entries, directory_start = _directory(file, limits)
    ends = {}
    members = []
    for entry in entries:
        _check_entry(entry)
        start = _data_start(file, entry, size)
        ends[entry.header_offset] = start + entry.compress_size
        if _is_file(entry.filename):
            members.append(
                Member(entry.filename, entry.file_size, entry.compress_size, start, entry.compress_type, entry.CRC)
            )
    if len(ends) < len(entries):
        raise _refusal("archive_overlap", "has files that share their bytes", REPACK)
    starts = [*sorted(ends), directory_start]
    for start, following in pairwise(starts):
        if ends[start] > following:
            raise _refusal("archive_overlap", "has files that share their bytes", REPACK, start)
    if len({member.name for member in members}) < len(members):
        raise _refusal("archive_name_repeated", "has two files of one name", REPACK)
    return tuple(members)


def is_workbook(members: tuple[Member, ...]) -> bool:
    """Whether the archive is an office document (.xlsx, .xlsb, .ods), which is a zip file by its bytes."""
    names = {member.name for member in members}
    return WORKBOOK_NAMES[0] in names or {WORKBOOK_NAMES[1], "content.xml"} <= names


def member_pieces(source: Source, member: Member) -> Iterator[bytes]:
    """The plain bytes of one file, from a source that starts and ends where its compressed bytes do.

    Raises:
        FileRefusedError: compressed_truncated or compressed_invalid.
    """
    size, crc = 0, 0
    for piece in _stored_pieces(source, member) if member.method == STORED else _deflated_pieces(source):
        size += len(piece)
        crc = zlib.crc32(piece, crc)
        if size > member.size:
            break
        yield piece
    if (size, crc) != (member.size, member.crc):
        what = "its check sum is wrong" if size == member.size else f"it has not the {member.size:,} bytes it should"
        raise source.invalid(member.offset, f"{what} (file {member.name!r})")


def _stored_pieces(source: Source, member: Member) -> Iterator[bytes]:
    while source.fill():
        yield source.take(PLAIN_BYTES)
    if source.offset < member.offset + member.compressed_size:
        raise source.truncated(member.offset)


def _deflated_pieces(source: Source) -> Iterator[bytes]:
    yield from deflate_pieces(source, RAW_DEFLATE)
    if source.fill():
        raise source.invalid(source.offset, "it ended before its compressed size")


def _directory(file: BinaryIO, limits: Limits) -> tuple[list[zipfile.ZipInfo], int]:
    """The directory's entries and where it starts. Only as much is read as `members_max` files can need."""
    metered = _MeteredFile(file, max(DIRECTORY_BYTES_MIN, limits.members_max * DIRECTORY_BYTES_PER_MEMBER))
    try:
        with zipfile.ZipFile(metered) as archive:
            entries, start = archive.infolist(), archive.start_dir
    except FileRefusedError:
        raise
    except Exception as error:  # whatever zipfile stumbles over: it has no error of its own for a good part of it
        metered.raise_failure()
        raise _refusal("archive_invalid", "has no readable directory: it is damaged or was cut", REPACK) from error
    if len(entries) > limits.members_max:
        raise _too_many(f"holds {len(entries):,} files; at most {limits.members_max:,} are read")
    return entries, start


class _MeteredFile(SteadyFile):
    """A file of which only so many bytes are read."""

    def __init__(self, source: BinaryIO, bytes_max: int) -> None:
        super().__init__(source)
        self._rest = bytes_max

    def read(self, size: int | None = -1, /) -> bytes:
        """The bytes, until there are too many."""
        before = self.tell()
        length = (self.seek(0, 2) - before) if size is None or size < 0 else size
        self.seek(before)
        self._rest -= length
        if self._rest < 0:
            raise _too_many("has a longer directory than its files can need")
        return super().read(length)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, offset = entry.filename, entry.header_offset
    shown = f"{name[:200]!r}"
    if entry.flag_bits & ENCRYPTED:
        what = f"is protected by a password (file {shown})"
        raise _refusal("archive_encrypted", what, "Send it without a password.", offset)
    # zipfile ends a name at a NUL, and may take it from another field; what the entry itself says is `orig_filename`.
    paths = [each.replace("\\", "/").split("/") for each in {entry.orig_filename, name}]
    unsafe = any(".." in parts or parts[0] == "" or parts[0][1:2] == ":" for parts in paths)
    if unsafe or "\0" in entry.orig_filename:
        raise _refusal(
            "archive_name_unsafe", f"has a file whose name leads out of its folder ({shown})", REPACK, offset
        )
    if entry.compress_type not in (STORED, DEFLATED):
        what = f"has a file in a way of compression that is not read (number {entry.compress_type}, {shown})"
        raise _refusal("archive_method", what, REPACK, offset)


def _data_start(file: BinaryIO, entry: zipfile.ZipInfo, size: int) -> int:
    """Where the compressed bytes of an entry start, by its own header."""
    offset = entry.header_offset
    header = b""
    if 0 <= offset < size:
        file.seek(offset)
        header = read_up_to(file, LOCAL_HEADER_BYTES)
    name_length = int.from_bytes(header[26:28], "little")
    extra_length = int.from_bytes(header[28:30], "little")
    name = read_up_to(file, name_length) if len(header) == LOCAL_HEADER_BYTES else b""
    encoding = "utf-8" if entry.flag_bits & 0x800 else "cp437"
    if header[:4] != SIGNATURES[0] or name.decode(encoding, "replace") != entry.orig_filename:
        what = f"has a directory that does not fit its files (file {entry.filename[:200]!r})"
        raise _refusal("archive_invalid", what, REPACK, max(offset, 0))
    return offset + LOCAL_HEADER_BYTES + name_length + extra_length


def _is_file(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] not in ("", ".DS_Store") and parts[0] != "__MACOSX"


def _too_many(what: str) -> FileRefusedError:
    return _refusal("archive_too_many_members", what, "Send the files in several archives, or one by one.")


def _refusal(code: str, what: str, remedy: str, offset: int | None = None) -> FileRefusedError:
    place = "" if offset is None else f" (byte {offset:,})"
    return FileRefusedError(code, f"The zip file {what}{place}.", remedy, byte_offset=offset)
