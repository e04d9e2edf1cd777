"""Transcript: the records of a file that `COPY` cannot take as they stand, as text that it can.

Rules:
1. A transcript is CSV in UTF-8 with a header: comma, `"`, LF. Every value is quoted, whatever it holds, and no value
   is an empty field that is not quoted. The same rows always make the same bytes.
2. Its columns are those of the rows, in the order in which they first occur. A row that lacks one has no value there.
3. A row with a flaw is a mark: a single field that starts with `MARK`. No other record of a transcript starts so. A row
   that has no value at all is a mark too if there is but one column: its line would be blank, and so no record.
4. Beside it, for each record, two whole numbers say where it stands in the file: `Row.offset` and `Row.length`.
"""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.domain.contract import COLUMNS_MAX
from ledger.errors import FileRefusedError
from projections.formats.dialect import Dialect
from projections.formats.rows import Flaw, Row

DIALECT = Dialect("delimited", ",", header=True, byte_order_mark=False, line_end="\n")
MARK = "\x18"  # CANCEL: "the data preceding it is in error" (ECMA-48)
PLACE_BYTES = 16
WRITE_BYTES = 1 << 20
RAW_BYTES_MAX = 64 << 10  # of a record with a flaw: a mark stands in memory as a whole

Write = Callable[[bytes], object]


class Place(NamedTuple):
    """Where a record stands in the file, in the units of its format (see `Row`)."""

    offset: int
    length: int


@dataclass
class Transcriber:
    """Writes rows down in one pass, if their columns are known; else says after it which there are.

    `columns` are those known before the pass. A row's other columns are added to `found` and its values there are not
    written: the pass has then to be done again with `found`. `raw_of` gives what was sent for a row.
    """

    write: Write
    write_places: Write
    raw_of: Callable[[Row], bytes]
    columns: tuple[str, ...]
    found: dict[str, None] = field(default_factory=dict)
    records: int = 0
    _lines: list[str] = field(default_factory=list)
    _size: int = 0
    _places: array[int] = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        self.found = dict.fromkeys(self.columns)
        self._put(",".join(map(_quoted, self.columns)))

    def take(self, row: Row) -> None:
        """Write one row down.

        Raises:
            FileRefusedError: columns_too_many.
        """
        self.records += 1
        self._places.extend((row.offset, row.length))
        flaw = row.flaw or self._flaw_of_values(row)
        if flaw is not None:
            self._put(_quoted(_mark(flaw, self.raw_of(row))))
            return
        values = row.values
        if not values.keys() <= self.found.keys():
            self._find(row)
        self._put(",".join([_quoted(values.get(column)) for column in self.columns]))

    def finish(self) -> None:
        """Write what is left."""
        self._flush()

    def _flaw_of_values(self, row: Row) -> Flaw | None:
        first = row.values.get(self.columns[0]) if self.columns else None
        if first is not None and first.startswith(MARK):
            return Flaw("control_character", "it starts with the control character U+0018", self.columns[0])
        alone = len(self.columns) == 1 and row.values.keys() <= self.found.keys()
        return Flaw("record_empty", "it has no value at all") if not row.values or (alone and first is None) else None

    def _find(self, row: Row) -> None:
        self.found.update(dict.fromkeys(row.values))
        if len(self.found) > COLUMNS_MAX:
            raise FileRefusedError(
                "columns_too_many",
                f"The first {self.records:,} records have {len(self.found):,} different columns; a table can have "
                f"{COLUMNS_MAX:,}.",
                "Put what varies from record to record into a list of names and values, and send the file again.",
                record=self.records,
            )

    def _put(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size >= WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            self.write(("\n".join(self._lines) + "\n").encode())
            self._lines.clear()
            self._size = 0
        if self._places:
            self.write_places(_little_endian(self._places))
            self._places = array("q")


def flaw_in(record: str) -> Flaw | None:
    """The flaw that a record's first field stands for, if it is a mark (rule 3)."""
    if not record.startswith(MARK):
        return None
    code, column, reason, raw = json.loads(record[len(MARK) :])
    return Flaw(code, reason, column, base64.b64decode(raw))


def places(data: bytes) -> Iterator[Place]:
    """Read what `write_places` was given."""
    assert len(data) % PLACE_BYTES == 0, len(data)
    for start in range(0, len(data), PLACE_BYTES):
        offset, length = data[start : start + 8], data[start + 8 : start + PLACE_BYTES]
        yield Place(int.from_bytes(offset, "little"), int.from_bytes(length, "little"))


def first_columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """The columns of the first row that can be read; none if there is no such row."""
    return next((tuple(row.values) for row in rows if row.flaw is None and row.values), ())


def _mark(flaw: Flaw, raw: bytes) -> str:
    sent = base64.b64encode(raw[:RAW_BYTES_MAX]).decode("ascii")
    return MARK + json.dumps([flaw.code, flaw.column, flaw.reason, sent], ensure_ascii=False)


def _quoted(value: str | None) -> str:
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if '"' in value else f'"{value}"'


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
