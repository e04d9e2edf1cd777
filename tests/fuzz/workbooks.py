"""Sound workbooks, made by chance."""

from __future__ import annotations

import random
import string
import struct
from xml.sax.saxutils import escape

from tests.fuzz.chances import RECORDS_MAX, cut, names_of, text_of
from tests.fuzz.promise import Given
from tests.unit.projections.workbooks import ods, ods_row, raw_xlsx, xls, xlsb, xlsb_text


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
    return cut(chance, Given("xlsx", content, "r.xlsx", records=len(cells) - 1))


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
    return cut(chance, Given("xls", xls({"S": cells}), "r.xls", records=len(cells) - 1))


def ods_book(chance: random.Random) -> Given:
    """A spreadsheet of OpenDocument."""
    cells = _cells(chance)
    rows = "".join(ods_row(*(escape(cell) if isinstance(cell, str) else cell for cell in row)) for row in cells)
    return cut(chance, Given("ods", ods({"S": rows}), "r.ods", records=len(cells) - 1))


def xlsb_book(chance: random.Random) -> Given:
    """A binary workbook."""
    cells = _cells(chance)
    written = [
        (row, column, 6, xlsb_text(value)) if isinstance(value, str) else (row, column, 5, struct.pack("<d", value))
        for row, values in enumerate(cells)
        for column, value in enumerate(values)
    ]
    return cut(chance, Given("xlsb", xlsb(written), "r.xlsb", records=len(cells) - 1))
