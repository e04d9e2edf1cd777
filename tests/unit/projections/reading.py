"""What the tests of every reader need: files that give little at a time, outcomes to compare, damaged files."""

from __future__ import annotations

import io

from hypothesis import strategies as st

from ledger.errors import FileRefusedError
from projections.formats.rows import Limits, Reader, Row


class InPieces(io.BytesIO):
    """A file whose reads give at most so many bytes."""

    def __init__(self, data: bytes, piece: int) -> None:
        super().__init__(data)
        self._piece = piece

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self._piece if size is None or size < 0 else min(size, self._piece))


class Repeated(io.RawIOBase):
    """A file of one beginning, a middle that is repeated many times, and an end; it is never whole in memory."""

    def __init__(self, start: bytes, middle: bytes, times: int, end: bytes) -> None:
        self._start, self._middle, self._end = start, middle, end
        self._body = len(middle) * times
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        at = self._position
        if at < len(self._start):
            data = self._start[at : at + size]
        elif at < len(self._start) + self._body:
            inside = at - len(self._start)
            skip = inside % len(self._middle)
            wanted = min(size, self._body - inside)
            data = (self._middle * ((skip + wanted) // len(self._middle) + 1))[skip : skip + wanted]
        else:
            at -= len(self._start) + self._body
            data = self._end[at : at + size]
        self._position += len(data)
        return data


def outcome(reader: Reader, data: bytes, *, piece: int = 1 << 30, limits: Limits | None = None, **options: str):
    """The rows that were given, and the refusal that ended them or None."""
    rows: list[Row] = []
    try:
        rows.extend(reader(InPieces(data, piece), limits or Limits(), options))
    except FileRefusedError as refusal:
        assert refusal.remedy
        return rows, refusal
    return rows, None


def rows_of(reader: Reader, data: bytes, *, limits: Limits | None = None, **options: str) -> list[Row]:
    """The rows of a file that is not refused."""
    rows, refusal = outcome(reader, data, limits=limits, **options)
    assert refusal is None, refusal
    return rows


def flaws_of(reader: Reader, data: bytes, *, limits: Limits | None = None, **options: str) -> list[str | None]:
    """The flaw of each row of a file that is not refused."""
    rows = rows_of(reader, data, limits=limits, **options)
    assert all(row.flaw is None or (row.values == {} and row.flaw.reason.endswith(".")) for row in rows)
    return [row.flaw and row.flaw.code for row in rows]


def facts(rows: list[Row], refusal: FileRefusedError | None) -> tuple:
    """An outcome as it can be compared."""
    return rows, refusal and (refusal.code, str(refusal), refusal.byte_offset, refusal.record)


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """A sample that was cut, or some of whose bytes were changed, doubled, taken out or put in."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["cut", "byte", "out", "in", "copy"]))
        if kind == "cut":
            del data[at:]
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "out":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "in":
            data[at:at] = draw(
                st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"<", b">", b"/", b"&", b"\0"])
            )
        else:
            data[at:at] = bytes(data[at : at + draw(st.integers(1, 30))])
    return bytes(data)
