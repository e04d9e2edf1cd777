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
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pyarrow
import pyarrow.parquet
import zstandard

from projections.formats.encodings import ENCODINGS
from tests.fuzz.promise import Given
from tests.unit.projections.workbooks import ods, ods_row, raw_xlsx, xls, xlsb, xlsb_text, zipped

RECORDS_MAX = 12
ALPHABETS = (string.ascii_letters, "äöüéßñ€", "日本語文字", '",;|\t ', "𝄞😀", "<>&'\\{}[]:")
DAY = date(2024, 1, 1)

Sound = Callable[[random.Random], Given]


def text_of(chance: random.Random, alphabets: tuple[str, ...] = ALPHABETS) -> str:
    """A short text that starts and ends with a letter, so that nothing takes it for a blank or a number."""
    inner = "".join(chance.choice(chance.choice(alphabets)) for _ in range(chance.randrange(8)))
    return f"{chance.choice(string.ascii_letters)}{inner}{chance.choice(string.ascii_letters)}"


def names_of(chance: random.Random) -> list[str]:
    """Different names of columns, none of which another one starts with."""
    return [f"{letter}{text_of(chance, (string.ascii_lowercase,))}" for letter in "pqrstuv"[: chance.randrange(2, 8)]]


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
        return _cut(chance, Given("text", (mark + end.join(lines) + end).encode(), "notes.txt", records=len(lines)))
    names, rows = _rows(chance)
    delimiter, extension = chance.choice(((",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "psv")))
    target = io.StringIO()
    quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(target, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(names)
    writer.writerows(rows)
    written = mark + target.getvalue() + chance.choice(("", end, end * 2))
    return _cut(chance, Given("text", written.encode(), f"table.{extension}", records=len(rows)))


def _cut(chance: random.Random, given: Given) -> Given:
    """The file with some way of cutting its text."""
    sizes = {
        "chunk_bytes": chance.choice((1, 200, 500, 5_000, 1 << 20)),
        "block_bytes": chance.choice((16, 77, 500, 4_096)),
    }
    return Given(given.reader, given.content, given.filename, given.options, given.records, **sizes)


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
    return _cut(
        chance, Given("json_lines", (written + chance.choice(("", end))).encode(), "r.ndjson", records=len(records))
    )


def json_document(chance: random.Random) -> Given:
    """A list of objects, by itself or inside an object."""
    records = _json_records(chance)
    document = chance.choice((records, {"page": 1, "items": records}, {"data": {"items": records}, "next": None}))
    written = json.dumps(document, indent=chance.choice((None, 1)), ensure_ascii=chance.random() < 0.5)
    return _cut(chance, Given("json", written.encode(), "r.json", records=len(records)))


def xml(chance: random.Random) -> Given:
    """An element for each record, with attributes and elements in elements."""
    names, rows = _rows(chance)
    spaces = chance.choice(("", "\n", "\n  "))
    written = [_xml_record(chance, names, row) for row in rows]
    encoding = chance.choice(("utf-8", "utf-8", "utf-16"))
    head = f'<?xml version="1.0" encoding="{encoding.upper()}"?>'
    document = f"{head}\n<records>{spaces}{spaces.join(written)}{spaces}</records>"
    return _cut(chance, Given("xml", document.encode(encoding), "r.xml", records=len(rows)))


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
    return _cut(chance, Given("parquet", target.getvalue(), "r.parquet", records=count))


def _cells(chance: random.Random) -> list[list[str | int | float]]:
    """A header and rows of numbers and texts."""
    names = names_of(chance)
    alphabets = (string.ascii_letters, "äöü€ ")
    rows = [
        [number, *(chance.choice((0.5, -7, text_of(chance, alphabets))) for _ in names[1:])]
        for number in range(chance.randrange(1, RECORDS_MAX))
    ]
    return [names, *rows]


def xlsx(chance: random.Random) -> Given:
    """A workbook of one sheet, its texts shared or not."""
    cells, shared = _cells(chance), list[str]()
    written = []
    for number, row in enumerate(cells, 1):
        inner = "".join(_xlsx_cell(chance, f"{'ABCDEFG'[at]}{number}", value, shared) for at, value in enumerate(row))
        written.append(f'<row r="{number}">{inner}</row>')
    content = _with_shared("".join(written), shared)
    return _cut(chance, Given("xlsx", content, "r.xlsx", records=len(cells) - 1))


def _xlsx_cell(chance: random.Random, place: str, value: str | float, shared: list[str]) -> str:
    if not isinstance(value, str):
        return f'<c r="{place}"><v>{value}</v></c>'
    if chance.random() < 0.5:
        return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    shared.append(value)
    return f'<c r="{place}" t="s"><v>{len(shared) - 1}</v></c>'


def _with_shared(rows: str, shared: list[str]) -> bytes:
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    texts = "".join(f"<si><t>{escape(value)}</t></si>" for value in shared)
    links = "".join(
        f'<Relationship Id="rId{number}" Type="{office}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(
            (("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml")), 1
        )
    )
    return raw_xlsx(
        rows,
        {
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}">{links}</Relationships>',
            "xl/sharedStrings.xml": f'<sst xmlns="{main}" uniqueCount="{len(shared)}">{texts}</sst>',
        },
    )


def xls_book(chance: random.Random) -> Given:
    """A workbook of Excel 97."""
    cells = _cells(chance)
    return _cut(chance, Given("xls", xls({"S": cells}), "r.xls", records=len(cells) - 1))


def ods_book(chance: random.Random) -> Given:
    """A spreadsheet of OpenDocument."""
    cells = _cells(chance)
    rows = "".join(ods_row(*(escape(cell) if isinstance(cell, str) else cell for cell in row)) for row in cells)
    return _cut(chance, Given("ods", ods({"S": rows}), "r.ods", records=len(cells) - 1))


def xlsb_book(chance: random.Random) -> Given:
    """A binary workbook."""
    cells = _cells(chance)
    written = [
        (row, column, 6, xlsb_text(value)) if isinstance(value, str) else (row, column, 5, struct.pack("<d", value))
        for row, values in enumerate(cells)
        for column, value in enumerate(values)
    ]
    return _cut(chance, Given("xlsb", xlsb(written), "r.xlsb", records=len(cells) - 1))


def _compressed(reader: str, extension: str, compress: Callable[[Given], bytes]) -> Sound:
    def make(chance: random.Random) -> Given:
        inner = chance.choice((text, json_lines, json_document, xml, parquet, xlsx))(chance)
        name = f"{inner.filename}.{extension}"
        return _cut(chance, Given(reader, compress(inner), name, records=inner.records))

    return make


def encodings(chance: random.Random) -> Given:
    """Text in any encoding, which is named unless its bytes prove it."""
    encoding = chance.choice(ENCODINGS)
    names = names_of(chance)
    rows = [[str(number), *(text_of(chance, _letters(encoding)) for _ in names[1:])] for number in range(2, 8)]
    written = "".join(",".join(row) + "\r\n" for row in (names, *rows)).encode(encoding)
    proven = encoding in ("utf-8", "utf-16", "utf-32") and chance.random() < 0.5
    options = {} if proven else {"encoding": encoding}
    return _cut(chance, Given("encodings", written, "table.csv", options, len(rows)))


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
