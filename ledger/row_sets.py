"""Totals: what the rows of a chunk come to, whatever order they stand in and whatever format they came from.

Rules:
1. The canonical form of a value is the same for the same value: no trailing zeros behind a decimal point, `0` for `-0`,
   true and false in small letters, a blank between day and time, instants in UTC with a `Z`. A text is itself.
2. A row's digest is the SHA-256 of its fields in the contract's order: the canonical form in UTF-8, or the byte 255 for
   no value, with a byte 0 between two fields. No text holds either byte, so no two rows look alike.
3. The digest of a set of rows is the sum of its rows' digests, as big-endian numbers, modulo 2**256: it does not depend
   on order, and those of chunks add up to that of their file.
4. Control totals are exact: the count of values, their sum (numbers only), the smallest and the greatest.
5. A column is gone through as a whole by Arrow. What Arrow's numbers do not hold, and nothing else, is counted value by
   value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal

import numpy
import pyarrow
import pyarrow.compute

from ledger.domain.column import Column
from ledger.domain.reconciliation import DIGEST_BITS, ColumnTotals, plain_number
from ledger.domain.values import ColumnType

# More digits than any sum of values can have: `checking.DIGITS_MAX` before and behind the point, and some to carry.
EXACT = Context(prec=2_100)
WORDS = DIGEST_BITS // 32
FIELD_END, NO_VALUE = pyarrow.scalar(b"\0", pyarrow.large_binary()), b"\xff"
ROW_END = b"\xfe"  # no text holds it either
TOTALLED = (ColumnType.BIGINT, ColumnType.NUMERIC, ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ)
# Up to so many characters, values of whatever scale and a billion of them added up fit the 76 digits that Arrow has.
ARROW_DIGITS, ARROW_CHARACTERS_MAX = 76, 33
NOT_IN_UTC = re.compile(r"[+-](?!00(?::?00)?$)[0-9:]+$")


def canonical(column: Column, values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """The values of a column that were checked, in their canonical form."""
    form = CANONICAL_FORMS.get(column.type)
    return values if form is None else form(values)


def row_set_digest(columns: Iterable[pyarrow.ChunkedArray]) -> int:
    """The digest of rows whose columns, in the contract's order, are canonical (rules 2 and 3)."""
    fields = [column.cast(pyarrow.large_binary()) for column in columns]
    row_end = pyarrow.scalar(ROW_END, pyarrow.large_binary())
    joined = pyarrow.compute.binary_join_element_wise(
        *fields, row_end, FIELD_END, null_handling="replace", null_replacement=NO_VALUE
    ).combine_chunks()
    assert joined.offset == 0, "the rows were just joined"
    # Split, because to slice the rows out by their offsets takes twice as long.
    rows = joined.buffers()[2].to_pybytes().split(b"\0" + ROW_END)[:-1] if len(joined) else []
    digests = [hashlib.sha256(row).digest() for row in rows]
    # Columns of four bytes are added apart from each other: a sum of 2**32 of them still fits 64 bits.
    words = numpy.frombuffer(b"".join(digests), ">u4").reshape(-1, WORDS).sum(axis=0, dtype=numpy.uint64)
    total = sum(int(word) << 32 * (WORDS - 1 - place) for place, word in enumerate(words))
    return total % (1 << DIGEST_BITS)


def control_totals(columns: Sequence[Column], values: dict[str, pyarrow.ChunkedArray]) -> dict[str, ColumnTotals]:
    """The totals of each number and date among the columns, whose values are canonical."""
    return {column.name: _totals(column.type, values[column.name]) for column in columns if column.type in TOTALLED}


def _totals(kind: ColumnType, values: pyarrow.ChunkedArray) -> ColumnTotals:
    there = pyarrow.compute.drop_null(values) if values.null_count else values
    if not len(there):
        return ColumnTotals(0, None, None, None)
    if kind not in SUMS:
        return ColumnTotals(len(there), None, *_first_and_last(there))
    total, smallest, greatest = SUMS[kind](there)
    return ColumnTotals(len(there), plain_number(total), plain_number(smallest), plain_number(greatest))


def _whole_totals(values: pyarrow.ChunkedArray) -> tuple[int, int, int]:
    numbers = values.cast(pyarrow.int64()).to_numpy()
    # The sum of 64 bits may not fit 64 bits: the upper and the lower half are added apart from each other.
    total = (int((numbers >> 32).sum()) << 32) + int((numbers & 0xFFFFFFFF).sum())
    return total, int(numbers.min()), int(numbers.max())


