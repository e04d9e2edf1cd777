"""Header: the first record of a delimited file, when it names the columns.

It is no record of the data, so its errors have a place in the file but no record number. Blank lines before it belong
to it. It ends by the same rule as a record: at a newline outside quotes.
"""

from __future__ import annotations

import csv
import re

import numpy

from ledger.domain.column import NAME_BYTES_MAX, SYSTEM_COLUMNS, excerpt
from ledger.domain.contract import COLUMNS_MAX
from ledger.errors import FileRefusedError
from projections.formats.blocks import Read, encoding_flaw, newline_positions, outside_quotes, read_exactly
from projections.formats.dialect import Dialect, read_records

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
HEADER_BYTES = 1 << 16  # read at first; doubled until the header ends


def header_bytes(read: Read, start: int, size: int, dialect: Dialect, record_bytes_max: int) -> bytes:
    """The bytes from `start` up to the end of the first record that is not blank.

    Raises:
        FileRefusedError: record_too_long or quote_unterminated.
    """
    length = HEADER_BYTES
    while True:
        data = read_exactly(read, start, min(length, size - start))
        ends, in_quotes = outside_quotes(data, newline_positions(data), ord(dialect.quote))
        lengths = numpy.diff(ends + 1, prepend=0)
        filled = numpy.flatnonzero(lengths > len(dialect.line_end))
        if filled.size:
            return data[: int(ends[filled[0]]) + 1]
        if len(data) > record_bytes_max:
            raise _refusal("record_too_long", f"is longer than {record_bytes_max:,} bytes", start)
        if start + len(data) == size:
            if in_quotes:
                offset = start + data.rfind(dialect.quote.encode())
                raise _refusal("quote_unterminated", "has a quote that is not closed", offset)
            return data
        length *= 2


def header_names(data: bytes, start: int, dialect: Dialect) -> list[str]:
    """The names in the header's bytes, which start at `start` in the file.

    Raises:
        FileRefusedError: nul_byte, encoding_invalid or header_unreadable.
    """
    nul = data.find(b"\0")
    if nul >= 0:
        raise _refusal("nul_byte", "holds a NUL byte, which text has not", start + nul)
    flaw = encoding_flaw(data)
    if flaw is not None:
        raise _refusal("encoding_invalid", f"holds byte 0x{data[flaw]:02x}, which is not UTF-8", start + flaw)
    try:
        records = [record for record in read_records(data.decode(), dialect.delimiter, dialect.quote) if record]
    except csv.Error as error:
        raise _refusal("header_unreadable", f"cannot be read: {error}", start) from error
    if len(records) != 1:
        raise _refusal("header_unreadable", "has a quote inside a field that is not quoted", start)
    return records[0]


def _refusal(code: str, what: str, offset: int) -> FileRefusedError:
    return FileRefusedError(
        code,
        f"The header {what} (byte {offset:,}).",
        "Correct the header and send the file again.",
        line=1,
        byte_offset=offset,
    )


def column_names(header: list[str]) -> list[str]:
    """The names of the columns of a file with this header.

    Raises:
        FileRefusedError: columns_too_many, header_invalid (a control character) or header_duplicate.
    """
    if len(header) > COLUMNS_MAX:
        raise _name_refusal(
            "columns_too_many", f"The file has {len(header):,} columns; a table can have {COLUMNS_MAX:,}."
        )
    positions: dict[str, int] = {}
    for position, text in enumerate(header, start=1):
        name = _column_name(text, position)
        if name in positions:
            raise _name_refusal(
                "header_duplicate",
                f"Columns {positions[name]} and {position} of the header are both named {excerpt(name)}.",
            )
        positions[name] = position
    return list(positions)


def _column_name(text: str, position: int) -> str:
    name = text.strip() or f"column_{position}"
    if CONTROL_CHARACTER.search(name):
        raise _name_refusal(
            "header_invalid", f"The name of column {position} in the header holds a control character: {excerpt(name)}."
        )
    if name.startswith("_"):
        name = f"column{name}"
    elif name in SYSTEM_COLUMNS:
        name = f"column_{name}"
    return name.encode()[:NAME_BYTES_MAX].decode("utf-8", "ignore")


def _name_refusal(code: str, message: str) -> FileRefusedError:
    return FileRefusedError(code, message, "Correct the header and send the file again.", line=1)
