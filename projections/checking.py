"""Checking: the values of a chunk, measured against their contract before `COPY` sees them.

Rules:
1. What is accepted, `COPY` takes too, and as the same value: there are no leading zeros, no blanks around a number, no
   `1_000`, `0x1F`, `1e5`, `infinity`, `NaN`, `now` or `t` for true, which PostgreSQL would change or interpret. A day
   exists, an instant lies in the years 1 to 9999 of UTC, and the fiscal date in a fiscal year of the calendar.
2. A record has exactly the fields of its contract, quotes only where they are regular, and each value is of its
   column's type, or has none where the contract allows that.
3. A record is refused for the first of its flaws, from left to right; the others of the chunk are not touched.
4. The work is done by column for a whole chunk, and by value only for values that differ from each other. How often a
   column is gone through does not depend on how many of its values are wrong. Days and times all of which Arrow can
   read need no further look: of that length, what it reads from the year 1 on is within the grammar.
5. A mark (`projections.formats.transcript`) means its flaw in a transcript alone. In any other text it is a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.csv

from ledger.domain.contract import Column, ColumnType, Contract
from ledger.domain.fiscal_calendar import YEAR_MAX, YEAR_MIN, FiscalCalendar
from projections.formats.blocks import BYTE_ORDER_MARK
from projections.formats.dialect import Dialect, read_records
from projections.formats.records import Records, irregular_quotes
from projections.formats.rows import Flaw
from projections.formats.transcript import MARK, flaw_in

BIGINT_MAX = 2**63 - 1
BIGINT_CHARACTERS_MAX = len("-9223372036854775808")
DIGITS_MAX = 1_000  # as PostgreSQL's numeric(1000)
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME = r"[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
OFFSET = r"(?:Z|[+-](?:0[0-9]|1[0-5])(?::[0-5][0-9])?)"
# Not `(?i:false)`: to RE2 the long s of Unicode is a small s.
TRUE_OR_FALSE = "(?:[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])"

# TYPE -> how its values are written (RE2), what another value is called, and in which words.
GRAMMAR: dict[ColumnType, tuple[str, str, str]] = {
    ColumnType.BIGINT: (r"^-?(?:0|[1-9][0-9]*)$", "value_invalid", "the value is no whole number"),
    ColumnType.NUMERIC: (r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$", "value_invalid", "the value is no decimal number"),
    ColumnType.BOOLEAN: (
        f"^{TRUE_OR_FALSE}$",
        "value_invalid",
        "the value is neither true nor false",
    ),
    ColumnType.DATE: (f"^{DAY}$", "date_invalid", "the value is no date as YYYY-MM-DD"),
    ColumnType.TIMESTAMP: (f"^{DAY}{TIME}$", "date_invalid", "the value is no time as YYYY-MM-DD HH:MM:SS"),
    ColumnType.TIMESTAMPTZ: (
        f"^{DAY}{TIME}{OFFSET}$",
        "date_invalid",
        "the value is no instant as YYYY-MM-DD HH:MM:SS with Z or an offset",
    ),
}
# TYPE -> what Arrow reads its values as, and the fewest characters that they have: it takes times without seconds too.
PLAIN = {
    ColumnType.DATE: (pyarrow.date32(), len("YYYY-MM-DD")),
    ColumnType.TIMESTAMP: (pyarrow.timestamp("us"), len("YYYY-MM-DD HH:MM:SS")),
}
FIRST_DAY = date(1, 1, 1)
DATED = (ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ)
# Days on which an instant may lie outside the years that there are in UTC, and years all of whose days belong to a
# fiscal year, whenever that starts and whatever the offset.
EDGE_DAYS = ("0001-01-01", "9999-12-31")
SURE_YEARS = range(YEAR_MIN + 2, YEAR_MAX - 1)


@dataclass(frozen=True)
class Checked:
    """The values of the good records, column by column as text, and the flaws of the others by their index."""

    values: pyarrow.Table
    good: numpy.ndarray[Any, numpy.dtype[numpy.int64]]  # the indexes of the good records
    flaws: dict[int, Flaw]


def check(
    records: Records, columns: Sequence[Column], contract: Contract, calendar: FiscalCalendar, *, transcript: bool
) -> Checked:
    """Check some records.

    Args:
        columns: the contract's columns in the order in which they stand in the file.
        calendar: that of the contract's fiscal-date column.
        transcript: whether a reader wrote the records (rule 5).
    """
    flaws = {index: Flaw("quote_misplaced", "a quote stands inside a field") for index in irregular_quotes(records)}
    indexes, values = _parse(records, columns, contract.null_token, flaws, transcript)
    wrong: dict[int, Flaw] = {}
    for column in reversed(columns):  # so that the first flaw of a record is the last that is kept
        if column.name == contract.fiscal_date_column:
            wrong.update(_flaws_of_years(column, values[column.name], calendar))
        wrong.update(_flaws_of(column, values[column.name]))
    if transcript and len(columns) == 1:
        wrong.update(_marks(values[columns[0].name]))
    if wrong:
        flaws.update((int(indexes[position]), flaw) for position, flaw in wrong.items())
        kept = numpy.ones(len(indexes), bool)
        kept[list(wrong)] = False
        indexes, values = indexes[kept], values.filter(pyarrow.array(kept))
    return Checked(values, indexes, flaws)


def _parse(
    records: Records, columns: Sequence[Column], null_token: str, flaws: dict[int, Flaw], transcript: bool
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
        flaws[ragged[-1]] = _ragged(records, ragged[-1], row, transcript)
        return "skip"

    table = _read_csv(text, records.dialect, names, null_token, skip)
    good = numpy.setdiff1d(candidates, ragged, assume_unique=True)
    assert len(good) == len(table), f"{len(good)} records were found, and {len(table)} read"
    return good, table


def _read_csv(
    chunk: bytes, dialect: Dialect, names: list[str], null_token: str, skip: Callable[[pyarrow.csv.InvalidRow], str]
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
            null_values=[null_token],
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
    fields = "1 field" if row.actual_columns == 1 else f"{row.actual_columns:,} fields"
    wanted = "1 column" if row.expected_columns == 1 else f"{row.expected_columns:,} columns"
    return Flaw("record_malformed", f"it has {fields}, and the contract has {wanted}")


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
    if column.type is ColumnType.TEXT or _is_plainly_right(column.type, values):
        return flaws
    for flaw, mask in _beyond_grammar(column, values):
        flaws |= dict.fromkeys(_positions(mask), flaw)
    pattern, code, reason = GRAMMAR[column.type]
    unlike = pyarrow.compute.invert(pyarrow.compute.match_substring_regex(values, pattern))
    return flaws | dict.fromkeys(_positions(unlike), Flaw(code, reason, column.name))


def _is_plainly_right(kind: ColumnType, values: pyarrow.ChunkedArray) -> bool:
    """Whether Arrow reads all values as days or times that there are (rule 4); no says nothing."""
    if kind not in PLAIN:
        return False
    type_read, characters_min = PLAIN[kind]
    compute = pyarrow.compute
    try:
        read = values.cast(type_read)
    except pyarrow.ArrowInvalid:
        return False
    long_enough = compute.greater_equal(compute.min(compute.binary_length(values)), characters_min)
    in_time = compute.greater_equal(compute.min(read), pyarrow.scalar(FIRST_DAY).cast(type_read))
    return compute.and_(long_enough, in_time).as_py() is True


def _beyond_grammar(column: Column, values: pyarrow.ChunkedArray) -> Iterator[tuple[Flaw, pyarrow.ChunkedArray]]:
    """Where values that may be written well do not exist, or do not fit."""
    out_of_range = Flaw("value_out_of_range", f"the value is out of the range of {column.type}", column.name)
    if column.type in DATED:
        days = pyarrow.compute.utf8_slice_codeunits(values, 0, 10)
        flaw = Flaw("date_invalid", "the value is a day that does not exist", column.name)
        yield flaw, _among(days, (day for day in _different(days) if re.fullmatch(DAY, day) and not _exists(day)))
    if column.type is ColumnType.TIMESTAMPTZ:
        edge = _different(values.filter(_among(days, EDGE_DAYS)))
        yield out_of_range, _among(values, (text for text in edge if not _is_in_utc(text)))
    if column.type in (ColumnType.BIGINT, ColumnType.NUMERIC):
        longest = 18 if column.type is ColumnType.BIGINT else DIGITS_MAX
        long = _different(values.filter(pyarrow.compute.greater(pyarrow.compute.binary_length(values), longest)))
        yield out_of_range, _among(values, (text for text in long if not _fits(column.type, text)))


def _flaws_of_years(column: Column, values: pyarrow.ChunkedArray, calendar: FiscalCalendar) -> dict[int, Flaw]:
    """The values of a fiscal-date column that no fiscal year of the calendar holds."""
    years = pyarrow.compute.utf8_slice_codeunits(values, 0, 4)
    sure = _among(years, map(str, SURE_YEARS))
    others = _different(values.filter(pyarrow.compute.invert(sure)))
    far = _among(values, (text for text in others if not _is_in_calendar(column.type, text, calendar)))
    reason = f"the value belongs to no fiscal year from {YEAR_MIN} to {YEAR_MAX}"
    return dict.fromkeys(_positions(far), Flaw("fiscal_date_invalid", reason, column.name))


def _fits(kind: ColumnType, text: str) -> bool:
    if kind is ColumnType.NUMERIC:
        whole, _, fraction = text.removeprefix("-").partition(".")
        return len(whole) <= DIGITS_MAX and len(fraction) <= DIGITS_MAX
    if len(text) > BIGINT_CHARACTERS_MAX:
        return False
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


def _is_in_utc(text: str) -> bool:
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        return False
    except ValueError:
        return True  # the grammar has refused it
    return True


def _is_in_calendar(kind: ColumnType, text: str, calendar: FiscalCalendar) -> bool:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return True  # the grammar has refused it
    if kind is ColumnType.TIMESTAMPTZ and moment.tzinfo is None:
        return True
    try:
        if kind is ColumnType.TIMESTAMPTZ:
            calendar.of_instant(moment)
        else:
            calendar.of_day(moment.date())
    except (ValueError, OverflowError):
        return False
    return True


def _different(values: pyarrow.ChunkedArray) -> list[str]:
    found: list[str] = pyarrow.compute.drop_null(pyarrow.compute.unique(values)).to_pylist()
    return found


def _among(values: pyarrow.ChunkedArray, texts: Iterable[str]) -> pyarrow.ChunkedArray:
    """Which of the values are one of the texts: one look at each value, however many texts there are."""
    return pyarrow.compute.is_in(values, value_set=pyarrow.array(list(texts), pyarrow.string()))


def _positions(mask: Any) -> list[int]:
    found: Iterable[int] = numpy.flatnonzero(pyarrow.compute.fill_null(mask, False).to_numpy(zero_copy_only=False))
    return list(map(int, found))
