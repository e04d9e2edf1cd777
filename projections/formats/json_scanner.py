"""Scanner: where a value of JSON ends, found in bounded memory while the bytes go by.

Rules:
1. Only strings and brackets are looked at. Whether the bytes between them are JSON is the decoder's business, so an end
   is certain only if the decoder agrees.
2. JSON's structure is ASCII and no byte of a longer UTF-8 character is: bytes need no decoding for this.
3. What was seen is never seen again: a value of any length takes one pass.
"""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple

from projections.formats.blocks import BYTE_ORDER_MARK

BLOCK_BYTES = 1 << 20
NO_BYTE = -1
BLANKS = b" \t\r\n"
QUOTE, BACKSLASH = ord('"'), ord("\\")
OPENING = b"{["

# In Python 3.11.2 (Debian 12) a possessive group that fails half-way leaves the place where it failed. A last
# alternative that never matches puts it back.
_BLANKS = re.compile(rb"[ \t\r\n]*+")
_OUTSIDE = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+|(?!))*+"[^"\[\]{}]*+|(?!))*+', re.DOTALL)
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+|(?!))*+', re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')


class Value(NamedTuple):
    """The bytes of a value, None if they are more than were asked for. `whole` is false if the file ends before it."""

    offset: int
    length: int
    data: bytes | None
    whole: bool


class ValueEnd:
    """Finds where one value ends. `depth` is how many brackets are open, `deepest` the most that ever were."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = self.deepest = depth
        self._in_string = self._escaped = self._in_scalar = False

    def find(self, data: bytes, position: int = 0) -> int:
        """The position behind the value in the next block of it, -1 if it goes on behind the block."""
        while position < len(data):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            if self._in_string:
                position = self._string_end(data, position)
            elif not self.depth:
                position = self._start(data, position)
                if self._in_scalar:
                    return position if position < len(data) else NO_BYTE
                continue
            else:
                position = self._bracket(data, position)
            if not (self.depth or self._in_string or self._escaped):
                return position
        return NO_BYTE

    def _start(self, data: bytes, position: int) -> int:
        byte = data[position]
        if byte == QUOTE and not self._in_scalar:
            self._in_string = True
        elif byte in OPENING and not self._in_scalar:
            self.depth = self.deepest = 1
        else:
            self._in_scalar = True
            return _matched(_SCALAR, data, position)
        return position + 1

    def _string_end(self, data: bytes, position: int) -> int:
        position = _matched(_INSIDE, data, position)
        if position < len(data):
            self._in_string = data[position] == BACKSLASH  # it is the last byte: what it escapes is in the next block
            self._escaped = self._in_string
            position += 1
        return position

    def _bracket(self, data: bytes, position: int) -> int:
        position = _matched(_OUTSIDE, data, position)
        if position < len(data):
            byte = data[position]
            if byte == QUOTE:
                self._in_string = True
            elif byte in OPENING:
                self.depth += 1
                self.deepest = max(self.deepest, self.depth)
            else:
                self.depth -= 1
            position += 1
        return position


class Source:
    """A file read in blocks from behind its byte order mark, and a place in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._base = start_of_text(file)
        self._data = b""
        self._position = 0

    @property
    def offset(self) -> int:
        """The place: bytes from the start of the file."""
        return self._base + self._position

    def peek(self) -> int:
        """The next byte that is not blank, to which the place moves; `NO_BYTE` at the end of the file."""
        while True:
            self._position = _matched(_BLANKS, self._data, self._position)
            if self._position < len(self._data):
                return self._data[self._position]
            if not self._more():
                return NO_BYTE

    def step(self) -> None:
        """Move behind the byte that `peek` gave."""
        self._position += 1

    def value(self, end: ValueEnd, bytes_max: int) -> Value:
        """Move behind the value that starts at the place, and keep its bytes unless they are more than `bytes_max`."""
        offset, length = self.offset, 0
        pieces: list[bytes] = []
        while True:
            start = self._position
            found = end.find(self._data, start)
            self._position = len(self._data) if found == NO_BYTE else found
            length += self._position - start
            if length <= bytes_max:
                pieces.append(self._data[start : self._position])
            else:
                pieces.clear()
            if found != NO_BYTE or not self._more():
                data = b"".join(pieces) if length <= bytes_max else None
                return Value(offset, length, data, found != NO_BYTE)

    def _more(self) -> bool:
        self._base += len(self._data)
        self._data = self._file.read(BLOCK_BYTES)
        self._position = 0
        return bool(self._data)


def start_of_text(file: BinaryIO) -> int:
    """Go to the first byte behind the byte order mark, if there is one, and say where that is."""
    file.seek(0)
    start = b""
    while len(start) < len(BYTE_ORDER_MARK) and (more := file.read(len(BYTE_ORDER_MARK) - len(start))):
        start += more
    return file.seek(len(BYTE_ORDER_MARK) if start == BYTE_ORDER_MARK else 0)


def depth_of(text: bytes) -> int:
    """How deep a value of JSON is nested: 0 for a number, 1 for an object of numbers."""
    end = ValueEnd()
    end.find(text, _matched(_BLANKS, text, 0))
    return end.deepest


def _matched(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    match = pattern.match(data, position)
    assert match is not None  # every pattern here matches nothing at all, too
    return match.end()
