"""Totals: what the rows of a chunk come to, whatever order they stand in and whatever format they came from.

Rules:
1. The canonical form of a value is the same for the same value: no trailing zeros behind a decimal point, `0` for `-0`,
   true and false in small letters, a blank between day and time, instants in UTC with a `Z`. A text is itself.
2. A row's digest is the SHA-256 of its fields in the contract's order: the canonical form in UTF-8, or the byte 255 for
   no value, with a byte 0 between two fields. No text holds either byte, so no two rows look alike.
3. The digest of a set of rows is the sum of its rows' digests, as big-endian numbers, modulo 2**256: it does not depend
   on order, and those of chunks add up to that of their file.
4. Control totals are exact: the count of values, their sum (numbers only), the smallest and the greatest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import pairwise
from typing import Any

import numpy
import pyarrow
import pyarrow.compute

from ledger.domain.contract import Column, ColumnType
from ledger.domain.reconciliation import DIGEST_BITS, ColumnTotals, order_in_time, plain_number

# More digits than any sum of values can have: `checking.DIGITS_MAX` before and behind the point, and some to carry.
EXACT = Context(prec=2_100)
WORDS = DIGEST_BITS // 32
FIELD_END, NO_VALUE = pyarrow.scalar(b"\0", pyarrow.large_binary()), b"\xff"
NUMBERS = (ColumnType.BIGINT, ColumnType.NUMERIC)
TOTALLED = (*NUMBERS, ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ)
NOT_IN_UTC = re.compile(r"[+-](?!00(?::?00)?$)[0-9:]+$")


def canonical(column: Column, values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """The values of a column that were checked, in their canonical form."""
    form = CANONICAL_FORMS.get(column.type)
    return values if form is None else form(values)


def row_set_digest(columns: Iterable[pyarrow.ChunkedArray]) -> int:
    """The digest of rows whose columns, in the contract's order, are canonical (rules 2 and 3)."""
    fields = [column.cast(pyarrow.large_binary()) for column in columns]
    rows = pyarrow.compute.binary_join_element_wise(
        *fields, FIELD_END, null_handling="replace", null_replacement=NO_VALUE
    ).combine_chunks()
    offsets = numpy.frombuffer(rows.buffers()[1], numpy.int64)[rows.offset : rows.offset + len(rows) + 1]
    data = memoryview(rows.buffers()[2] or b"")
    digests = [hashlib.sha256(data[start:end]).digest() for start, end in pairwise(offsets.tolist())]
    # Columns of four bytes are added apart from each other: a sum of 2**32 of them still fits 64 bits.
    words = numpy.frombuffer(b"".join(digests), ">u4").reshape(-1, WORDS).sum(axis=0, dtype=numpy.uint64)
    total = sum(int(word) << 32 * (WORDS - 1 - place) for place, word in enumerate(words))
    return total % (1 << DIGEST_BITS)


def control_totals(columns: Sequence[Column], values: dict[str, pyarrow.ChunkedArray]) -> dict[str, ColumnTotals]:
    """The totals of each number and date among the columns, whose values are canonical."""
    return {column.name: _totals(column.type, values[column.name]) for column in columns if column.type in TOTALLED}


def _totals(kind: ColumnType, values: pyarrow.ChunkedArray) -> ColumnTotals:
    counted = pyarrow.compute.value_counts(pyarrow.compute.drop_null(values))
    texts, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    count = sum(counts)
    if not texts:
        return ColumnTotals(0, None, None, None)
    if kind not in NUMBERS:
        return ColumnTotals(count, None, min(texts, key=order_in_time), max(texts, key=order_in_time))
    numbers: list[Any] = [int(text) for text in texts] if kind is ColumnType.BIGINT else list(map(Decimal, texts))
    if kind is ColumnType.BIGINT:
        total = str(sum(number * many for number, many in zip(numbers, counts, strict=True)))
    else:
        total = plain_number(_sum(number_and_count for number_and_count in zip(numbers, counts, strict=True)))
    return ColumnTotals(count, total, plain_number(min(numbers)), plain_number(max(numbers)))


def _sum(numbers: Iterable[tuple[Decimal, int]]) -> Decimal:
    total = Decimal(0)
    for number, count in numbers:
        total = EXACT.fma(number, Decimal(count), total)
    return total


def _whole_numbers(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    minus_zero = pyarrow.compute.equal(values, "-0")
    return pyarrow.compute.if_else(minus_zero, "0", values) if pyarrow.compute.any(minus_zero).as_py() else values


def _decimal_numbers(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    shorter = pyarrow.compute.replace_substring_regex(values, r"(\.[0-9]*?)0+$", r"\1")
    return _whole_numbers(pyarrow.compute.replace_substring_regex(shorter, r"\.$", ""))


def _plain_times(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    compute = pyarrow.compute
    apart = compute.replace_substring_regex(values, "T", " ")
    shorter = compute.replace_substring_regex(apart, r"(\.[0-9]*?)0+(Z?)$", r"\1\2")
    return compute.replace_substring_regex(shorter, r"\.(Z?)$", r"\1")


def _in_utc(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    compute = pyarrow.compute
    upper = compute.utf8_upper(values)
    there = compute.replace_substring_regex(upper, r"[+-]00(:?00)?$", "Z")
    elsewhere = [text for text in compute.unique(there).to_pylist() if text is not None and NOT_IN_UTC.search(text)]
    if elsewhere:
        moved = {text: _moved(text) for text in elsewhere}
        there = pyarrow.chunked_array([[moved.get(text, text) for text in there.to_pylist()]], pyarrow.string())
    return _plain_times(there)


def _moved(text: str) -> str:
    instant = datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
    return instant.isoformat(" ", "microseconds") + "Z"  # strftime gives the years before 1000 fewer digits


# TYPE -> the canonical form of its values (rule 1). A text and a date are it already.
CANONICAL_FORMS: dict[ColumnType, Callable[[pyarrow.ChunkedArray], pyarrow.ChunkedArray]] = {
    ColumnType.BOOLEAN: pyarrow.compute.utf8_lower,
    ColumnType.BIGINT: _whole_numbers,
    ColumnType.NUMERIC: _decimal_numbers,
    ColumnType.TIMESTAMP: _plain_times,
    ColumnType.TIMESTAMPTZ: _in_utc,
}
