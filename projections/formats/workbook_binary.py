"""Workbook survey of Excel's binary formats, .xls and .xlsb: see `workbook_survey`.

Both are a row of records: a number that says what a record is, its length, its content. An .xls workbook is one of the
streams in an OLE file, a file system in a file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from projections.formats.workbook_survey import ERROR, Package, Survey, encrypted, invalid

# Records of .xls
BOUND_SHEET, FILE_PASS, END_OF_PART, FORMULA, BOOLEAN_OR_ERROR, MULTIPLE_NUMBERS = 0x85, 0x2F, 0x0A, 0x06, 0x205, 0xBD
VALUES = {0x203, 0x27E, 0x204, 0xFD, 0xD6, FORMULA, BOOLEAN_OR_ERROR, MULTIPLE_NUMBERS}
SHARED_TEXTS, DIMENSIONS = 0xFC, 0x200
ROWS_MAX, COLUMNS_MAX = 1 << 16, 1 << 8
FORMULA_ERROR = b"\x02"  # the first byte of its result, when the last two are 0xFFFF
# Records of .xlsb
BUNDLE_SHEET, ROW, CELLS, CELL_ERRORS = 156, 0, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 62}, {3, 11}

END_OF_CHAIN, FREE = 0xFFFFFFFE, 0xFFFFFFFF
HEADER_SECTORS = 109  # how many sectors of the table the header names
DIRECTORY_ENTRY = 128


def survey_xls(data: bytes) -> list[Survey]:
    """The sheets of an OLE file's workbook, in its order.

    Raises:
        FileRefusedError: workbook_encrypted or workbook_invalid.
    """
    try:
        streams = _Ole(data)
        if any(name in streams.entries for name in ("EncryptedPackage", "EncryptionInfo")):
            raise encrypted()
        name = next((name for name in ("Workbook", "Book") if name in streams.entries), None)
        if name is None:
            raise invalid("the file holds no workbook")
        return _survey_stream(streams.read(name))
    except (struct.error, IndexError) as error:
        raise invalid("it ends before a part of it does") from error


def _survey_stream(stream: bytes) -> list[Survey]:
    surveys, starts = [], []
    for kind, content in _records(stream, 0):
        if kind == FILE_PASS:
            raise encrypted()
        # calamine makes room for as many texts as are announced; each takes three bytes at least.
        if kind == SHARED_TEXTS and struct.unpack_from("<I", content, 4)[0] > len(stream):
            raise invalid("it announces more texts than it can hold")
        if kind == BOUND_SHEET:
            start, _, _, length, wide = struct.unpack_from("<IBBBB", content)
            name = content[8:].decode("utf-16-le", "replace") if wide & 1 else content[8:].decode("latin-1")
            surveys.append(Survey(name[:length]))
            starts.append(start)
        if kind == END_OF_PART:
            break
    for survey, start in zip(surveys, starts, strict=True):
        _survey_sheet(stream, start, survey)
    return surveys


def _survey_sheet(stream: bytes, start: int, survey: Survey) -> None:
    depth = 0  # of charts inside the sheet
    for kind, content in _records(stream, start):
        if kind & 0xFF == 0x09 and kind >> 8 in (0, 2, 4, 8):
            depth += 1
        elif kind == END_OF_PART:
            depth -= 1
            if depth <= 0:
                return
        elif kind == DIMENSIONS and len(content) >= 12:
            # calamine makes room for as many cells as are announced.
            first_row, end_row, first_column, end_column = struct.unpack_from("<IIHH", content)
            if not (first_row <= end_row <= ROWS_MAX and first_column <= end_column <= COLUMNS_MAX):
                raise invalid(f"sheet {survey.name!r} announces an impossible size")
        elif kind in VALUES and depth == 1:
            row, column = struct.unpack_from("<HH", content)
            wrong = (kind == BOOLEAN_OR_ERROR and content[7] == 1) or (
                kind == FORMULA and content[6:7] == FORMULA_ERROR and content[12:14] == b"\xff\xff"
            )
            last = struct.unpack_from("<H", content, len(content) - 2)[0] if kind == MULTIPLE_NUMBERS else column
            survey.fill(row + 1, last, ERROR if wrong else None)


def _records(stream: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    while place + 4 <= len(stream):
        kind, length = struct.unpack_from("<HH", stream, place)
        yield kind, stream[place + 4 : place + 4 + length]
        place += 4 + length


class _Ole:
    """The streams of an OLE file, by their names."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        shift, small_shift = struct.unpack_from("<HH", data, 30)
        if not (7 <= shift <= 16 and 4 <= small_shift < shift):
            raise invalid("its sectors have an impossible size")
        self._sector, self._small_sector = 1 << shift, 1 << small_shift
        tables, directory, _, self._cutoff, small_table, _, more, _ = struct.unpack_from("<I I I I I I I I", data, 44)
        self._table = self._read_table(tables, more)
        entries = self._chain(directory, self._table, self._sector_bytes)
        self.entries: dict[str, tuple[int, int]] = {}
        root = (END_OF_CHAIN, 0)
        for offset in range(0, len(entries) - DIRECTORY_ENTRY + 1, DIRECTORY_ENTRY):
            name_bytes, kind = struct.unpack_from("<HB", entries, offset + 64)
            start, size = struct.unpack_from("<II", entries, offset + 116)
            if kind == 5:
                root = (start, size)
            elif kind == 2 and name_bytes >= 2:
                name = entries[offset : offset + min(name_bytes, 64) - 2].decode("utf-16-le", "replace")
                self.entries.setdefault(name, (start, size))
        self._small = self._chain(root[0], self._table, self._sector_bytes)
        table = self._chain(small_table, self._table, self._sector_bytes)
        self._small_table = [number for (number,) in struct.iter_unpack("<I", table[: len(table) & ~3])]

    def read(self, name: str) -> bytes:
        """A stream's bytes."""
        start, size = self.entries[name]
        if size < self._cutoff:
            return self._chain(start, self._small_table, self._small_bytes)[:size]
        return self._chain(start, self._table, self._sector_bytes)[:size]

    def _read_table(self, tables: int, more: int) -> list[int]:
        """Which sector follows which."""
        numbers = list(struct.unpack_from(f"<{HEADER_SECTORS}I", self._data, 76))
        seen = 0
        while more not in (END_OF_CHAIN, FREE) and len(numbers) < tables:
            seen += 1
            if seen > len(self._data) // self._sector:
                raise invalid("its table of sectors runs in a circle")
            *named, more = struct.unpack(f"<{self._sector // 4}I", self._sector_bytes(more))
            numbers += named
        table: list[int] = []
        for number in numbers[:tables]:
            if number not in (END_OF_CHAIN, FREE):
                table += struct.unpack(f"<{self._sector // 4}I", self._sector_bytes(number))
        return table

    def _chain(self, number: int, table: list[int], sector: Callable[[int], bytes]) -> bytes:
        pieces: list[bytes] = []
        while number not in (END_OF_CHAIN, FREE):
            if len(pieces) > len(table):
                raise invalid("its sectors run in a circle")
            pieces.append(sector(number))
            number = table[number]
        return b"".join(pieces)

    def _sector_bytes(self, number: int) -> bytes:
        piece = self._data[(number + 1) * self._sector : (number + 2) * self._sector]
        # The last sector of a file may be shorter.
        return piece.ljust(self._sector, b"\0") if piece else self._outside()

    def _small_bytes(self, number: int) -> bytes:
        return self._small[number * self._small_sector : (number + 1) * self._small_sector] or self._outside()

    def _outside(self) -> bytes:
        raise invalid("a sector lies outside of the file")


