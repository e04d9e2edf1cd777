"""A contract in the words of the Open Data Contract Standard (ODCS v3, bitol.io).

    ours                       theirs
    columns                    schema[0].properties[]
      name                     name
      type                     logicalType, physicalType, logicalTypeOptions.timezone      see odcs_types
      nullable                 required, which is the opposite
      format                   logicalTypeOptions.format, of days and times                else ledger.format
      minimum, maximum         logicalTypeOptions.minimum, .maximum                        else ledger.minimum, ...
      pattern                  logicalTypeOptions.pattern                                  else ledger.pattern
      allowed                  quality[]: no invalidValues, by validValues                 else ledger.allowed
      width                    ledger.width
    key                        primaryKey, primaryKeyPosition
    null_tokens, trailer, ...  customProperties of schema[0]: ledger.nullTokens, ...       see OBJECT_PROPERTIES

Rules:
1. The standard's own field is written where it says the same. Where reading it would not give back what we have, a
   custom property of the column (`ledger.minimum`: "0.10") has it as it stands in our contract, beside it or alone.
2. `required` of ours and the null tokens are always written: what a reader would take for granted differs.
3. A key of ours is unique within a fiscal year only. The standard has no word for that.

What reads it back is `odcs_import`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from ledger.domain.column import RANGE_CHARACTERS_MAX, Column, excerpt
from ledger.domain.contract import Contract
from ledger.domain.odcs_formats import format_read, format_written, pattern_read, pattern_written
from ledger.domain.odcs_types import LOGICAL_TYPES
from ledger.domain.values import FISCAL_DATE_TYPES, NUMBER_TYPES, PLAIN_NUMBER, ColumnType
from ledger.errors import InvalidRequestError

API_VERSION = "v3.1.0"
KIND = "DataContract"
PREFIX = "ledger."

# Theirs, after the prefix -> ours.
OBJECT_PROPERTIES = {
    "nullTokens": "null_tokens",
    "fiscalDateColumn": "fiscal_date_column",
    "rejectsMax": "rejects_max",
    "extraColumns": "extra_columns",
    "missingColumns": "missing_columns",
    "trailer": "trailer",
}
WIDTH = "width"
OPTIONS = ("format", "minimum", "maximum", "pattern")
INVALID_VALUES = "invalidValues"
VALID_VALUES = "validValues"


def to_odcs(name: str, contract: Contract, version: int) -> dict[str, Any]:
    """The contract of a dataset as a document of the standard, as JSON values.

    Args:
        version: of the contract, counted from 1.
    """
    values = {**contract.to_dict(), "null_tokens": list(contract.null_tokens)}
    said = {theirs: values[ours] for theirs, ours in OBJECT_PROPERTIES.items() if values.get(ours) is not None}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        **header_of(name),
        "version": f"{version}.0.0",
        "schema": [
            {
                "name": name,
                "physicalName": name,
                "physicalType": "table",
                "logicalType": "object",
                "customProperties": _custom(said),
                "properties": [_property(column, contract) for column in contract.columns],
            }
        ],
    }


def header_of(name: str) -> dict[str, str]:
    """What a document of ours says of a dataset besides its contract."""
    return {"id": f"ledger-dataset-{name}", "name": name, "status": "active"}


def written(rule: str, kind: ColumnType, ours: Any) -> Any:
    """What a column of a type says in a field of the standard; None if the standard cannot say it.

    Args:
        rule: the field of our column: format, minimum, maximum, pattern or allowed.
    """
    return WRITE[rule](kind, ours)


def read(rule: str, kind: ColumnType, theirs: Any) -> Any:
    """What a field of the standard means for a column of a type: the opposite of `written`.

    Raises:
        InvalidRequestError: it means nothing that we know.
    """
    return READ[rule](kind, theirs)


def _property(column: Column, contract: Contract) -> dict[str, Any]:
    logical, options = LOGICAL_TYPES[column.type]
    said: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    for rule in (*OPTIONS, "allowed"):
        ours = getattr(column, rule)
        if ours is None or ours == ():
            continue
        said[rule] = written(rule, column.type, ours)
        is_compared_as_text = rule == "allowed" and column.type is ColumnType.NUMERIC
        if said[rule] is None or is_compared_as_text or read(rule, column.type, said[rule]) != ours:
            custom[rule] = list(ours) if rule == "allowed" else ours
    if column.width is not None:
        custom[WIDTH] = column.width
    options = options | {rule: said[rule] for rule in OPTIONS if said.get(rule) is not None}
    return {
        "name": column.name,
        "logicalType": logical,
        "physicalType": column.type.value,
        "required": not column.nullable,
        **_place_in_key(column.name, contract.key),
        **({"logicalTypeOptions": options} if options else {}),
        **({"quality": [_none_but(said["allowed"])]} if "allowed" in said else {}),
        **({"customProperties": _custom(custom)} if custom else {}),
    }


def _place_in_key(name: str, key: tuple[str, ...]) -> dict[str, Any]:
    return {"primaryKey": True, "primaryKeyPosition": key.index(name) + 1} if name in key else {}


def _none_but(values: list[Any]) -> dict[str, Any]:
    return {"type": "library", "metric": INVALID_VALUES, "arguments": {VALID_VALUES: values}, "mustBe": 0}


def _custom(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"property": PREFIX + name, "value": value} for name, value in values.items()]


def number_text(number: float | Decimal) -> str:
    """A number in the plain form."""
    return format(Decimal(str(number)), "f")


def _number(text: str) -> int | float | None:
    """A number in the plain form; None if it is none, or if a double does not hold it."""
    if not PLAIN_NUMBER.fullmatch(text) or len(text) > RANGE_CHARACTERS_MAX:
        return None
    if "." not in text:
        return int(text)
    number = float(text)
    return number if Decimal(str(number)) == Decimal(text) else None


def _end_written(kind: ColumnType, ours: str) -> Any:
    return _number(ours) if kind in NUMBER_TYPES else ours


def _end_read(kind: ColumnType, theirs: Any) -> str:
    if isinstance(theirs, str):
        return theirs
    if kind not in NUMBER_TYPES or isinstance(theirs, bool) or not isinstance(theirs, int | float | Decimal):
        raise InvalidRequestError(f"{excerpt(str(theirs))} is no end of a range of a {kind}.", "Put quotes around it.")
    return number_text(theirs)


def _allowed_written(kind: ColumnType, ours: tuple[str, ...]) -> list[Any]:
    return [_value_written(kind, text) for text in ours]


def _value_written(kind: ColumnType, text: str) -> Any:
    number = _number(text) if kind in NUMBER_TYPES else None
    if number is not None:
        return number
    return text == "true" if kind is ColumnType.BOOLEAN and text in ("true", "false") else text


def _allowed_read(kind: ColumnType, theirs: Any) -> tuple[str, ...]:
    if not isinstance(theirs, list):
        raise InvalidRequestError(f"{excerpt(str(theirs))} is no list of values.", "Write a list.")
    return tuple(_value_read(kind, value) for value in theirs)


def _value_read(kind: ColumnType, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) and kind is ColumnType.BOOLEAN:
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and kind in NUMBER_TYPES:
        return number_text(value)
    raise InvalidRequestError(f"{excerpt(str(value))} is no value of a {kind}.", "Put quotes around it.")


def _format_written(kind: ColumnType, ours: str) -> str | None:
    return format_written(ours) if kind in FISCAL_DATE_TYPES else None


def _format_read(kind: ColumnType, theirs: Any) -> str | None:
    ours = format_read(_text(theirs))
    return None if kind is ColumnType.DATE and ours == "%Y-%m-%d" else ours


def _pattern_written(kind: ColumnType, ours: str) -> str | None:
    return pattern_written(ours)


def _pattern_read(kind: ColumnType, theirs: Any) -> str:
    return pattern_read(_text(theirs))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{excerpt(str(value))} is no text.", "Put quotes around it.")
    return value


WRITE: dict[str, Callable[[ColumnType, Any], Any]] = {
    "format": _format_written,
    "minimum": _end_written,
    "maximum": _end_written,
    "pattern": _pattern_written,
    "allowed": _allowed_written,
}
READ: dict[str, Callable[[ColumnType, Any], Any]] = {
    "format": _format_read,
    "minimum": _end_read,
    "maximum": _end_read,
    "pattern": _pattern_read,
    "allowed": _allowed_read,
}
