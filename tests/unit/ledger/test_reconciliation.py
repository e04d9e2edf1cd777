"""Totals add up exactly, and a file is held to what its sender says."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.evolution import evolution_refused
from ledger.domain.reconciliation import add_digests, add_totals, check_control_totals, digest_text
from ledger.domain.values import ColumnType
from ledger.errors import InvalidRequestError

CAME_TO: dict[str, Any] = {
    "records": 3,
    "rows_skipped": 0,
    "rows_loaded": 3,
    "totals": {
        "amount": {"count": 2, "sum": "12.5", "min": "-0.5", "max": "13"},
        "paid_on": {"count": 3, "sum": None, "min": "2026-04-01", "max": "2026-04-30"},
    },
}


def test_totals_of_chunks_add_up_to_those_of_the_file() -> None:
    one = {
        "n": {"count": 2, "sum": "9" * 900, "min": "-5", "max": "7"},
        "d": {"count": 1, "sum": None, "min": "b", "max": "b"},
    }
    other = {
        "n": {"count": 1, "sum": "0.5", "min": "0.5", "max": "0.5"},
        "d": {"count": 1, "sum": None, "min": "a", "max": "c"},
    }
    none = {"n": {"count": 0, "sum": None, "min": None, "max": None}}
    added = add_totals([none, one, none, other])
    assert added["n"] == {"count": 3, "sum": str(int("9" * 900)) + ".5", "min": "-5", "max": "7"}
    assert added["d"] == {"count": 2, "sum": None, "min": "a", "max": "c"}


def test_smallest_and_greatest_numbers_are_told_by_value_and_not_by_letter() -> None:
    chunks = [{"n": {"count": 1, "sum": text, "min": text, "max": text}} for text in ("9", "10", "-2", "-10")]
    assert add_totals(chunks)["n"] == {"count": 4, "sum": "7", "min": "-10", "max": "10"}


def test_digests_add_up_modulo_two_to_the_256() -> None:
    assert add_digests(["f" * 64, digest_text(2)]) == digest_text(1)
    assert len(add_digests([])) == 64


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"records": 3},
        {"columns": {"amount": {"sum": "12.50", "count": 2, "max": 13}}},
        {"columns": {"paid_on": {"min": "2026-04-01", "count": "3"}}},
    ],
)
def test_a_file_that_comes_to_what_its_sender_says_is_good(expected: dict[str, Any]) -> None:
    assert check_control_totals(CAME_TO, expected) == []


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"records": 4}, "sender says 4"),
        ({"columns": {"amount": {"sum": "12.51"}}}, "12.51"),
        ({"columns": {"paid_on": {"sum": "1"}}}, "None"),
        ({"columns": {"nothing": {"count": 0}}}, "'nothing'"),
        ({"columns": {"paid_on": {"min": "2026-04-02"}}}, "2026-04-02"),
    ],
)
def test_a_file_that_comes_to_something_else_is_told_how(expected: dict[str, Any], words: str) -> None:
    [difference] = check_control_totals(CAME_TO, expected)
    assert words in difference


BEFORE = Contract((Column("a", ColumnType.BIGINT), Column("b", ColumnType.DATE, nullable=False)))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ((Column("a", ColumnType.NUMERIC), BEFORE.columns[1]), "numeric"),
        ((Column("x", ColumnType.BIGINT), BEFORE.columns[1]), "'x'"),
        ((BEFORE.columns[0], Column("b", ColumnType.DATE)), "may not be empty"),
        (BEFORE.columns[:1], "lacks 'b'"),
        ((*BEFORE.columns, Column("c", ColumnType.TEXT, nullable=False)), "new column 'c'"),
    ],
)
def test_a_contract_cannot_become_what_would_change_loaded_rows(columns: tuple[Column, ...], words: str) -> None:
    [reason] = evolution_refused(BEFORE, Contract(columns))
    assert words in reason


def test_a_contract_grows_and_changes_what_touches_no_row() -> None:
    after = Contract((*BEFORE.columns, Column("c", ColumnType.TEXT)), null_tokens=("NA",), rejects_max="0")
    assert evolution_refused(BEFORE, after) == []
    assert "fiscal year" in evolution_refused(BEFORE, Contract(BEFORE.columns, fiscal_date_column="b"))[0]


@pytest.mark.parametrize(("rejects_max", "allowed"), [("0", 0), ("7", 7), ("10%", 12), ("2.5%", 3), ("100%", 123)])
def test_how_many_records_may_be_refused(rejects_max: str, allowed: int) -> None:
    assert Contract(BEFORE.columns, rejects_max=rejects_max).rejects_allowed(123) == allowed


def test_a_number_of_refused_records_needs_no_quotes() -> None:
    contract = Contract.from_dict({**BEFORE.to_dict(), "rejects_max": 7})
    assert (contract.rejects_max, contract.rejects_allowed(123)) == ("7", 7)
    for wrong in (-1, True):
        with pytest.raises(InvalidRequestError, match="how many records may be refused"):
            Contract.from_dict({**BEFORE.to_dict(), "rejects_max": wrong})
