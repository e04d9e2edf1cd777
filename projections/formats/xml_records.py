"""XML: each record is an element, and all records have the same name.

Rules:
1. `record` names the element, wherever it stands; what has this name inside a record belongs to the record.
2. Without `record` the beginning of the file decides (`LOOK_AHEAD_BYTES`). If the root has elements of one name only,
   they are the records. But if there is one such element, and it, or what is alone in it, holds two or more elements of
   one name and no others, these are. If the root has elements of several names, the first that occurs twice is taken;
   if none does, the file is refused rather than guessed at.
3. What stands outside the records is checked for being XML, and is no data.
4. A record that is too long, too deep or has too many columns is a record with a flaw. What is not well-formed ends the
   file: the rows before it were given, then it is refused with its place.
5. See `xml_elements` for columns, `xml_parser` for what is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ledger.domain.column import excerpt
from ledger.errors import FileRefusedError
from projections.formats.flattening import DEPTH_MAX, FlawedError
from projections.formats.rows import Flaw, Limits, Row
from projections.formats.xml_elements import Element, columns_of, local_name
from projections.formats.xml_parser import OPEN_ELEMENTS_MAX, XmlParser

LOOK_AHEAD_BYTES = 1 << 20
NAME_THE_ELEMENT = "Name the element that is one record as the option `record`."


@dataclass(frozen=True)
class _RecordElement:
    """What a record is. The root's level is 1; None is any level."""

    name: str
    level: int | None = None


