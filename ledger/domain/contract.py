"""Contract: what the columns of a dataset are, and what names may be called.

Rules:
1. A contract has 1 to 1,592 columns: PostgreSQL's 1,600 less the eight kept for lineage, whose names start with `_`.
2. A column's name is a PostgreSQL identifier of up to 63 bytes of UTF-8, unique in its contract, and not one of
   PostgreSQL's own system columns (`xmin`, `ctid`, ...).
3. PostgreSQL's `COPY` knows one null string per file, so a contract has one null token and it holds for every column.
   It means NULL only where it stands unquoted. With a token other than the empty one, an empty value is an empty text.
4. The fiscal-date column is a date or an instant and always has a value: it decides a row's fiscal year.
5. `rejects_max` says how many records of a file may be refused before the whole file is: a number, or a share of its
   records in percent. By default one in ten: a file of which more is wrong is most likely another file.
6. The digest of a contract is the SHA-256 of its canonical JSON (sorted keys, no spaces, UTF-8). What has its default
   value and was added later is left out, so that no digest changes.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from ledger.errors import InvalidRequestError

COLUMNS_MAX = 1_600 - 8
NAME_BYTES_MAX = 63
NULL_TOKEN_CHARACTERS_MAX = 20
EXCERPT_CHARACTERS_MAX = 80
REJECTS_MAX = "10%"
REJECTS = re.compile(r"[0-9]{1,18}|(?:100|[0-9]{1,2}(?:\.[0-9]{1,6})?)%", re.ASCII)
SYSTEM_COLUMNS = frozenset({"ctid", "cmax", "cmin", "tableoid", "xmax", "xmin"})
DATASET_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
DATASET_NAME_CHARACTERS_MAX = 40
DATASET_NAME_UNKNOWN = "upload"
COMPRESSION_EXTENSIONS = frozenset({"bz2", "gz", "xz", "zip", "zst"})


class ColumnType(StrEnum):
    """The types a column can have, by their PostgreSQL names."""

    BIGINT = "bigint"
    NUMERIC = "numeric"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    BOOLEAN = "boolean"
    TEXT = "text"


FISCAL_DATE_TYPES = frozenset({ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ})


@dataclass(frozen=True)
class Column:
    """One column. Creating it raises InvalidRequestError when its name cannot be a column's name."""

    name: str
    type: ColumnType
    nullable: bool = True

    def __post_init__(self) -> None:
        _check_column_name(self.name)

    def to_dict(self) -> dict[str, Any]:
        """The column as JSON values."""
        return {"name": self.name, "type": self.type.value, "nullable": self.nullable}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Column:
        """Read what `to_dict` gave, or what a user wrote.

        Raises:
            InvalidRequestError: a field is missing, unknown or of another kind.
        """
        _check_fields(values, "column", required={"name": str, "type": str}, optional={"nullable": bool})
        if values["type"] not in list(ColumnType):
            raise InvalidRequestError(
                f"Column {excerpt(values['name'])} has the type {excerpt(values['type'])}, which does not exist.",
                f"Use one of {', '.join(ColumnType)}.",
            )
        return cls(values["name"], ColumnType(values["type"]), values.get("nullable", True))


