"""Trailers: reading the last record of a file as what its sender says of the others, see `ledger.domain.trailer`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow

from ledger.blobs import BlobStore
from ledger.domain.column import Column, excerpt
from ledger.domain.contract import Contract
from ledger.domain.trailer import Trailer
from ledger.errors import FileRefusedError
from projections.converting import convert
from projections.formats.blocks import read_exactly
from projections.formats.dialect import read_records
from projections.formats.recognise import TEXT
from projections.formats.records import find_records
from projections.formats.rows import Writing
from projections.formats.splitter import Plan
from workers.texts import Text

# Leading zeros are usual where fields have a fixed width.
COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
WHOLE_FILE = "Ask for the whole file, and send that."


def with_trailer(blobs: BlobStore, text: Text, contract: Contract) -> Text:
    """A text with what its trailer tells, if its contract has one and it can have one.

    Args:
        text: one with records, and with the columns of the contract.

    Raises:
        FileRefusedError: trailer_missing or trailer_invalid.
    """
    if contract.trailer is None or text.made.format != TEXT or not text.dialect.quoting:
        return text
    place, told = _read(blobs, text, contract, contract.trailer)
    return replace(text, plan=replace(text.plan, trailer=place), trailer=told)


def _read(blobs: BlobStore, text: Text, contract: Contract, trailer: Trailer) -> tuple[int, dict[str, Any]]:
    """The offset of a text's trailer, and the control totals that it tells."""
    plan, dialect = text.plan, text.dialect
    chunk = plan.chunks[-1]
    records = find_records(read_exactly(partial(blobs.read, text.sha256), chunk.start, chunk.size), dialect)
    raw = records.bytes_of(len(records) - 1).decode("utf-8", "replace")
    [fields] = read_records(raw.rstrip("\r\n"), dialect.delimiter, dialect.quote)
    if fields[0] != trailer.marker:
        raise FileRefusedError(
            "trailer_missing",
            f"The last record does not start with {excerpt(trailer.marker)}, as the contract's trailer does: the file "
            "was cut, or is another one.",
            WHOLE_FILE,
            record=plan.records,
        )
    told: dict[str, Any] = {}
    if trailer.records is not None:
        told["records"] = int(_number(fields, trailer.records, None, plan))
    columns = {column.name: column for column in contract.columns}
    sums = {name: {"sum": _number(fields, place, columns[name], plan)} for name, place in trailer.sums.items()}
    if sums:
        told["columns"] = sums
    return chunk.start + int(records.starts[-1]), told


def _number(fields: list[str], place: int, column: Column | None, plan: Plan) -> str:
    """The number in a field of the trailer, in its plain form."""
    text = fields[place - 1].strip() if place <= len(fields) else ""
    if column is not None and column.format is not None:
        plain, unlike = convert(column, pyarrow.chunked_array([[text]], pyarrow.string()), Writing.FREE)
        text = "" if unlike[0].as_py() else plain[0].as_py()
    if not (COUNT if column is None else NUMBER).fullmatch(text):
        what = "the number of records" if column is None else f"the sum of {column.name!r}"
        raise FileRefusedError(
            "trailer_invalid",
            f"Field {place} of the trailer, which is {what}, is no number.",
            WHOLE_FILE,
            record=plan.records,
        )
    return text
