"""Watching which rows the readers give, while the product reads with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from projections.formats.recognise import FORMATS
from projections.formats.rows import Limits, Reader, Row


@contextmanager
def watched(passes: list[list[Row]]) -> Iterator[None]:
    """While it holds, the rows of each pass that a reader finishes are added to `passes`."""
    assert isinstance(FORMATS, dict)
    before = dict(FORMATS)
    FORMATS.update({name: replace(format, reader=_watching(format.reader, passes)) for name, format in before.items()})
    try:
        yield
    finally:
        FORMATS.update(before)


def _watching(reader: Reader, passes: list[list[Row]]) -> Reader:
    def read(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
        rows = []
        for row in reader(file, limits, options):
            rows.append(row)
            yield row
        passes.append(rows)

    return read
