"""Columns: what is asked of columns of values again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy
import pyarrow
import pyarrow.compute


def different(values: pyarrow.ChunkedArray) -> list[str]:
    """The values that there are, each once."""
    found: list[str] = pyarrow.compute.drop_null(pyarrow.compute.unique(values)).to_pylist()
    return found


def among(values: pyarrow.ChunkedArray, texts: Iterable[str]) -> pyarrow.ChunkedArray:
    """Which of the values are one of the texts: one look at each value, however many texts there are."""
    return pyarrow.compute.is_in(values, value_set=pyarrow.array(list(texts), pyarrow.string()))


def positions(mask: Any) -> list[int]:
    """Where a mask is true."""
    found: Iterable[int] = numpy.flatnonzero(pyarrow.compute.fill_null(mask, False).to_numpy(zero_copy_only=False))
    return list(map(int, found))
