"""Correction: a file of rejects that came back, each record with what was wrong behind its fields.

Rules:
1. A correction is known by its header, which ends with `ERROR_COLUMNS` as `rejects_header` wrote them.
2. Those columns are cut off, and nothing else is changed: what stands before them is loaded byte for byte.
3. The first of them is the number that the record had in the file that it corrects. A record without a readable one is
   loaded like any other, and corrects nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from projections.formats.blocks import outside_quotes
from projections.formats.dialect import Dialect
from projections.formats.records import Records

ERROR_COLUMNS = ("_record", "_line", "_column", "_code", "_reason")
UNKNOWN = 0  # the number of a record that corrects nothing


def is_correction(header: list[str] | None) -> bool:
    """Whether a file with this header is a correction."""
    return (
        header is not None
        and tuple(header[-len(ERROR_COLUMNS) :]) == ERROR_COLUMNS
        and len(header) > len(ERROR_COLUMNS)
    )


def cut_header(header: bytes, dialect: Dialect) -> bytes:
    """The header without the error columns."""
    body = header.rstrip(b"\r\n")
    return body.rsplit(dialect.delimiter.encode(), len(ERROR_COLUMNS))[0] + header[len(body) :]


def cut_records(records: Records) -> Iterator[tuple[bytes, int]]:
    """Each record without the error columns, and the number of the record that it corrects."""
    chunk, dialect = records.chunk, records.dialect
    data = numpy.frombuffer(chunk, numpy.uint8)
    delimiters = outside_quotes(chunk, numpy.flatnonzero(data == ord(dialect.delimiter)), ord(dialect.quote))[0]
    behind = numpy.searchsorted(delimiters, records.ends)
    first = numpy.searchsorted(delimiters, records.starts)
    for index in range(len(records)):
        raw, start = records.bytes_of(index), int(records.starts[index])
        fields_cut = int(behind[index]) - len(ERROR_COLUMNS)
        if fields_cut < first[index]:
            yield raw, UNKNOWN  # it has too few fields, which is told when it is checked
            continue
        place = int(delimiters[fields_cut]) - start
        body = raw.rstrip(b"\r\n")
        number = body[place + 1 :].split(dialect.delimiter.encode(), 1)[0].strip(b'"')
        yield body[:place] + raw[len(body) :], int(number) if number.isdigit() else UNKNOWN
