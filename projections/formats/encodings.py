"""Encodings: in which encoding a text file is, and how it becomes UTF-8.

Rules:
1. What the bytes prove is found: UTF-8, a byte order mark of UTF-16 or UTF-32, and UTF-16 without one if at least half
   of its characters are from the first 256 and none is NUL or another control character that text has not.
2. Anything else is not guessed. The code pages of one byte a character differ in a few letters and signs, and a wrong
   guess reads well: `cp1252` and `iso8859-15` disagree on the euro sign. The sender names it, from `ENCODINGS`.
3. Nothing is replaced and nothing is dropped. A byte that means nothing in the encoding refuses the file, with its
   place. (A code page that gives every byte a meaning, such as `latin-1` or `mac_roman`, cannot find that it was named
   wrongly.) A byte order mark of another encoding than the named one refuses it too.
4. What comes out has no byte order mark.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ledger.errors import FileRefusedError
from projections.formats.files import read_up_to
from projections.formats.rows import Limits

PIECE_BYTES = 1 << 20
SAMPLE_BYTES_MIN = 4  # of UTF-16 without a mark
ENCODINGS = (
    *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"),
    *(f"cp{number}" for number in range(1250, 1259)),
    *(f"iso8859-{number}" for number in range(1, 17) if number != 12),
    *("latin-1", "cp437", "cp850", "cp852", "mac_roman", "koi8-r"),
    *("shift_jis", "gb18030", "big5", "euc-kr", "euc-jp"),
)
CONTROLS = frozenset(map(chr, (*range(32), *range(127, 160)))) - frozenset("\t\n\r\f\x85")
# Longest first: the mark of UTF-32 starts with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODECS = {codecs.lookup(name).name: name for name in ENCODINGS}


def encoding_of(sample: bytes) -> str | None:
    """The encoding that the first bytes of a file prove, as `transcode` takes it; None if they prove none.

    Args:
        sample: the file's first bytes, or the whole of a smaller file; it may end inside a character.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if _is_plainly_utf_16(sample, first, encoding):
                return encoding
    return "utf-8" if _decodes(sample, "utf-8") else None


def _is_plainly_utf_16(sample: bytes, high: int, encoding: str) -> bool:
    """Whether the sample is UTF-16 whose high bytes stand at the even (0) or odd (1) places (rule 1)."""
    even = sample[: len(sample) & ~1]
    if len(even) < SAMPLE_BYTES_MIN or even[high::2].count(0) * 4 < len(even) or not _decodes(even, encoding):
        return False
    return CONTROLS.isdisjoint(even.decode(encoding, "ignore"))  # the sample may end inside a character


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)("strict").decode(sample, False)
    except UnicodeDecodeError:
        return False
    return True


def transcode(file: BinaryIO, encoding: str, write: Callable[[bytes], object], limits: Limits) -> int:
    """Hand on the file as UTF-8, in pieces of a few MiB.

    Args:
        encoding: one of `ENCODINGS`, under any of the names that Python knows for it.
        write: takes a piece; what it returns is ignored.

    Returns:
        How many bytes were handed on.

    Raises:
        FileRefusedError: encoding_unknown, encoding_contradicted, encoding_invalid (with byte offset and line) or
            text_too_large.
    """
    name, written = _codec(encoding), 0
    for text in _decoded(file, name):
        piece = text.encode()
        written += len(piece)
        if written > limits.text_bytes_max:
            raise FileRefusedError(
                "text_too_large",
                f"The file is longer than {limits.text_bytes_max:,} bytes as UTF-8.",
                "Send it in parts.",
            )
        write(piece)
    return written


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        name = ""
    if name in ("utf-8-sig", "utf-8"):
        return "utf-8"
    if name not in _CODECS:
        raise FileRefusedError(
            "encoding_unknown",
            f"The encoding {encoding[:40]!r} is not read.",
            f"Name one of {', '.join(ENCODINGS)}, or save the file as UTF-8.",
        )
    return name


def _decoded(file: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of the file, strictly, without its byte order mark."""
    file.seek(0)
    data = read_up_to(file, PIECE_BYTES)
    mark, encoding = _without_mark(data, encoding)
    data = data[mark:]
    offset, lines = mark, 1
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    pending = b""
    while True:
        try:
            text = decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            raise _invalid(error, pending + data, offset - len(pending), lines, encoding) from error
        if text:
            yield text
        if not data:
            return
        lines += text.count("\n")
        offset += len(data)
        pending = decoder.getstate()[0]
        data = read_up_to(file, PIECE_BYTES)


def _without_mark(data: bytes, encoding: str) -> tuple[int, str]:
    """How long the byte order mark is, and the encoding with its byte order."""
    for mark, marked in BYTE_ORDER_MARKS:
        if data.startswith(mark) and (encoding == marked or marked.startswith(f"{encoding}-")):
            return len(mark), marked
    proven = next((marked for mark, marked in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if proven is not None:
        raise FileRefusedError(
            "encoding_contradicted",
            f"The file starts with the byte order mark of {proven}, but {_CODECS[encoding]} was named as its encoding.",
            "Name no encoding, or the right one, and send it again.",
            line=1,
            byte_offset=0,
        )
    # Unicode has it that without a mark the first byte is the highest; Windows has it the other way, and sends more.
    return 0, f"{encoding}-le" if encoding in ("utf-16", "utf-32") else encoding


def _invalid(error: UnicodeDecodeError, data: bytes, start: int, lines: int, encoding: str) -> FileRefusedError:
    """The refusal of `data`, which starts at byte `start` in line `lines`."""
    offset = start + error.start
    line = lines + data[: error.start].decode(encoding).count("\n")
    wrong = data[error.start : max(error.end, error.start + 1)][:4].hex(" ")
    return FileRefusedError(
        "encoding_invalid",
        f"Line {line:,} is not {_CODECS[encoding]} at byte {offset:,}: {wrong} (hexadecimal) means nothing there.",
        "Name the encoding that the file was saved in, or save it as UTF-8, and send it again.",
        line=line,
        byte_offset=offset,
    )
