"""What a contract is, and how a file's columns differ from it."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.column import Column, excerpt
from ledger.domain.contract import COLUMNS_MAX, Contract, check_dataset_name, dataset_name
from ledger.domain.evolution import differences
from ledger.domain.values import ColumnType
from ledger.errors import InvalidRequestError

ID = Column("id", ColumnType.BIGINT, nullable=False)
DAY = Column("day", ColumnType.DATE, nullable=False)
NOTE = Column("nöte", ColumnType.TEXT)
NAMES = [ID.name, DAY.name, NOTE.name]
CONTRACT = Contract((ID, DAY, NOTE), null_tokens=("NA",), fiscal_date_column="day")


def test_a_contract_survives_its_json():
    assert Contract.from_dict(json.loads(json.dumps(CONTRACT.to_dict()))) == CONTRACT
    assert Contract.from_dict({"columns": [{"name": "id", "type": "bigint"}]}) == Contract(
        (Column("id", ColumnType.BIGINT),)
    )


def test_the_digest_is_that_of_the_canonical_json():
    canonical = (
        '{"columns":[{"name":"id","nullable":false,"type":"bigint"},{"name":"day","nullable":false,"type":"date"},'
        '{"name":"nöte","nullable":true,"type":"text"}],"fiscal_date_column":"day","null_token":"NA"}'
    )
    assert CONTRACT.digest() == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("name", ["", "_job", "a\0b", "x" * 64, "ü" * 32, "xmin", "ctid", "\ud800"])
def test_a_name_that_cannot_be_a_column_is_refused(name):
    with pytest.raises(InvalidRequestError):
        Column(name, ColumnType.TEXT)


@pytest.mark.parametrize("name", ["x" * 63, "ü" * 31, "Total (EUR)", 'a"b', "select", "a_"])
def test_any_other_name_can(name):
    assert Column(name, ColumnType.TEXT).name == name


def test_a_contract_has_at_least_one_column_and_at_most_as_many_as_a_table():
    columns = tuple(Column(f"c{number}", ColumnType.TEXT) for number in range(COLUMNS_MAX + 1))
    assert COLUMNS_MAX == 1592
    assert len(Contract(columns[:-1]).columns) == 1592
    for wrong in (columns, ()):
        with pytest.raises(InvalidRequestError, match="1 to 1,592"):
            Contract(wrong)


def test_names_are_unique():
    with pytest.raises(InvalidRequestError, match="Columns 1 and 3 are both named 'id'"):
        Contract((ID, DAY, ID))


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ((ID, DAY), "month"),
        ((ID, DAY), "id"),
        ((ID, Column("day", ColumnType.DATE)), "day"),
        ((Column("day", ColumnType.TEXT, nullable=False),), "day"),
    ],
)
def test_the_fiscal_date_column_is_a_date_that_is_always_there(columns, name):
    with pytest.raises(InvalidRequestError, match="fiscal-date"):
        Contract(columns, fiscal_date_column=name)


@pytest.mark.parametrize("type_", [ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ])
def test_dates_and_instants_can_decide_the_fiscal_year(type_):
    assert Contract((Column("d", type_, nullable=False),), fiscal_date_column="d").fiscal_date_column == "d"


@pytest.mark.parametrize("token", ["a\nb", "a\rb", "\0", '"', "a,b", "x" * 21, "\ud800"])
def test_a_null_token_that_copy_cannot_use_is_refused(token):
    with pytest.raises(InvalidRequestError, match="null token"):
        Contract((ID,), null_tokens=(token,))


@pytest.mark.parametrize(
    "values",
    [
        [],
        {},
        {"columns": "id"},
        {"columns": [1]},
        {"columns": [{"name": "id"}]},
        {"columns": [{"name": 1, "type": "text"}]},
        {"columns": [{"name": "id", "type": "int"}]},
        {"columns": [{"name": "id", "type": "text", "nullable": "no"}]},
        {"columns": [{"name": "id", "type": "text", "nulable": True}]},
        {"columns": [{"name": "id", "type": "text"}], "null_token": None},
        {"columns": [{"name": "id", "type": "text"}], "fiscal_date_column": 1},
        {"columns": [{"name": "id", "type": "text"}], "x" * 1000: 1},
    ],
)
def test_what_is_not_a_contract_is_refused_in_few_words(values):
    with pytest.raises(InvalidRequestError) as caught:
        Contract.from_dict(values)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("header", "sentences"),
    [
        (["id", "day", "nöte"], []),
        (["id", "nöte"], ["The file lacks 1 of the contract's columns: 'day'."]),
        (["id", "day", "nöte", "x"], ["The file has 1 columns that are not in the contract: 'x'."]),
        (
            ["day", "id", "nöte"],
            ["The columns stand in another order: where the contract has 'id' the file has 'day'."],
        ),
        (
            ["nöte", "x", "id"],
            [
                "The file lacks 1 of the contract's columns: 'day'.",
                "The file has 1 columns that are not in the contract: 'x'.",
                "The columns stand in another order: where the contract has 'id' the file has 'nöte'.",
            ],
        ),
        (["id", "day", "nöte", "id"], ["The file has more than one column of the same name: 'id'."]),
    ],
)
def test_differences_are_told_in_sentences(header, sentences):
    assert differences(NAMES, header) == sentences


def test_differences_quote_little_of_a_hostile_header():
    for sentence in differences(NAMES, ["\x1b" * 10_000, *(f"name_{number}" for number in range(1000))]):
        assert len(sentence) < 300
        assert sentence.isprintable()


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("Sales 2024.csv", "sales_2024"),
        ("/srv/in/Sales.CSV", "sales"),
        ("C:\\in\\sales.csv", "sales"),
        ("../../etc/passwd", "passwd"),
        ("sales.csv.gz", "sales"),
        ("sales.gz", "sales"),
        ("sales.v2.csv", "sales_v2"),
        ("2024-01.csv", "upload_2024_01"),
        ("Crédit Agricole.csv", "credit_agricole"),
        ("売上.csv", "upload"),
        (".csv", "upload"),
        ("", "upload"),
        ("a'; DROP TABLE x; --.csv", "a_drop_table_x"),
        ("x" * 99 + ".csv", "x" * 40),
        ("\0\n\ud800", "upload"),
    ],
)
def test_a_dataset_is_named_after_the_file(filename, name):
    assert dataset_name(filename) == name


@given(st.text())
def test_every_file_name_gives_a_dataset_name(filename):
    check_dataset_name(dataset_name(filename))


@pytest.mark.parametrize("name", ["", "A", "1a", "_a", "a-b", "a" * 41, "a\n", "ä", 'a"; drop'])
def test_anything_else_is_not_a_dataset_name(name):
    with pytest.raises(InvalidRequestError, match="not a dataset's name"):
        check_dataset_name(name)


def test_an_excerpt_is_short_and_escaped():
    assert excerpt("a\n'\x1b") == repr("a\n'\x1b")
    assert excerpt("x" * 81) == repr("x" * 80) + "..."
