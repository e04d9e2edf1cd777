"""JSON document: one value of JSON that holds its records in an array.

Rules:
1. The records are the elements of one array: the document itself, or the member of an object that `record` names
   (`data.items`; a name that holds a dot cannot be written so).
2. Without `record` it is the only member of the document that is an array whose first element is an object; if no
   member is one, the first such array among the members' own members; if there is none either, any array without
   elements. Finding it takes one more pass over the file, which only looks at brackets. Two members are never chosen
   from: the file is refused.
3. An element that is no object, or that has another flaw, is a record with a flaw, as long as its end is certain.
   What breaks the grammar of JSON ends the file: the rows before it were given, then it is refused with its place.
4. What stands around the array is read for its grammar, but not kept. Of an element or another value that is too long
   or too deep only strings and brackets are checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from ledger.domain.column import excerpt
from ledger.errors import FileRefusedError
from projections.formats.json_scanner import NO_BYTE, Source, Value, ValueEnd
from projections.formats.json_values import GrammarError, RecordDecoder
from projections.formats.rows import Limits, Row

CORRECT_AND_SEND = "Correct it there and send the file again."
NAME_THE_ARRAY = "Name the array of the records as the option `record`, for example data.items."
LEVELS_SEARCHED = 2
# What the end of a file can leave of a word, a number or an escape.
_CUT = re.compile(rb"(?:t|tr|tru|f|fa|fal|fals|n|nu|nul|[-+.eE0-9]*|\\?u[0-9a-fA-F]{0,4})\s*")


def read_json_document(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a JSON document in UTF-8, with or without a byte order mark.

    Args:
        options: `record`, the names that lead to the array, joined by dots; empty is as good as none.

    Raises:
        FileRefusedError: json_invalid, json_truncated, record_unknown (no array is where it should be),
            record_ambiguous (several could be it) or name_twice (the array's own name).
    """
    named = options.get("record", "")
    path = named.split(".") if named else _Document(file, limits).path()
    yield from _Document(file, limits).rows(path)


