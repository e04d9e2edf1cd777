"""JSON lines (NDJSON): one object of JSON in each line.

Rules:
1. A line ends with LF or CR LF, which is no part of the record; the end of the file ends the last one. A line of blanks
   only is no record.
2. A line that is no object of JSON is a record with a flaw. The next line is read as if nothing had been.
3. A line longer than a record may be is skipped, and is a record with a flaw. If it is the last one and has no line
   end, the file is refused: it is no file of lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

from ledger.errors import FileRefusedError
from projections.formats.json_scanner import BLANKS, BLOCK_BYTES, start_of_text
from projections.formats.json_values import GrammarError, RecordDecoder
from projections.formats.rows import Flaw, Limits, Row


def read_json_lines(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a file of JSON lines in UTF-8, with or without a byte order mark.

    Args:
        options: none is known to this format.

    Raises:
        FileRefusedError: record_too_long.
    """
    decoder = RecordDecoder(limits)
    for offset, length, line in _lines(file, limits.record_bytes_max):
        if line is None:
            yield decoder.long_row(offset, length)
        elif line.strip(BLANKS):
            yield _row(decoder, line, offset)


def _row(decoder: RecordDecoder, line: bytes, offset: int) -> Row:
    try:
        return decoder.row(line, offset)
    except GrammarError as error:
        reason = f"The line is not JSON from byte {error.byte_offset:,} on: {error.reason}."
        return Row({}, offset, len(line), Flaw("json_invalid", reason))


def _lines(file: BinaryIO, bytes_max: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Offset, length and bytes of each line, without its end; no bytes if there are more than the limit."""
    offset = start_of_text(file)
    begun, dropped = bytearray(), 0  # a line whose end was not read yet, and how many bytes of it were let go
    while block := file.read(BLOCK_BYTES):
        lines = block.split(b"\n")
        begun += lines[0]
        if len(lines) > 1:
            lines[0] = bytes(begun)
            begun = bytearray(lines.pop())
            for line in lines:
                content = line[:-1] if line.endswith(b"\r") else line
                length = dropped + len(content)
                yield offset, length, content if length <= bytes_max else None
                offset += dropped + len(line) + 1
                dropped = 0
        if dropped + len(begun) > bytes_max + len(b"\r"):
            dropped += len(begun) - 1
            del begun[:-1]
    if dropped + len(begun) > bytes_max:
        raise _endless(offset, bytes_max)
    if begun:
        yield offset, len(begun), bytes(begun)


def _endless(offset: int, bytes_max: int) -> FileRefusedError:
    return FileRefusedError(
        "record_too_long",
        f"The line at byte {offset:,} has no end and is longer than {bytes_max:,} bytes.",
        "Write one record in each line, or send the file as a JSON document.",
        byte_offset=offset,
    )