def read_xml_records(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
    """The rows of an XML document.

    Args:
        options: `record`, the name of the element that is one record, in which a prefix does not count; empty is as
            good as none.

    Raises:
        FileRefusedError: xml_invalid, xml_dtd_forbidden, xml_encoding_unknown, xml_too_deep, xml_token_too_long or
            record_unknown.
    """
    named = options.get("record", "").rpartition(":")[2]
    element = _RecordElement(named) if named else _found(file, limits)
    yield from _Records(file, limits, element).rows()


class _Records:
    """The state of the pass over a document."""

    def __init__(self, file: BinaryIO, limits: Limits, element: _RecordElement | None) -> None:
        self._parser = _parser(self, file, limits)
        self._parser.expat.CharacterDataHandler = self._text
        self._record_element = element
        self._limits = limits
        self._depth_max = min(limits.depth_max, DEPTH_MAX)
        self._rows: list[Row] = []
        self._level = 0
        self._elements = 0
        self._found = False
        self._record_level = 0  # 0 outside records
        self._offset = 0
        self._open: list[Element] = []  # of the record; none if it has a flaw
        self._bare = True  # whether there was nothing in the record yet
        self._flaw: Flaw | None = None

    def rows(self) -> Iterator[Row]:
        """The rows, then the refusal if there is one."""
        more, refusal = True, None
        while more and refusal is None:
            try:
                more = self._parser.feed()
                if not more:
                    self._parser.finish()
            except FileRefusedError as error:
                refusal = error
            yield from self._rows
            self._rows.clear()
            if self._record_level and self._parser.fed - self._offset > self._limits.record_bytes_max:
                self._spoil(None)
        if refusal is not None:
            raise refusal
        if not self._found and self._elements > 1:
            element = self._record_element
            raise _unknown(
                f"The document holds no element {excerpt(element.name)}."
                if element is not None
                else f"No element but the root starts in the first {LOOK_AHEAD_BYTES:,} bytes: any could be the record."
            )

    def start(self, name: str, attributes: list[str]) -> None:
        """A start tag."""
        self._level += 1
        self._elements += 1
        if self._level > OPEN_ELEMENTS_MAX:
            raise self._parser.too_deep()
        if not self._record_level:
            if self._is_record(name):
                self._begin(name, attributes)
            return
        self._bare = False
        if self._open:
            element = Element(name, attributes)
            self._open[-1].children.append(element)
            self._open.append(element)
            if len(self._open) > self._depth_max:
                reason = f"The record is nested deeper than {self._depth_max:,} levels."
                self._spoil(Flaw("nested_too_deep", reason))

    def end(self, _name: str) -> None:
        """An end tag, or the end of an empty one."""
        if self._level == self._record_level:
            self._finish()
        elif self._open:
            self._open.pop()
        self._level -= 1

    def _text(self, text: str) -> None:
        if self._record_level:
            self._bare = False
            if self._open:
                self._open[-1].texts.append(text)

    def _is_record(self, name: str) -> bool:
        element = self._record_element
        return element is not None and element.level in (None, self._level) and element.name == local_name(name)

    def _begin(self, name: str, attributes: list[str]) -> None:
        self._found = self._bare = True
        self._flaw = None
        self._record_level = self._level
        self._offset = self._parser.offset
        self._open.append(Element(name, attributes))

    def _spoil(self, flaw: Flaw | None) -> None:
        """Go on without keeping what is in the record."""
        self._flaw = flaw
        self._open.clear()

    def _finish(self) -> None:
        length = self._parser.end_of_element(self._bare) - self._offset
        values: Mapping[str, str | None] = {}
        bytes_max = self._limits.record_bytes_max
        if length > bytes_max:
            reason = f"The record has {length:,} bytes; it may have {bytes_max:,}."
            self._flaw = Flaw("record_too_long", reason)
        elif self._open:
            try:
                values = columns_of(self._open[0], self._limits.columns_max)
            except FlawedError as error:
                self._flaw = error.flaw
        self._rows.append(Row(values, self._offset, length, self._flaw))
        self._open.clear()
        self._record_level = 0


class _Beginning:
    """The elements that stand first in their own: how many of which name each of them holds, from the root on."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.parser = _parser(self, file, limits)
        self.held: list[dict[str, int]] = []
        self._level = 0
        self._first_level = 0  # as many of the open elements are first ones

    def start(self, name: str, _attributes: list[str]) -> None:
        """A start tag."""
        if self._level == OPEN_ELEMENTS_MAX:
            raise self.parser.too_deep()
        name = local_name(name)
        if self._first_level == self._level:
            siblings = self.held[self._level - 1] if self._level else {}
            if not siblings:
                self._first_level += 1
                self.held.append({})
            siblings[name] = siblings.get(name, 0) + 1
        self._level += 1

    def end(self, _name: str) -> None:
        """An end tag, or the end of an empty one."""
        if self._first_level == self._level:
            self._first_level -= 1
        self._level -= 1

    def record_element(self) -> _RecordElement | None:
        """What a record is by rule 2, None if the root holds no element.

        Raises:
            FileRefusedError: record_unknown.
        """
        root = self.held[0] if self.held else {}
        if not root:
            return None
        if len(root) > 1:
            for name, count in root.items():
                if count > 1:
                    return _RecordElement(name, 2)
            raise _unknown("The root holds elements of several names and none of them twice: any could be the record.")
        for level, held in enumerate(self.held, start=2):
            if sum(held.values()) > 1:
                if len(held) == 1:
                    return _RecordElement(next(iter(held)), level)
                break
        return _RecordElement(next(iter(root)), 2)


def _found(file: BinaryIO, limits: Limits) -> _RecordElement | None:
    """What a record is in this file by rule 2."""
    file.seek(0)
    head = b""
    while len(head) <= LOOK_AHEAD_BYTES and (block := file.read(LOOK_AHEAD_BYTES + 1 - len(head))):
        head += block
    beginning = _Beginning(io.BytesIO(head[:LOOK_AHEAD_BYTES]), limits)
    try:
        while beginning.parser.feed():
            pass
        if len(head) <= LOOK_AHEAD_BYTES:
            beginning.parser.finish()
    except FileRefusedError as refusal:
        try:
            return beginning.record_element()  # so that the rows before what is refused are given
        except FileRefusedError:
            raise refusal from None
    return beginning.record_element()


def _parser(handlers: _Records | _Beginning, file: BinaryIO, limits: Limits) -> XmlParser:
    parser = XmlParser(file, limits.record_bytes_max)
    parser.expat.StartElementHandler = handlers.start
    parser.expat.EndElementHandler = handlers.end
    return parser


def _unknown(message: str) -> FileRefusedError:
    return FileRefusedError("record_unknown", message, NAME_THE_ELEMENT)