def survey_xlsb(package: Package, workbook: str) -> list[Survey]:
    """The sheets of an .xlsb workbook whose main part is `workbook`.

    Raises:
        FileRefusedError: workbook_invalid or workbook_too_large.
    """
    relations = package.relations(workbook)
    surveys = []
    try:
        for number, content in _long_records(package, workbook):
            if number == BUNDLE_SHEET:
                relation, end = _text(content, 8)
                survey = Survey(_text(content, end)[0])
                surveys.append((survey, relations.get(relation, ("", ""))))
        for survey, (kind, part) in surveys:
            if kind.endswith("/worksheet"):
                _survey_binary_sheet(package, part, survey)
    except struct.error as error:
        raise invalid("a record is shorter than it should be") from error
    return [survey for survey, _ in surveys]


def _survey_binary_sheet(package: Package, part: str, survey: Survey) -> None:
    row = 0
    for number, content in _long_records(package, part):
        if number == ROW:
            row = struct.unpack_from("<I", content)[0] + 1
        elif number in CELLS:
            survey.fill(row, struct.unpack_from("<I", content)[0], ERROR if number in CELL_ERRORS else None)


def _text(content: bytes, start: int) -> tuple[str, int]:
    length = struct.unpack_from("<I", content, start)[0]
    end = start + 4 + 2 * length
    return content[start + 4 : end].decode("utf-16-le", "replace"), end


def _long_records(package: Package, part: str) -> Iterator[tuple[int, bytes]]:
    """The records of an .xlsb part."""
    data, place = b"", 0
    pieces = package.pieces(part)
    more = True
    while True:
        head = _head(data, place)
        if head is None or place + head[2] + head[1] > len(data):
            piece = next(pieces, None) if more else None
            if piece is None:
                more = False
                if head is None and place >= len(data):
                    return
                raise invalid(f"its part {part!r} ends inside a record")
            data, place = data[place:] + piece, 0
            continue
        number, length, head_length = head
        start = place + head_length
        yield number, data[start : start + length]
        place = start + length


def _head(data: bytes, place: int) -> tuple[int, int, int] | None:
    """A record's number, its length, and the length of these two; None if more bytes are needed."""
    start = place
    values = []
    for bytes_max in (2, 4):
        value = 0
        for index in range(bytes_max):
            if place >= len(data):
                return None
            byte = data[place]
            place += 1
            value |= (byte & 127) << 7 * index
            if byte < 128:
                break
        values.append(value)
    return values[0], values[1], place - start
