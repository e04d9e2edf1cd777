"""Flattening: the columns of a record whose values are nested.

Rules:
1. A member of an object that is itself a member becomes a column named after both, joined by `_`: `a.b` is `a_b`. A
   name has at most three parts (`NAME_PARTS`); an object below them, and every list, is canonical JSON text.
2. Canonical JSON text has sorted names, no blanks and no escapes that are not needed. A number in it stands as it
   does in the file.
3. Two members that come to the same column are a flaw of the record, and so are more columns than the limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ledger.domain.contract import excerpt
from projections.formats.rows import Flaw

NAME_PARTS = 3


class Number(str):
    """A number, as the text that stands in the file."""

    __slots__ = ()


class FlawedError(Exception):
    """The record cannot become columns. Never leaves the readers."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.reason)
        self.flaw = flaw


class Columns:
    """The columns of one record, put one after the other.

    Raises:
        FlawedError: column_twice or columns_too_many.
    """

    def __init__(self, columns_max: int) -> None:
        self.values: dict[str, Any] = {}
        self._columns_max = columns_max

    def put(self, column: str, value: Any) -> None:
        """Add a column that must not be there yet."""
        if column in self.values:
            raise FlawedError(
                Flaw("column_twice", f"Two members of the record come to the same column, {excerpt(column)}.")
            )
        self.values[column] = value
        check_count(self.values, self._columns_max)

    def put_members(self, members: Mapping[str, Any], prefix: str = "", parts: int = 1) -> None:
        """Add the members of an object whose columns start with `prefix`, which has `parts` - 1 parts."""
        for name, value in members.items():
            if isinstance(value, dict) and parts < NAME_PARTS:
                self.put_members(value, f"{prefix}{name}_", parts + 1)
            else:
                self.put(prefix + name, value)


def check_count(columns: Mapping[str, Any], columns_max: int) -> None:
    """Check that a record has no more columns than the limit.

    Raises:
        FlawedError: columns_too_many.
    """
    if len(columns) > columns_max:
        raise FlawedError(Flaw("columns_too_many", f"The record has more than {columns_max:,} columns."))


def canonical(value: Any) -> str:
    """A value of JSON as text by rule 2. It is nested no deeper than Python can follow."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value)) + "}"
    return json.dumps(value, ensure_ascii=False)


def column_text(value: Any) -> str | None:
    """What a column holds for a value of JSON."""
    if value is None or type(value) is str:
        return value
    return str(value) if isinstance(value, str) else canonical(value)
