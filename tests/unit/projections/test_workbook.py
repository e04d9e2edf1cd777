"""What the rows of a workbook are, cell by cell, and how a bad one is refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
from datetime import date, datetime, time, timedelta

import pytest
import xlwt

from ledger.errors import FileRefusedError
from projections.formats.rows import Limits, Row
from projections.formats.workbook import read_workbook
from tests.unit.projections.mutations import outcomes
from tests.unit.projections.workbooks import (
    SHEET_XML,
    ods,
    ods_row,
    raw_xlsx,
    relations,
    xls,
    xlsb,
    xlsb_text,
    xlsx,
    zipped,
)

LIMITS = Limits()
TABLE = [["id", "name"], [1, "Ann"], [2, None]]
TABLE_ROWS = [Row({"id": "1", "name": "Ann"}, 2, 0), Row({"id": "2", "name": None}, 3, 0)]


def rows(data: bytes, sheet: str | None = None, limits: Limits = LIMITS) -> list[Row]:
    return list(read_workbook(io.BytesIO(data), limits, {"sheet": sheet} if sheet else {}))


def values(data: bytes) -> list[dict[str, str | None]]:
    read = rows(data)
    assert [row.flaw for row in read] == [None] * len(read)
    return [dict(row.values) for row in read]


def flaws(data: bytes) -> list[tuple[int, str, str | None] | None]:
    """Of each row its number, and the code and the column of its flaw."""
    return [row.flaw and (row.offset, row.flaw.code, row.flaw.column) for row in rows(data)]


def refused(data: bytes, sheet: str | None = None, limits: Limits = LIMITS) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        rows(data, sheet, limits)
    assert caught.value.message and caught.value.remedy
    return caught.value


def samples() -> dict[str, bytes]:
    """The same small table in every format."""
    binary = [(0, 0, 6, xlsb_text("id")), (0, 1, 6, xlsb_text("name")), (1, 0, 5, struct.pack("<d", 1))]
    binary += [(1, 1, 6, xlsb_text("Ann")), (2, 0, 5, struct.pack("<d", 2))]
    return {
        "xlsx": xlsx({"S": TABLE}),
        "xls": xls({"S": TABLE}),
        "ods": ods({"S": "".join(ods_row(*row) for row in TABLE)}),
        "xlsb": xlsb(binary),
    }


@pytest.mark.parametrize("kind", ["xlsx", "xls", "ods", "xlsb"])
def test_every_format_gives_the_same_rows(kind):
    assert rows(samples()[kind]) == TABLE_ROWS
    assert rows(samples()[kind], "S") == TABLE_ROWS


@pytest.mark.parametrize(
    ("number", "text"),
    [(517, "517"), (517.0, "517"), (0.1, "0.1"), (-12.5, "-12.5"), (1e20, "1" + "0" * 20), (1e-7, "0.0000001")],
)
def test_numbers_have_their_fewest_digits(number, text):
    assert values(xlsx({"S": [["a"], [number]]})) == [{"a": text}]
    assert values(xls({"S": [["a"], [number]]})) == [{"a": text}]


def test_a_number_is_told_as_it_stands_in_the_file():
    cells = '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row>'
    for number, text in (("0.30000000000000004", "0.30000000000000004"), ("1.10", "1.1"), ("-0", "0"), ("1E3", "1000")):
        assert values(raw_xlsx(f'{cells}<row r="2"><c r="A2"><v>{number}</v></c></row>')) == [{"a": text}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (date(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29, 23, 59, 58), "2024-02-29 23:59:58"),
        (datetime(2024, 2, 29, 1, 2, 3, 500000), "2024-02-29 01:02:03.500000"),
        (time(3, 4, 5), "03:04:05"),
        (timedelta(hours=30, seconds=1), "30:00:01"),
        (True, "true"),
        (False, "false"),
        (" x ", " x "),
        ("00123", "00123"),
    ],
)
def test_other_values_are_told_as_they_are(value, text):
    assert values(xlsx({"S": [["a"], [value]]})) == [{"a": text}]


def test_every_second_of_a_day_is_told_right():
    instants = [datetime(2023, 12, 31) + timedelta(seconds=second) for second in range(1, 86_400, 97)]
    read = values(xlsx({"S": [["a"], *([instant] for instant in instants)]}))
    assert [row["a"] for row in read] == [instant.isoformat(" ") for instant in instants]


def test_dates_of_other_formats():
    def write(workbook):
        sheet = workbook.get_sheet(0)
        sheet.write(1, 0, date(2024, 2, 29), xlwt.easyxf(num_format_str="yyyy-mm-dd"))
        sheet.write(2, 0, datetime(2024, 2, 29, 1, 2, 3), xlwt.easyxf(num_format_str="yyyy-mm-dd hh:mm:ss"))

    assert values(xls({"S": [["a"]]}, write)) == [{"a": "2024-02-29"}, {"a": "2024-02-29 01:02:03"}]
    day = '<table:table-cell office:value-type="date" office:date-value="2024-02-29"/>'
    truth = '<table:table-cell office:value-type="boolean" office:boolean-value="true"/>'
    assert values(ods({"S": ods_row("a", "b") + ods_row(day, truth)})) == [{"a": "2024-02-29", "b": "true"}]


def test_the_first_row_that_is_not_empty_is_the_header_and_rows_keep_their_numbers():
    table = [[], [None, None], [None, "a", "b"], [None, 1, 2], [], [None, None, 3]]
    assert rows(xlsx({"S": table})) == [Row({"a": "1", "b": "2"}, 4, 0), Row({"a": None, "b": "3"}, 6, 0)]
    assert rows(xls({"S": table})) == rows(xlsx({"S": table}))


def test_a_column_without_a_name_is_called_by_its_number_if_it_has_values():
    table = [["a", None, None, 2024], [1, 2, None, 4, 5]]
    assert values(xlsx({"S": table})) == [{"a": "1", "column_2": "2", "2024": "4", "column_5": "5"}]


@pytest.mark.parametrize("header", [["a", "b", "a"], ["column_2", None]])
def test_two_columns_of_one_name_are_refused(header):
    error = refused(xlsx({"S": [header, [1, 2, 3]]}))
    assert (error.code, error.line, error.column) == ("header_duplicate", 1, header[0])


def test_the_only_sheet_with_content_is_read_else_one_must_be_named():
    assert rows(xlsx({"Notes": [], "Data": TABLE})) == TABLE_ROWS
    many = xlsx({"Q1": TABLE, "Empty": [], "Q2": [["a"], [7]]})
    error = refused(many)
    assert error.code == "sheet_ambiguous"
    assert "'Q1', 'Q2'" in error.message
    assert rows(many, "Q2") == [Row({"a": "7"}, 2, 0)]
    error = refused(many, "Q3")
    assert error.code == "sheet_unknown"
    assert "'Q1', 'Empty', 'Q2'" in error.message
    assert refused(many, "Empty").code == "file_empty"


@pytest.mark.parametrize("data", [xlsx({"S": []}), xls({"S": []}), ods({"S": ""})])
def test_a_workbook_without_content_is_refused(data):
    assert refused(data).code == "file_empty"


def test_a_header_alone_has_no_rows():
    assert rows(xlsx({"S": [["a", "b"]]})) == []


def test_an_error_is_a_flaw_of_its_row_in_every_format():
    rest = '<row r="3"><c r="A3"><v>1</v></c></row><row r="4"><c r="B4" t="e"><v>#DIV/0!</v></c></row>'
    head = (
        '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row><row r="2"><c r="A2" t="e"><v>#N/A</v></c></row>'
    )
    assert flaws(raw_xlsx(head + rest)) == [(2, "cell_error", "a"), None, (4, "cell_error", "column_2")]

    def write(workbook):
        workbook.get_sheet(0).row(1).set_cell_error(0, 0x2A)

    assert flaws(xls({"S": [["a"], [None], [1]]}, write)) == [(2, "cell_error", "a"), None]
    error = '<table:table-cell office:value-type="string" calcext:value-type="error"/>'
    data = ods({"S": ods_row("a") + ods_row(error, repeated=2) + ods_row(1)})
    assert flaws(data) == [(2, "cell_error", "a"), (3, "cell_error", "a"), None]
    binary = [(0, 0, 6, xlsb_text("a")), (1, 0, 3, b"\x2a"), (2, 0, 5, struct.pack("<d", 1))]
    assert flaws(xlsb(binary)) == [(2, "cell_error", "a"), None]


def test_a_formula_whose_result_was_not_saved_is_a_flaw():
    assert flaws(xlsx({"S": [["a", "b"], [1, "=A2+1"]]})) == [(2, "formula_not_computed", "b")]
    head = '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row>'
    computed = '<row r="2"><c r="A2"><f>1+1</f><v>2</v></c></row><row r="3"><c r="A3" t="str"><f>x</f><v></v></c></row>'
    assert values(raw_xlsx(head + computed)) == [{"a": "2"}]


def test_an_error_in_the_header_is_refused():
    data = raw_xlsx('<row r="1"><c r="A1" t="e"><v>#REF!</v></c><c r="B1"><v>1</v></c></row>')
    error = refused(data)
    assert (error.code, error.line) == ("header_unreadable", 1)


def test_cells_that_do_not_say_where_they_are_follow_each_other():
    name = "<c t='inlineStr'><is><t>{}</t></is></c>"
    data = raw_xlsx(
        f"<row>{name.format('a')}{name.format('b')}</row><row><c><v>1</v></c><c t='e'><v>#N/A</v></c></row>"
    )
    assert flaws(data) == [(2, "cell_error", "b")]


def test_a_sheet_of_two_cells_far_apart_is_refused_before_it_is_loaded():
    far = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    error = refused(raw_xlsx(far))
    assert error.code == "workbook_too_large"
    assert "CSV" in error.remedy
    number = struct.pack("<d", 1)
    assert refused(xlsb([(0, 0, 5, number), (1 << 20, 1 << 14, 5, number)])).code == "workbook_too_large"
    cell = '<table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="16384"/>'
    assert refused(ods({"S": ods_row("a") + ods_row(cell, repeated=1_000_000)})).code == "workbook_too_large"
    assert refused(xls({"S": [["a"] * 5] * 3}), limits=Limits(cells_max=14)).code == "workbook_too_large"


def test_formats_of_empty_cells_do_not_count():
    styled = '<row r="1"><c r="A1"><v>7</v></c></row><row r="2"><c r="A2"><v>1</v></c></row>'
    data = raw_xlsx(styled + '<row r="1048576"><c r="XFD1048576" s="0"/></row>')
    assert values(data) == [{"7": "1"}]
    empty = ods_row(None, repeated=1_000_000)
    assert values(ods({"S": ods_row("a") + ods_row(1) + empty})) == [{"a": "1"}]


def test_a_zip_bomb_is_refused_in_little_memory():
    head = '<row r="1"><c r="A1"><v>1</v></c></row>'
    bombs = [
        raw_xlsx(head, {"xl/sharedStrings.xml": b"<sst>" + b" " * 80_000_000}),
        raw_xlsx(head, {"xl/media/image.png": b"\0" * 80_000_000}),
    ]
    lying = bytearray(bombs[0])
    entry = lying.rindex(b"PK\x01\x02")
    lying[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    tracemalloc.start()
    assert [refused(bomb).code for bomb in bombs] == ["workbook_too_large"] * 2
    assert refused(bytes(lying)).code == "workbook_invalid"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


def test_a_declared_document_type_is_refused():
    entities = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    assert refused(raw_xlsx('<row r="1"><c r="A1"><v>1</v></c></row>', before=entities)).code == "workbook_invalid"


def ole(names: list[str]) -> bytes:
    """An OLE file with empty streams of these names."""
    directory = b""
    for kind, name in [(5, "Root Entry"), *((2, name) for name in names)]:
        text = name.encode("utf-16-le")
        entry = text.ljust(64, b"\0") + struct.pack("<HB", len(text) + 2, kind) + b"\1" + b"\xff" * 12
        directory += entry.ljust(116, b"\0") + struct.pack("<III", 0xFFFFFFFE, 0, 0)
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(10)
    header += struct.pack("<IIIIIIII", 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0)
    header += struct.pack("<I", 0) + b"\xff" * (512 - len(header) - 4)
    table = struct.pack("<II", 0xFFFFFFFD, 0xFFFFFFFE).ljust(512, b"\xff")
    return header + table + directory.ljust(512, b"\0")


def test_a_workbook_with_a_password_is_refused_as_one():
    for names in (["EncryptionInfo", "EncryptedPackage"], ["EncryptedPackage"]):
        error = refused(ole(names))
        assert error.code == "workbook_encrypted"
        assert "password" in error.remedy
    protected = ods({"S": ods_row("a")}, "<m:file-entry><m:encryption-data/></m:file-entry>")
    assert refused(protected).code == "workbook_encrypted"
    data = xls({"S": TABLE * 1000})
    start = data.index(b"\x09\x08\x10\x00\x00\x06\x05\x00")
    marked = bytearray(data)
    marked[start + 20 : start + 22] = struct.pack("<H", 0x2F)
    assert refused(bytes(marked)).code == "workbook_encrypted"


def test_more_texts_than_there_is_room_for_are_refused():
    data = bytearray(xls({"S": TABLE}))
    place = data.index(struct.pack("<II", 3, 3))  # of the texts of the table
    data[place + 7] = 64
    assert refused(bytes(data)).code == "workbook_invalid"


def test_a_sheet_that_announces_an_impossible_size_is_refused():
    data = bytearray(xls({"S": TABLE}))
    place = data.index(struct.pack("<HHIIHH", 0x200, 14, 0, 3, 0, 2))
    data[place + 11] = 64
    assert refused(bytes(data)).code == "workbook_invalid"


def test_macros_are_left_alone():
    data = raw_xlsx('<row r="1"><c r="A1"><v>7</v></c></row>', {"xl/vbaProject.bin": ole(["VBA"])})
    assert rows(data) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"a,b\n1,2\n",
        ole(["WordDocument"]),
        zipped({"a.csv": "a"}),
        zipped({"[Content_Types].xml": "", "_rels/.rels": ""}),
        zipped({"[Content_Types].xml": "", "word/document.xml": ""}),
        xlsx({"S": TABLE})[:-100],
    ],
)
def test_what_is_no_workbook_is_refused(data):
    assert refused(data).code == "workbook_invalid"


def test_a_sheet_with_too_many_columns_is_refused():
    assert refused(xlsx({"S": [["a", "b", "c"]]}), limits=Limits(columns_max=2)).code == "columns_too_many"


class ShortReads(io.BytesIO):
    """Gives at most 100 bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 100) if size and size > 0 else size)


