"""A document of the Open Data Contract Standard read as a contract; `odcs` has the table of what is what.

Rules:
1. What the document says of its values and we cannot check is refused: without it we would take what it does not.
   That is a type, an option of a type, `unique`, a structure within a column.
2. What it says beside that is not kept: people, places, services, descriptions, and checks that other tools make
   (`quality` but for the values that are valid). Each is named, and so is what is read in another way than it stands.
3. What stands both in the standard's field and in ours (`ledger.minimum`) must be the same: whoever changes one changes
   the other, or takes ours away.
4. Nothing that is unknown is passed over: a field that the standard does not have is named, and a custom property of
   ours that we do not have is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from ledger.domain.column import excerpt
from ledger.domain.contract import Contract
from ledger.domain.odcs import (
    INVALID_VALUES,
    KIND,
    OBJECT_PROPERTIES,
    OPTIONS,
    PREFIX,
    VALID_VALUES,
    WIDTH,
    header_of,
    read,
    written,
)
from ledger.domain.odcs_formats import WRITTEN
from ledger.domain.odcs_types import type_read
from ledger.domain.values import FISCAL_DATE_TYPES, ColumnType
from ledger.errors import InvalidRequestError

API_VERSION = re.compile(r"v3\.[0-9.]+", re.ASCII)
NAMES_SHOWN = 3
NOTHING: tuple[Any, ...] = (None, "", [], {})
# What the standard takes for granted: who says it says nothing.
DEFAULTS = {
    "partitioned": False,
    "partitionKeyPosition": -1,
    "criticalDataElement": False,
    "deprecated": False,
    "semanticType": "column",
    "minLength": 0,
}
STRUCTURES = ("items", "map", "properties")
PROPERTY_FIELDS = frozenset(
    {"name", "logicalType", "logicalTypeOptions", "required", "unique", "primaryKey", "primaryKeyPosition"}
    | {"enum", "quality", "customProperties"}
)
CHECK_FIELDS = frozenset({"type", "metric", "arguments", "mustBe", "unit", "severity"})
BITS_OF_BIGINT = "i64"
LAST_PLACES = 1 << 20


def is_odcs(values: Mapping[str, Any]) -> bool:
    """Whether this is a document of the standard, of any version."""
    return values.get("kind") == KIND or "apiVersion" in values


def from_odcs(name: str, values: Mapping[str, Any]) -> tuple[Contract, list[str]]:
    """The contract of the dataset `name` that a document holds.

    Returns:
        The contract, and what is not kept of the document or read in another way, one sentence each.

    Raises:
        InvalidRequestError: it cannot be read, or holds what no contract of ours can.
    """
    version = values.get("apiVersion")
    if values.get("kind") != KIND or not isinstance(version, str) or not API_VERSION.fullmatch(version):
        raise InvalidRequestError(
            f"A document of kind {excerpt(str(values.get('kind')))} and version {excerpt(str(version))} is unknown.",
            f"Write it by version 3 of the standard, with kind: {KIND} and apiVersion: v3.1.0.",
        )
    notes = _Notes()
    ours = header_of(name)
    known = {"apiVersion", "kind", "schema"} | _same(values, ours)
    notes.leave(values, known | ({"version"} if values.get("id") == ours["id"] else set()))
    contract = _contract(name, _schema_of(name, values.get("schema")), notes)
    return contract, notes.sentences()


@dataclass
class _Notes:
    """What is not kept, by its field, and what else is to be said."""

    left: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def leave(self, values: Mapping[str, Any], known: Iterable[str], of: str = "", within: str = "") -> None:
        """Take note of the fields that are not known and say something."""
        for name in set(values).difference(known):
            if _says_something(name, values[name]):
                self.left.setdefault(within + name, []).append(of)

    def sentences(self) -> list[str]:
        """All of it."""
        kept = []
        for name, of in sorted(self.left.items()):
            named = [excerpt(each) for each in of if each]
            more = f" and {len(named) - NAMES_SHOWN} more" if len(named) > NAMES_SHOWN else ""
            where = f" of {', '.join(named[:NAMES_SHOWN])}{more}" if named else ""
            kept.append(f"Not kept: {excerpt(name)}{where}.")
        return [*self.said, *kept]


def _schema_of(name: str, schema: Any) -> Mapping[str, Any]:
    """The object of the schema that is meant: the only one, or the one that is named as the dataset is."""
    objects = [_object(each, "element of 'schema'") for each in _list(schema, "schema")]
    if len(objects) == 1:
        return objects[0]
    named = [each for each in objects if name in (each.get("name"), each.get("physicalName"))]
    if len(named) != 1:
        raise InvalidRequestError(
            f"The data contract has {len(objects)} objects in its schema, and {len(named)} of them are named {name!r}.",
            "A dataset is one of them: name the dataset as the object is named.",
        )
    return named[0]


def _contract(name: str, schema: Mapping[str, Any], notes: _Notes) -> Contract:
    of = f"object {excerpt(str(schema.get('name')))}"
    if schema.get("logicalType", "object") != "object":
        raise InvalidRequestError(f"The {of} is of type {excerpt(str(schema['logicalType']))}.", "Use 'object'.")
    known = {"name", "logicalType", "properties", "customProperties"}
    known |= _same(schema, {"physicalName": name, "physicalType": "table"})
    notes.leave(schema, known, of=str(schema.get("name")))
    if schema.get("name") != name:
        notes.said.append(f"The {of} of the schema is read as dataset {name!r}.")
    own = _own_properties(of, schema, OBJECT_PROPERTIES, notes)
    places: dict[int, str] = {}
    columns = [_column(each, places, notes) for each in _list(schema.get("properties"), "properties")]
    key = [places[place] for place in sorted(places)]
    if key and "nullTokens" not in own:
        notes.said.append("The primary key is unique within a fiscal year, and not beyond.")
    values = {OBJECT_PROPERTIES[theirs]: value for theirs, value in own.items()}
    return Contract.from_dict({"columns": columns, "key": key, **values})


def _column(values: Any, places: dict[int, str], notes: _Notes) -> dict[str, Any]:
    """One property as the values of a column of ours; if it is in the key it joins `places`."""
    said = _object(values, "element of 'properties'")
    name = said.get("name")
    if not isinstance(name, str):
        raise InvalidRequestError("A property of the data contract has no name.", "Name it as the column of the files.")
    of = f"property {excerpt(name)}"
    _refuse(of, said, STRUCTURES)
    options = _object(said.get("logicalTypeOptions") or {}, f"logicalTypeOptions of {of}")
    kind = type_read(of, said.get("logicalType"), said.get("physicalType"), options)
    if kind is None:
        notes.said.append(f"The {of} does not say whether its times have an offset; they are read without.")
        kind = ColumnType.TIMESTAMP
    notes.leave(said, PROPERTY_FIELDS | _same(said, {"physicalType": kind.value, "physicalName": name}), of=name)
    in_key, required = _flag(of, said, "primaryKey"), _flag(of, said, "required")
    if in_key:
        places[_place(of, said, places)] = name
    if in_key and not required:
        notes.said.append(f"The {of} is in the primary key, and may not be empty.")
    if _flag(of, said, "unique") and not in_key:
        raise InvalidRequestError(f"The {of} is unique, which only a key is here.", "Make it the primary key.")
    try:
        rules = _options(name, kind, options, notes) | _valid_values(name, kind, said, notes)
        own = _own_properties(of, said, (*OPTIONS, "allowed", WIDTH), notes)
        width = {WIDTH: own.pop(WIDTH)} if WIDTH in own else {}
        rules |= _own_rules(of, kind, rules, own) | width
    except InvalidRequestError as error:
        at = "" if excerpt(name) in error.message else f"The {of} cannot be taken. "
        raise InvalidRequestError(at + error.message, error.remedy) from None
    if kind is ColumnType.NUMERIC and "allowed" in rules and "allowed" not in own:
        notes.said.append(f"The valid values of {of} are compared as they are written: 2.50 is not 2.5.")
    return {"name": name, "type": kind.value, "nullable": not (required or in_key), **rules}


def _options(name: str, kind: ColumnType, options: Mapping[str, Any], notes: _Notes) -> dict[str, Any]:
    """The rules of a column that stand in its logicalTypeOptions."""
    of = f"property {excerpt(name)}"
    left = {option: value for option, value in options.items() if _says_something(option, value)}
    left.pop("timezone", None)
    notes.leave({option: left.pop(option) for option in ("defaultTimezone",) if option in left}, (), of=name)
    if kind is ColumnType.TEXT and "format" in left:  # what the text is, such as email: nothing that is defined
        notes.leave({"format": left.pop("format")}, (), of=name)
    elif kind is ColumnType.BIGINT and left.get("format") == BITS_OF_BIGINT:
        del left["format"]
    elif kind not in FISCAL_DATE_TYPES:
        _refuse(of, left, ("format",))
    for end, step in (("minimum", 1), ("maximum", -1)):
        beyond = f"exclusive{end.capitalize()}"
        if beyond in left and end not in left and kind in (ColumnType.BIGINT, ColumnType.DATE):
            left[end] = _next(kind, left.pop(beyond), step)
    _refuse(of, left, set(left).difference(OPTIONS))
    if "pattern" in left and not WRITTEN.fullmatch(str(left["pattern"])):
        notes.said.append(f"The pattern of {of} is read in the syntax of RE2.")
    found = {rule: read(rule, kind, value) for rule, value in left.items()}
    return {rule: ours for rule, ours in found.items() if ours is not None}


def _next(kind: ColumnType, value: Any, step: int) -> Any:
    """The first value within a range that does not have its end."""
    try:
        if kind is ColumnType.DATE:
            return (date.fromisoformat(value) + timedelta(step)).isoformat()
        if type(value) is int:
            return value + step
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidRequestError(f"{excerpt(str(value))} is no end of a range of a {kind}.", "Say minimum and maximum.")


def _valid_values(name: str, kind: ColumnType, said: Mapping[str, Any], notes: _Notes) -> dict[str, Any]:
    """The values that are allowed, by `enum` or by a check of quality; other checks are not kept."""
    lists: list[Any] = []
    entries = [_object(entry, "element of 'enum'") for entry in _list(said.get("enum") or [], "enum")]
    for entry in entries:
        notes.leave(entry, ("value",), of=name, within="enum.")
    if entries:
        lists.append([entry.get("value") for entry in entries])
    for each in _list(said.get("quality") or [], "quality"):
        check = _object(each, "element of 'quality'")
        arguments = check.get("arguments")
        if _forbids(check, INVALID_VALUES) and isinstance(arguments, Mapping) and set(arguments) == {VALID_VALUES}:
            lists.append(arguments[VALID_VALUES])
            notes.leave(check, CHECK_FIELDS, of=name, within="quality.")
        elif not (_forbids(check, "nullValues") and said.get("required") is True):
            notes.leave({"quality": check}, (), of=name)
    found = [read("allowed", kind, each) for each in lists]
    if len(set(found)) > 1:
        raise InvalidRequestError(f"The property {excerpt(name)} has two different lists of valid values.", "Keep one.")
    return {"allowed": list(found[0])} if found and found[0] else {}


def _forbids(check: Mapping[str, Any], metric: str) -> bool:
    """Whether a check wants none of what a metric counts, and means it."""
    wanted, severity = check.get("mustBe"), check.get("severity")
    is_ours = check.get("metric") == metric and check.get("type", "library") == "library"
    return is_ours and wanted == 0 and not isinstance(wanted, bool) and severity in (None, "error")


def _own_rules(of: str, kind: ColumnType, rules: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of a column that stand in custom properties, if they are those of the standard's fields (rule 3)."""
    for rule, ours in own.items():
        values = ours if rule == "allowed" and isinstance(ours, list) else [ours]
        if not all(isinstance(value, str) for value in values):
            raise InvalidRequestError(f"{PREFIX}{rule} of {of} is no text.", "Put quotes around it.")
        theirs = written(rule, kind, ours)
        meant = None if theirs is None else read(rule, kind, theirs)
        meant = list(meant) if isinstance(meant, tuple) else meant
        if rules.get(rule) != meant:
            raise InvalidRequestError(
                f"The {of} has {excerpt(str(ours))} as {PREFIX}{rule}, and {excerpt(str(rules.get(rule)))} as {rule}.",
                f"Make both the same, or take {PREFIX}{rule} away.",
            )
    return dict(own)


