"""Inference: the contract of a dataset's first file, from its header and samples of its records.

Rules:
1. A column has a type only if every value seen in it has that type as it is written (`formats.values`); whole numbers
   among decimals are decimals, any other mixture is text, and so is a column without any value.
2. An empty value that is not quoted is NULL. What is quoted is a value: `""` is an empty text, never NULL.
3. One of the customary words for a missing value becomes the contract's null token, and then means NULL in every
   column, only if it stands unquoted in a column that is typed but for it, and no column that is typed then has empty
   values too: a file has one null token. Of several, the one that types most columns wins, then the first.
4. Names come from the header: blanks around them are cut, a name that PostgreSQL or the lineage keeps for itself is
   prefixed, a missing one is given by its position, and one above 63 bytes is cut. Two equal names are refused.
5. Every column may be empty, and none decides the fiscal year: these are promises only a person can make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.errors import FileRefusedError
from projections.formats.dialect import LINE, Dialect, read_records
from projections.formats.header import column_names
from projections.formats.transcript import MARK
from projections.formats.values import common_type, value_type

NULL_TOKENS = ("NA", "N/A", "NULL", "null", "\\N", "None", "NaN", "nan", "-", "#N/A")
RECORDS_AT_ONCE = 10_000
QUOTED = "\0"  # put before a quoted value: no text that was checked has it


@dataclass
class _Evidence:
    """What was seen in one column."""

    types: set[ColumnType] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    empty: bool = False

    def add(self, values: Iterable[str]) -> None:
        """Take note of values."""
        different = set(values)
        self.empty |= "" in different
        self.tokens |= different.intersection(NULL_TOKENS)
        for value in different.difference(NULL_TOKENS, ("",)):
            if ColumnType.TEXT in self.types:
                return
            plain = value.removeprefix(QUOTED)
            self.types.add(ColumnType.TEXT if plain in NULL_TOKENS else value_type(plain))

    def type(self, null_token: str) -> ColumnType:
        """The column's type if this token means NULL."""
        return ColumnType.TEXT if self.tokens - {null_token} else common_type(self.types)


def infer(
    header: list[str] | None, samples: Iterable[bytes], dialect: Dialect, *, transcript: bool = False
) -> Contract:
    """The contract that fits the samples.

    Args:
        header: the names in the file, None if it has none; then columns are `column_1` and so on.
        samples: record-aligned pieces of the file, the first from the start of its data. Records that have another
            number of fields than the header, or the first record, are left to `COPY` to report.
        transcript: whether a reader wrote the samples, so that there may be marks among the records.

    Raises:
        FileRefusedError: see `column_names`; also file_empty if there is neither a header nor a record.
    """
    if dialect.format == "lines":
        return Contract((Column(LINE, ColumnType.TEXT),))
    names = None if header is None else column_names(header)
    columns = [_Evidence() for _ in names or ()]
    for sample in samples:
        text = _with_quoted_marked(sample, dialect).decode("utf-8", "replace")
        records = (record for record in read_records(text, dialect.delimiter, dialect.quote) if record)
        if transcript:
            records = (record for record in records if not record[0].startswith(QUOTED + MARK))
        while some := list(islice(records, RECORDS_AT_ONCE)):
            columns = columns or [_Evidence() for _ in some[0]]
            fitting = [record for record in some if len(record) == len(columns)]
            for column, values in zip(columns, zip(*fitting, strict=True), strict=False):
                column.add(values)
    if not columns:
        raise FileRefusedError("file_empty", "The file has no record.", "Send a file with records.")
    names = names or column_names([""] * len(columns))
    null_token = _null_token(columns)
    return Contract(
        tuple(Column(name, column.type(null_token)) for name, column in zip(names, columns, strict=True)), (null_token,)
    )


def _null_token(columns: list[_Evidence]) -> str:
    """The file's null token by rule 3."""
    chosen, most = "", 0
    for token in NULL_TOKENS:
        typed = [column for column in columns if column.type(token) is not ColumnType.TEXT]
        helped = sum(token in column.tokens for column in typed)
        if helped > most and not any(column.empty for column in typed):
            chosen, most = token, helped
    return chosen


def _with_quoted_marked(sample: bytes, dialect: Dialect) -> bytes:
    """The sample with `QUOTED` after each quote that opens a field: the csv module does not tell what was quoted."""
    if dialect.quote.encode() not in sample:
        return sample
    data = numpy.frombuffer(sample, numpy.uint8)
    opening = numpy.flatnonzero(data == ord(dialect.quote))[::2]
    before = data[opening - 1]
    starts_field = (opening == 0) | (before == ord(dialect.delimiter)) | (before == ord("\n"))
    return bytes(numpy.insert(data, opening[starts_field] + 1, ord(QUOTED)).tobytes())
