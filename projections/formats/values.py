"""The type that a value has by the way it is written: strict, and never with a loss.

Rules:
1. A value has a type only if PostgreSQL keeps it: no leading zeros, no exponents, no blanks around it.
2. Dates and instants are ISO 8601 and exist in the calendar. An instant has at most six digits of a second; with
   `Z` or an offset it is a timestamptz.
3. `true` and `false` in any case are booleans; `t`, `f`, `0` and `1` are not. Everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Set
from datetime import date

from ledger.domain.values import ColumnType

VALUE = re.compile(
    r"(?P<bigint>-?(?:0|[1-9][0-9]{0,17}))"
    r"|(?P<numeric>-?(?:0|[1-9][0-9]{0,999})(?:\.[0-9]{1,999})?)"
    r"|(?P<boolean>true|false)"
    r"|(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?P<time>[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    r"(?P<offset>Z|[+-](?:0[0-9]|1[0-5])(?::[0-5][0-9])?)?)?",
    re.IGNORECASE | re.ASCII,
)


def value_type(value: str) -> ColumnType:
    """The narrowest type that holds the value without a loss."""
    found = VALUE.fullmatch(value)
    if found is None:
        return ColumnType.TEXT
    if found["day"] is None:
        return ColumnType(str(found.lastgroup))
    try:
        date.fromisoformat(found["day"])
    except ValueError:
        return ColumnType.TEXT
    if found["offset"] is not None:
        return ColumnType.TIMESTAMPTZ
    return ColumnType.DATE if found["time"] is None else ColumnType.TIMESTAMP


def common_type(types: Set[ColumnType]) -> ColumnType:
    """The type of a column whose values have these types: text for none, and for any mixture but of numbers."""
    if len(types) == 1:
        return next(iter(types))
    if types == {ColumnType.BIGINT, ColumnType.NUMERIC}:
        return ColumnType.NUMERIC
    return ColumnType.TEXT
