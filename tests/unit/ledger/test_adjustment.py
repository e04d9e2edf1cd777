"""What the adjustments of a dataset are called, and what their contract keeps of the dataset's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.adjustment import adjustment_contract, adjustments_of
from ledger.domain.column import Column
from ledger.domain.contract import COLUMNS_MAX, Contract, check_dataset_name
from ledger.domain.evolution import evolution_refused
from ledger.domain.values import ColumnType
from ledger.errors import InvalidRequestError

names = st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True)
PAYMENTS = Contract(
    (
        Column("id", ColumnType.BIGINT, nullable=False, minimum="1"),
        Column("paid_on", ColumnType.DATE, nullable=False, format="%d.%m.%Y"),
        Column("state", ColumnType.TEXT, allowed=("new", "paid")),
    ),
    null_tokens=("", "NA"),
    fiscal_date_column="paid_on",
    key=("id",),
)


@given(names)
def test_each_dataset_has_adjustments_of_a_name_that_a_dataset_can_have(name: str) -> None:
    check_dataset_name(adjustments_of(name))
    assert adjustments_of(name).startswith(name[:20])


@given(st.sets(st.from_regex(r"customer_invoices_of_the_old_[a-z]{0,12}", fullmatch=True), min_size=2))
def test_datasets_that_begin_alike_have_adjustments_of_their_own(names: set[str]) -> None:
    assert len({adjustments_of(name) for name in names}) == len(names)


def test_of_a_column_its_name_its_type_and_whether_it_may_be_empty_are_kept() -> None:
    contract = adjustment_contract(PAYMENTS)
    assert [column.to_dict() for column in contract.columns] == [
        {"name": "fiscal_year", "type": "text", "nullable": False},
        {"name": "posted_on", "type": "date", "nullable": False},
        {"name": "id", "type": "bigint", "nullable": False},
        {"name": "paid_on", "type": "date", "nullable": False},
        {"name": "state", "type": "text", "nullable": True},
    ]
    assert (contract.null_tokens, contract.fiscal_date_column, contract.rejects_max) == (("",), "posted_on", "0")


def test_a_key_is_one_within_the_year_that_rows_are_about() -> None:
    assert adjustment_contract(PAYMENTS).key == ("fiscal_year", "id")


def test_a_column_of_the_dataset_keeps_its_name_and_that_of_the_adjustment_gives_way() -> None:
    named = ("posted_on", "fiscal_year", "adjustment_fiscal_year")
    contract = adjustment_contract(Contract(tuple(Column(name, ColumnType.TEXT) for name in named)))
    assert [column.name for column in contract.columns] == [
        "adjustment_adjustment_fiscal_year",
        "adjustment_posted_on",
        *named,
    ]
    assert contract.fiscal_date_column == "adjustment_posted_on"


def test_when_a_dataset_gets_a_column_its_adjustments_can_get_it() -> None:
    wider = Contract(
        (*PAYMENTS.columns, Column("memo", ColumnType.TEXT)), fiscal_date_column="paid_on", key=PAYMENTS.key
    )
    assert evolution_refused(PAYMENTS, wider) == []
    assert evolution_refused(adjustment_contract(PAYMENTS), adjustment_contract(wider)) == []


def test_a_table_that_is_full_has_no_adjustments() -> None:
    full = Contract(tuple(Column(f"c{number}", ColumnType.TEXT) for number in range(COLUMNS_MAX)))
    with pytest.raises(InvalidRequestError, match="columns"):
        adjustment_contract(full)
