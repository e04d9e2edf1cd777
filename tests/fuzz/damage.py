"""Damage: what happens to a sound file before it is read.

Bytes are flipped, put in, taken out, doubled and cut off; numbers, written or binary, go to their extremes; two files
are spliced. A zip file is also taken apart, and one of its parts is damaged: else its check sums would catch it all.
"""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace

from tests.fuzz.promise import Given
from tests.unit.projections.workbooks import zipped

ROUNDS = (1, 1, 1, 2, 4, 12)
END_BYTES = 1_000  # what describes the data stands mostly at the end
SIZE_MAX = 1 << 19
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
NUMBERS = (
    *(b"0", b"-0", b"-1", b"00", b"1e5", b"1E-400", b"1e999", b"NaN", b"Infinity", b"0x1F", b"1_000", b" 1", b"+1"),
    *(str(2**bits + add).encode() for bits in (7, 8, 15, 16, 31, 32, 63, 64) for add in (-1, 0)),
    *(b"9" * 400, b"0." + b"3" * 1_100, b"9999-12-31", b"0000-00-00", b"2024-02-30", b"2024-02-29T23:59:60Z"),
)
# What has a meaning in one format or another.
WORDS = (
    *(b'"', b'""', b'","', b"\n", b"\r", b"\r\n", b"\n\n", b",", b";", b"\t", b"|", b"\0", b"\x18", b"\x01", b"\x02"),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"\\u0000", b"\\ud800", b"{" * 40, b'{"a":' * 40),
    *(b"<", b">", b"</", b"/>", b"&", b"&#0;", b"&x;", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?p ?>", b"<e>" * 40),
    *(b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc2"),
)
EXTREMES = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff")

Change = Callable[[bytearray, random.Random], None]


def damaged(given: Given, other: Given, chance: random.Random) -> Given:
    """The file after something happened to it; `other` is a second one for a splice."""
    content = given.content
    if content.startswith(b"PK\x03\x04") and chance.random() < 0.7:
        content = _part_damaged(content, chance)
    else:
        content = _changed(content, other.content, chance)
    options = {} if given.options and chance.random() < 0.1 else given.options
    return replace(given, content=content[:SIZE_MAX], options=options, records=None)


def _changed(content: bytes, other: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.08:
        content = content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other) + 1) :]
    data = bytearray(content)
    for _ in range(chance.choice(ROUNDS)):
        if not data:
            break
        chance.choice(CHANGES)(data, chance)
    return bytes(data)


def _part_damaged(content: bytes, chance: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name, other = chance.choice(sorted(parts)), chance.choice(sorted(parts))
    if chance.random() < 0.05:
        del parts[name]
    else:
        parts[name] = _changed(parts[name], parts[other], chance)
    return zipped(parts)


def _place(data: bytearray, chance: random.Random) -> int:
    if chance.random() < 0.3:
        return max(0, len(data) - 1 - chance.randrange(END_BYTES))
    return chance.randrange(len(data))


def _flip(data: bytearray, chance: random.Random) -> None:
    data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    data[_place(data, chance)] = chance.randrange(256)


def _insert(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.choice(WORDS) if chance.random() < 0.8 else chance.randbytes(chance.randrange(1, 9))


def _delete(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 1, 2, 8, 100))]


def _duplicate(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    piece = bytes(data[at : at + chance.choice((1, 4, 30, 300))])
    data[at:at] = piece * chance.choice((1, 1, 1, 2, 50))


def _truncate(data: bytearray, chance: random.Random) -> None:
    if chance.random() < 0.3:
        del data[_place(data, chance) :]


def _extreme_number(data: bytearray, chance: random.Random) -> None:
    found = list(NUMBER.finditer(data))
    if found:
        start, end = chance.choice(found).span()
        data[start:end] = chance.choice(NUMBERS)


def _extreme_bytes(data: bytearray, chance: random.Random) -> None:
    at, width = _place(data, chance), chance.choice((1, 2, 4, 8))
    low, high = chance.choice(EXTREMES), chance.choice(EXTREMES)
    data[at : at + width] = low * (width - 1) + high


CHANGES: tuple[Change, ...] = (
    _flip, _flip, _overwrite, _insert, _insert, _delete, _duplicate, _truncate, _extreme_number, _extreme_number,
    _extreme_bytes,
)  # fmt: skip