@dataclass(frozen=True)
class Contract:
    """The columns of a dataset, in their order. Creating it raises InvalidRequestError when they break a rule."""

    columns: tuple[Column, ...]
    null_token: str = ""
    fiscal_date_column: str | None = None
    rejects_max: str = REJECTS_MAX

    def __post_init__(self) -> None:
        if not 1 <= len(self.columns) <= COLUMNS_MAX:
            raise InvalidRequestError(f"A contract has 1 to {COLUMNS_MAX:,} columns, not {len(self.columns):,}.")
        positions: dict[str, int] = {}
        for position, column in enumerate(self.columns, start=1):
            if column.name in positions:
                raise InvalidRequestError(
                    f"Columns {positions[column.name]} and {position} are both named {excerpt(column.name)}.",
                    "Give each column a name of its own.",
                )
            positions[column.name] = position
        self._check_null_token()
        self._check_fiscal_date_column()
        if not REJECTS.fullmatch(self.rejects_max):
            raise InvalidRequestError(
                f"{excerpt(self.rejects_max)} is not how many records may be refused.",
                "Use a whole number, such as 100, or a share of the records, such as 2.5%.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The contract as JSON values."""
        return {
            "columns": [column.to_dict() for column in self.columns],
            "null_token": self.null_token,
            "fiscal_date_column": self.fiscal_date_column,
            **({} if self.rejects_max == REJECTS_MAX else {"rejects_max": self.rejects_max}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Read what `to_dict` gave, or what a user wrote.

        Raises:
            InvalidRequestError: a field is missing, unknown or of another kind, or the columns break a rule.
        """
        optional = {"null_token": str, "fiscal_date_column": (str, type(None)), "rejects_max": str}
        _check_fields(values, "contract", required={"columns": (list, tuple)}, optional=optional)
        columns = tuple(Column.from_dict(column) for column in values["columns"])
        return cls(
            columns,
            values.get("null_token", ""),
            values.get("fiscal_date_column"),
            values.get("rejects_max", REJECTS_MAX),
        )

    def rejects_allowed(self, records: int) -> int:
        """How many records of a file of so many may be refused."""
        if self.rejects_max.endswith("%"):
            return int(records * Decimal(self.rejects_max.removesuffix("%")) / 100)
        return int(self.rejects_max)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _check_null_token(self) -> None:
        token = self.null_token
        if len(token) > NULL_TOKEN_CHARACTERS_MAX or not token.isprintable() or set(token) & set('",;|'):
            raise InvalidRequestError(
                f"{excerpt(token)} cannot be the null token.",
                f"Use up to {NULL_TOKEN_CHARACTERS_MAX} printable characters without quotes or delimiters.",
            )

    def _check_fiscal_date_column(self) -> None:
        name = self.fiscal_date_column
        if name is None:
            return
        column = next((column for column in self.columns if column.name == name), None)
        if column is None:
            raise InvalidRequestError(f"The fiscal-date column {excerpt(name)} is not one of the contract's columns.")
        if column.type not in FISCAL_DATE_TYPES or column.nullable:
            raise InvalidRequestError(
                f"The fiscal-date column {excerpt(name)} is of type {column.type}"
                f"{' and may be empty' if column.nullable else ''}.",
                f"It must be of type {', '.join(sorted(FISCAL_DATE_TYPES))} and not nullable.",
            )


def dataset_name(filename: str) -> str:
    """The name of the dataset that a file of this name goes to when its sender names none.

    The folder and the extension (two after a compression) are cut, other characters become `_`; any text is taken.
    """
    name = re.split(r"[/\\]", filename)[-1]
    stem, _, extension = name.rpartition(".")
    if extension.lower() in COMPRESSION_EXTENSIONS:
        stem, _, extension = stem.rpartition(".") if "." in stem else (stem, "", "")
    name = stem if "." in name else name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")
    if not words[:1].isalpha():
        words = f"{DATASET_NAME_UNKNOWN}_{words}".strip("_")
    return words[:DATASET_NAME_CHARACTERS_MAX].rstrip("_")


def check_dataset_name(name: str) -> None:
    """Raise InvalidRequestError for anything that is not a dataset's name."""
    if not DATASET_NAME.fullmatch(name):
        raise InvalidRequestError(
            f"{excerpt(name)} is not a dataset's name.",
            f"Use 1 to {DATASET_NAME_CHARACTERS_MAX} of a-z, 0-9 and _, starting with a letter.",
        )


def excerpt(text: str) -> str:
    """The text as it may stand in a message: its first 80 characters, escaped, in quotation marks."""
    cut = "..." if len(text) > EXCERPT_CHARACTERS_MAX else ""
    return repr(text[:EXCERPT_CHARACTERS_MAX]) + cut


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


def _check_fields(values: Any, what: str, *, required: dict[str, Any], optional: dict[str, Any]) -> None:
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
        if not isinstance(value, (required | optional)[name]):
            raise InvalidRequestError(f"The field {name!r} of a {what} cannot be {excerpt(str(value))}.")


def _fields(names: Iterable[str]) -> str:
    return ", ".join(names)
