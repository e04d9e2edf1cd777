"""Writes the same records in every format that is read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape

import openpyxl
import pyarrow
import pyarrow.parquet
import zstandard

Record = dict[str, Any]  # None for no value; numbers as numbers


def as_csv(records: Sequence[Record], delimiter: str = ",", null: str = "") -> bytes:
    """Delimited text with a header."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(records[0])
    writer.writerows([null if value is None else value for value in record.values()] for record in records)
    return text.getvalue().encode()


def as_json_lines(records: Sequence[Record]) -> bytes:
    """One object a line."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def as_json(records: Sequence[Record]) -> bytes:
    """A list of objects, on many lines."""
    return json.dumps(records, indent=1).encode()


def as_xml(records: Sequence[Record]) -> bytes:
    """An element for each record; what has no value is left out."""
    lines = ["<?xml version='1.0' encoding='UTF-8'?>", "<records>"]
    for record in records:
        fields = (f"<{name}>{escape(str(value))}</{name}>" for name, value in record.items() if value is not None)
        lines.append(f"<record>{''.join(fields)}</record>")
    return "\n".join([*lines, "</records>"]).encode()


def as_parquet(records: Sequence[Record]) -> bytes:
    """In row groups of a thousand."""
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), target, row_group_size=1_000)
    return target.getvalue()


def as_xlsx(records: Sequence[Record]) -> bytes:
    """A workbook of one sheet."""
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("records")
    sheet.append(list(records[0]))
    for record in records:
        sheet.append(list(record.values()))
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def zipped(content: bytes) -> bytes:
    """The only file of a zip file."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", content)
    return target.getvalue()


# EXTENSION -> how records are written.
WRITERS: dict[str, Callable[[Sequence[Record]], bytes]] = {
    "csv": lambda records: as_csv(records, null="NA"),
    "tsv": lambda records: as_csv(records, "\t", null="NA"),
    "utf16.csv": lambda records: as_csv(records, ";", null="NA").decode().encode("utf-16"),
    "ndjson": as_json_lines,
    "json": as_json,
    "xml": as_xml,
    "parquet": as_parquet,
    "xlsx": as_xlsx,
}
# EXTENSION -> how bytes are compressed.
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, mtime=0),
    "zst": lambda content: zstandard.ZstdCompressor().compress(content),
    "bz2": bz2.compress,
    "zip": zipped,
}
