"""Small workbooks, made by hand where no library makes what a test needs."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import openpyxl
import xlwt

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SHEET_XML = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OPEN_DOCUMENT = "urn:oasis:names:tc:opendocument:xmlns"


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def xlsx(sheets: Mapping[str, list[list[Any]]], change: Callable[[openpyxl.Workbook], None] | None = None) -> bytes:
    """A workbook by openpyxl."""
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
    if change is not None:
        change(workbook)
    target = io.BytesIO()
    workbook.save(target)
    return target.getvalue()


def relations(*targets: tuple[str, str]) -> str:
    links = "".join(
        f'<Relationship Id="rId{number}" Type="{OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{links}</Relationships>'
    )


def raw_xlsx(rows: str, parts: Mapping[str, str | bytes] | None = None, before: str = "") -> bytes:
    """A workbook of one sheet "S" with these `row` elements."""
    sheet = f'{before}<worksheet xmlns="{SHEET_XML}"><dimension ref="A1"/><sheetData>{rows}</sheetData></worksheet>'
    book = (
        f'<workbook xmlns="{SHEET_XML}" xmlns:r="{OFFICE}"><sheets><sheet name="S" sheetId="1" r:id="rId1"/></sheets>'
    )
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": relations(("officeDocument", "xl/workbook.xml")),
            "xl/workbook.xml": f"{book}</workbook>",
            "xl/_rels/workbook.xml.rels": relations(("worksheet", "worksheets/sheet1.xml")),
            "xl/worksheets/sheet1.xml": sheet,
            **(parts or {}),
        }
    )


def xls(sheets: Mapping[str, list[list[Any]]], change: Callable[[Any], None] | None = None) -> bytes:
    """A workbook by xlwt."""
    workbook = xlwt.Workbook()
    for name, rows in sheets.items():
        sheet = workbook.add_sheet(name)
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                if value is not None:
                    sheet.write(number, column, value)
    if change is not None:
        change(workbook)
    target = io.BytesIO()
    workbook.save(target)
    return target.getvalue()


def ods(tables: Mapping[str, str], manifest: str = "") -> bytes:
    """A spreadsheet with these `table-row` elements."""
    names = " ".join(f'xmlns:{name}="{OPEN_DOCUMENT}:{name}:1.0"' for name in ("office", "table", "text"))
    other = 'xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"'
    body = "".join(f'<table:table table:name="{name}">{rows}</table:table>' for name, rows in tables.items())
    return zipped(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "content.xml": f"<office:document-content {names} {other}><office:body><office:spreadsheet>{body}"
            "</office:spreadsheet></office:body></office:document-content>",
            "META-INF/manifest.xml": f'<m:manifest xmlns:m="{OPEN_DOCUMENT}:manifest:1.0">{manifest}</m:manifest>',
        }
    )


def ods_row(*cells: str | float | None, repeated: int = 1) -> str:
    """A row; texts that start with < stand for themselves."""
    written = []
    for cell in cells:
        if cell is None:
            written.append("<table:table-cell/>")
        elif isinstance(cell, str) and cell.startswith("<"):
            written.append(cell)
        elif isinstance(cell, str):
            written.append(f'<table:table-cell office:value-type="string"><text:p>{cell}</text:p></table:table-cell>')
        else:
            written.append(f'<table:table-cell office:value-type="float" office:value="{cell}"/>')
    return f'<table:table-row table:number-rows-repeated="{repeated}">{"".join(written)}</table:table-row>'


def _record(number: int, content: bytes = b"") -> bytes:
    head = bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])
    assert len(content) < 128
    return head + bytes([len(content)]) + content


def _wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def xlsb(cells: list[tuple[int, int, int, bytes]]) -> bytes:
    """A workbook of one sheet "S" with these cells: row, column, kind of record, value."""
    sheet = [_record(129), _record(148, struct.pack("<4I", 0, 0, 0, 0)), _record(145)]
    current = -1
    for row, column, kind, value in cells:
        if row != current:
            sheet.append(_record(0, struct.pack("<I", row) + bytes(13)))
            current = row
        sheet.append(_record(kind, struct.pack("<II", column, 0) + value))
    sheet += [_record(146), _record(130)]
    bundle = _record(156, struct.pack("<II", 0, 1) + _wide("rId1") + _wide("S"))
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": relations(("officeDocument", "xl/workbook.bin")),
            "xl/workbook.bin": _record(131) + _record(143) + bundle + _record(144) + _record(132),
            "xl/_rels/workbook.bin.rels": relations(("worksheet", "worksheets/sheet1.bin")),
            "xl/worksheets/sheet1.bin": b"".join(sheet),
        }
    )


def xlsb_text(text: str) -> bytes:
    return _wide(text)
