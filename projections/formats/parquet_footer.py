"""Parquet footer: what a Parquet file says about where its data stands, read by itself.

Arrow reads the footer too. It trusts it, though, and its process ends when it is asked about a column that is
encrypted; so what the footer says is looked through here first.

Rules:
1. The footer is a structure in Thrift's compact protocol. Only what the checks need is kept, everything else is stepped
   over. A structure is stepped over as it is written, whatever the version of the format: fields have numbers.
2. Nothing is believed: a length leads no further than the footer's own end, and nesting has a limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEPTH_MAX = 32
STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, IDENTITY = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13
INTEGERS = (4, 5, 6)
FIXED = {BYTE: 1, DOUBLE: 8, IDENTITY: 16}

# Which numbered fields are kept, and of those that are structures, or lists of them, which again.
Wanted = Mapping[int, Any]
COLUMN: Wanted = {3: {6: None, 7: None, 9: None, 11: None}, 8: {}}
FOOTER: Wanted = {3: None, 4: {1: COLUMN, 2: None, 3: None}, 8: {}}


class FooterError(ValueError):
    """The footer is not what it should be."""


@dataclass(frozen=True)
class ColumnPlace:
    """Where a column's pages stand in the file: from `start`, in bytes, and how many bytes come out of them."""

    start: int
    compressed: int
    uncompressed: int


@dataclass(frozen=True)
class RowGroup:
    """A row group: how many rows it is said to have, how many bytes, and where its columns are."""

    rows: int
    bytes: int
    columns: tuple[ColumnPlace, ...]


@dataclass(frozen=True)
class Footer:
    """What a footer says. `encrypted` is whether any column is."""

    rows: int
    groups: tuple[RowGroup, ...]
    encrypted: bool


def read_footer(data: bytes) -> Footer:
    """Read a footer's bytes.

    Raises:
        FooterError: they are no footer.
    """
    try:
        fields = _Cursor(data).structure(FOOTER, 0)
        groups = fields.get(4, [])
        # How a column, or a part of them, is encrypted is a structure: a damaged field of this number seldom is.
        told = [fields.get(8), *(column.get(8) for group in groups for column in group.get(1, []))]
        encrypted = any(isinstance(each, dict) for each in told)
        read = () if encrypted else tuple(map(_row_group, groups))
        return Footer(int(fields[3]), read, encrypted)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise FooterError("a field is missing or of another kind") from error


def _row_group(fields: dict[int, Any]) -> RowGroup:
    return RowGroup(int(fields[3]), int(fields[2]), tuple(_column(each[3]) for each in fields[1]))


def _column(fields: dict[int, Any]) -> ColumnPlace:
    # A dictionary's place is sometimes written as 0 when there is none.
    starts = [int(fields[9]), *([int(fields[11])] if fields.get(11) else [])]
    return ColumnPlace(min(starts), int(fields[7]), int(fields[6]))


class _Cursor:
    """Reads values one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def structure(self, wanted: Wanted, depth: int) -> dict[int, Any]:
        """The wanted fields of a structure by their numbers."""
        if depth > DEPTH_MAX:
            raise FooterError("it is nested too deep")
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) & 15 != STOP:
            number = number + (head >> 4) if head >> 4 else self._integer()
            value = self._value(head & 15, wanted.get(number) or {}, depth + 1)
            if number in wanted:
                found[number] = value
        return found

    def _value(self, kind: int, wanted: Wanted, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in INTEGERS:
            return self._integer()
        if kind in FIXED or kind == BINARY:
            self._skip(FIXED[kind] if kind in FIXED else self._count())
            return None
        if kind == STRUCT:
            return self.structure(wanted, depth)
        return self._collection(kind, wanted, depth)

    def _collection(self, kind: int, wanted: Wanted, depth: int) -> list[Any]:
        if kind in (LIST, SET):
            head = self._byte()
            length = head >> 4 if head >> 4 != 15 else self._count()
            return self._items(length, (head & 15,), wanted, depth)
        if kind == MAP:
            length = self._count()
            kinds = self._byte() if length else 0
            return self._items(length, (kinds >> 4, kinds & 15), wanted, depth)
        raise FooterError("a field is of no known kind")

    def _items(self, length: int, kinds: tuple[int, ...], wanted: Wanted, depth: int) -> list[Any]:
        """The items of a list, or the keys and values of a map; kept only if some field of them is wanted."""
        if depth > DEPTH_MAX:
            raise FooterError("it is nested too deep")
        kept = []
        for _ in range(length):
            for kind in kinds:
                # In a list a boolean takes a byte; as a field it is in the field's head.
                value = self._byte() if kind in (TRUE, FALSE) else self._value(kind, wanted, depth + 1)
                if wanted:
                    kept.append(value)
        return kept

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _count(self) -> int:
        """An unsigned number of seven bits a byte, lowest first."""
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise FooterError("a number is too long")

    def _integer(self) -> int:
        number = self._count()
        return number >> 1 ^ -(number & 1)

    def _skip(self, length: int) -> None:
        self._place += length
        if self._place > len(self._data):
            raise FooterError("it ends before a value does")