class _Document:
    """Reads a document from its start to its end."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._source = Source(file)
        self._limits = limits
        self._decoder = RecordDecoder(limits)
        self._record: int | None = None  # the number of the one that is being read

    def rows(self, path: Sequence[str]) -> Iterator[Row]:
        """The rows of the array that the path leads to."""
        if len(path) > self._limits.depth_max:
            raise self._unknown(path, f"has more than {self._limits.depth_max:,} names")
        yield from self._rows_at(path, 0)
        if self._source.peek() != NO_BYTE:
            raise self._invalid("the document has ended, but the file goes on", self._source.offset)

    def _rows_at(self, path: Sequence[str], names: int) -> Iterator[Row]:
        """The rows below the value at the place, to which the first names of the path have led."""
        if names == len(path):
            yield from self._elements(path)
            return
        if self._next() != ord("{"):
            raise self._unknown(path, f"asks for {excerpt(path[names])} where no object stands")
        found = False
        for name in self._members():
            if name != path[names]:
                self._skip()
                continue
            if found:
                raise self._refusal(
                    "name_twice",
                    f"The member {excerpt(name)}, which holds the records, stands there twice, again",
                    "Put all records into one array and send the file again.",
                )
            found = True
            yield from self._rows_at(path, names + 1)
        if not found:
            raise self._unknown(path, f"asks for {excerpt(path[names])}, which the object that ends there has not")

    def _elements(self, path: Sequence[str]) -> Iterator[Row]:
        if self._next() != ord("["):
            raise self._unknown(path, "leads to a value that is no array")
        for number, _ in enumerate(self._items(ord("]")), start=1):
            self._record = number
            row = self._row(self._value())
            self._record = None
            yield row

    def _row(self, element: Value) -> Row:
        if element.data is None:
            return self._decoder.long_row(element.offset, element.length)
        try:
            return self._decoder.row(element.data, element.offset)
        except GrammarError as error:
            raise self._invalid(error.reason, error.byte_offset) from None

    def path(self) -> list[str]:
        """The names that lead to the array of the records (rule 2)."""
        if self._next() == ord("["):
            return []
        found: dict[tuple[int, bool], list[str]] = {}
        try:
            for path, filled in self._arrays():
                if found.setdefault((len(path), filled), path) is not path and (len(path), filled) == (1, True):
                    raise self._ambiguous(found[1, True], path)
        except FileRefusedError as error:
            # What was found is read up to the same place, so that its rows are given as with the option.
            if error.code == "record_ambiguous" or not found:
                raise
        if (1, True) not in found and (1, False) in found and (2, True) in found:
            raise self._ambiguous(found[1, False], found[2, True])
        for key in ((1, True), (2, True), (1, False), (2, False)):
            if key in found:
                return found[key]
        raise self._unknown([], "The document holds no array of objects")

    def _arrays(self, level: int = 1) -> Iterator[tuple[list[str], bool]]:
        """The paths of the arrays of objects, with True, and of those without elements, with False."""
        if self._next() != ord("{"):
            self._skip()
            return
        for name in self._members():
            first = self._next()
            if first == ord("["):
                self._source.step()
                first = self._next()
                if first in (ord("{"), ord("]")):
                    yield [name], first == ord("{")
                self._whole(self._source.value(ValueEnd(depth=1), bytes_max=0))
            elif first == ord("{") and level < LEVELS_SEARCHED:
                yield from (([name, *path], filled) for path, filled in self._arrays(level + 1))
            else:
                self._skip()

    def _members(self) -> Iterator[str]:
        """The names of the object at the place, each with the place at its value. The caller moves behind the value."""
        for first in self._items(ord("}")):
            if first != ord('"'):
                raise self._invalid("a name in quotation marks is missing", self._source.offset)
            name = self._skip()
            if self._next() != ord(":"):
                raise self._invalid("a colon is missing", self._source.offset)
            self._source.step()
            self._next()
            yield str(name)

    def _items(self, closing: int) -> Iterator[int]:
        """The first byte of each item between brackets and commas. The caller moves behind the item."""
        self._source.step()
        if self._next() == closing:
            self._source.step()
            return
        while True:
            yield self._next()
            byte = self._next()
            if byte not in (ord(","), closing):
                raise self._invalid(f"a comma or {chr(closing)!r} is missing", self._source.offset)
            self._source.step()
            if byte == closing:
                return

    def _skip(self) -> Any:
        """The value at the place, None if it is too long or too deep; behind which the place moves."""
        value = self._value()
        if value.data is None:
            return None
        try:
            return self._decoder.value(value.data, value.offset)
        except GrammarError as error:
            raise self._invalid(error.reason, error.byte_offset) from None

    def _next(self) -> int:
        byte = self._source.peek()
        if byte == NO_BYTE:
            raise self._truncated()
        return byte

    def _value(self) -> Value:
        return self._whole(self._source.value(ValueEnd(), self._limits.record_bytes_max))

    def _whole(self, value: Value) -> Value:
        """The value, if the file does not end inside it."""
        if value.whole:
            return value
        if value.data is None:
            raise self._truncated()
        try:
            self._decoder.value(value.data, value.offset)
        except GrammarError as error:
            # A quotation mark too many runs to the end of the file: what is wrong stands where the decoder says.
            at = error.byte_offset - value.offset
            if not (error.reason.startswith("Unterminated") or _CUT.fullmatch(value.data, at)):
                raise self._invalid(error.reason, error.byte_offset) from None
            raise self._truncated() from None
        if value.data.startswith((b"{", b"[")):  # too deep to be decoded
            raise self._truncated()
        return value  # a number or a word can end with the file

    def _truncated(self) -> FileRefusedError:
        return self._refusal("json_truncated", "The file ends inside the document,", "Send the file again, whole.")

    def _invalid(self, reason: str, offset: int) -> FileRefusedError:
        what = f"The file is not JSON from here on: {reason[0].lower()}{reason[1:]},"
        return self._refusal("json_invalid", what, CORRECT_AND_SEND, offset)

    def _unknown(self, path: Sequence[str], reason: str) -> FileRefusedError:
        what = f"The path to the records, {excerpt('.'.join(path))}, {reason}," if path else reason
        return self._refusal("record_unknown", what, NAME_THE_ARRAY)

    def _ambiguous(self, path: Sequence[str], other: Sequence[str]) -> FileRefusedError:
        paths = " or ".join(excerpt(".".join(names)) for names in (path, other))
        what = f"The records could be those of {paths}, as seen"
        return self._refusal("record_ambiguous", what, NAME_THE_ARRAY)

    def _refusal(self, code: str, what: str, remedy: str, offset: int | None = None) -> FileRefusedError:
        offset = self._source.offset if offset is None else offset
        place = f"at byte {offset:,}" + ("" if self._record is None else f", in record {self._record:,}")
        return FileRefusedError(code, f"{what} {place}.", remedy, record=self._record, byte_offset=offset)
