r"""Separated text: delimited text that `COPY` cannot take as it stands, read record by record.

It is read so only if its sender names a quote or an escape character, or if its lines end in more than one way.

Rules:
1. A line ends with LF or CR LF, each as it comes; with CR if the file has no LF at all. A record ends with its line,
   but within quotes a line end is part of the value, as it stands.
2. A field that starts with the quote ends with it; a quote within is doubled, or stands behind the escape character.
   Behind a closing quote there is a delimiter or the end, or the record is refused.
3. The escape character takes their meaning from a quote, a delimiter and itself, and within quotes from a line end.
   Before anything else it is a character like others: `C:\new` keeps both. `\N` alone, unquoted, is no value, and so
   is an empty field.
4. Blank lines are no records. A record has as many fields as the header, or as the first record.
5. Text without a delimiter is lines here too: each is a record, blank or not, and no character of it means anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

from ledger.errors import FileRefusedError
from projections.formats.dialect import LINE, SAMPLE_BYTES, Dialect, sniff
from projections.formats.files import read_up_to
from projections.formats.header import column_names
from projections.formats.rows import Flaw, Limits, Row

ESCAPED_NULL: Final = "N"
READ_BYTES = 1 << 20
OPTIONS = ("quote", "escape", "line_ends")


def read_separated_text(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
    """The records of separated text: see `projections.formats.rows.Reader`.

    Args:
        options: `quote`, `escape`, `delimiter` (a character each) and `header` (yes or no), as far as they are said;
            `filename`, for what a name may tell (see `dialect`).
    """
    sample = read_up_to(file, SAMPLE_BYTES)
    file.seek(0)
    end = b"\n" if b"\n" in sample or b"\r" not in sample else b"\r"
    quote, escape = options.get("quote", '"'), options.get("escape", "")
    dialect = _dialect(sample, end, quote, escape, options)
    lines = _Lines(file, end, limits.record_bytes_max)
    yield from _records(_Parser(lines, dialect.delimiter, quote, escape), dialect) if dialect.quoting else _plain(lines)


def _plain(lines: _Lines) -> Iterator[Row]:
    offset = 0
    while (line := lines.next()) is not None:
        yield Row({LINE: line[0]}, offset, lines.offset - offset)
        offset = lines.offset


def _records(parser: _Parser, dialect: Dialect) -> Iterator[Row]:
    names: list[str] | None = None
    while (found := parser.record()) is not None:
        fields, flaw, offset = found
        length = parser.lines.offset - offset
        if names is None and dialect.header and flaw is None:
            names = column_names([field or "" for field in fields])
            continue
        if names is None and flaw is None:
            names = column_names([""] * len(fields))
        if flaw is None and names is not None and len(fields) != len(names):
            flaw = Flaw("record_malformed", f"it has {len(fields):,} fields, and the file has {len(names):,} columns")
        yield Row(dict(zip(names or (), fields, strict=False)) if flaw is None else {}, offset, length, flaw)


def _dialect(sample: bytes, end: bytes, quote: str, escape: str, options: Mapping[str, str]) -> Dialect:
    """What `sniff` makes of the sample when it is written with the usual quotes and line ends."""
    text = sample.decode("utf-8", "replace").removeprefix("\ufeff")
    text = text.replace("\r\n", "\n") if end == b"\n" else text.replace("\r", "\n")
    if escape:
        text = text.replace(escape + quote, quote * 2)
    if quote != '"':
        text = text.replace('"', "'" if quote != "'" else "`").replace(quote, '"')
    return sniff(text.encode(), options.get("filename", ""), options)


class _Lines:
    """The lines of a file without their ends, and where the next one starts."""

    def __init__(self, file: BinaryIO, end: bytes, bytes_max: int) -> None:
        self._file, self._end, self.bytes_max = file, end, bytes_max
        self._buffer, self._place = b"", 0
        self.offset = 0

    def next(self) -> tuple[str, str] | None:
        """A line and its end; None behind the last."""
        start = self._place
        while (found := self._buffer.find(self._end, start)) < 0:
            start = max(len(self._buffer) - self._place, 0)
            more = self._file.read(READ_BYTES)
            self._buffer, self._place = self._buffer[self._place :] + more, 0
            if len(self._buffer) > self.bytes_max + READ_BYTES:
                raise self._refusal("record_too_long", f"The line has more than {self.bytes_max:,} bytes", self.offset)
            if not more:
                found = len(self._buffer)
                break
        raw = self._buffer[self._place : found + len(self._end)]
        if not raw:
            return None
        line = raw.removesuffix(self._end)
        if self._end == b"\n":
            line = line.removesuffix(b"\r")
        return self._text(line, raw)

    def _text(self, line: bytes, raw: bytes) -> tuple[str, str]:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            place = self.offset + error.start
            raise self._refusal("encoding_invalid", "The text is not UTF-8", place) from None
        if "\0" in text:
            raise self._refusal("nul_byte", "There is a NUL byte", self.offset + line.index(b"\0"))
        if self.offset == 0:
            text = text.removeprefix("\ufeff")
        self._place += len(raw)
        self.offset += len(raw)
        return text, raw[len(line) :].decode()

    def _refusal(self, code: str, what: str, offset: int) -> FileRefusedError:
        return FileRefusedError(
            code, f"{what} (byte {offset:,}).", "Save it as text in UTF-8 and send it again.", byte_offset=offset
        )


class _Parser:
    """Makes records of lines."""

    def __init__(self, lines: _Lines, delimiter: str, quote: str, escape: str) -> None:
        self.lines, self._delimiter, self._quote, self._escape = lines, delimiter, quote, escape
        special = re.escape(quote) + re.escape(escape)
        self._inside = re.compile(f"[^{special}]*")
        self._outside = re.compile(f"[^{re.escape(delimiter)}{re.escape(escape)}]*")
        self._text, self._end, self._at = "", "", 0

    def record(self) -> tuple[list[str | None], Flaw | None, int] | None:
        """The fields of the next record, its flaw, and where it starts; None behind the last."""
        offset = self.lines.offset
        while (line := self.lines.next()) is not None and not line[0]:
            offset = self.lines.offset
        if line is None:
            return None
        (self._text, self._end), self._at = line, 0
        fields: list[str | None] = []
        while True:
            quoted = self._text.startswith(self._quote, self._at)
            fields.append(self._quoted(offset) if quoted else self._unquoted())
            if self._at >= len(self._text):
                return fields, None, offset
            if not self._text.startswith(self._delimiter, self._at):
                return fields, Flaw("quote_misplaced", "a quote stands inside a field"), offset
            self._at += len(self._delimiter)

    def _quoted(self, offset: int) -> str:
        parts = []
        self._at += 1
        while True:
            part = self._inside.match(self._text, self._at)
            assert part is not None, "it matches nothing at least"
            parts.append(part.group())
            self._at = part.end()
            if self._at >= len(self._text):
                parts.append(self._end)
                self._next_line(offset)
            elif self._escape and self._text.startswith(self._escape, self._at):
                parts.append(self._escaped(self._quote))
            elif self._text.startswith(self._quote * 2, self._at):
                parts.append(self._quote)
                self._at += 2
            else:
                self._at += 1
                return "".join(parts)

    def _unquoted(self) -> str | None:
        parts, start = [], self._at
        while True:
            part = self._outside.match(self._text, self._at)
            assert part is not None, "it matches nothing at least"
            parts.append(part.group())
            self._at = part.end()
            if not self._escape or not self._text.startswith(self._escape, self._at):
                break
            parts.append(self._escaped(self._quote + self._delimiter))
        is_null = bool(self._escape) and self._text[start : self._at] == self._escape + ESCAPED_NULL
        return None if is_null else "".join(parts) or None

    def _escaped(self, special: str) -> str:
        """What an escape character and the one behind it stand for."""
        following = self._text[self._at + 1 : self._at + 2]
        if following and following in special + self._escape:
            self._at += 2
            return following
        self._at += 1
        return "" if not following and special == self._quote else self._escape

    def _next_line(self, offset: int) -> None:
        line = self.lines.next()
        if line is None or self.lines.offset - offset > self.lines.bytes_max:
            raise FileRefusedError(
                "quote_unterminated",
                f"A quote that opens in the record at byte {offset:,} is not closed before the end of the file, or "
                f"within {self.lines.bytes_max:,} bytes.",
                "Close the quote, or say which character quotes, and send the file again.",
                byte_offset=offset,
            )
        (self._text, self._end), self._at = line, 0
