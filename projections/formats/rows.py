"""Rows: what a reader makes of a file that `COPY` cannot take as it is, record by record.

Rules:
1. A reader gives one `Row` for each record of the file, in the file's order, and none for anything else.
2. A value is the text that stands in the file, never a number that was read into a float and printed again. None is
   "no value"; an empty text is a value.
3. A record that cannot be read is a `Row` with a `flaw`, so that it is counted, kept and told like any other. A file
   that cannot be read from some place on raises FileRefusedError: nothing behind that place can be trusted.
4. What a reader needs is bounded by `Limits`, whatever the file says about itself.
5. Nested values are flattened by names joined with `_`; what stays nested (a list, an object that is too deep) is
   JSON text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Protocol


class Writing(StrEnum):
    """Who decides how values of a format are written: their sender, the format, or each a part of them."""

    FREE = "free"  # any value is what somebody wrote
    JSON = "json"  # numbers are JSON's; days, times and truths may be what somebody wrote
    TYPED = "typed"  # values have types, and are plain


@dataclass(frozen=True)
class Limits:
    """How much a reader may take in. Sizes in bytes."""

    record_bytes_max: int = 64 << 20
    columns_max: int = 1_592
    depth_max: int = 64  # of nested values
    cells_max: int = 20_000_000  # of a workbook, which is read as a whole
    text_bytes_max: int = 100 << 30  # of what comes out of a compressed file
    text_ratio_max: int = 1_000  # bytes that come out of a compressed file for one that goes in
    members_max: int = 1_000  # of an archive


@dataclass(frozen=True)
class Flaw:
    """Why a record is refused. `column` is None if it is about the whole record.

    `raw` is what was sent, where that is not what stands in the text that is loaded.
    """

    code: str
    reason: str  # readable, quotes no value
    column: str | None = None
    raw: bytes = b""


@dataclass(frozen=True)
class Row:
    """A record: its values by column, and where it stands.

    `offset` and `length` are bytes of the file (after decompression). A format whose records are not a stretch of
    bytes counts rows instead: then `length` is 0 and `offset` is the row's number in its sheet or row group.
    """

    values: Mapping[str, str | None]
    offset: int
    length: int
    flaw: Flaw | None = None


class Reader(Protocol):
    """Reads the records of one format. `file` can be read and sought; reading twice gives the same rows."""

    def __call__(self, file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
        """The rows of the file.

        Args:
            options: what the sender or the contract names: `record` (element or path), `sheet`.

        Raises:
            FileRefusedError: the file cannot be read, or breaks a limit; with a place as exact as the format allows.
        """
