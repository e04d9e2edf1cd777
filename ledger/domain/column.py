"""Column: one column of a contract: its name, its type, how its values are written, and which are allowed.

Rules:
1. A column's name is a PostgreSQL identifier of up to 63 bytes of UTF-8, and not one of PostgreSQL's own system columns
   (`xmin`, `ctid`, ...). Names that start with `_` are kept for lineage.
2. `format` says how its values are written, see `values`. Everything else is said of the values in their plain form.
3. `minimum` and `maximum` are allowed themselves; only numbers, days and times have them. `pattern` is a regular
   expression (RE2's syntax) that a text has to match from its first to its last character. With `allowed`, a value is
   one of those. All that is said of values: whether there may be none, `nullable` alone says.
4. `width` is how many characters of a line are the column's, in files without delimiters: see `contract`, rule 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ledger.domain.values import ORDERED_TYPES, ColumnType, in_order, parse_format
from ledger.errors import InvalidRequestError

NAME_BYTES_MAX = 63
EXCERPT_CHARACTERS_MAX = 80
PATTERN_CHARACTERS_MAX = 500
ALLOWED_MAX = 10_000
RANGE_CHARACTERS_MAX = 100
WIDTH_MAX = 1_000_000
SYSTEM_COLUMNS = frozenset({"ctid", "cmax", "cmin", "tableoid", "xmax", "xmin"})


@dataclass(frozen=True)
class Column:
    """One column. Creating it raises InvalidRequestError when it breaks a rule."""

    name: str
    type: ColumnType
    nullable: bool = True
    format: str | None = None
    minimum: str | None = None
    maximum: str | None = None
    pattern: str | None = None
    allowed: tuple[str, ...] = ()
    width: int | None = None

    def __post_init__(self) -> None:
        _check_column_name(self.name)
        if self.format is not None:
            parse_format(self.type, self.format)
        self._check_range()
        if self.pattern is not None and (
            self.type is not ColumnType.TEXT or len(self.pattern) > PATTERN_CHARACTERS_MAX
        ):
            raise InvalidRequestError(
                f"Column {excerpt(self.name)} cannot have this pattern.",
                f"Only a text has one, of up to {PATTERN_CHARACTERS_MAX} characters.",
            )
        if self.width is not None and (isinstance(self.width, bool) or not 1 <= self.width <= WIDTH_MAX):
            raise InvalidRequestError(
                f"Column {excerpt(self.name)} has the width {self.width}.", f"Use 1 to {WIDTH_MAX:,} characters."
            )
        for text in (*self.allowed, self.pattern or ""):
            if not _is_storable(text):
                raise InvalidRequestError(
                    f"Column {excerpt(self.name)} has {excerpt(text)} in its rules, which no value can hold.",
                    "Leave out the NUL character and halves of characters.",
                )
        if len(self.allowed) > ALLOWED_MAX:
            raise InvalidRequestError(
                f"Column {excerpt(self.name)} allows {len(self.allowed):,} values.", f"Name up to {ALLOWED_MAX:,}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The column as JSON values."""
        rules = {"format": self.format, "minimum": self.minimum, "maximum": self.maximum, "pattern": self.pattern}
        return {
            "name": self.name,
            "type": self.type.value,
            "nullable": self.nullable,
            **{name: rule for name, rule in rules.items() if rule is not None},
            **({"allowed": list(self.allowed)} if self.allowed else {}),
            **({} if self.width is None else {"width": self.width}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Column:
        """Read what `to_dict` gave, or what a user wrote.

        Raises:
            InvalidRequestError: a field is missing, unknown or of another kind.
        """
        optional: dict[str, Any] = {"nullable": bool, "allowed": (list, tuple), "width": (int, type(None))}
        optional |= dict.fromkeys(("format", "minimum", "maximum", "pattern"), (str, type(None)))
        check_fields(values, "column", required={"name": str, "type": str}, optional=optional)
        if values["type"] not in list(ColumnType):
            raise InvalidRequestError(
                f"Column {excerpt(values['name'])} has the type {excerpt(values['type'])}, which does not exist.",
                f"Use one of {', '.join(ColumnType)}.",
            )
        rules = {name: values[name] for name in optional if name in values and name != "allowed"}
        allowed = texts(values.get("allowed", ()), "allowed")
        return cls(values["name"], ColumnType(values["type"]), allowed=allowed, **rules)

    def _check_range(self) -> None:
        ends = [end for end in (self.minimum, self.maximum) if end is not None]
        if not ends:
            return
        if self.type not in ORDERED_TYPES:
            raise InvalidRequestError(
                f"Column {excerpt(self.name)} is of type {self.type}, which has no range.",
                "Leave minimum and maximum away.",
            )
        try:
            places: list[Any] = [in_order(self.type, end[:RANGE_CHARACTERS_MAX]) for end in ends]
        except ValueError:
            raise InvalidRequestError(
                f"The range of column {excerpt(self.name)} is no range of a {self.type}: {excerpt(' to '.join(ends))}.",
                "Write both ends in the plain form: 0.01, 2024-05-31, 2024-05-31 10:00:00, 2024-05-31 10:00:00Z.",
            ) from None
        if places != sorted(places):
            raise InvalidRequestError(f"The range of column {excerpt(self.name)} ends before it starts.")


def excerpt(text: str) -> str:
    """The text as it may stand in a message: its first 80 characters, escaped, in quotation marks."""
    cut = "..." if len(text) > EXCERPT_CHARACTERS_MAX else ""
    return repr(text[:EXCERPT_CHARACTERS_MAX]) + cut


def _is_storable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _check_column_name(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError(f"The column name {excerpt(name)} is not text that UTF-8 can hold.") from None
    if not 1 <= size <= NAME_BYTES_MAX:
        raise InvalidRequestError(
            f"The column name {excerpt(name)} has {size} bytes.", f"Use 1 to {NAME_BYTES_MAX} bytes of UTF-8."
        )
    if "\0" in name:
        raise InvalidRequestError(f"The column name {excerpt(name)} holds a NUL character.")
    if name.startswith("_"):
        raise InvalidRequestError(
            f"The column name {excerpt(name)} starts with '_', which is kept for lineage.", "Choose another name."
        )
    if name in SYSTEM_COLUMNS:
        raise InvalidRequestError(
            f"The column name {excerpt(name)} belongs to PostgreSQL itself.", "Choose another name."
        )


def check_fields(values: Any, what: str, *, required: dict[str, Any], optional: dict[str, Any]) -> None:
    """Check that `values` is a mapping that has the required fields and no unknown ones, each of its kind."""
    if not isinstance(values, Mapping):
        raise InvalidRequestError(f"A {what} is an object with the fields {_fields(required | optional)}.")
    for name in required:
        if name not in values:
            raise InvalidRequestError(f"A {what} lacks the field {name!r}.")
    for name, value in values.items():
        if name not in required | optional:
            raise InvalidRequestError(
                f"A {what} has no field {excerpt(str(name))}.", f"Its fields are {_fields(required | optional)}."
            )
        kind = (required | optional)[name]
        if not isinstance(value, kind):
            raise InvalidRequestError(
                f"The field {name!r} of a {what} cannot be {excerpt(str(value))}.", _remedy_of_kind(kind, value)
            )


def texts(values: Iterable[Any], name: str) -> tuple[str, ...]:
    """A list of texts that a user wrote.

    Raises:
        InvalidRequestError: something in it is no text.
    """
    found = tuple(values)
    wrong = next((value for value in found if not isinstance(value, str)), None)
    if wrong is not None:
        raise InvalidRequestError(f"{excerpt(str(wrong))} in {name!r} is no text.", "Put quotes around it.")
    return found


def _remedy_of_kind(kind: Any, value: Any) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if bool in kinds:
        return "Write true or false."
    return "Put quotes around it." if str in kinds and not isinstance(value, (Mapping, list)) else ""


def _fields(names: Iterable[str]) -> str:
    return ", ".join(names)
