"""The books of a year balance when the rows are those that events tell of, and only then."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from archive.books import Balanced, Books, BooksDoNotBalanceError
from archive.held_rows import NO_ROWS, HeldRows
from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage, Status
from tests.integration.place import Place, patient_place, unguard

YEAR, NEXT = "FY2025-26", "FY2026-27"
KINDS = Contract(
    (
        Column("paid_on", ColumnType.DATE, nullable=False),
        Column("amount", ColumnType.NUMERIC),
        Column("number", ColumnType.BIGINT),
        Column("at", ColumnType.TIMESTAMPTZ),
        Column("seen", ColumnType.TIMESTAMP),
        Column("open", ColumnType.BOOLEAN),
        Column("note", ColumnType.TEXT),
    ),
    fiscal_date_column="paid_on",
)
HEADER = "paid_on,amount,number,at,seen,open,note\n"
HOSTILE = (
    '2025-04-01,1.10,-0,2025-04-01 10:00:00.500+02,2025-04-01T10:00:00.10,TRUE,"a ""quoted"", text\r\nof two lines"\n'
    "2026-03-31,,9223372036854775807,,,,\n"
    '2026-03-31,-0.00,1,0001-01-01 00:00:00+00,0001-01-01 00:00:00,false,""\n'
    "2026-04-01,123456789012345678901234567890.1230,,2025-12-31 23:59:59-12,,FALSE,\\N\n"
    '2026-04-02,0,5,,,,"\\."\n'
)


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return patient_place(ledger, tmp_path)


def load(place: Place, data: str, contract: Contract = KINDS) -> UUID:
    job_id = place.send(data.encode(), contract)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    for chunk in range(place.ledger.job(job_id).chunks_total):
        place.perform(job_id, Stage.LOAD, chunk)
    status = place.ledger.job(job_id).status
    assert status is Status.COMPLETED, place.ledger.events_of(job_id)[-1].event
    return job_id


def balance(
    session: Session, place: Place, year: str = YEAR, archived: dict[int, HeldRows] | None = None
) -> list[Balanced]:
    def table(label: str) -> sql.Identifier:
        return sql.Identifier("data", f"{place.dataset}__{label.lower().replace('-', '_')}")

    books = Books(place.ledger, year, place.ledger.position(), lambda job: (archived or {}).get(job, NO_ROWS))
    elsewhere = [] if archived else [table(NEXT if year == YEAR else YEAR)]
    return books.balance(session, place.dataset, table(year), elsewhere)


def test_the_books_of_hostile_values_balance(place: Place) -> None:
    job_id = load(place, HEADER + HOSTILE)
    with Session(place.ledger.engine) as session:
        [found] = balance(session, place)
    assert (found.job.job_id, found.held.rows) == (str(job_id), 3)
    assert found.held.totals["amount"] == {"count": 2, "sum": "1.1", "min": "0", "max": "1.1"}


def test_a_job_of_two_years_balances_over_both_wherever_the_other_is(place: Place) -> None:
    load(place, HEADER + HOSTILE)
    with Session(place.ledger.engine) as session:
        [this] = balance(session, place)
        [following] = balance(session, place, NEXT)
        assert (this.held.rows, following.held.rows) == (3, 2)
        session.execute(text(f"DROP TABLE data.{place.dataset}__fy2025_26"))
        [again] = balance(session, place, NEXT, {this.job.job: this.held})
        assert again == following
        with pytest.raises(BooksDoNotBalanceError, match="2 rows, and its events say 5"):
            balance(session, place, NEXT, {0: this.held})


def test_jobs_are_told_apart_in_a_table_of_many(place: Place) -> None:
    ids = [
        load(place, HEADER + "".join(f"2025-05-01,{number},{job},,,,\n" for number in range(30))) for job in range(5)
    ]
    with Session(place.ledger.engine) as session, session.begin():
        found = _only_year(session, place)
    assert [each.job.job_id for each in found] == list(map(str, ids))
    assert {each.held.rows for each in found} == {30}
    assert len({each.held.digest for each in found}) == 5


def _only_year(session: Session, place: Place) -> list[Balanced]:
    return Books(place.ledger, YEAR, place.ledger.position(), lambda job: NO_ROWS).balance(
        session, place.dataset, sql.Identifier("data", f"{place.dataset}__fy2025_26"), []
    )


CHANGES = {
    "a value": "UPDATE {table} SET amount = amount + 1 WHERE _record = 2",
    "a pair of values whose sum stays": "UPDATE {table} SET amount = amount + CASE _record WHEN 1 THEN 1 ELSE -1 END"
    " WHERE _record IN (1, 2)",
    "NULL to an empty text": "UPDATE {table} SET note = '' WHERE _record = 1",
    "a text": "UPDATE {table} SET note = note || ' ' WHERE _record = 3",
    "a day within the year": "UPDATE {table} SET paid_on = paid_on + 1 WHERE _record = 1",
    "a row is gone": "DELETE FROM {table} WHERE _record = 1",
    "a row is there twice": "INSERT INTO {table} SELECT * FROM {table} WHERE _record = 1",
    "all rows are gone": "DELETE FROM {table}",
    "a row of another job": "UPDATE {table} SET _job = _job + 1 WHERE _record = 1",
    "rows of a job that is not known": "UPDATE {table} SET _job = 999999",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_books_with_a_change_do_not_balance(place: Place, change: str) -> None:
    load(place, HEADER + "2025-05-01,1,,,,,\n2025-05-02,2,,,,,\n2025-05-03,3,,,,,x\n")
    load(place, HEADER + "2025-06-01,7,,,,,\n")
    with Session(place.ledger.engine) as session:
        unguard(session)
        assert len(_only_year(session, place)) == 2
        session.execute(text(change.format(table=f"data.{place.dataset}__fy2025_26")))
        with pytest.raises(BooksDoNotBalanceError, match=place.dataset):
            _only_year(session, place)


def test_an_event_that_says_something_else_does_not_balance(place: Place) -> None:
    job_id = load(place, HEADER + "2025-05-01,1,,,,,\n")
    with Session(place.ledger.engine) as session:
        unguard(session)
        where = f"originator_id = '{job_id}' AND topic = 'filejob.completed'"
        state = session.execute(text(f"SELECT state FROM ledger.stored_events WHERE {where}")).scalar_one()
        changed = json.loads(bytes(state))
        changed["totals"]["amount"]["sum"] = "2"
        session.execute(
            text(f"UPDATE ledger.stored_events SET state = :state WHERE {where}"),
            {"state": json.dumps(changed).encode()},
        )
        with pytest.raises(BooksDoNotBalanceError, match="control totals"):
            _only_year(session, place)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.decimals(-(10**9), 10**9, places=3), TEXTS), min_size=1, max_size=40))
def test_any_values_balance(
    ledger: Ledger, tmp_path_factory: pytest.TempPathFactory, values: list[tuple[object, str]]
) -> None:
    place = patient_place(ledger, tmp_path_factory.mktemp("place"))
    quoted = [(amount, note.replace('"', '""')) for amount, note in values]
    load(place, HEADER + "".join(f'2025-05-01,{amount},,,,,"{note}"\n' for amount, note in quoted))
    with Session(ledger.engine) as session:
        [found] = _only_year(session, place)
    assert found.held.rows == len(values)
