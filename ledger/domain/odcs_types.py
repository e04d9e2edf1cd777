"""The types of the Open Data Contract Standard and ours.

Rules:
1. The logical type decides; the physical one where the logical one can be more than one of ours, or is not told.
2. An instant has an offset if the standard's `timezone` says so, else if its physical type or its format does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ledger.domain.column import excerpt
from ledger.domain.odcs_formats import format_read
from ledger.domain.values import FISCAL_DATE_TYPES, ColumnType
from ledger.errors import InvalidRequestError

# OURS -> the logical type, and its options.
LOGICAL_TYPES: dict[ColumnType, tuple[str, dict[str, Any]]] = {
    ColumnType.BIGINT: ("integer", {}),
    ColumnType.NUMERIC: ("number", {}),
    ColumnType.DATE: ("date", {}),
    ColumnType.TIMESTAMP: ("timestamp", {"timezone": False}),
    ColumnType.TIMESTAMPTZ: ("timestamp", {"timezone": True}),
    ColumnType.BOOLEAN: ("boolean", {}),
    ColumnType.TEXT: ("string", {}),
}
# OURS -> what databases call it, before any length in parentheses.
PHYSICAL_TYPES = {
    ColumnType.BIGINT: ("bigint", "int8", "integer", "int", "int4", "smallint", "int2", "serial", "bigserial"),
    ColumnType.NUMERIC: ("numeric", "decimal"),
    ColumnType.DATE: ("date",),
    ColumnType.TIMESTAMP: ("timestamp", "timestamp without time zone", "datetime"),
    ColumnType.TIMESTAMPTZ: ("timestamptz", "timestamp with time zone"),
    ColumnType.BOOLEAN: ("boolean", "bool"),
    ColumnType.TEXT: ("text", "varchar", "character varying", "char", "string"),
}
ONE_OF_OURS = {logical: kind for kind, (logical, _) in LOGICAL_TYPES.items() if logical != "timestamp"}
NEAREST = {name: kind for kind, names in PHYSICAL_TYPES.items() for name in names}
NARROWER = {("date", kind) for kind in FISCAL_DATE_TYPES} | {("number", ColumnType.BIGINT)}
LENGTH = re.compile(r"\s*[(\[].*?[)\]]")


def type_read(of: str, logical: Any, physical: Any, options: Mapping[str, Any]) -> ColumnType | None:
    """The type of ours; None for an instant of which nothing says whether it has an offset.

    Args:
        of: which property, for a message.
        options: its logicalTypeOptions.

    Raises:
        InvalidRequestError: no column of ours has this type.
    """
    base = " ".join(LENGTH.sub("", str(physical or "").lower()).split())
    nearest = NEAREST.get(base)
    if logical == "timestamp":
        return _timestamp_type(of, nearest, options)
    if nearest is not None and (logical is None or (logical, nearest) in NARROWER):
        return nearest
    found = ONE_OF_OURS.get(str(logical))
    if found is None or base == "time":
        raise InvalidRequestError(
            f"The {of} is of logicalType {excerpt(str(logical))} and physicalType {excerpt(str(physical))}, "
            "which no column is.",
            f"Use one of {', '.join(dict.fromkeys(name for name, _ in LOGICAL_TYPES.values()))}.",
        )
    return found


def _timestamp_type(of: str, nearest: ColumnType | None, options: Mapping[str, Any]) -> ColumnType | None:
    zone, written = options.get("timezone"), options.get("format")
    if zone is not None and not isinstance(zone, bool):
        raise InvalidRequestError(f"The {of} has {excerpt(str(zone))} as its timezone.", "Write true or false.")
    if zone is not None:
        return ColumnType.TIMESTAMPTZ if zone else ColumnType.TIMESTAMP
    if nearest in (ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ):
        return nearest
    if isinstance(written, str):
        return ColumnType.TIMESTAMPTZ if "%z" in format_read(written) else ColumnType.TIMESTAMP
    return None
