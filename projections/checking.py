"""Checking: the values of a chunk, measured against their contract before `COPY` sees them.

Rules:
1. What is accepted, `COPY` takes too, and as the same value: there are no leading zeros, no blanks around a number, no
   `1_000`, `0x1F`, `1e5`, `infinity`, `NaN`, `now` or `t` for true, which PostgreSQL would change or interpret.
2. A record has exactly the fields of its contract, quotes only where they are regular, and each value is of its
   column's type, or has none where the contract allows that.
3. A record is refused for the first of its flaws, from left to right; the others of the chunk are not touched.
4. The work is done by column for a whole chunk, and by value only for values that differ from each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.csv

from ledger.domain.contract import Column, ColumnType, Contract
from projections.formats.dialect import Dialect, read_records
from projections.formats.records import Records, irregular_quotes
from projections.formats.rows import Flaw
from projections.formats.transcript import MARK, flaw_in

BIGINT_MAX = 2**63 - 1
DIGITS_MAX = 1_000  # as PostgreSQL's numeric(1000)
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME = r"[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
OFFSET = r"(?:Z|[+-](?:0[0-9]|1[0-5])(?::[0-5][0-9])?)"

# TYPE -> how its values are written (RE2), what another value is called, and in which words.
GRAMMAR: dict[ColumnType, tuple[str, str, str]] = {
    ColumnType.BIGINT: (r"^-?(?:0|[1-9][0-9]{0,18})$", "value_invalid", "the value is no whole number"),
    ColumnType.NUMERIC: (r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$", "value_invalid", "the value is no decimal number"),
    ColumnType.BOOLEAN: (r"^(?i:true|false)$", "value_invalid", "the value is neither true nor false"),
    ColumnType.DATE: (f"^{DAY}$", "date_invalid", "the value is no date as YYYY-MM-DD"),
    ColumnType.TIMESTAMP: (f"^{DAY}{TIME}$", "date_invalid", "the value is no time as YYYY-MM-DD HH:MM:SS"),
    ColumnType.TIMESTAMPTZ: (
        f"^{DAY}{TIME}{OFFSET}$",
        "date_invalid",
        "the value is no instant as YYYY-MM-DD HH:MM:SS with Z or an offset",
    ),
}
DATED = (ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ)


@dataclass(frozen=True)
class Checked:
    """The values of the good records, column by column as text, and the flaws of the others by their index."""

    values: pyarrow.Table
    good: numpy.ndarray[Any, numpy.dtype[numpy.int64]]  # the indexes of the good records
    flaws: dict[int, Flaw]


def check(records: Records, columns: Sequence[Column], contract: Contract, years: range) -> Checked:
    """Check some records.

    Args:
        columns: the contract's columns in the order in which they stand in the file.
        years: those that the contract's fiscal-date column may have.
    """
    flaws = {index: Flaw("quote_misplaced", "a quote stands inside a field") for index in irregular_quotes(records)}
    indexes, values = _parse(records, columns, contract.null_token, flaws)
    wrong: dict[int, Flaw] = {}
    for column in reversed(columns):  # so that the first flaw of a record is the last that is kept
        wrong.update(_flaws_of(column, values[column.name]))
        if column.name == contract.fiscal_date_column:
            wrong |= _flaws_of_years(column.name, values[column.name], years) | wrong
    if len(columns) == 1:
        wrong.update(_marks(values[columns[0].name]))
    if wrong:
        flaws.update((int(indexes[position]), flaw) for position, flaw in wrong.items())
        kept = numpy.ones(len(indexes), bool)
        kept[list(wrong)] = False
        indexes, values = indexes[kept], values.filter(pyarrow.array(kept))
    return Checked(values, indexes, flaws)


def _parse(
    records: Records, columns: Sequence[Column], null_token: str, flaws: dict[int, Flaw]
) -> tuple[numpy.ndarray[Any, numpy.dtype[numpy.int64]], pyarrow.Table]:
    """The values of all records that have the right number of fields; the others are added to the flaws."""
    names = [column.name for column in columns]
    candidates = records.without(flaws)
    if not records.dialect.quoting:
        lines = [records.bytes_of(index).removesuffix(b"\n").removesuffix(b"\r") for index in candidates.tolist()]
        return candidates, pyarrow.table({names[0]: pyarrow.array(lines, pyarrow.string())})
    text = records.chunk if not flaws else b"".join(map(records.bytes_of, candidates.tolist()))
    if not candidates.size:
        return candidates, pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in names})
    ragged: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(int(candidates[row.number - 1]))
        flaws[ragged[-1]] = _ragged(records, ragged[-1], row)
        return "skip"

    table = _read_csv(text, records.dialect, names, null_token, skip)
    return numpy.setdiff1d(candidates, ragged, assume_unique=True), table


def _read_csv(
    chunk: bytes, dialect: Dialect, names: list[str], null_token: str, skip: Callable[[pyarrow.csv.InvalidRow], str]
) -> pyarrow.Table:
    return pyarrow.csv.read_csv(
        pyarrow.BufferReader(chunk),
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(chunk) + 1, column_names=names),
        pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter, quote_char=dialect.quote, newlines_in_values=True, invalid_row_handler=skip
        ),
        pyarrow.csv.ConvertOptions(
            check_utf8=False,  # the splitter has seen to that
            column_types={name: pyarrow.string() for name in names},
            null_values=[null_token],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _ragged(records: Records, index: int, row: pyarrow.csv.InvalidRow) -> Flaw:
    [fields] = read_records(records.bytes_of(index).decode(), records.dialect.delimiter, records.dialect.quote)
    marked = flaw_in(fields[0]) if len(fields) == 1 else None
    return marked or Flaw(
        "record_malformed", f"it has {row.actual_columns} fields, and the contract has {row.expected_columns} columns"
    )


def _marks(values: pyarrow.ChunkedArray) -> dict[int, Flaw]:
    """The marks among the records of a single column, where they have the right number of fields."""
    found = _positions(pyarrow.compute.starts_with(values, MARK))
    flaws = ((position, flaw_in(values[position].as_py())) for position in found)
    return {position: flaw for position, flaw in flaws if flaw is not None}


def _flaws_of(column: Column, values: pyarrow.ChunkedArray) -> dict[int, Flaw]:
    flaws: dict[int, Flaw] = {}
    if not column.nullable and values.null_count:
        missing = Flaw("value_missing", "the value is missing, and the contract wants one", column.name)
        flaws = dict.fromkeys(_positions(pyarrow.compute.is_null(values)), missing)
    if column.type is ColumnType.TEXT:
        return flaws
    pattern, code, reason = GRAMMAR[column.type]
    unlike = pyarrow.compute.invert(pyarrow.compute.match_substring_regex(values, pattern))
    flaws |= dict.fromkeys(_positions(unlike), Flaw(code, reason, column.name))
    for text, flaw in _beyond_grammar(column, values).items():
        flaws.update((position, flaw) for position in _positions(pyarrow.compute.equal(values, text)))
    return flaws


def _beyond_grammar(column: Column, values: pyarrow.ChunkedArray) -> dict[str, Flaw]:
    """Values that are written well and do not exist, or do not fit."""
    if column.type in DATED:
        days = pyarrow.compute.unique(pyarrow.compute.utf8_slice_codeunits(values, 0, 10))
        wrong = [day for day in days.to_pylist() if day is not None and re.fullmatch(DAY, day) and not _exists(day)]
        flaw = Flaw("date_invalid", "the value is a day that does not exist", column.name)
        starts = [pyarrow.compute.starts_with(values, day) for day in wrong]
        found = [text for mask in starts for text in values.filter(mask).unique().to_pylist()]
        return dict.fromkeys(found, flaw)
    if column.type in (ColumnType.BIGINT, ColumnType.NUMERIC):
        longest = 18 if column.type is ColumnType.BIGINT else DIGITS_MAX
        mask = pyarrow.compute.greater(pyarrow.compute.binary_length(values), longest)
        long = values.filter(mask).unique().to_pylist()
        flaw = Flaw("value_out_of_range", f"the value is out of the range of {column.type}", column.name)
        return dict.fromkeys((text for text in long if not _fits(column.type, text)), flaw)
    return {}


def _flaws_of_years(name: str, values: pyarrow.ChunkedArray, years: range) -> dict[int, Flaw]:
    """The values of a fiscal-date column that no fiscal year of the calendar holds."""
    found = pyarrow.compute.utf8_slice_codeunits(values, 0, 4)
    far = [year for year in found.unique().to_pylist() if year is None or not year.isdigit() or int(year) not in years]
    flaw = Flaw("fiscal_date_invalid", f"the value belongs to no fiscal year from {years[0]} to {years[-1]}", name)
    positions = (position for year in far if year for position in _positions(pyarrow.compute.equal(found, year)))
    return dict.fromkeys(positions, flaw)


def _fits(kind: ColumnType, text: str) -> bool:
    if kind is ColumnType.NUMERIC:
        whole, _, fraction = text.removeprefix("-").partition(".")
        return len(whole) <= DIGITS_MAX and len(fraction) <= DIGITS_MAX
    try:
        return -BIGINT_MAX - 1 <= int(text) <= BIGINT_MAX
    except ValueError:
        return True  # the grammar has refused it


def _exists(day: str) -> bool:
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return True


def _positions(mask: Any) -> list[int]:
    found: Iterable[int] = numpy.flatnonzero(pyarrow.compute.fill_null(mask, False).to_numpy(zero_copy_only=False))
    return list(map(int, found))
