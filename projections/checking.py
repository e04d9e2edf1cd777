"""Checking: the values of a chunk, measured against their contract before `COPY` sees them.

Rules:
1. What is accepted, `COPY` takes too, and as the same value: there are no leading zeros, no blanks around a number, no
   `1_000`, `0x1F`, `1e5`, `infinity`, `NaN`, `now` or `t` for true, which PostgreSQL would change or interpret. A day
   exists, an instant lies in the years 1 to 9999 of UTC, and the fiscal date in a fiscal year of the calendar.
2. A record has exactly the fields of its text, quotes only where they are regular, and each value is of its column's
   type and within what the contract says of it, or there is none where the contract allows that.
3. A record is refused for the first of its flaws, from left to right; the others of the chunk are not touched.
4. The work is done by column for a whole chunk, and by value only for values that differ from each other. How often a
   column is gone through does not depend on how many of its values are wrong. Days and times all of which Arrow can
   read need no further look: of that length, what it reads from the year 1 on is within the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy
import pyarrow
import pyarrow.compute

from ledger.domain.column import Column
from ledger.domain.fiscal_calendar import YEAR_MAX, YEAR_MIN, FiscalCalendar
from ledger.domain.values import ColumnType
from projections.allowing import flaws_of_rules
from projections.columns import among, different, positions
from projections.converting import convert, has_format
from projections.fields import Reading, read_fields
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


def check(records: Records, reading: Reading) -> Checked:
    """Check some records, and give the values of the good ones in the plain form."""
    flaws = {index: Flaw("quote_misplaced", "a quote stands inside a field") for index in irregular_quotes(records)}
    indexes, values = read_fields(records, reading, flaws)
    wrong: dict[int, Flaw] = {}
    # From the right, so that the first flaw of a record is the last that is kept.
    for column in reversed([column for column in reading.columns if column is not None]):
        values, found = _checked(column, values, reading)
        wrong.update(found)
    if reading.transcript and len(reading.columns) == 1:
        wrong.update(_marks(values[0]))
    if wrong:
        flaws.update((int(indexes[position]), flaw) for position, flaw in wrong.items())
        kept = numpy.ones(len(indexes), bool)
        kept[list(wrong)] = False
        indexes, values = indexes[kept], values.filter(pyarrow.array(kept))
    return Checked(values, indexes, flaws)


def _checked(column: Column, values: pyarrow.Table, reading: Reading) -> tuple[pyarrow.Table, dict[int, Flaw]]:
    """The values with those of one column in the plain form, and the flaws of the records for that column."""
    written, unlike = values[column.name], None
    if has_format(column, reading.writing):
        written, unlike = convert(column, written, reading.writing)
        values = values.set_column(values.column_names.index(column.name), column.name, written)
    flaws = flaws_of_rules(column, written)
    if column.name == reading.contract.fiscal_date_column:
        flaws |= _flaws_of_years(column, written, reading.calendar)
    flaws |= _flaws_of(column, written)
    if unlike is not None:
        _, code, _ = GRAMMAR[column.type]
        reason = f"the value is not written as the contract says: {column.format}"
        flaws |= dict.fromkeys(positions(unlike), Flaw(code, reason, column.name))
    return values, flaws


def _marks(values: pyarrow.ChunkedArray) -> dict[int, Flaw]:
    """The marks among the records of a single column, where they have the right number of fields."""
    found = positions(pyarrow.compute.starts_with(values, MARK))
    flaws = ((position, flaw_in(values[position].as_py())) for position in found)
    return {position: flaw for position, flaw in flaws if flaw is not None}


def _flaws_of(column: Column, values: pyarrow.ChunkedArray) -> dict[int, Flaw]:
    flaws: dict[int, Flaw] = {}
    if not column.nullable and values.null_count:
        missing = Flaw("value_missing", "the value is missing, and the contract wants one", column.name)
        flaws = dict.fromkeys(positions(pyarrow.compute.is_null(values)), missing)
    if column.type is ColumnType.TEXT or _is_plainly_right(column.type, values):
        return flaws
    for flaw, mask in _beyond_grammar(column, values):
        flaws |= dict.fromkeys(positions(mask), flaw)
    pattern, code, reason = GRAMMAR[column.type]
    unlike = pyarrow.compute.invert(pyarrow.compute.match_substring_regex(values, pattern))
    return flaws | dict.fromkeys(positions(unlike), Flaw(code, reason, column.name))


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
        yield flaw, among(days, (day for day in different(days) if re.fullmatch(DAY, day) and not _exists(day)))
    if column.type is ColumnType.TIMESTAMPTZ:
        edge = different(values.filter(among(days, EDGE_DAYS)))
        yield out_of_range, among(values, (text for text in edge if not _is_in_utc(text)))
    if column.type in (ColumnType.BIGINT, ColumnType.NUMERIC):
        longest = 18 if column.type is ColumnType.BIGINT else DIGITS_MAX
        long = different(values.filter(pyarrow.compute.greater(pyarrow.compute.binary_length(values), longest)))
        yield out_of_range, among(values, (text for text in long if not _fits(column.type, text)))


def _flaws_of_years(column: Column, values: pyarrow.ChunkedArray, calendar: FiscalCalendar) -> dict[int, Flaw]:
    """The values of a fiscal-date column that no fiscal year of the calendar holds."""
    years = pyarrow.compute.utf8_slice_codeunits(values, 0, 4)
    sure = among(years, map(str, SURE_YEARS))
    others = different(values.filter(pyarrow.compute.invert(sure)))
    far = among(values, (text for text in others if not _is_in_calendar(column.type, text, calendar)))
    reason = f"the value belongs to no fiscal year from {YEAR_MIN} to {YEAR_MAX}"
    return dict.fromkeys(positions(far), Flaw("fiscal_date_invalid", reason, column.name))


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
