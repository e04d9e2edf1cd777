"""Converting: values as their sender writes them, put into the plain form, column by column.

Rules:
1. A column without a format is left alone. One with a format takes that and nothing else: a value that is written
   otherwise, in the plain form too, is told, because what it means cannot be known.
2. A format is said of what a sender wrote. Values that have types of their own are plain already: those of Parquet and
   of workbooks, and the numbers of JSON (whose days, times and truths are texts, or true and false themselves).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.compute

from ledger.domain.column import Column
from ledger.domain.values import MONTHS, NUMBER_TYPES, NumberFormat, TimeFormat, TruthFormat, parse_format
from projections.fields import Reading
from projections.formats.rows import Writing

PLAIN_TRUTHS = pyarrow.array(["true", "false"], pyarrow.string())


def is_converted(reading: Reading) -> bool:
    """Whether the values differ from what stands in the text, so that `COPY` cannot have its bytes."""
    return (
        reading.contract.is_fixed
        or None in reading.columns
        or len(reading.null_tokens) > 1
        or bool(reading.words_for_null)
        or any(has_format(column, reading.writing) for column in reading.contract.columns)
    )


def has_format(column: Column, writing: Writing) -> bool:
    """Whether the values of a column are written in its format (rule 2)."""
    if column.format is None or writing is Writing.TYPED:
        return False
    return not (writing is Writing.JSON and column.type in NUMBER_TYPES)


def convert(
    column: Column, values: pyarrow.ChunkedArray, writing: Writing
) -> tuple[pyarrow.ChunkedArray, pyarrow.ChunkedArray]:
    """The values in the plain form, and which of them are not of the column's format."""
    assert column.format is not None
    written = parse_format(column.type, column.format)
    if isinstance(written, TruthFormat):
        return _truths(written, values, plain_too=writing is Writing.JSON)
    pattern = written.pattern if isinstance(written, TimeFormat) else _number_pattern(written)
    alike = pyarrow.compute.match_substring_regex(values, pattern)
    plain = _times(written, values) if isinstance(written, TimeFormat) else _numbers(written, values)
    return pyarrow.compute.if_else(alike, plain, values), pyarrow.compute.invert(alike)


def _truths(
    written: TruthFormat, values: pyarrow.ChunkedArray, *, plain_too: bool
) -> tuple[pyarrow.ChunkedArray, pyarrow.ChunkedArray]:
    compute = pyarrow.compute
    true, false = compute.equal(values, written.true), compute.equal(values, written.false)
    plain = compute.if_else(true, "true", compute.if_else(false, "false", values))
    alike = compute.or_(true, false)
    if plain_too:
        alike = compute.or_(alike, compute.is_in(values, value_set=PLAIN_TRUTHS))
    return plain, compute.and_(compute.is_valid(values), compute.invert(compute.fill_null(alike, False)))


def _number_pattern(written: NumberFormat) -> str:
    grouped = "" if written.group is None else f"[1-9][0-9]{{0,2}}(?:{re.escape(written.group)}[0-9]{{3}})+|"
    fraction = "" if written.point is None else f"(?:{re.escape(written.point)}[0-9]+)?"
    return f"^-?(?:{grouped}0|[1-9][0-9]*){fraction}$"


def _numbers(written: NumberFormat, values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    if written.group is not None:
        values = pyarrow.compute.replace_substring(values, written.group, "")
    if written.point not in (None, "."):
        values = pyarrow.compute.replace_substring(values, written.point, ".")
    return values


def _times(written: TimeFormat, values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    replace: Callable[..., Any] = pyarrow.compute.replace_substring_regex
    plain = replace(values, written.pattern, written.plain)
    if written.month_by_name:
        for number, month in enumerate(MONTHS, start=1):
            plain = replace(plain, f"^([0-9]{{4}}-)(?i:{month})-", rf"\1{number:02}-")
    if written.short:  # a zero was put before every month and day
        plain = replace(plain, "^([0-9]{4})-0?([0-9]{2})-0?([0-9]{2})", r"\1-\2-\3")
    return replace(plain, "([+-][0-9]{2})([0-9]{2})$", r"\1:\2") if written.offset else plain
