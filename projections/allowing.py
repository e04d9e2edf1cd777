"""Allowing: which values of their type a contract takes, by range, by pattern or by name.

Values are in the plain form here. One that is not of its type has another flaw, and none of these.
"""

from __future__ import annotations

from typing import Any

import pyarrow
import pyarrow.compute

from ledger.domain.column import Column, excerpt
from ledger.domain.values import in_order
from ledger.row_sets import SUMS
from projections.columns import among, different, positions
from projections.formats.rows import Flaw
from projections.patterns import whole


def flaws_of_rules(column: Column, values: pyarrow.ChunkedArray) -> dict[int, Flaw]:
    """The values that the contract does not take, by their positions."""
    flaws: dict[int, Flaw] = {}
    if column.minimum is not None or column.maximum is not None:
        reason = f"the value is not within {_range(column)}"
        flaws |= dict.fromkeys(_out_of_range(column, values), Flaw("value_out_of_bounds", reason, column.name))
    if column.pattern is not None:
        alike = pyarrow.compute.match_substring_regex(values, whole(column.pattern))
        reason = f"the value does not match {excerpt(column.pattern)}"
        flaws |= dict.fromkeys(positions(pyarrow.compute.invert(alike)), Flaw("value_unlike", reason, column.name))
    if column.allowed:
        known = among(values, column.allowed)
        other = pyarrow.compute.and_(pyarrow.compute.is_valid(values), pyarrow.compute.invert(known))
        reason = f"the value is none of the {len(column.allowed):,} that are allowed"
        flaws |= dict.fromkeys(positions(other), Flaw("value_not_allowed", reason, column.name))
    return flaws


def _out_of_range(column: Column, values: pyarrow.ChunkedArray) -> list[int]:
    ends = (column.minimum, column.maximum)
    smallest, greatest = (None if end is None else in_order(column.type, end) for end in ends)

    if column.type in SUMS and _is_surely_in(column, values, smallest, greatest):
        return []

    def is_out(text: str) -> bool:
        try:
            value: Any = in_order(column.type, text)
        except (ValueError, ArithmeticError):
            return False  # it is not of its type, which is told
        return (smallest is not None and value < smallest) or (greatest is not None and value > greatest)

    return positions(among(values, filter(is_out, different(values))))


def _is_surely_in(column: Column, values: pyarrow.ChunkedArray, smallest: Any, greatest: Any) -> bool:
    """Whether all numbers are in a range, by one look at the column; no says nothing."""
    there = pyarrow.compute.drop_null(values)
    try:
        _, first, last = SUMS[column.type](there) if len(there) else (0, smallest, greatest)
    except (pyarrow.ArrowInvalid, ArithmeticError):
        return False  # something among them is no number, which is told
    return (smallest is None or first >= smallest) and (greatest is None or last <= greatest)


def _range(column: Column) -> str:
    if column.minimum is None:
        return f"the values up to {column.maximum}"
    if column.maximum is None:
        return f"the values from {column.minimum}"
    return f"{column.minimum} to {column.maximum}"
