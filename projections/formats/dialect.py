"""Dialect: how the bytes of a text file become records, and how a file's dialect is found.

Rules:
1. The content decides, never the name alone. A delimiter is one of comma, tab, bar and semicolon under which the
   first 200 records have as many fields as the first one has, two or more. A name that ends in .csv, .tsv, .tab or
   .psv makes it enough that half of the records agree (the others are reported when the file is loaded); any other
   name needs nine in ten, and two records.
2. Of several such delimiters the one most records agree on wins, then the one with the most fields, then the
   rarest in prose: tab, bar, semicolon, comma.
3. Without a delimiter, a file with one of those names whose first record reads as a header has one column. Everything
   else is plain text, format "lines": one column `line`, a newline always ends a record, and nothing quotes it.
4. The first record is a header if its fields are filled, different from each other, and none is a number, a date or a
   boolean, and if below it some column holds only such values, or all its fields look like identifiers that do not
   occur again in their own columns.
5. Only UTF-8 is read; other encodings, compression and other formats were dealt with before, see `recognise`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy

from ledger.domain.values import ColumnType
from ledger.errors import FileRefusedError
from projections.formats.blocks import BYTE_ORDER_MARK, newline_positions, outside_quotes
from projections.formats.values import value_type

SAMPLE_BYTES = 1 << 20
RECORDS_EXAMINED = 200
DELIMITERS = "\t|;,"
DELIMITED_NAMES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
NOTHING_SAID: Mapping[str, str] = MappingProxyType({})
FIXED = "fixed"
LINE = "line"  # the only column of plain text
# What lines are copied with. A line that holds one of these characters is refused, see `splitter`.
LINE_DELIMITER, LINE_QUOTE = "\x01", "\x02"
IDENTIFIER = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Dialect:
    """How a file's bytes become records.

    `format` is "delimited" or "lines"; `line_end` is LF or CR LF. Under "lines" the delimiter and the quote are
    characters that no line holds.
    """

    format: str
    delimiter: str
    header: bool
    byte_order_mark: bool
    line_end: str
    quote: str = '"'
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        assert self.format in ("delimited", "lines"), self.format
        assert self.line_end in ("\n", "\r\n"), self.line_end
        assert len(self.delimiter) == len(self.quote) == 1, (self.delimiter, self.quote)

    def to_dict(self) -> dict[str, Any]:
        """The dialect as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dialect:
        """Read what `to_dict` gave."""
        return cls(**values)

    @property
    def quoting(self) -> bool:
        """Whether the quote character has a meaning."""
        return self.format == "delimited"


def read_records(text: str, delimiter: str, quote: str = '"') -> Iterator[list[str]]:
    """The fields of each record of a piece of text; a blank line gives an empty list."""
    # The limit belongs to the process; a field is as long as the longest record may be, not 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar=quote)


def sniff(sample: bytes, filename: str, options: Mapping[str, str] = NOTHING_SAID) -> Dialect:
    """Find the dialect of a file.

    Args:
        sample: the first `SAMPLE_BYTES` of the file, or the whole of a smaller one.
        filename: its name, of which only the last extension counts, and never alone.
        options: what its sender says: `delimiter` (a character) and `header` (yes or no); and `layout`, if that is
            `FIXED`: lines without delimiters.

    Raises:
        FileRefusedError: file_empty, nul_byte or line_end_unknown.
    """
    _refuse_what_is_not_text(sample)
    byte_order_mark = sample.startswith(BYTE_ORDER_MARK)
    start = len(BYTE_ORDER_MARK) if byte_order_mark else 0
    ends = _record_ends(sample[start:])
    complete = start + int(ends[-1]) if ends.size and len(sample) >= SAMPLE_BYTES else len(sample)
    body = sample[start:complete]
    line_end = _line_end(body, int(ends[0]) if ends.size else body.find(b"\n") + 1, start)
    text = body.decode("utf-8", "replace")
    delimiter, header = None, False
    if options.get("layout") != FIXED:
        delimiter, header = _delimiter(text, PurePosixPath(filename).suffix.lower(), options.get("delimiter"))
    if delimiter is not None and "header" in options:
        header = options["header"] == "yes"
    if delimiter is None:
        line_end = _line_end(body, body.find(b"\n") + 1, start)
        return Dialect("lines", LINE_DELIMITER, False, byte_order_mark, line_end, LINE_QUOTE)
    return Dialect("delimited", delimiter, header, byte_order_mark, line_end)


