"""Trailer: the last record of a file that says what the others come to.

Rules:
1. The trailer is the last record of the file, and its first field is the marker. A file whose contract has a trailer
   and whose last record is none was cut, and is refused.
2. Other fields of it, by their number counted from 1, are control totals: how many records stand before it, and sums
   of columns, written as the values of their column are. A file that comes to something else does not complete.
3. It is a record of the file, skipped by this rule. Only delimited text has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger.domain.column import Column, check_fields, excerpt
from ledger.domain.values import NUMBER_TYPES
from ledger.errors import InvalidRequestError

MARKER_CHARACTERS_MAX = 80
FIELDS_MAX = 1_600


@dataclass(frozen=True)
class Trailer:
    """How a trailer is known and read. `records` is the field of their number, `sums` those of columns by name."""

    marker: str
    records: int | None = None
    sums: Mapping[str, int] = field(default_factory=dict)

    def check(self, columns: Iterable[Column]) -> None:
        """Check it against the columns of its contract.

        Raises:
            InvalidRequestError: it breaks a rule.
        """
        if not 1 <= len(self.marker) <= MARKER_CHARACTERS_MAX or not self.marker.isprintable():
            raise InvalidRequestError(
                f"{excerpt(self.marker)} cannot be the marker of a trailer.",
                f"Use 1 to {MARKER_CHARACTERS_MAX} printable characters.",
            )
        numbers = {column.name for column in columns if column.type in NUMBER_TYPES}
        for name in self.sums:
            if name not in numbers:
                raise InvalidRequestError(f"The trailer has a sum of {excerpt(name)}, which is no column of numbers.")
        places = [*self.sums.values(), *([] if self.records is None else [self.records])]
        for place in places:
            if isinstance(place, bool) or not isinstance(place, int) or not 2 <= place <= FIELDS_MAX:
                raise InvalidRequestError(
                    f"A trailer has no field {excerpt(str(place))} of totals.",
                    "Count its fields from 1; the first is the marker.",
                )

    def to_dict(self) -> dict[str, Any]:
        """The trailer as JSON values."""
        return {
            "marker": self.marker,
            **({} if self.records is None else {"records": self.records}),
            **({"sums": dict(self.sums)} if self.sums else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trailer:
        """Read what `to_dict` gave, or what a user wrote.

        Raises:
            InvalidRequestError: a field is missing, unknown or of another kind.
        """
        optional = {"records": (int, type(None)), "sums": Mapping}
        check_fields(values, "trailer", required={"marker": str}, optional=optional)
        return cls(values["marker"], values.get("records"), dict(values.get("sums", {})))
