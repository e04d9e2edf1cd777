"""Faults that are put into the product, so that the fuzzer can show that it notices them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO

from projections.formats import transcript
from projections.formats.recognise import FORMATS
from projections.formats.rows import Limits, Row

READER = "json_lines"


def _with(change: Callable[[Iterator[Row]], Iterator[Row]]) -> None:
    """Let the reader give something else than its rows."""
    assert isinstance(FORMATS, dict)
    reader = FORMATS[READER].reader

    def read(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
        yield from change(reader(file, limits, options))

    FORMATS[READER] = replace(FORMATS[READER], reader=read)


def _raise_key_error() -> None:
    def change(rows: Iterator[Row]) -> Iterator[Row]:
        yield from islice(rows, 1)
        raise KeyError("planted")

    _with(change)


def _hang() -> None:
    def change(rows: Iterator[Row]) -> Iterator[Row]:
        time.sleep(3_600)
        return rows

    _with(change)


def _crash() -> None:
    def change(rows: Iterator[Row]) -> Iterator[Row]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return rows

    _with(change)


def _eat_memory() -> None:
    def change(rows: Iterator[Row]) -> Iterator[Row]:
        bytearray(b"x" * (300 << 20))
        return rows

    _with(change)


def _lose_a_row() -> None:
    _with(lambda rows: islice(rows, 1, None))


def _change_a_value() -> None:
    def change(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            yield replace(row, flaw=None, values={**row.values, "planted": "  "})

    _with(change)
    quoted = transcript._quoted
    transcript._quoted = lambda value: quoted(value.strip() if value else value)


def _lose_a_record() -> None:
    put = transcript.Transcriber._put

    def put_most(self: Any, line: str) -> None:
        if self.records != 2:
            put(self, line)

    transcript.Transcriber._put = put_most  # type: ignore[method-assign]


def _crash_in_the_worker() -> None:
    from tests.fuzz import promise

    promise.infer = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)  # type: ignore[assignment]


# PLANT -> what puts it in.
PLANTS: dict[str, Callable[[], None]] = {
    "raises a KeyError": _raise_key_error,
    "hangs": _hang,
    "crashes": _crash,
    "crashes in the worker": _crash_in_the_worker,
    "eats memory": _eat_memory,
    "loses a row": _lose_a_row,
    "loses a record of the text": _lose_a_record,
    "changes a value": _change_a_value,
}
