"""Streams: what is inside a gzip, bzip2 or Zstandard file, piece by piece.

Rules:
1. A file may hold several compressed streams one after another, as `cat a.gz b.gz` makes them: their contents follow
   each other. It must end where a stream ends. Zeros may follow the last gzip stream (tapes are padded so); anything
   else that follows is refused, because a file whose end is damaged looks the same.
2. No more is decompressed at a time than a piece of about 1 MiB, however much a few bytes stand for.
3. What is wrong is told with a byte offset in the compressed file: where a stream starts, where the file ends, or where
   the stretch of at most 128 KiB starts in which the damage was noticed (the damage itself can lie before it).
4. Zstandard's frames and blocks are followed by their own headers, so that each is decompressed by itself. A frame
   without a checksum can be damaged in a way that nobody notices: that is for the tool that wrote it.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

from ledger.errors import FileRefusedError
from projections.formats.files import PIECE_BYTES, read_up_to

PLAIN_BYTES = 1 << 20
GZIP, BZIP2, ZSTANDARD = b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"
GZIP_FORMAT, RAW_DEFLATE = 31, -15  # zlib's numbers for what stands around the compressed bytes
ZSTANDARD_WINDOW_MAX = 1 << 27  # bytes of memory; what `zstd` reads unless it is told --long
ZSTANDARD_BLOCK_MAX = 1 << 17
SEND_AGAIN = "Compress the file again, check it ({}), and send it again."


class Source:
    """The compressed bytes [start, end) of a file, and how far they were taken."""

    def __init__(self, file: BinaryIO, kind: str, start: int = 0, end: int | None = None) -> None:
        self.kind = kind
        self.offset = start  # of the first byte that was not taken
        self.buffer = b""
        self._file = file
        self._read_to = start
        self._end = end

    def fill(self, count: int = 1) -> bool:
        """Whether at least `count` bytes are left; then `buffer` holds them."""
        while len(self.buffer) < count:
            wanted = max(PIECE_BYTES, count - len(self.buffer))
            if self._end is not None:
                wanted = min(wanted, self._end - self._read_to)
            self._file.seek(self._read_to)
            more = read_up_to(self._file, wanted) if wanted else b""
            if not more:
                return False
            self._read_to += len(more)
            self.buffer += more
        return True

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the buffer."""
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        self.offset += len(taken)
        return taken

    def give_back(self, data: bytes) -> None:
        """Put what was taken last in front again."""
        self.buffer = data + self.buffer
        self.offset -= len(data)

    def exactly(self, count: int, start: int) -> bytes:
        """The next `count` bytes of a stream that started at `start`."""
        if not self.fill(count):
            raise self.truncated(start)
        return self.take(count)

    def truncated(self, start: int) -> FileRefusedError:
        """The refusal of a stream that is not complete."""
        end = self.offset + len(self.buffer)
        return FileRefusedError(
            "compressed_truncated",
            f"The {self.kind} data that starts at byte {start:,} is not complete: it ends at byte {end:,}.",
            "The file was probably cut while it was copied. Send the whole file.",
            byte_offset=end,
        )

    def invalid(self, offset: int, what: str) -> FileRefusedError:
        """The refusal of bytes that cannot be decompressed."""
        check = {"gzip": "gzip -t", "bzip2": "bzip2 -t", "zstd": "zstd -t"}.get(self.kind, "unzip -t")
        return FileRefusedError(
            "compressed_invalid",
            f"The {self.kind} data cannot be read at byte {offset:,}: {what}.",
            SEND_AGAIN.format(check),
            byte_offset=offset,
        )


def gzip_pieces(source: Source) -> Iterator[bytes]:
    """The plain bytes of a gzip file.

    Raises:
        FileRefusedError: compressed_truncated or compressed_invalid.
    """
    first = source.offset
    while source.fill():
        source.fill(len(GZIP))
        if source.offset > first and source.buffer[0] == 0:
            _check_padding(source)
            return
        if not (source.buffer.startswith(GZIP) or GZIP.startswith(source.buffer)):
            raise source.invalid(source.offset, "what stands there is not gzip")
        yield from deflate_pieces(source, GZIP_FORMAT)


