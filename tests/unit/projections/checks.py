"""What the tests of checking need: contracts in a line, and what a check came to in a form that can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.values import ColumnType
from projections.checking import Checked, check
from projections.fields import Reading
from projections.formats.dialect import Dialect
from projections.formats.records import find_records

LF = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\n")
APRIL = FiscalCalendar.parse("04-01", "UTC")


def contract_of(
    types: Sequence[str], *, required: str = "", null_token: str = "", fiscal: str | None = None
) -> Contract:
    """A contract with the columns a, b, c ... of these types; those in `required` may not be empty."""
    names = "abcdefghij"[: len(types)]
    columns = [
        Column(name, ColumnType(kind), name not in required and name != fiscal)
        for name, kind in zip(names, types, strict=True)
    ]
    return Contract(tuple(columns), (null_token,), fiscal)


def checked(
    text: str,
    contract: Contract,
    *,
    dialect: Dialect = LF,
    calendar: FiscalCalendar = APRIL,
    transcript: bool = False,
) -> Checked:
    """The check of a text whose columns stand as in the contract."""
    records = find_records(text.encode(), dialect)
    return check(records, Reading(contract, contract.columns, calendar, transcript=transcript))


def flaws_in(text: str, types: Sequence[str], *, transcript: bool = False, **contract: str) -> dict[int, tuple]:
    """The code and the column of each flaw, by the index of its record."""
    found = checked(text, contract_of(types, **contract), transcript=transcript).flaws
    return {index: (found[index].code, found[index].column) for index in sorted(found)}
