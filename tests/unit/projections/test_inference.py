"""What contract a file's samples lead to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.errors import FileRefusedError
from projections.formats.dialect import LINE_DELIMITER, LINE_QUOTE, Dialect
from projections.formats.header import column_names
from projections.formats.values import value_type
from projections.inference import infer

CSV = Dialect("delimited", ",", header=True, byte_order_mark=False, line_end="\n")


def types_of(*records: str) -> list[str]:
    """The types inferred for these records."""
    contract = infer(None, ["\n".join(records).encode()], CSV)
    return [column.type.value for column in contract.columns]


def type_of(*values: str) -> str:
    return types_of(*(f"{value},x" for value in values))[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "bigint"),
        ("-0", "bigint"),
        ("-12", "bigint"),
        ("999999999999999999", "bigint"),
        ("1000000000000000000", "numeric"),
        ("12.50", "numeric"),
        ("-0.5", "numeric"),
        ("2024-02-29", "date"),
        ("2024-02-29 23:59:59", "timestamp"),
        ("2024-02-29T00:00:00.123456", "timestamp"),
        ("2024-02-29T00:00:00Z", "timestamptz"),
        ("2024-02-29 00:00:00.1+05:30", "timestamptz"),
        ("2024-02-29 00:00:00-08", "timestamptz"),
        ("true", "boolean"),
        ("FALSE", "boolean"),
    ],
)
def test_a_value_has_the_type_in_which_it_is_written(value, expected):
    assert value_type(value).value == type_of(value, value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("007", "00.5", "+1", "1.", ".5", "1e5", "1_000", "0x1F", "1 000", " 1", "1 ", "--1", "\u0663", "NaN"),
        *("2023-02-29", "2024-13-01", "0000-01-01", "2024-1-1", "01.02.2024", "today", "infinity"),
        *("2024-01-01 24:00:00", "2024-01-01 10:00", "2024-01-01  10:00:00", "2024-01-01 10:00:60"),
        *("2024-01-01 10:00:00.1234567", "2024-01-01 10:00:00 Z", "2024-01-01Z", "2024-01-01 10:00:00+0530"),
        *("t", "f", "yes", "on", "true ", "0" * 30, "1" * 1001, "1." + "0" * 1000),
    ],
)
def test_what_could_lose_something_stays_text(value):
    assert value_type(value) is ColumnType.TEXT


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_whole_numbers_are_written_as_they_are_read(number):
    assert value_type(str(number)) is ColumnType.BIGINT


@given(st.datetimes())
def test_every_instant_in_iso_form_is_a_timestamp(instant):
    assert value_type(instant.isoformat()) is ColumnType.TIMESTAMP
    assert value_type(f"{instant.isoformat(sep=' ')}+01:00") is ColumnType.TIMESTAMPTZ


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2.5"], "numeric"),
        (["1", "12345678901234567890"], "numeric"),
        (["1", "x"], "text"),
        (["2024-01-01", "2024-01-01 10:00:00"], "text"),
        (["2024-01-01 10:00:00", "2024-01-01 10:00:00Z"], "text"),
        (["true", "0"], "text"),
        (["1", "", "2"], "bigint"),
        (["", ""], "text"),
        (["1", '""'], "text"),
        (['"1"', '"2"'], "bigint"),
    ],
)
def test_a_column_has_the_type_that_all_its_values_have(values, expected):
    assert type_of(*values) == expected


def test_every_sample_counts_and_ragged_records_do_not():
    samples = [b"1,2\n\nx\ny,z,w\n", b"2,a\n"]
    assert [column.type.value for column in infer(["a", "b"], samples, CSV).columns] == ["bigint", "text"]


def test_quotes_inside_a_field_do_not_hide_what_is_quoted():
    assert types_of('"a,"",b",""', '"""",1', '"\n,""\n",2') == ["text", "text"]
    assert types_of('"a,"",b",', '"""",1', '"\n,""\n",2') == ["text", "bigint"]


@pytest.mark.parametrize(
    ("records", "token", "types"),
    [
        (["1,NA", "NA,b"], "NA", ["bigint", "text"]),
        (["1,a", "NULL,b"], "NULL", ["bigint", "text"]),
        (["1,a", "\\N,\\N"], "\\N", ["bigint", "text"]),
        (["x,NA", "NA,b"], "", ["text", "text"]),
        (["NA,a", "NA,b"], "", ["text", "text"]),
        (["1,NA", "NA,2", ",3"], "", ["text", "text"]),
        (["1,5", "NA,", "2,6"], "", ["text", "bigint"]),
        (["1,a", "NA,", "2,b"], "NA", ["bigint", "text"]),
        (["1,NA", "-,2", "-,3"], "NA", ["text", "bigint"]),
        (["1,NA,1", "-,2,-", "-,3,-"], "-", ["bigint", "text", "bigint"]),
        (["1,a", '"NA",b'], "", ["text", "text"]),
        (["1,a", "n/a,b"], "", ["text", "text"]),
    ],
)
def test_a_word_for_a_missing_value_is_adopted_only_where_it_types_a_column(records, token, types):
    contract = infer(None, ["\n".join(records).encode()], CSV)
    assert contract.null_tokens == (token,)
    assert [column.type.value for column in contract.columns] == types


def test_an_inferred_contract_promises_nothing_that_a_person_has_not():
    contract = infer(["day", "id"], [b"2024-01-01,1\n"], CSV)
    assert contract == Contract((Column("day", ColumnType.DATE), Column("id", ColumnType.BIGINT)))
    assert contract.fiscal_date_column is None
    assert all(column.nullable for column in contract.columns)


def test_plain_text_has_one_column():
    dialect = Dialect("lines", LINE_DELIMITER, False, False, "\n", LINE_QUOTE)
    assert infer(None, [b"1\n2\n"], dialect) == Contract((Column("line", ColumnType.TEXT),))


def test_columns_without_names_are_numbered():
    assert [column.name for column in infer(None, [b"1,2,3\n"], CSV).columns] == ["column_1", "column_2", "column_3"]
    with pytest.raises(FileRefusedError) as caught:
        infer(None, [b"\n"], CSV)
    assert caught.value.code == "file_empty"


def test_a_header_without_records_gives_text():
    assert [column.type.value for column in infer(["a", "b"], [], CSV).columns] == ["text", "text"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" Total (EUR) ", "Total (EUR)"),
        ("_id", "column_id"),
        ("xmin", "column_xmin"),
        ("", "column_1"),
        ("x" * 64, "x" * 63),
        ("ü" * 40, "ü" * 31),
    ],
)
def test_names_come_from_the_header(text, name):
    assert column_names([text]) == [name]
    assert Column(name, ColumnType.TEXT).name == name


@pytest.mark.parametrize(
    ("header", "code", "words"),
    [
        (["a", "b", " a"], "header_duplicate", "Columns 1 and 3"),
        (["x" * 63 + "1", "x" * 63 + "2"], "header_duplicate", "Columns 1 and 2"),
        (["a", "b\nc"], "header_invalid", r"column 2.*'b\\nc'"),
        (["\x1b" * 500], "header_invalid", "column 1"),
        ([str(number) for number in range(1593)], "columns_too_many", "1,593"),
    ],
)
def test_a_header_that_cannot_name_columns_is_refused(header, code, words):
    with pytest.raises(FileRefusedError, match=words) as caught:
        column_names(header)
    assert caught.value.code == code
    assert len(str(caught.value)) < 600


def test_a_field_longer_than_the_csv_module_reads_by_default_is_examined():
    assert type_of("x" * 200_000, "1") == "text"
