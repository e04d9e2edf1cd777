"""Sound files of every format, made by chance: each knows how many records it has.

What is made is what programs write, not the strangest that a format allows: a reader may refuse the strangest, and a
sound file must never be refused.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import random
import string
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pyarrow
import pyarrow.parquet
import zstandard

from projections.formats.encodings import ENCODINGS
from tests.fuzz.chances import RECORDS_MAX, cut, names_of, text_of
from tests.fuzz.promise import Given
from tests.fuzz.workbooks import ods_book, xls_book, xlsb_book, xlsx
from tests.unit.projections.workbooks import zipped

DAY = date(2024, 1, 1)

Sound = Callable[[random.Random], Given]


def _number(chance: random.Random) -> str:
    return chance.choice(
        ("0", "-7", str(chance.randrange(10**6)), f"{chance.randrange(10**4)}.{chance.randrange(100):02}")
    )


def _rows(chance: random.Random) -> tuple[list[str], list[list[str | None]]]:
    """A table of numbers, days and texts; the first column is filled."""
    names = names_of(chance)
    kinds: list[Callable[[], str]] = [
        lambda: _number(chance),
        lambda: text_of(chance),
        lambda: str(DAY + timedelta(chance.randrange(9_999))),
    ]
    chosen = [chance.choice(kinds) for _ in names]
    rows = [
        [str(number), *(None if chance.random() < 0.1 else kind() for kind in chosen[1:])]
        for number in range(chance.randrange(2, RECORDS_MAX))
    ]
    return names, rows


def text(chance: random.Random) -> Given:
    """Delimited text or plain lines, with any line end, with or without a byte order mark."""
    end = chance.choice(("\n", "\r\n"))
    mark = chance.choice(("", "", "\ufeff"))
    if chance.random() < 0.2:
        lines = [text_of(chance, (string.ascii_letters, "äöü€ ")) for _ in range(chance.randrange(1, RECORDS_MAX))]
        return cut(chance, Given("text", (mark + end.join(lines) + end).encode(), "notes.txt", records=len(lines)))
    names, rows = _rows(chance)
    delimiter, extension = chance.choice(((",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "psv")))
    target = io.StringIO()
    quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(target, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(names)
    writer.writerows(rows)
    written = mark + target.getvalue() + chance.choice(("", end, end * 2))
    return cut(chance, Given("text", written.encode(), f"table.{extension}", records=len(rows)))


def separated_text(chance: random.Random) -> Given:
    """Delimited text with any quotes and escapes, whose lines end in any way."""
    names, rows = _rows(chance)
    quote, escape_character = chance.choice("'\"`"), chance.choice(("", "\\"))

    def field(value: str | None) -> str:
        if value is None:
            return ""
        inner = value.replace(escape_character, escape_character * 2) if escape_character else value
        return quote + inner.replace(quote, (escape_character or quote) + quote) + quote

    lines = [",".join(map(field, row)) for row in (names, *rows)]
    within = any("\n" in line for line in lines)  # then CR alone ends no line
    ends = chance.choice((("\n",), ("\n", "\r\n"), ("\n",) if within else ("\r",)))
    written = "".join(line + chance.choice(ends) for line in lines)
    options = {"quote": quote, "header": "yes", "delimiter": ","}
    if escape_character:
        options["escape"] = escape_character
    return cut(chance, Given("separated_text", written.encode(), "table.csv", options, records=len(rows)))


def _json_value(chance: random.Random, depth: int) -> Any:
    if depth and chance.random() < 0.3:
        if chance.random() < 0.5:
            return [_json_value(chance, depth - 1) for _ in range(chance.randrange(3))]
        return {name: _json_value(chance, depth - 1) for name in names_of(chance)[:2]}
    return chance.choice((None, True, chance.randrange(-9, 10**9), 1.5, text_of(chance), "", "two\nlines"))


def _json_records(chance: random.Random) -> list[dict[str, Any]]:
    names = names_of(chance)
    return [
        {"id": number, **{name: _json_value(chance, 3) for name in names if chance.random() < 0.9}}
        for number in range(chance.randrange(2, RECORDS_MAX))
    ]


def json_lines(chance: random.Random) -> Given:
    """One object a line."""
    records = _json_records(chance)
    end = chance.choice(("\n", "\r\n", "\n\n"))
    written = end.join(json.dumps(record, ensure_ascii=chance.random() < 0.5) for record in records)
    return cut(
        chance, Given("json_lines", (written + chance.choice(("", end))).encode(), "r.ndjson", records=len(records))
    )


def json_document(chance: random.Random) -> Given:
    """A list of objects, by itself or inside an object."""
    records = _json_records(chance)
    document = chance.choice((records, {"page": 1, "items": records}, {"data": {"items": records}, "next": None}))
    written = json.dumps(document, indent=chance.choice((None, 1)), ensure_ascii=chance.random() < 0.5)
    return cut(chance, Given("json", written.encode(), "r.json", records=len(records)))


def xml(chance: random.Random) -> Given:
    """An element for each record, with attributes and elements in elements."""
    names, rows = _rows(chance)
    spaces = chance.choice(("", "\n", "\n  "))
    written = [_xml_record(chance, names, row) for row in rows]
    encoding = chance.choice(("utf-8", "utf-8", "utf-16"))
    head = f'<?xml version="1.0" encoding="{encoding.upper()}"?>'
    document = f"{head}\n<records>{spaces}{spaces.join(written)}{spaces}</records>"
    return cut(chance, Given("xml", document.encode(encoding), "r.xml", records=len(rows)))


def _xml_record(chance: random.Random, names: list[str], row: list[str | None]) -> str:
    [(_, number), *others] = zip(names, row, strict=True)
    fields = []
    for name, value in others:
        inner = escape(value or "")
        if "]]>" not in (value or "") and chance.random() < 0.1:
            inner = f"<![CDATA[{value or ''}]]>"
        elif chance.random() < 0.2:
            inner = f"<in>{inner}</in>"
        fields.append(f"<{name}>{inner}</{name}>")
    return f"<record no={quoteattr(number or '')}>{''.join(fields)}</record>"


def parquet(chance: random.Random) -> Given:
    """A table of any types, in row groups, compressed in some way."""
    count = chance.randrange(1, RECORDS_MAX * 4)
    makers: list[tuple[Any, Callable[[int], Any]]] = [
        (pyarrow.int64(), lambda n: n * 7 - 3),
        (pyarrow.float64(), lambda n: n / 8),
        (pyarrow.string(), lambda _: text_of(chance)),
        (pyarrow.decimal128(12, 2), lambda n: Decimal(n).scaleb(-2)),
        (pyarrow.date32(), lambda n: DAY + timedelta(n)),
        (pyarrow.timestamp("us", "UTC"), lambda n: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=n)),
        (pyarrow.bool_(), lambda n: n % 2 == 0),
        (pyarrow.list_(pyarrow.int32()), lambda n: [n, n]),
        (pyarrow.struct([("x", pyarrow.int16()), ("y", pyarrow.string())]), lambda n: {"x": n, "y": None}),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), lambda n: "ab"[n % 2]),
        (pyarrow.binary(), lambda n: bytes([n])),
    ]
    columns = {}
    for name in names_of(chance):
        kind, make = chance.choice(makers)
        values = [None if chance.random() < 0.1 else make(number) for number in range(count)]
        columns[name] = pyarrow.array(values, kind)
    target = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table({"id": pyarrow.array(range(count)), **columns}),
        target,
        row_group_size=chance.choice((10, 30, 1_000)),
        compression=chance.choice(("none", "snappy", "gzip", "zstd", "lz4", "brotli")),
        use_dictionary=chance.random() < 0.5,
        data_page_version=chance.choice(("1.0", "2.0")),
    )
    return cut(chance, Given("parquet", target.getvalue(), "r.parquet", records=count))


def _compressed(reader: str, extension: str, compress: Callable[[Given], bytes]) -> Sound:
    def make(chance: random.Random) -> Given:
        inner = chance.choice((text, json_lines, json_document, xml, parquet, xlsx))(chance)
        name = f"{inner.filename}.{extension}"
        return cut(chance, Given(reader, compress(inner), name, records=inner.records))

    return make


def encodings(chance: random.Random) -> Given:
    """Text in any encoding, which is named unless its bytes prove it."""
    encoding = chance.choice(ENCODINGS)
    names = names_of(chance)
    rows = [[str(number), *(text_of(chance, _letters(encoding)) for _ in names[1:])] for number in range(2, 8)]
    written = "".join(",".join(row) + "\r\n" for row in (names, *rows)).encode(encoding)
    proven = encoding in ("utf-8", "utf-16", "utf-32") and chance.random() < 0.5
    options = {} if proven else {"encoding": encoding}
    return cut(chance, Given("encodings", written, "table.csv", options, len(rows)))


def _letters(encoding: str) -> tuple[str, ...]:
    """Letters that the encoding has."""
    kept = "".join(letter for letter in "äßéñłžждλאبทพ日本語가한€" if _has(encoding, letter))
    return (string.ascii_letters, kept or "x")


def _has(encoding: str, letter: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


# READER -> what makes a sound file for it.
SOUND: dict[str, Sound] = {
    "text": text,
    "separated_text": separated_text,
    "json_lines": json_lines,
    "json": json_document,
    "xml": xml,
    "parquet": parquet,
    "xlsx": xlsx,
    "xls": xls_book,
    "ods": ods_book,
    "xlsb": xlsb_book,
    "gzip": _compressed("gzip", "gz", lambda inner: gzip.compress(inner.content, mtime=0)),
    "zstd": _compressed("zstd", "zst", lambda inner: zstandard.ZstdCompressor().compress(inner.content)),
    "bzip2": _compressed("bzip2", "bz2", lambda inner: bz2.compress(inner.content)),
    "zip": _compressed("zip", "zip", lambda inner: zipped({inner.filename: inner.content})),
    "encodings": encodings,
}
