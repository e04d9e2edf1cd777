"""A chunk's content: its records, which of them are good, and what those come to.

Rules:
1. The values are checked piece by piece, so that memory is bounded by the chunk's bytes and not by its columns.
2. The bytes that are copied are those that were read: the whole chunk where nothing is wrong with it, else the good
   records, each with its number.
3. Where values had to be put into the plain form, those are copied, and not the bytes that were read.
4. Totals and digest are those of the records that were loaded, after PostgreSQL had its say.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import pyarrow
import pyarrow.csv
from numpy.typing import NDArray

from ledger.domain.reconciliation import add_totals, digest_text
from ledger.failpoints import failpoint
from ledger.row_sets import canonical, control_totals, row_set_digest
from projections.checking import Checked, check
from projections.converting import is_converted
from projections.fields import Reading
from projections.formats.dialect import Dialect
from projections.formats.records import Records, find_records
from projections.formats.rows import Flaw
from projections.formats.splitter import Chunk, cut_blank_lines
from projections.formats.transcript import Place
from projections.rejects import Reject

PIECE_BYTES = 4 << 20
NUMBER = "_record"
PLAIN = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\n")
WITHOUT_HEADER = pyarrow.csv.WriteOptions(include_header=False)


@dataclass(frozen=True)
class CopyForm:
    """How text for `COPY` is written: its dialect, what stands for no value, and its columns."""

    dialect: Dialect
    null_token: str
    columns: tuple[str, ...]


class Source(io.BytesIO):
    """What `COPY` reads. Whatever reading ends with is kept: `COPY` would tell it as if somebody had cancelled it."""

    failure: Exception | None = None

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        try:
            failpoint("chunk_reading")
        except Exception as error:
            self.failure = error
            raise
        return super().read(size)


@dataclass
class ChunkContent:
    """The records of a chunk after they were checked. Flaws are by index, which counts from 0 within the chunk.

    `late` are those flaws that are there only because a fiscal year is closed, each with the label of the year.
    """

    chunk: Chunk
    reading: Reading
    records: Records
    pieces: list[tuple[int, Checked]]  # the index of a piece's first record, and what was found in it
    flaws: dict[int, Flaw] = field(default_factory=dict)
    late: dict[int, str] = field(default_factory=dict)

    @property
    def good(self) -> NDArray[numpy.int64]:
        """The indexes of the records that have no flaw."""
        return self.records.without(self.flaws)

    @property
    def form(self) -> CopyForm:
        """How the text that is copied is written."""
        if is_converted(self.reading):
            return CopyForm(PLAIN, "", tuple(column.name for column in self.reading.contract.columns))
        names = tuple(column.name for column in self.reading.columns if column is not None)
        return CopyForm(self.records.dialect, self.reading.null_tokens[0], names)

    def whole(self) -> Source | None:
        """All of the chunk for `COPY`, without its blank lines; None if records are numbered or converted."""
        if self.flaws or is_converted(self.reading):
            return None
        data, dialect = self.records.chunk, self.records.dialect
        return Source(b"".join(cut_blank_lines(data, dialect)) if self.chunk.blank_lines else data)

    def some(self, indexes: NDArray[numpy.int64]) -> Source:
        """Some of the good records for `COPY`, each with its number before its first field."""
        if not is_converted(self.reading):
            return Source(self.records.numbered(indexes, self.chunk.first_record))
        text = io.BytesIO()
        for start, checked in self.pieces:
            numbers = checked.good + start
            chosen = pyarrow.array(numpy.isin(numbers, indexes))
            values = checked.values.select([column.name for column in self.reading.contract.columns])
            numbered = values.add_column(0, NUMBER, pyarrow.array(numbers + self.chunk.first_record))
            pyarrow.csv.write_csv(numbered.filter(chosen), text, WITHOUT_HEADER)
        return Source(text.getvalue())

    def rejects(self, places: Sequence[Place] | None) -> list[Reject]:
        """The records with a flaw. `places` are those of all records of the chunk in the file, if it has no lines."""
        found = []
        for index in sorted(self.flaws):
            flaw, raw = self.flaws[index], self.records.bytes_of(index)
            place = Place(self.chunk.start + int(self.records.starts[index]), len(raw))
            line: int | None = self.chunk.first_line + self.records.line_of(index)
            if places is not None:
                place, line = places[index], None
            record = self.chunk.first_record + index
            found.append(Reject(record, line, *place, flaw.raw or raw, flaw.column, flaw.code, flaw.reason))
        return found

    def came_to(self) -> tuple[dict[str, dict[str, Any]], str]:
        """The control totals of the good records by column, and their row-set digest."""
        totals, digest = [], 0
        for values in self._good_values():
            columns = self.reading.contract.columns
            forms = {column.name: canonical(column, values[column.name]) for column in columns}
            digest += row_set_digest(forms[column.name] for column in columns)
            found = control_totals(columns, forms)
            totals.append({name: total.to_dict() for name, total in found.items()})
        return add_totals(totals), digest_text(digest)

    def _good_values(self) -> Iterator[pyarrow.Table]:
        for start, checked in self.pieces:
            late = [index for index in (checked.good + start).tolist() if index in self.flaws] if self.flaws else []
            if not late:
                yield checked.values
            else:
                yield checked.values.filter(pyarrow.array(~numpy.isin(checked.good + start, late)))


def read_chunk(data: bytes, chunk: Chunk, dialect: Dialect, reading: Reading) -> ChunkContent:
    """Find and check the records of a chunk."""
    records = find_records(data, dialect)
    content = ChunkContent(chunk, reading, records, [])
    for start, end in _pieces(records):
        checked = check(records.piece(start, end), reading)
        content.pieces.append((start, checked))
        content.flaws.update((start + index, flaw) for index, flaw in checked.flaws.items())
    return content


def _pieces(records: Records) -> Iterator[tuple[int, int]]:
    """Ranges of records that have about `PIECE_BYTES`."""
    start = 0
    while start < len(records):
        end = int(numpy.searchsorted(records.ends, records.starts[start] + PIECE_BYTES, side="right"))
        end = max(end, start + 1)
        yield start, end
        start = end
