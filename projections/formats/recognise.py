"""Recognising: what a file is by its content, and so which reader makes records of it.

Rules:
1. The content decides, never the name. A name only helps to tell delimited text from plain text, see `dialect`.
2. JSON is lines of objects if the first line is an object by itself and the next line starts another one, or if there
   is one line whose object holds no list of objects; else it is a document.
3. What is nothing that is read is refused by its name, as far as its first bytes give one away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger.errors import FileRefusedError
from projections.formats.json_document import read_json_document
from projections.formats.json_lines import read_json_lines
from projections.formats.parquet import read_parquet
from projections.formats.rows import Reader, Writing
from projections.formats.separated_text import OPTIONS, read_separated_text
from projections.formats.workbook import read_workbook
from projections.formats.xml_records import read_xml_records

SAMPLE_BYTES = 1 << 20
TEXT: Final = "text"
# How a workbook starts: as a zip file, or as what Office wrote before.
WORKBOOK = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
PARQUET = (b"PAR1", b"PARE")
NOT_READ = ((b"\xfd7zXZ\x00", "xz"), (b"%PDF-", "PDF"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!", "RAR"))
BLANK = b" \t\r\n"
XML = re.compile(
    rb"""\s*<(?:\?xml\b|!--|!DOCTYPE\b|[A-Za-z_][\w:.-]*(?:\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>\s*<)""",
    re.IGNORECASE,
)
HTML = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
OBJECT = re.compile(rb'\s*\{\s*(?:"(?:[^"\\]|\\.)*"\s*:|\}\s*(?:[,\]\r\n]|$))', re.DOTALL)
LIST = re.compile(
    rb'\s*\[[\s\[]*(?:\{\s*["}]|"(?:[^"\\]|\\.)*"\s*[,\]]|-?\d[\d.eE+-]*\s*,|(?:true|false|null)\s*[,\]])', re.DOTALL
)


@dataclass(frozen=True)
class Format:
    """A format with a reader of its own, whose version is raised whenever it makes other rows of the same bytes."""

    reader: Reader
    version: int
    name_for_people: str
    writing: Writing


# FORMAT -> its reader. Everything else is text, whose bytes are loaded as they are.
FORMATS: Mapping[str, Format] = {
    "json_lines": Format(read_json_lines, 1, "JSON lines", Writing.JSON),
    "json": Format(read_json_document, 1, "JSON", Writing.JSON),
    "xml": Format(read_xml_records, 1, "XML", Writing.FREE),
    "separated_text": Format(read_separated_text, 1, "delimited text with its own quotes or line ends", Writing.FREE),
    "parquet": Format(read_parquet, 1, "Parquet", Writing.TYPED),
    "workbook": Format(read_workbook, 1, "a workbook (Excel or OpenDocument)", Writing.TYPED),
}


def is_separated_text(options: Mapping[str, str]) -> bool:
    """Whether text is to be read record by record, and not by `COPY`."""
    return any(name in options for name in OPTIONS)


def recognise(sample: bytes) -> str:
    """The format of a file that is not compressed, `TEXT` if it is text without a structure of its own.

    Args:
        sample: the first `SAMPLE_BYTES` of the file, or the whole of a smaller one.

    Raises:
        FileRefusedError: format_not_read.
    """
    if sample.startswith(PARQUET):
        return "parquet"
    if sample.startswith(WORKBOOK):
        return "workbook"
    for signature, name in NOT_READ:
        if sample.startswith(signature):
            raise _not_read(name)
    body = sample.removeprefix(b"\xef\xbb\xbf")
    if HTML.match(body):
        raise _not_read("HTML")
    if XML.match(_without_nul(body)):
        return "xml"
    if OBJECT.match(body):
        return "json_lines" if _is_lines(body) else "json"
    if LIST.match(body):
        return "json"
    return TEXT


def _without_nul(sample: bytes) -> bytes:
    """The first bytes of XML in UTF-16, which its reader decodes by itself, as they would be in ASCII."""
    start = sample[:2_000]
    return start.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff").replace(b"\0", b"")


def _is_lines(body: bytes) -> bool:
    first, _, rest = body.lstrip(BLANK).partition(b"\n")
    following = rest.lstrip(BLANK)
    if following:
        return following.startswith(b"{") and first.rstrip(BLANK).endswith(b"}")
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and not any(_holds_records(value, 1) for value in record.values())


def _holds_records(value: object, deeper: int) -> bool:
    if isinstance(value, dict):
        return deeper > 0 and any(_holds_records(inner, deeper - 1) for inner in value.values())
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _not_read(name: str) -> FileRefusedError:
    return FileRefusedError(
        "format_not_read",
        f"The file is {name} by its first bytes; this is not read.",
        "Send it as CSV, JSON, XML, Parquet or a workbook, plain or compressed with gzip, zstd, bzip2 or zip.",
        byte_offset=0,
    )
