"""Splitter: one pass over a file that checks its bytes, counts its records and cuts it into chunks.

Rules:
1. Chunks cover the bytes from the first after the header to the last, with no gap or overlap, and each ends where a
   record ends. A chunk is longer than it aims to be by at most one record.
2. Records count from 1 without the header, lines from 1 with it. A line ends with a newline, quoted or not.
3. A blank line of a delimited file (nothing between two line ends) is no record: `COPY` refuses it in a table of two
   columns or more. Chunks say how many they hold, and `cut_blank_lines` takes them out. In plain text it is a record.
4. Refused, each with its place: NUL bytes, what is not UTF-8, a line end other than the file's own outside quotes
   (`COPY` refuses it, or takes it for another record), a record that is too long, a quote that is never closed, and
   in plain text the two characters that `COPY` is told to take for delimiter and quote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy

from ledger.errors import FileRefusedError
from projections.formats.blocks import (
    BLOCK_BYTES,
    BYTE_ORDER_MARK,
    Positions,
    Read,
    blocks,
    carriage_return_positions,
    encoding_flaw,
    newline_positions,
    outside_quotes,
)
from projections.formats.dialect import Dialect
from projections.formats.header import header_bytes, header_names
from projections.formats.rows import Writing

CORRECT_AND_SEND = "Correct it there and send the file again."


@dataclass(frozen=True)
class Chunk:
    """The byte range [start, end) of a file. Chunks are numbered from 0, records and lines from 1."""

    number: int
    start: int
    end: int
    first_record: int
    first_line: int
    records: int
    blank_lines: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.end - self.start

    @property
    def record_numbers(self) -> range:
        """The numbers of its records."""
        return range(self.first_record, self.first_record + self.records)


@dataclass(frozen=True)
class Plan:
    """A text's chunks and totals. `data_start` is the offset after byte order mark and header.

    `places` is the digest of the blob that says where each record stands in the file, None if the text is the file.
    `corrects` says that these places are the numbers of the records that each corrects. `own_null` says that an empty
    field that is not quoted is no value, whatever the contract says, and `writing` how values are written (both are
    those of the file whose text this is). `trailer` is the offset of the last record, if that says what the others
    come to.
    """

    chunks: tuple[Chunk, ...]
    header: list[str] | None
    size: int
    data_start: int
    records: int
    blank_lines: int
    places: str | None = None
    corrects: bool = False
    own_null: bool = False
    writing: Writing = Writing.FREE
    trailer: int | None = None

    def has_trailer(self, chunk: Chunk) -> bool:
        """Whether the last record of a chunk says what the others of the file come to."""
        return self.trailer is not None and chunk.start <= self.trailer < chunk.end

    def without_trailer(self, chunk: Chunk, data: bytes) -> bytes:
        """The bytes of a chunk up to the trailer, if that stands in it."""
        return data[: (self.trailer or 0) - chunk.start] if self.has_trailer(chunk) else data

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """Read what `to_json` gave."""
        values: dict[str, Any] = json.loads(data)
        chunks = tuple(Chunk(**chunk) for chunk in values["chunks"])
        return cls(**{**values, "chunks": chunks, "writing": Writing(values.get("writing", Writing.FREE))})

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json()).hexdigest()


def split(
    read: Read,
    size: int,
    dialect: Dialect,
    *,
    chunk_bytes: int,
    record_bytes_max: int,
    on_block: Callable[[int], None] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Plan:
    """Cut a file into chunks of about `chunk_bytes`.

    Args:
        read: gives bytes of the file, `read(offset, length)`; fewer only if asked again it gives the rest.
        size: the file's size in bytes.
        record_bytes_max: longest record, with its line end.
        on_block: told the offset up to which the file was read, after each block.

    Raises:
        FileRefusedError: nul_byte, encoding_invalid, line_end_mixed, record_too_long, quote_unterminated,
            control_character or header_unreadable (rule 4).
        PartUnavailableError: the file is shorter than its size.
    """
    assert chunk_bytes > 0
    start = len(BYTE_ORDER_MARK) if dialect.byte_order_mark else 0
    header, before_data = None, b""
    if dialect.header:
        before_data = header_bytes(read, start, size, dialect, record_bytes_max)
        header = header_names(before_data, start, dialect)
    data_start = start + len(before_data)
    splitter = _Splitter(dialect, chunk_bytes, record_bytes_max, data_start, before_data.count(b"\n"))
    for offset, block in blocks(read, data_start, size, block_bytes):
        splitter.take(offset, block)
        if on_block is not None:
            on_block(offset + len(block))
    splitter.finish(size)
    return Plan(tuple(splitter.chunks), header, size, data_start, splitter.seen.records, splitter.seen.blank_lines)


def cut_blank_lines(chunk: bytes | memoryview, dialect: Dialect) -> Iterator[memoryview]:
    """The slices of a chunk between its blank lines. The chunk starts with a record and is whole."""
    ends = outside_quotes(chunk, newline_positions(chunk), ord(dialect.quote))[0] + 1
    lengths = numpy.diff(ends, prepend=0)
    view, kept = memoryview(chunk), 0
    for end in ends[lengths == len(dialect.line_end)].tolist():
        if end - len(dialect.line_end) > kept:
            yield view[kept : end - len(dialect.line_end)]
        kept = end
    if kept < len(view):
        yield view[kept:]


@dataclass(frozen=True)
class _Mark:
    """What lies before an offset. `lines` are newlines."""

    offset: int
    lines: int
    records: int = 0
    blank_lines: int = 0


class _Splitter:
    """The state of the pass between two blocks."""

    def __init__(self, dialect: Dialect, chunk_bytes: int, record_bytes_max: int, start: int, lines: int) -> None:
        self.chunks: list[Chunk] = []
        self.seen = _Mark(start, lines)  # up to the start of the next block; its records have ended
        self._chunk_start = self.seen
        self._record_start = self.seen
        self._quote_open: _Mark | None = None  # the last quote, if it is open
        self._dialect: Final = dialect
        self._chunk_bytes: Final = chunk_bytes
        self._record_bytes_max: Final = record_bytes_max

    def take(self, offset: int, block: bytes) -> None:
        """Check and count a block, and cut the chunks that end in it."""
        assert offset == self.seen.offset
        self._check_bytes(block)
        newlines = newline_positions(block)
        ends, in_quotes = self._outside(block, newlines)
        self._check_line_ends(block, newlines, ends)
        ends = ends + 1
        lengths = numpy.diff(ends, prepend=self._record_start.offset - offset)
        blank = lengths == (len(self._dialect.line_end) if self._dialect.quoting else 0)
        self._check_lengths(block, newlines, ends, lengths)
        marks = _Marks(self.seen, newlines, ends, blank)
        self._cut(marks)
        if ends.size:
            self._record_start = marks.after(ends.size)
        self._quote_open = self._last_quote(block) if in_quotes else None
        total = marks.after(ends.size)
        self.seen = _Mark(offset + len(block), self.seen.lines + newlines.size, total.records, total.blank_lines)

    def finish(self, size: int) -> None:
        """Account for the last record and the last chunk of a file of this size."""
        if self._quote_open is not None:
            self._refuse_open_quote(self._quote_open)
        if self._record_start.offset < size:
            self.seen = _Mark(size, self.seen.lines, self.seen.records + 1, self.seen.blank_lines)
        if self._chunk_start.offset < size:
            self._close_chunk(self.seen)

    def _cut(self, marks: _Marks) -> None:
        while True:
            target = self._chunk_start.offset + self._chunk_bytes - self.seen.offset
            index = int(numpy.searchsorted(marks.ends, target))
            if index == marks.ends.size:
                return
            self._close_chunk(marks.after(index + 1))

    def _close_chunk(self, end: _Mark) -> None:
        start = self._chunk_start
        self.chunks.append(
            Chunk(
                number=len(self.chunks),
                start=start.offset,
                end=end.offset,
                first_record=start.records + 1,
                first_line=start.lines + 1,
                records=end.records - start.records,
                blank_lines=end.blank_lines - start.blank_lines,
            )
        )
        self._chunk_start = end

    def _outside(self, block: bytes, positions: Positions) -> tuple[Positions, bool]:
        if not self._dialect.quoting:
            return positions, False
        return outside_quotes(block, positions, ord(self._dialect.quote), self._quote_open is not None)

    def _last_quote(self, block: bytes) -> _Mark | None:
        position = block.rfind(self._dialect.quote.encode())
        return self._quote_open if position < 0 else self._before(block, position)

    def _before(self, block: bytes, position: int) -> _Mark:
        """What lies before a position in the block that is being taken."""
        before = block[:position]
        newlines = newline_positions(before)
        ends = self._outside(before, newlines)[0] + 1
        lengths = numpy.diff(ends, prepend=self._record_start.offset - self.seen.offset)
        blank = lengths == (len(self._dialect.line_end) if self._dialect.quoting else 0)
        mark = _Marks(self.seen, newlines, ends, blank).after(ends.size)
        return _Mark(self.seen.offset + position, self.seen.lines + newlines.size, mark.records, mark.blank_lines)

    def _check_bytes(self, block: bytes) -> None:
        position = block.find(b"\0")
        if position >= 0:
            what = "There is a NUL byte, which text has not,"
            raise self._refusal(block, position, "nul_byte", what, "Send the file as text in UTF-8.")
        flaw = encoding_flaw(block)
        if flaw is not None:
            what = f"Byte 0x{block[flaw]:02x}, which is not UTF-8, stands"
            raise self._refusal(block, flaw, "encoding_invalid", what, "Save the file as UTF-8 and send it again.")
        for character in () if self._dialect.quoting else (self._dialect.delimiter, self._dialect.quote):
            position = block.find(character.encode())
            if position >= 0:
                what = f"The control character {character!r}, which plain text cannot hold, stands"
                raise self._refusal(block, position, "control_character", what, CORRECT_AND_SEND)

    def _check_line_ends(self, block: bytes, newlines: Positions, ends: Positions) -> None:
        """Check that outside quotes there is no carriage return or newline but as the file's line end."""
        windows = self._dialect.line_end == "\r\n"
        if not windows and b"\r" not in block:
            return
        returns = carriage_return_positions(block)
        if windows and numpy.array_equal(returns + 1, newlines):
            return
        wrong = returns = self._outside(block, returns)[0]
        if windows:
            alone = numpy.setdiff1d(returns, ends - 1, assume_unique=True)
            bare = numpy.setdiff1d(ends, returns + 1, assume_unique=True)
            wrong = numpy.sort(numpy.concatenate((alone, bare)))
        if wrong.size:
            what = f"Lines end with {self._dialect.line_end!r}, but {chr(block[wrong[0]])!r} alone stands"
            remedy = "Give every line the same end, or quote the field, and send the file again."
            raise self._refusal(block, int(wrong[0]), "line_end_mixed", what, remedy)

    def _check_lengths(self, block: bytes, newlines: Positions, ends: Positions, lengths: Positions) -> None:
        long = numpy.flatnonzero(lengths > self._record_bytes_max)
        if long.size:
            index = int(long[0])
            start = self._before(block, int(ends[index - 1])) if index else self._record_start
        elif ends.size:
            if len(block) - int(ends[-1]) <= self._record_bytes_max:
                return
            start = self._before(block, int(ends[-1]))
        else:
            if self.seen.offset + len(block) - self._record_start.offset <= self._record_bytes_max:
                return
            start = self._record_start
        raise FileRefusedError(
            "record_too_long",
            f"Record {start.records + 1:,}, which starts in line {start.lines + 1:,} at byte {start.offset:,}, is "
            f"longer than {self._record_bytes_max:,} bytes.",
            "Look there for a missing line end or a quote that is not closed, and send the file again.",
            record=start.records + 1,
            line=start.lines + 1,
            byte_offset=start.offset,
        )

    def _refuse_open_quote(self, quote: _Mark) -> None:
        raise FileRefusedError(
            "quote_unterminated",
            f"The quote in record {quote.records + 1:,}, line {quote.lines + 1:,}, at byte {quote.offset:,} is not "
            f"closed before the file ends. The record starts in line {self._record_start.lines + 1:,}.",
            "Close or double the quote that is too many in that record, and send the file again.",
            record=quote.records + 1,
            line=quote.lines + 1,
            byte_offset=quote.offset,
        )

    def _refusal(self, block: bytes, position: int, code: str, what: str, remedy: str) -> FileRefusedError:
        at = self._before(block, position)
        return FileRefusedError(
            code,
            f"{what} in record {at.records + 1:,}, line {at.lines + 1:,}, at byte {at.offset:,}.",
            remedy,
            record=at.records + 1,
            line=at.lines + 1,
            byte_offset=at.offset,
        )


@dataclass(frozen=True)
class _Marks:
    """The record ends of one block, and what lies before each."""

    block_start: _Mark
    newlines: Positions
    ends: Positions
    blank: numpy.ndarray[Any, numpy.dtype[numpy.bool_]]

    def after(self, count: int) -> _Mark:
        """What lies before the end of the block's `count`th record; of the block's start for none."""
        if count == 0:
            return self.block_start
        end = int(self.ends[count - 1])
        blank_lines = int(numpy.count_nonzero(self.blank[:count]))
        return _Mark(
            self.block_start.offset + end,
            self.block_start.lines + int(numpy.searchsorted(self.newlines, end)),
            self.block_start.records + count - blank_lines,
            self.block_start.blank_lines + blank_lines,
        )
