"""JSON values: how one record of JSON becomes a row, the same for lines and for documents.

Rules:
1. A record is an object. Its columns are made by `flattening`; an object without members has none.
2. A number is the text that stands in the file; `true` and `false` are those texts; `null` is no value.
3. A flaw of the record, in this order: bytes that are not UTF-8, nested too deep, no object, NaN or Infinity, a name
   twice in one object, a character that PostgreSQL's text cannot hold (NUL, half of a surrogate pair), and columns that
   are too many or the same.
4. Text that breaks JSON's grammar is no flaw but an error, because in a document it makes doubtful where the value
   ends. What is nested too deep is not decoded, so its grammar is not checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ledger.domain.column import excerpt
from projections.formats.flattening import DEPTH_MAX, FlawedError, Number, check_count, column_text, put_members
from projections.formats.json_scanner import depth_of
from projections.formats.rows import Flaw, Limits, Row

_UNFIT_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = frozenset((str, type(None)))
_NESTED = frozenset((dict, list))


class GrammarError(Exception):
    """The text is not JSON from `byte_offset` of the file on. Never leaves the readers."""

    def __init__(self, reason: str, byte_offset: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.byte_offset = byte_offset


class RecordDecoder:
    """Makes rows of the bytes of records."""

    def __init__(self, limits: Limits) -> None:
        self._columns_max = limits.columns_max
        self._bytes_max = limits.record_bytes_max
        self._depth_max = min(limits.depth_max, DEPTH_MAX)
        self._flaw: Flaw | None = None  # the first that the decoder met
        self._with_texts = self._decoder(str)
        self._with_numbers = self._decoder(Number)

    def row(self, record: bytes, offset: int) -> Row:
        """The row of the record that stands at this offset.

        Raises:
            GrammarError: the record is not JSON.
        """
        try:
            return Row(self._values(record, offset), offset, len(record))
        except FlawedError as error:
            return Row({}, offset, len(record), error.flaw)

    def long_row(self, offset: int, length: int) -> Row:
        """The row of a record whose bytes are too many to be looked at."""
        reason = f"The record has {length:,} bytes; it may have {self._bytes_max:,}."
        return Row({}, offset, length, Flaw("record_too_long", reason))

    def value(self, value: bytes, offset: int) -> Any:
        """A value that is no record, None if it is nested too deep.

        Raises:
            GrammarError: the value is not JSON.
        """
        if self._too_deep(value):
            return None
        return self._decode(self._with_texts, value.decode("utf-8", "surrogateescape"), offset)

    def _values(self, record: bytes, offset: int) -> Mapping[str, str | None]:
        self._flaw = None
        text = self._text(record, offset)
        if self._too_deep(record):
            reason = f"The record is nested deeper than {self._depth_max:,} levels."
            raise FlawedError(self._flaw or Flaw("nested_too_deep", reason))
        members = self._decode(self._with_texts, text, offset)
        if not isinstance(members, dict):
            raise FlawedError(self._flaw or Flaw("not_an_object", "The record is not a JSON object."))
        if self._flaw is not None:
            raise FlawedError(self._flaw)
        kinds = set(map(type, members.values()))
        columns: dict[str, Any] = members
        if not kinds.isdisjoint(_NESTED):
            # Only where something is nested must a number be told from a text that looks like it.
            columns = {}
            put_members(columns, self._decode(self._with_numbers, text, offset))
        check_count(columns, self._columns_max)
        if _UNFIT_ESCAPE.search(record):
            _check_characters(columns)
        if kinds <= _PLAIN:
            return columns
        return {column: column_text(value) for column, value in columns.items()}

    def _text(self, record: bytes, offset: int) -> str:
        try:
            return record.decode()
        except UnicodeDecodeError as error:
            where = f"Byte 0x{record[error.start]:02x}, which is not UTF-8, stands at byte {offset + error.start:,}."
            self._flaw = Flaw("encoding_invalid", where)
            return record.decode("utf-8", "surrogateescape")

    def _too_deep(self, value: bytes) -> bool:
        # Brackets in strings count here, too: they make the exact look necessary, no more.
        return value.count(b"{") + value.count(b"[") > self._depth_max and depth_of(value) > self._depth_max

    def _decode(self, decoder: json.JSONDecoder, text: str, offset: int) -> Any:
        try:
            return decoder.decode(text)
        except json.JSONDecodeError as error:
            position = offset + len(text[: error.pos].encode("utf-8", "surrogateescape"))
            raise GrammarError(error.msg.removesuffix(" at"), position) from None

    def _decoder(self, number: type[str]) -> json.JSONDecoder:
        return json.JSONDecoder(
            parse_float=number,
            parse_int=number,
            parse_constant=self._constant,
            object_pairs_hook=self._members,
        )

    def _members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs) and self._flaw is None:
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            self._flaw = Flaw("name_twice", f"The name {excerpt(twice)} stands twice in one object.")
        return members

    def _constant(self, word: str) -> None:
        self._flaw = self._flaw or Flaw("number_invalid", f"{word} stands as a number, which JSON has not.")


def _check_characters(columns: dict[str, Any]) -> None:
    for column, value in columns.items():
        for place, texts in ((None, (column,)), (column, _texts(value))):
            for text in texts:
                if "\0" in text:
                    reason = f"A NUL character, which no text can hold, stands in column {excerpt(column)}."
                    raise FlawedError(Flaw("nul_character", reason, place))
                if _SURROGATE.search(text):
                    reason = f"Half of a surrogate pair, which is no character, stands in column {excerpt(column)}."
                    raise FlawedError(Flaw("surrogate_alone", reason, place))


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of JSON, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
