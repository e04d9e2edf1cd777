"""Containers: files that hold other files, compressed, and what comes out of them.

Rules:
1. The content decides what a file is, never its name. A zip file that is an office document is no container.
2. A file can be compressed once more inside a container (`CONTAINERS_DEEP_MAX`), not deeper.
3. What comes out is bounded by `Limits`, and checked before each piece is handed on: by its bytes, and by how many
   come out for one that goes in. The ratio counts from 64 MiB on: a few equal records can shrink a thousand times.
4. What was handed on before a refusal is to be thrown away: only a call that returns has given the whole file.

To read a file that may be compressed: `open_container` it; while that gives a container, `decompress` one member of it
into a file of its own, and `open_container` that, one deeper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from ledger.errors import FileRefusedError
from projections.formats.archive import SIGNATURES, Member, is_workbook, member_pieces, members_of
from projections.formats.files import read_up_to
from projections.formats.rows import Limits
from projections.formats.streams import (
    BZIP2,
    GZIP,
    ZSTANDARD,
    Source,
    bzip2_pieces,
    gzip_pieces,
    zstandard_pieces,
)

ContainerKind = Literal["gzip", "zstd", "bzip2", "zip"]
CONTAINERS_DEEP_MAX = 2
RATIO_FLOOR_BYTES = 64 << 20
SIGNATURE_BYTES = 10
BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # how its first block starts: with data, or none


@dataclass(frozen=True)
class Container:
    """What a compressed file holds. Only a zip file tells its members; the others have one, without a name."""

    kind: ContainerKind
    members: tuple[Member, ...] = ()


def container_of(first_bytes: bytes) -> ContainerKind | None:
    """What kind of container a file is by its first bytes (10 suffice); an office document is a "zip" by these."""
    if first_bytes.startswith(GZIP):
        return "gzip"
    if first_bytes.startswith(ZSTANDARD) or (first_bytes[1:4] == b"\x2a\x4d\x18" and first_bytes[0] & 0xF0 == 0x50):
        return "zstd"
    if first_bytes.startswith(BZIP2) and b"1" <= first_bytes[3:4] <= b"9" and first_bytes[4:10] in BZIP2_BLOCKS:
        return "bzip2"
    if first_bytes.startswith(SIGNATURES):
        return "zip"
    return None


def open_container(file: BinaryIO, size: int, limits: Limits, depth: int = 1) -> Container | None:
    """What the file holds if it is a container, else None.

    Args:
        size: the file's size in bytes.
        depth: in how many containers it was found, counting itself: 1 for the file that arrived.

    Raises:
        FileRefusedError: archive_nested, archive_empty, and what `members_of` refuses in a zip file.
    """
    file.seek(0)
    kind = container_of(read_up_to(file, SIGNATURE_BYTES))
    if kind is None:
        return None
    members = members_of(file, size, limits) if kind == "zip" else ()
    if is_workbook(members):
        return None
    if depth > CONTAINERS_DEEP_MAX:
        raise FileRefusedError(
            "archive_nested",
            f"The file is {kind} inside {CONTAINERS_DEEP_MAX} other containers; it is not unpacked so deep.",
            "Unpack it and send the file that is inside.",
            byte_offset=0,
        )
    if kind == "zip" and not members:
        raise FileRefusedError(
            "archive_empty", "The zip file holds no file.", "Send an archive with a file in it.", byte_offset=0
        )
    return Container(kind, members)


def decompress(
    file: BinaryIO, kind: ContainerKind, member: Member | None, write: Callable[[bytes], object], limits: Limits
) -> int:
    """Hand on the plain bytes in pieces of at most about 1 MiB.

    Args:
        member: which file of a zip file; None for the other kinds.
        write: takes a piece; what it returns is ignored.

    Returns:
        How many bytes were handed on.

    Raises:
        FileRefusedError: compressed_truncated, compressed_invalid or compressed_too_large.
    """
    assert (kind == "zip") == (member is not None), (kind, member)
    start = member.offset if member else 0
    source = Source(file, kind, start, start + member.compressed_size if member else None)
    plain_bytes = 0
    for piece in _pieces(source, member):
        plain_bytes += len(piece)
        _check_size(plain_bytes, source.offset - start, limits)
        if piece:
            write(piece)
    return plain_bytes


def _pieces(source: Source, member: Member | None) -> Iterator[bytes]:
    if member is not None:
        return member_pieces(source, member)
    return {"gzip": gzip_pieces, "bzip2": bzip2_pieces, "zstd": zstandard_pieces}[source.kind](source)


def _check_size(plain_bytes: int, compressed_bytes: int, limits: Limits) -> None:
    ratio_bytes = max(RATIO_FLOOR_BYTES, compressed_bytes * limits.text_ratio_max)
    if plain_bytes <= min(limits.text_bytes_max, ratio_bytes):
        return
    if plain_bytes > limits.text_bytes_max:
        why = f"more than {limits.text_bytes_max:,} bytes come out of it"
    else:
        why = f"more than {limits.text_ratio_max:,} bytes come out of it for each that goes in"
    raise FileRefusedError(
        "compressed_too_large",
        f"The compressed file is too large when it is unpacked: {why}.",
        "If the file is what it should be, unpack it and send it as it is, or in parts.",
        byte_offset=compressed_bytes,
    )