def _record_ends(body: bytes) -> numpy.ndarray[Any, numpy.dtype[numpy.int64]]:
    """Where the records of the sample end, if it is delimited."""
    return outside_quotes(body, newline_positions(body), ord('"'))[0] + 1


def _refuse_what_is_not_text(sample: bytes) -> None:
    if not sample or sample == BYTE_ORDER_MARK:
        raise FileRefusedError("file_empty", "The file is empty.", "Send a file with content.", byte_offset=0)
    offset = sample.find(b"\0")
    if offset >= 0:
        raise FileRefusedError(
            "nul_byte",
            f"There is a NUL byte at byte {offset:,}: the file is binary, or not in UTF-8.",
            "Save it as text in UTF-8 and send it again.",
            line=sample.count(b"\n", 0, offset) + 1,
            byte_offset=offset,
        )


def _line_end(body: bytes, first_end: int, start: int) -> str:
    """The line end of a body whose first line ends before `first_end`, 0 if nothing ends a line."""
    if first_end:
        return "\r\n" if body[:first_end].endswith(b"\r\n") else "\n"
    offset = body.find(b"\r")
    if offset >= 0 and body.count(b'"', 0, offset) % 2 == 0:
        raise FileRefusedError(
            "line_end_unknown",
            f"Lines end with a carriage return alone, the first at byte {start + offset:,}.",
            "Save the file with the line ends of Unix (LF) or Windows (CR LF) and send it again.",
            line=1,
            byte_offset=start + offset,
        )
    return "\n"


def _delimiter(text: str, extension: str, said: str | None) -> tuple[str | None, bool]:
    """The delimiter, None for plain text, and whether the first record is a header."""
    if said is not None:
        records = _first_records(text, said)
        return said, bool(records) and _is_header([each for each in records if len(each) == len(records[0])])
    named = DELIMITED_NAMES.get(extension)
    found = []
    for rank, delimiter in enumerate(DELIMITERS):
        records = _first_records(text, delimiter)
        fields = len(records[0]) if records else 0
        agreeing = [record for record in records if len(record) == fields]
        share = len(agreeing) / max(len(records), 1)
        enough = share >= 0.5 if named else share >= 0.9 and len(records) >= 2
        if fields >= 2 and enough:
            found.append((share, fields, -rank, delimiter, agreeing))
    if found:
        best = max(found, key=lambda each: each[:3])
        return best[3], _is_header(best[4])
    if named:
        records = _first_records(text, named)
        if records and all(len(record) == 1 for record in records) and _is_header(records):
            return named, True
    return None, False


def _first_records(text: str, delimiter: str) -> list[list[str]]:
    return list(islice((record for record in read_records(text, delimiter) if record), RECORDS_EXAMINED))


def _is_header(records: list[list[str]]) -> bool:
    """Whether the first of these equally long records names the others' fields (rule 4)."""
    names = [name.strip() for name in records[0]]
    if not all(names) or len(set(names)) < len(names) or any(map(_is_value, names)):
        return False
    columns = [[value for value in column if value] for column in zip(*records[1:], strict=True)]
    if any(column and all(map(_is_value, column)) for column in columns):
        return True
    if not all(IDENTIFIER.fullmatch(name) for name in names):
        return False
    return not any(name in column for name, column in zip(names, columns, strict=False))


def _is_value(text: str) -> bool:
    """Whether the text is a number, a date or a boolean, however it is written."""
    return value_type(text) is not ColumnType.TEXT or (any(map(str.isdigit, text)) and not any(map(str.isalpha, text)))