def _decimal_totals(values: pyarrow.ChunkedArray) -> tuple[Decimal, Decimal, Decimal]:
    compute = pyarrow.compute
    lengths, point = compute.binary_length(values), compute.find_substring(values, ".")
    if compute.max(lengths).as_py() > ARROW_CHARACTERS_MAX:
        numbers = list(map(Decimal, values.to_pylist()))
        return _sum(numbers), min(numbers), max(numbers)
    behind = compute.subtract(compute.subtract(lengths, point), 1)
    scale = compute.max(compute.if_else(compute.equal(point, -1), 0, behind)).as_py()
    exact = values.cast(pyarrow.decimal256(ARROW_DIGITS, scale))
    ends = compute.min_max(exact)
    return compute.sum(exact).as_py(), ends["min"].as_py(), ends["max"].as_py()


def _sum(numbers: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for number in numbers:
        total = EXACT.add(total, number)
    return total


def _first_and_last(values: pyarrow.ChunkedArray) -> tuple[str, str]:
    """The first and the last in time, see `reconciliation`, rule 5."""
    found = pyarrow.compute.min_max(pyarrow.compute.utf8_rtrim(values, "Z"))
    zone = "Z" if values[0].as_py().endswith("Z") else ""
    return found["min"].as_py() + zone, found["max"].as_py() + zone


def _whole_numbers(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    minus_zero = pyarrow.compute.equal(values, "-0")
    return pyarrow.compute.if_else(minus_zero, "0", values) if pyarrow.compute.any(minus_zero).as_py() else values


def _decimal_numbers(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    return _whole_numbers(_without_zeros_behind(values))


def _plain_times(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    return _without_zeros_behind(_replaced(values, "T", " "))


def _without_zeros_behind(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Without the zeros that end a fraction, and without the point of a fraction that is empty then."""
    compute = pyarrow.compute
    pointed = compute.match_substring(values, ".")
    if not compute.any(pointed).as_py():
        return values
    shorter = compute.utf8_rtrim(compute.utf8_rtrim(values, "0"), ".")
    return compute.if_else(pointed, shorter, values)


def _replaced(values: pyarrow.ChunkedArray, old: str, new: str) -> pyarrow.ChunkedArray:
    compute = pyarrow.compute
    if not compute.any(compute.match_substring(values, old)).as_py():
        return values
    return compute.replace_substring(values, old, new)


def _in_utc(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    compute = pyarrow.compute
    upper = compute.utf8_upper(values)
    there = compute.replace_substring_regex(upper, r"[+-]00(:?00)?$", "Z")
    elsewhere = [text for text in compute.unique(there).to_pylist() if text is not None and NOT_IN_UTC.search(text)]
    if elsewhere:
        moved = {text: _moved(text) for text in elsewhere}
        there = pyarrow.chunked_array([[moved.get(text, text) for text in there.to_pylist()]], pyarrow.string())
    plain = _plain_times(compute.utf8_rtrim(there, "Z"))
    return compute.binary_join_element_wise(plain, "Z", "")


def _moved(text: str) -> str:
    instant = datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
    return instant.isoformat(" ", "microseconds") + "Z"  # strftime gives the years before 1000 fewer digits


# TYPE -> the sum, the smallest and the greatest of its values, which are canonical and at least one.
SUMS: dict[ColumnType, Callable[[pyarrow.ChunkedArray], tuple[Decimal | int, Decimal | int, Decimal | int]]] = {
    ColumnType.BIGINT: _whole_totals,
    ColumnType.NUMERIC: _decimal_totals,
}

# TYPE -> the canonical form of its values (rule 1). A text and a date are it already.
CANONICAL_FORMS: dict[ColumnType, Callable[[pyarrow.ChunkedArray], pyarrow.ChunkedArray]] = {
    ColumnType.BOOLEAN: pyarrow.compute.utf8_lower,
    ColumnType.BIGINT: _whole_numbers,
    ColumnType.NUMERIC: _decimal_numbers,
    ColumnType.TIMESTAMP: _plain_times,
    ColumnType.TIMESTAMPTZ: _in_utc,
}
