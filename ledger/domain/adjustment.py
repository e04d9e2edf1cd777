"""Adjustments: late records of a fiscal year that is closed, posted in one that is open.

Rules:
1. An adjustment is a file of its own, made of late records of one job that are about one year. It corrects that job.
   All of it is loaded, or nothing.
2. It goes into a dataset of its own beside that of the records, whose contract has two columns before theirs: the
   fiscal year that a row is about, and the day on which it is posted, which decides the year that it is in.
3. Its name ends in `ENDING`, and names that do are kept for that: nobody sends files into such a dataset, or declares
   one.
4. Of the records' columns that contract keeps the name, the type and whether there may be no value. How a sender writes
   values and which are allowed was checked when they came: an adjustment has them in the plain form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from ledger.domain.column import Column
from ledger.domain.contract import DATASET_NAME_CHARACTERS_MAX, Contract, MissingColumns
from ledger.domain.values import ColumnType
from ledger.errors import InvalidRequestError

ENDING = "_adjustments"
DIGEST_CHARACTERS = 6
FISCAL_YEAR, POSTED_ON = "fiscal_year", "posted_on"


@dataclass(frozen=True)
class Posting:
    """The year that late records are about, the day on which they are posted, and the year which that day is in."""

    fiscal_year: str
    posted_on: date
    posted_in: str


def adjustments_of(dataset: str) -> str:
    """The dataset that adjustments of a dataset go into. Of a long name the beginning stays, and a digest of it."""
    room = DATASET_NAME_CHARACTERS_MAX - len(ENDING)
    if len(dataset) > room:
        digest = hashlib.sha256(dataset.encode()).hexdigest()[:DIGEST_CHARACTERS]
        dataset = f"{dataset[: room - len(digest) - 1]}_{digest}"
    return f"{dataset}{ENDING}"


def check_not_of_adjustments(dataset: str) -> None:
    """Raise InvalidRequestError for a name that is kept for what the ledger posts by itself."""
    if dataset.endswith(ENDING):
        raise InvalidRequestError(
            f"{dataset!r} is kept for adjustments, which nobody sends: names that end in {ENDING} are.",
            "Name another dataset. Late records are posted with `ledger archive post YEAR --job JOB`.",
        )


def adjustment_contract(contract: Contract) -> Contract:
    """The contract of the adjustments of a dataset with this contract.

    Raises:
        InvalidRequestError: it has as many columns as a table can have.
    """
    names = [column.name for column in contract.columns]
    about, posted = _free(FISCAL_YEAR, names), _free(POSTED_ON, names)
    return Contract(
        (
            Column(about, ColumnType.TEXT, nullable=False),
            Column(posted, ColumnType.DATE, nullable=False),
            *(Column(column.name, column.type, column.nullable) for column in contract.columns),
        ),
        fiscal_date_column=posted,
        rejects_max="0",
        key=(about, *contract.key) if contract.key else (),
        missing_columns=MissingColumns.NULL,  # those that the dataset has got since the records came
    )


def _free(name: str, taken: Iterable[str]) -> str:
    """The name, or one made of it that no column has."""
    known = set(taken)
    while name in known:
        name = f"adjustment_{name}"
    return name
