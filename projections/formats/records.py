"""Records: where each record of a chunk stands, found for the whole chunk at once.

Rules:
1. A chunk starts with a record and ends with one. A newline outside quotes ends a record; blank lines are none, but
   in plain text, where a line is a record whatever it holds.
2. A quote is regular if it opens a field at its start, closes it at its end, or is doubled within. `COPY` takes others
   too, and loads the field without them: a silent change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from projections.formats.blocks import Positions, newline_positions, outside_quotes
from projections.formats.dialect import Dialect


@dataclass(frozen=True)
class Records:
    """The records of a chunk: `starts` and `ends` are bytes within it, an end lies behind the line end."""

    chunk: bytes
    dialect: Dialect
    starts: Positions
    ends: Positions
    newlines: Positions

    def __len__(self) -> int:
        return int(self.starts.size)

    def piece(self, start: int, end: int) -> Records:
        """The records from index `start` up to index `end` as a chunk of their own; at least one."""
        first, last = int(self.starts[start]), int(self.ends[end - 1])
        starts, ends = self.starts[start:end] - first, self.ends[start:end] - first
        return Records(self.chunk[first:last], self.dialect, starts, ends, newline_positions(b""))

    def bytes_of(self, index: int) -> bytes:
        """A record as it stands in the chunk, with its line end; `index` counts from 0."""
        return self.chunk[int(self.starts[index]) : int(self.ends[index])]

    def line_of(self, index: int) -> int:
        """The line in which a record starts, counted from 0 within the chunk."""
        return int(numpy.searchsorted(self.newlines, self.starts[index]))

    def without(self, indexes: Iterable[int]) -> NDArray[numpy.int64]:
        """The indexes of all other records."""
        kept = numpy.ones(len(self), bool)
        kept[list(indexes)] = False
        return numpy.flatnonzero(kept)

    def numbered(self, indexes: NDArray[numpy.int64], first_record: int) -> bytes:
        """These records, each with its number in the file put before its first field."""
        chunk, delimiter = self.chunk, self.dialect.delimiter.encode()
        starts, ends = self.starts[indexes].tolist(), self.ends[indexes].tolist()
        numbers = (indexes + first_record).tolist()
        pieces = [
            b"%d%b%b" % (number, delimiter, chunk[start:end])
            for number, start, end in zip(numbers, starts, ends, strict=True)
        ]
        if pieces and not pieces[-1].endswith(b"\n"):
            pieces[-1] += self.dialect.line_end.encode()
        return b"".join(pieces)


def find_records(chunk: bytes, dialect: Dialect) -> Records:
    """The records of a chunk."""
    newlines = newline_positions(chunk)
    ends = newlines + 1
    if dialect.quoting:
        ends = outside_quotes(chunk, newlines, ord(dialect.quote))[0] + 1
    if chunk and (not ends.size or ends[-1] < len(chunk)):
        ends = numpy.append(ends, len(chunk))
    starts = numpy.concatenate(([0], ends[:-1])).astype(numpy.int64) if ends.size else ends
    if dialect.quoting:
        filled = ends - starts > len(dialect.line_end)
        # The last line may lack its end: then a single byte is a record.
        if ends.size and not chunk.endswith(b"\n"):
            filled[-1] = True
        starts, ends = starts[filled], ends[filled]
    return Records(chunk, dialect, starts, ends, newlines)


def irregular_quotes(records: Records) -> list[int]:
    """The indexes of the records that hold a quote which is not regular (rule 2), each once."""
    dialect, chunk = records.dialect, records.chunk
    if not dialect.quoting or dialect.quote.encode() not in chunk:
        return []
    data = numpy.frombuffer(chunk, numpy.uint8)
    quotes = numpy.flatnonzero(data == ord(dialect.quote))
    opening, closing = quotes[::2], quotes[1::2]
    before = data[opening - 1]  # of a quote at the very start this is the last byte, which is put right below
    opens = (before == ord(dialect.delimiter)) | (before == ord("\n")) | (before == ord(dialect.quote)) | (opening == 0)
    after = data[numpy.minimum(closing + 1, data.size - 1)]
    closes = (after == ord(dialect.delimiter)) | (after == ord("\n")) | (after == ord("\r"))
    closes |= (after == ord(dialect.quote)) | (closing == data.size - 1)
    wrong = numpy.concatenate((opening[~opens], closing[~closes]))
    return list(map(int, numpy.unique(numpy.searchsorted(records.ends, wrong, side="right"))))