def deflate_pieces(source: Source, window_bits: int) -> Iterator[bytes]:
    """The plain bytes of one stream; the source is left behind its end."""
    start = source.offset
    decoder = zlib.decompressobj(window_bits)
    while not decoder.eof:
        more = source.fill()
        offset = source.offset
        data = source.take(len(source.buffer))
        try:
            piece = decoder.decompress(data, PLAIN_BYTES)
        except zlib.error as error:
            raise source.invalid(offset, str(error).rpartition(": ")[2]) from error
        source.give_back(decoder.unused_data if decoder.eof else decoder.unconsumed_tail)
        if not more and not piece and not decoder.eof:
            raise source.truncated(start)
        yield piece


def _check_padding(source: Source) -> None:
    while source.fill():
        rest = source.buffer.lstrip(b"\0")
        if rest:
            offset = source.offset + len(source.buffer) - len(rest)
            raise source.invalid(offset, "it ended before, and what follows is not padding")
        source.take(len(source.buffer))


def bzip2_pieces(source: Source) -> Iterator[bytes]:
    """The plain bytes of a bzip2 file.

    Raises:
        FileRefusedError: compressed_truncated or compressed_invalid.
    """
    while source.fill():
        source.fill(len(BZIP2))
        start = source.offset
        if not (source.buffer.startswith(BZIP2) or BZIP2.startswith(source.buffer)):
            raise source.invalid(start, "what stands there is not bzip2")
        decoder = bz2.BZ2Decompressor()
        while not decoder.eof:
            if decoder.needs_input and not source.fill():
                raise source.truncated(start)
            offset = source.offset
            data = source.take(len(source.buffer)) if decoder.needs_input else b""
            try:
                piece = decoder.decompress(data, PLAIN_BYTES)
            except (OSError, ValueError) as error:
                raise source.invalid(offset, "a block is damaged") from error
            yield piece
        source.give_back(decoder.unused_data)


def zstandard_pieces(source: Source) -> Iterator[bytes]:
    """The plain bytes of a Zstandard file.

    Raises:
        FileRefusedError: compressed_truncated, compressed_invalid or compressed_too_large (its window).
    """
    while source.fill():
        start = source.offset
        magic = source.exactly(4, start)
        if magic == ZSTANDARD:
            yield from _frame_pieces(source, start)
        elif magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50:
            _skip_frame(source, start)
        else:
            raise source.invalid(start, "what stands there is not Zstandard")


def _skip_frame(source: Source, start: int) -> None:
    """Leave out a frame that holds something else than data."""
    rest = int.from_bytes(source.exactly(4, start), "little")
    while rest:
        rest -= len(source.exactly(min(rest, PIECE_BYTES), start))


def _frame_pieces(source: Source, start: int) -> Iterator[bytes]:
    descriptor = source.exactly(1, start)
    flags = descriptor[0]
    single_segment, checksum = flags >> 5 & 1, flags >> 2 & 1
    size_bytes = (single_segment, 2, 4, 8)[flags >> 6]
    header = source.exactly((1 - single_segment) + (0, 1, 2, 4)[flags & 3] + size_bytes, start)
    if not single_segment and 1 << (10 + (header[0] >> 3)) > ZSTANDARD_WINDOW_MAX:
        raise FileRefusedError(
            "compressed_too_large",
            f"The zstd data at byte {start:,} needs more than {ZSTANDARD_WINDOW_MAX:,} bytes of memory to be read.",
            "Compress the file without the option --long and send it again.",
            byte_offset=start,
        )
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTANDARD_WINDOW_MAX).decompressobj()
    offset, data, last = start, ZSTANDARD + descriptor + header, 0
    while True:
        try:
            piece = decoder.decompress(data)
        except zstandard.ZstdError as error:
            raise source.invalid(offset, str(error).rpartition(": ")[2]) from error
        yield piece
        if last:
            break
        offset = source.offset
        block = source.exactly(3, start)
        number = int.from_bytes(block, "little")
        last, kind, size = number & 1, number >> 1 & 3, number >> 3
        if size > ZSTANDARD_BLOCK_MAX or kind == 3:
            raise source.invalid(offset, "a block has an impossible size or kind")
        data = block + source.exactly((1 if kind == 1 else size) + (4 if last and checksum else 0), start)
    if not decoder.eof or decoder.unused_data:
        raise source.invalid(offset, "a frame ends elsewhere than its blocks")
