"""What is said of a contract that was inferred, to whoever decides about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from projections.chunk import read_chunk
from projections.doubts import doubts
from projections.fields import Reading
from projections.formats.rows import Writing
from projections.formats.splitter import Chunk
from projections.inference import infer
from tests.thorough import thorough
from tests.unit.projections.checks import APRIL, LF


def doubts_about(*values: str, writing: Writing = Writing.FREE) -> list[str]:
    """The doubts about a column `a` of these values, beside one of text that nothing is said of."""
    text = "".join(f'"{value}",x\n' if value else ",x\n" for value in values)
    return doubts_in(text, ("a", "b"), writing)


def doubts_in(text: str, names: tuple[str, ...], writing: Writing = Writing.FREE) -> list[str]:
    data = text.encode()
    contract = infer(list(names), [data], LF)
    chunk = Chunk(0, 0, len(data), 1, 1, text.count("\n"), 0)
    content = read_chunk(data, chunk, LF, Reading(contract, contract.columns, APRIL, writing))
    return doubts(contract, content.pieces[0][1].values, writing) if content.pieces else []


def proposal(kind: str, written: str) -> str:
    return f'"type": "{kind}", "format": "{written}"'


@pytest.mark.parametrize(
    ("values", "kind", "written"),
    [
        (["31.05.2024", "01.02.2024"], "date", "%d.%m.%Y"),
        (["31/05/2024", "01/02/2024"], "date", "%d/%m/%Y"),
        (["05/31/2024", "01/02/2024"], "date", "%m/%d/%Y"),
        (["5/31/2024", "12/2/2024"], "date", "%-m/%-d/%Y"),
        (["1-Feb-2024", "31-DEC-2024"], "date", "%-d-%b-%Y"),
        (["01-Feb-2024"], "date", "%d-%b-%Y"),
        (["2024/05/31"], "date", "%Y/%m/%d"),
        (["20240531", "20240601"], "date", "%Y%m%d"),
        (["31.05.2024 10:00", "01.02.2024 23:59"], "timestamp", "%d.%m.%Y %H:%M"),
        (["2024-05-31 10:00"], "timestamp", "%Y-%m-%d %H:%M"),
        (["12,50", "-0,1", "7"], "numeric", "1234,56"),
        (["1.234,56", "12,50"], "numeric", "1.234,56"),
        (["1,234.56", "12.50"], "numeric", "1,234.56"),
        (["1'234.56"], "numeric", "1'234.56"),
        (["1 234", "12"], "bigint", "1 234"),
        (["1\u00a0234,5"], "numeric", "1\u00a0234,56"),
        (["1.234", "12.345", "7"], "bigint", "1.234"),
        (["1.234.567", "12"], "bigint", "1.234"),
        (["yes", "no"], "boolean", "yes/no"),
        (["Y", "N"], "boolean", "Y/N"),
        (["J", "N"], "boolean", "J/N"),
        (["Ja", "Nein"], "boolean", "Ja/Nein"),
        (["0", "1", "0"], "boolean", "1/0"),
    ],
)
def test_another_type_is_proposed_with_the_format_that_the_values_have(
    values: list[str], kind: str, written: str
) -> None:
    [doubt] = doubts_about(*values)
    assert doubt.startswith("Column 'a' ")
    assert doubt.endswith(f"if so, write {proposal(kind, written)}.")
    column = Column("a", ColumnType(kind), format=written)  # what is proposed can be registered, and takes the values
    text = "".join(f'"{value}"\n' for value in values).encode()
    contract = Contract((column,))
    content = read_chunk(text, Chunk(0, 0, len(text), 1, 1, len(values), 0), LF, Reading(contract, (column,), APRIL))
    assert content.flaws == {}


@pytest.mark.parametrize(
    ("values", "ways"),
    [
        (["01/02/2024", "12/12/2024"], [("date", "%d/%m/%Y"), ("date", "%m/%d/%Y")]),
        (["1.2.2024"], [("date", "%-d.%-m.%Y"), ("date", "%-m.%-d.%Y")]),
        (["1,234", "12,345"], [("bigint", "1,234"), ("numeric", "1234,56")]),
    ],
)
def test_what_cannot_be_told_apart_is_said_to_be_so(values: list[str], ways: list[tuple[str, str]]) -> None:
    [doubt] = doubts_about(*values)
    assert f"write {' or '.join(proposal(*way) for way in ways)}. " in doubt
    assert ("Day and month" if "date" in doubt else "They") + " cannot be told apart" in doubt


@pytest.mark.parametrize(
    "values",
    [
        ["31.02.2024"],
        ["31.05.2024", "soon"],
        ["31.05.24"],
        ["2024-05-31"],
        ["1.5", "2.25"],
        ["12.34.56"],
        ["1,23,456"],
        ["yes"],
        ["yes", "no", "maybe"],
        ["Yes", "no"],
        ["0", "1", "2"],
        ["18991231", "20240101"],
        ["20241301"],
        ["a", "b"],
        ["true", "false"],
        ["NA", "b"],
        ["x" * 100_000],
    ],
)
def test_nothing_is_said_where_nothing_else_fits_every_value(values: list[str]) -> None:
    assert [doubt for doubt in doubts_about(*values) if "fiscal" not in doubt] == []


def test_one_value_of_many_that_is_written_otherwise_ends_the_doubt() -> None:
    values = [f"{day:02}.01.2024" for day in range(1, 32)] * 10
    assert doubts_about(*values) != []
    assert doubts_about(*values, "?") == []
    assert doubts_about(*(f"{n},5" for n in range(1000)), "?") == []


def test_numbers_with_leading_zeros_are_identifiers() -> None:
    assert doubts_about("007", "12") == [
        "Column 'a' has numbers with leading zeros, such as '007': it stays text, as an identifier, for a number would "
        "lose them."
    ]


def test_a_column_without_any_value_is_named() -> None:
    assert doubts_about("", "") == ["Column 'a' has no value in the sample; it is text."]
    assert doubts_in("", ("a", "b")) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["1", "N/A", "-"], ["Column 'a' would be bigint but for words that could mean no value"]),
        (["x", "N/A", "-"], ["Column 'a' has several words that could mean no value"]),
        (["x", "-"], []),
        (["NULL", "-"], []),
    ],
)
def test_customary_words_for_no_value_are_named(values: list[str], said: list[str]) -> None:
    text = "".join(f"{value},x\n" for value in values)
    assert doubts_in(text, ("a", "b")) == [f"{sentence}; if so, name 'N/A', '-' in null_tokens." for sentence in said]


def test_words_for_no_value_do_not_hide_how_the_others_are_written() -> None:
    words, days = doubts_in("31.05.2024,x\n-,x\nN/A,x\n", ("a", "b"))
    assert "name 'N/A', '-' in null_tokens" in words
    assert proposal("date", "%d.%m.%Y") in days


def test_columns_that_could_decide_the_fiscal_year_are_named() -> None:
    days = ",".join(["2024-05-31"] * 4)
    [doubt] = doubts_in(f"{days},2024-05-31,x\n{days},,x\n", ("a", "b", "c", "d", "e", "f"))
    assert "Every record has a value in 'a', 'b', 'c' and 1 more: " in doubt
    assert "fiscal_date_column" in doubt


def test_of_values_there_is_only_the_start_of_one() -> None:
    secret = "0" * 20 + "4111111111111111"
    [doubt] = doubts_about(secret, "1" * 30)
    assert secret not in doubt
    assert f"'{secret[:24]}'..." in doubt


def test_a_format_that_would_not_be_in_force_is_not_proposed() -> None:
    assert doubts_about("31.05.2024", writing=Writing.TYPED) == []
    assert doubts_about("12,50", writing=Writing.JSON) == []
    assert doubts_about("20240531", writing=Writing.TYPED) == []
    assert doubts_about("1.234", writing=Writing.JSON) == []
    assert doubts_about("0", "1", writing=Writing.TYPED) == []
    assert proposal("date", "%d.%m.%Y") in doubts_about("31.05.2024", writing=Writing.JSON)[0]


@thorough(examples=100, steps=1)
@given(st.lists(st.sampled_from(["31.05.2024", "1,5", "NA", "-", "", "007", "yes", "no", "x", "1", "2024-05-31"])))
def test_doubts_about_anything_are_short_sentences(values: list[str]) -> None:
    for doubt in doubts_in("".join(f'"{value}",x\n' for value in values), ("a", "b")):
        assert len(doubt) < 400
        assert doubt.endswith(".")
