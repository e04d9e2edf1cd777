"""Fields: the values of records as columns of text, the way `COPY` would read them.

Rules:
1. A record has a field for each column of its text, or it is refused. Quotes are regular, or it is refused.
2. A field that is a null token, whole and unquoted, is no value. In a text with a null of its own (`own_null`) that is
   the empty field, and the contract's tokens but for the empty one mean the same whether quoted or not: who writes into
   a workbook or into JSON sets no quotes.
3. A column that the contract does not have is read over, and one that the text does not have has no values.
4. A line without delimiters is as long as its columns together; blanks at its end may be left away.
5. A mark (`projections.formats.transcript`) means its flaw in a transcript alone. In any other text it is a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.csv
from numpy.typing import NDArray

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.counted import counted
from ledger.domain.fiscal_calendar import FiscalCalendar
from projections.columns import among
from projections.formats.blocks import BYTE_ORDER_MARK
from projections.formats.dialect import Dialect, read_records
from projections.formats.records import Records
from projections.formats.rows import Flaw, Writing
from projections.formats.transcript import flaw_in


@dataclass(frozen=True)
class Reading:
    """How the values of a text are read.

    `columns` are the contract's in the order in which they stand in the text, None for one that it does not have.
    `transcript` is whether a reader wrote the text, so that there may be marks in it.
    """

    contract: Contract
    columns: tuple[Column | None, ...]
    calendar: FiscalCalendar
    writing: Writing = Writing.FREE
    own_null: bool = False
    transcript: bool = False

    @property
    def null_tokens(self) -> tuple[str, ...]:
        """What is no value where it stands unquoted."""
        return ("",) if self.own_null else self.contract.null_tokens

    @property
    def words_for_null(self) -> tuple[str, ...]:
        """What is no value wherever it stands."""
        return tuple(token for token in self.contract.null_tokens if token) if self.own_null else ()

    @property
    def lacking(self) -> tuple[Column, ...]:
        """The contract's columns that the text does not have."""
        there = {column.name for column in self.columns if column is not None}
        return tuple(column for column in self.contract.columns if column.name not in there)


def read_fields(
    records: Records, reading: Reading, flaws: dict[int, Flaw]
) -> tuple[NDArray[numpy.int64], pyarrow.Table]:
    """The indexes and the values of all records that have the right number of fields; the others join the flaws."""
    names = [f"\0{place}" if column is None else column.name for place, column in enumerate(reading.columns)]
    candidates = records.without(flaws)
    if not records.dialect.quoting:
        lines = [records.bytes_of(index).removesuffix(b"\n").removesuffix(b"\r") for index in candidates.tolist()]
        values = pyarrow.chunked_array([lines], pyarrow.string())
        if reading.contract.is_fixed:
            return _cut(values, candidates, reading, flaws)
        return candidates, pyarrow.table({names[0]: values})
    text = records.chunk if not flaws else b"".join(map(records.bytes_of, candidates.tolist()))
    if not candidates.size:
        empty = pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in names})
        return candidates, _in_contract(empty, reading)
    ragged: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(int(candidates[row.number - 1]))
        flaws[ragged[-1]] = _ragged(records, ragged[-1], row, reading.transcript)
        return "skip"

    table = _read_csv(text, records.dialect, names, reading.null_tokens, skip)
    good = numpy.setdiff1d(candidates, ragged, assume_unique=True)
    assert len(good) == len(table), f"{len(good)} records were found, and {len(table)} read"
    return good, _in_contract(table, reading)


def _cut(
    lines: pyarrow.ChunkedArray, indexes: NDArray[numpy.int64], reading: Reading, flaws: dict[int, Flaw]
) -> tuple[NDArray[numpy.int64], pyarrow.Table]:
    """The values of lines without delimiters; those that are too long are added to the flaws."""
    compute = pyarrow.compute
    whole = sum(column.width or 0 for column in reading.contract.columns)
    lengths = compute.utf8_length(compute.utf8_rtrim(lines, " ")).to_numpy()
    for index, length in zip(indexes[lengths > whole].tolist(), lengths[lengths > whole].tolist(), strict=True):
        reason = f"it has {length:,} characters, and the contract's columns have {whole:,}"
        flaws[index] = Flaw("record_malformed", reason)
    lines, indexes = lines.filter(pyarrow.array(lengths <= whole)), indexes[lengths <= whole]
    columns, start = {}, 0
    for column in reading.contract.columns:
        end = start + (column.width or 0)
        value = compute.utf8_trim(compute.utf8_slice_codeunits(lines, start, end), " ")
        none = among(value, reading.null_tokens)
        columns[column.name] = compute.if_else(none, pyarrow.scalar(None, pyarrow.string()), value)
        start = end
    return indexes, pyarrow.table(columns)


def _in_contract(table: pyarrow.Table, reading: Reading) -> pyarrow.Table:
    """The table with the contract's columns, in the text's order, and those that it lacks behind them."""
    if None in reading.columns:
        table = table.select([column.name for column in reading.columns if column is not None])
    for column in reading.lacking:
        table = table.append_column(column.name, pyarrow.nulls(len(table), pyarrow.string()))
    if reading.words_for_null:
        words = pyarrow.array(reading.words_for_null, pyarrow.string())
        for place, name in enumerate(table.column_names):
            is_null = pyarrow.compute.is_in(table[name], value_set=words)
            values = pyarrow.compute.if_else(is_null, pyarrow.scalar(None, pyarrow.string()), table[name])
            table = table.set_column(place, name, values)
    return table


def _read_csv(
    chunk: bytes,
    dialect: Dialect,
    names: list[str],
    null_tokens: tuple[str, ...],
    skip: Callable[[pyarrow.csv.InvalidRow], str],
) -> pyarrow.Table:
    if chunk.startswith(BYTE_ORDER_MARK):  # the file's own was cut: this is a value's, and Arrow passes over one
        chunk = BYTE_ORDER_MARK + chunk
    if not chunk.endswith(b"\n"):  # else Arrow takes an empty last field for quoted if the one before it is
        chunk += dialect.line_end.encode()
    return pyarrow.csv.read_csv(
        pyarrow.BufferReader(chunk),
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(chunk) + 1, column_names=names),
        pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter, quote_char=dialect.quote, newlines_in_values=True, invalid_row_handler=skip
        ),
        pyarrow.csv.ConvertOptions(
            check_utf8=False,  # the splitter has seen to that
            column_types={name: pyarrow.string() for name in names},
            null_values=null_tokens,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _ragged(records: Records, index: int, row: pyarrow.csv.InvalidRow, transcript: bool) -> Flaw:
    if transcript and row.actual_columns == 1:
        [[field]] = read_records(records.bytes_of(index).decode(), records.dialect.delimiter, records.dialect.quote)
        marked = flaw_in(field)
        if marked is not None:
            return marked
    fields, wanted = counted(row.actual_columns, "field"), counted(row.expected_columns, "column")
    return Flaw("record_malformed", f"it has {fields}, and the file has {wanted}")