def _own_properties(of: str, values: Mapping[str, Any], known: Iterable[str], notes: _Notes) -> dict[str, Any]:
    """The custom properties of ours, by their name without the prefix."""
    found: dict[str, Any] = {}
    for entry in _list(values.get("customProperties") or [], "customProperties"):
        custom = _object(entry, f"custom property of {of}")
        name = str(custom.get("property"))
        own = name.removeprefix(PREFIX)
        if own == name:
            notes.leave({name: True}, (), of=str(values.get("name")), within="customProperties.")
        elif own not in set(known) or own in found:
            raise InvalidRequestError(
                f"The {of} has the custom property {excerpt(name)}, which is unknown or stands there twice.",
                f"Use {', '.join(PREFIX + each for each in known)}, each once.",
            )
        else:
            found[own] = custom.get("value")
    return found


def _place(of: str, said: Mapping[str, Any], places: Mapping[int, str]) -> int:
    """The place of a column in the key; those that do not say it follow the others."""
    place = said.get("primaryKeyPosition", -1)
    if place == -1:
        return LAST_PLACES + len(places)
    if type(place) is not int or not 1 <= place < LAST_PLACES or place in places:
        raise InvalidRequestError(
            f"The {of} has {excerpt(str(place))} as its primaryKeyPosition.", "Count the columns of the key from 1."
        )
    return place


def _says_something(name: str, value: Any) -> bool:
    return value not in NOTHING and not (name in DEFAULTS and value == DEFAULTS[name])


def _same(values: Mapping[str, Any], others: Mapping[str, Any]) -> set[str]:
    """The names that have the same value in both."""
    return {name for name, value in others.items() if values.get(name) == value}


def _refuse(of: str, values: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in sorted(names):
        if _says_something(name, values.get(name)):
            raise InvalidRequestError(
                f"The {of} has {excerpt(name)}, which no contract here can hold.",
                "Without it, values would be taken that the data contract does not mean: say it otherwise, or not.",
            )


def _flag(of: str, values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"The {of} has {excerpt(str(value))} as {name}.", "Write true or false.")
    return bool(value)


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"The {what} is no object with names and values.", "See bitol.io for the standard.")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequestError(f"{name!r} of the data contract is no list.", "See bitol.io for the standard.")
    return value