@pytest.mark.parametrize("kind", ["xlsx", "xls", "ods", "xlsb"])
def test_short_reads_and_a_second_reading_change_nothing(kind):
    file = ShortReads(samples()[kind])
    for _ in range(2):
        assert list(read_workbook(file, LIMITS, {})) == TABLE_ROWS


@pytest.mark.parametrize("kind", ["xlsx", "xls", "ods", "xlsb"])
def test_damaged_workbooks_end_in_a_refusal_or_are_read(tmp_path, kind):
    sample = tmp_path / "sample"
    sample.write_bytes(samples()[kind])
    found = outcomes("projections.formats.workbook:read_workbook", sample, 150)
    assert found.total() == 150
    assert found["workbook_invalid"] > 10


def test_a_record_that_is_too_long_is_a_flaw():
    data = xlsx({"S": [["a"], ["é" * 600], ["é" * 400]]})
    read = rows(data, limits=Limits(record_bytes_max=1000))
    assert [row.flaw and row.flaw.code for row in read] == ["record_too_long", None]


@pytest.mark.parametrize(("said", "sound"), [("3", True), ("4294967296", False), ("999999999", False), ("1e9", False)])
def test_a_workbook_that_claims_more_texts_than_its_bytes_can_hold_is_refused(said: str, sound: bool):
    texts = "".join(f"<si><t>{text}</t></si>" for text in ("name", "one", "two"))
    data = raw_xlsx(
        "".join(f'<row r="{row}"><c r="A{row}" t="s"><v>{row - 1}</v></c></row>' for row in (1, 2, 3)),
        {
            "xl/_rels/workbook.xml.rels": relations(
                ("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml")
            ),
            "xl/sharedStrings.xml": f'<sst xmlns="{SHEET_XML}" uniqueCount="{said}">{texts}</sst>',
        },
    )
    if sound:
        assert [row.values for row in rows(data)] == [{"name": "one"}, {"name": "two"}]
    else:
        assert refused(data).code == "workbook_invalid"
