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

from ledger.domain.column import excerpt
from projections.formats.rows import Flaw

NAME_PARTS = 3
DEPTH_MAX = 200  # whatever the limit: what reads and writes nested values calls itself for each level


class Number(str):
    """A number, as the text that stands in the file."""

    __slots__ = ()


class FlawedError(Exception):
    """The record cannot become columns. Never leaves the readers."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.reason)
        self.flaw = flaw


def put(columns: dict[str, Any], column: str, value: Any) -> None:
    """Add a column.

    Raises:
        FlawedError: column_twice, if it is there already.
    """
    if column in columns:
        reason = f"Two members of the record come to the same column, {excerpt(column)}."
        raise FlawedError(Flaw("column_twice", reason))
    columns[column] = value


def put_members(columns: dict[str, Any], members: Mapping[str, Any], prefix: str = "", parts: int = 1) -> None:
    """Add the members of an object whose columns start with `prefix`, which has `parts` - 1 parts.

    Raises:
        FlawedError: column_twice.
    """
    for name, value in members.items():
        if isinstance(value, dict) and parts < NAME_PARTS:
            put_members(columns, value, f"{prefix}{name}_", parts + 1)
        else:
            put(columns, prefix + name, value)


def check_count(columns: Mapping[str, Any], columns_max: int) -> None:
    """Check that a record has no more columns than the limit.

    Raises:
        FlawedError: columns_too_many.
    """
    if len(columns) > columns_max:
        raise FlawedError(Flaw("columns_too_many", f"The record has more than {columns_max:,} columns."))


def canonical(value: Any) -> str:
    """A value of JSON as text by rule 2. It is nested no deeper than `DEPTH_MAX`."""
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
