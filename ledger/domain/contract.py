"""Contract: what the columns of a dataset are, what its files may look like, and what a dataset may be called.

Rules:
1. A contract has 1 to 1,592 columns: PostgreSQL's 1,600 less the eight kept for lineage. Their names differ.
2. A null token means no value, in every column, where it stands unquoted and whole. With tokens other than the empty
   one, an empty value is an empty text. Formats that have a null of their own (all but delimited text) keep that, and
   the tokens other than the empty one mean the same.
3. The fiscal-date column is a date or an instant and always has a value: it decides a row's fiscal year.
4. `rejects_max` says how many records of a file may be refused before the whole file is: a number, or a share of its
   records in percent. By default one in ten: a file of which more is wrong is most likely another file.
5. The `key` is of columns that always have a value. No two rows of a dataset in one fiscal year have the same: the
   record that comes later is refused.
6. A file may have its columns in any order. What it has beyond the contract is refused, or ignored if the contract says
   so; what it lacks is refused, or has no value if the contract says so and the column may be empty.
7. If its columns have widths, each of them has: then its files are lines without delimiters or header, and a column is
   so many characters of each, in the contract's order, without the blanks around its value.
8. The digest of a contract is the SHA-256 of its canonical JSON (sorted keys, no spaces, UTF-8). What has its default
   value and was added later is left out, so that no digest changes.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from ledger.domain.column import Column, check_fields, excerpt, texts
from ledger.domain.trailer import Trailer
from ledger.domain.values import FISCAL_DATE_TYPES
from ledger.errors import InvalidRequestError

COLUMNS_MAX = 1_600 - 8
NULL_TOKEN_CHARACTERS_MAX = 20
NULL_TOKENS_MAX = 20
REJECTS_MAX = "10%"
REJECTS = re.compile(r"[0-9]{1,18}|(?:100|[0-9]{1,2}(?:\.[0-9]{1,6})?)%", re.ASCII)
DATASET_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
DATASET_NAME_CHARACTERS_MAX = 40
DATASET_NAME_UNKNOWN = "upload"
COMPRESSION_EXTENSIONS = frozenset({"bz2", "gz", "xz", "zip", "zst"})


_Choice = TypeVar("_Choice", bound=StrEnum)


class ExtraColumns(StrEnum):
    """What to do with columns of a file that are not in the contract."""

    REFUSE = "refuse"
    IGNORE = "ignore"


class MissingColumns(StrEnum):
    """What to do with columns of the contract that are not in a file."""

    REFUSE = "refuse"
    NULL = "null"


@dataclass(frozen=True)
class Contract:
    """The columns of a dataset, in their order. Creating it raises InvalidRequestError when they break a rule."""

    columns: tuple[Column, ...]
    null_tokens: tuple[str, ...] = ("",)
    fiscal_date_column: str | None = None
    rejects_max: str = REJECTS_MAX
    key: tuple[str, ...] = ()
    extra_columns: ExtraColumns = ExtraColumns.REFUSE
    missing_columns: MissingColumns = MissingColumns.REFUSE
    trailer: Trailer | None = None

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
        self._check_null_tokens()
        self._check_fiscal_date_column()
        self._check_key()
        if len({column.width is None for column in self.columns}) > 1:
            raise InvalidRequestError("Some columns have a width and some have none.", "Give all of them one, or none.")
        if self.trailer is not None:
            self.trailer.check(self.columns)
        if not REJECTS.fullmatch(self.rejects_max):
            raise InvalidRequestError(
                f"{excerpt(self.rejects_max)} is not how many records may be refused.",
                "Use a whole number, such as 100, or a share of the records, such as 2.5%.",
            )

    def to_dict(self) -> dict[str, Any]:
        """The contract as JSON values."""
        return {
            "columns": [column.to_dict() for column in self.columns],
            **self._null_tokens_to_dict(),
            "fiscal_date_column": self.fiscal_date_column,
            **({} if self.rejects_max == REJECTS_MAX else {"rejects_max": self.rejects_max}),
            **({"key": list(self.key)} if self.key else {}),
            **({} if self.extra_columns is ExtraColumns.REFUSE else {"extra_columns": "ignore"}),
            **({} if self.missing_columns is MissingColumns.REFUSE else {"missing_columns": "null"}),
            **({} if self.trailer is None else {"trailer": self.trailer.to_dict()}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Read what `to_dict` gave, or what a user wrote.

        Raises:
            InvalidRequestError: a field is missing, unknown or of another kind, or the columns break a rule.
        """
        optional = {
            "null_token": str,
            "null_tokens": (list, tuple),
            "fiscal_date_column": (str, type(None)),
            "rejects_max": (str, int),
            "key": (list, tuple),
            "extra_columns": str,
            "missing_columns": str,
            "trailer": (Mapping, type(None)),
        }
        check_fields(values, "contract", required={"columns": (list, tuple)}, optional=optional)
        if "null_token" in values and "null_tokens" in values:
            raise InvalidRequestError("A contract has null_tokens or a null_token, not both.")
        trailer = values.get("trailer")
        return cls(
            tuple(Column.from_dict(column) for column in values["columns"]),
            texts(values.get("null_tokens", (values.get("null_token", ""),)), "null_tokens"),
            values.get("fiscal_date_column"),
            str(values.get("rejects_max", REJECTS_MAX)),
            texts(values.get("key", ()), "key"),
            _choice(ExtraColumns, values.get("extra_columns", ExtraColumns.REFUSE), "extra_columns"),
            _choice(MissingColumns, values.get("missing_columns", MissingColumns.REFUSE), "missing_columns"),
            None if trailer is None else Trailer.from_dict(trailer),
        )

    @property
    def is_fixed(self) -> bool:
        """Whether columns are so many characters of a line."""
        return self.columns[0].width is not None

    def rejects_allowed(self, records: int) -> int:
        """How many records of a file of so many may be refused."""
        if self.rejects_max.endswith("%"):
            return int(records * Decimal(self.rejects_max.removesuffix("%")) / 100)
        return int(self.rejects_max)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _null_tokens_to_dict(self) -> dict[str, Any]:
        # One token is told as it was when there could be no more: digests of contracts stay what they are.
        one = len(self.null_tokens) == 1
        return {"null_token": self.null_tokens[0]} if one else {"null_tokens": list(self.null_tokens)}

    def _check_null_tokens(self) -> None:
        if not 1 <= len(set(self.null_tokens)) == len(self.null_tokens) <= NULL_TOKENS_MAX:
            raise InvalidRequestError(f"A contract has 1 to {NULL_TOKENS_MAX} different null tokens.")
        for token in self.null_tokens:
            if len(token) > NULL_TOKEN_CHARACTERS_MAX or not token.isprintable() or set(token) & set('",;|'):
                raise InvalidRequestError(
                    f"{excerpt(token)} cannot be a null token.",
                    f"Use up to {NULL_TOKEN_CHARACTERS_MAX} printable characters without quotes or delimiters.",
                )

    def _check_key(self) -> None:
        by_name = {column.name: column for column in self.columns}
        for name in self.key:
            if name not in by_name or by_name[name].nullable or self.key.count(name) > 1:
                raise InvalidRequestError(
                    f"{excerpt(name)} cannot be in the key.",
                    "Name columns of the contract that are not nullable, each once.",
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


def _choice(choices: type[_Choice], value: str, name: str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        raise InvalidRequestError(f"{name} cannot be {excerpt(value)}.", f"Use one of {', '.join(choices)}.") from None


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
