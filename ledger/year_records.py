"""Deciding about a fiscal year: reading its story under a lock, and writing on.

Rules:
1. An event of a year and its row in `ledger.fiscal_years` are written in one transaction.
2. Locks are taken in this order: of a table, of the years, of the job, of one year, of the log.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import lock, rows
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.errors import NotFoundError
from ledger.event_store import EVENTS_TABLE


def year_to_decide_about(
    ledger: Ledger, session: Session, label: str, stamp: Stamp, calendar: FiscalCalendar
) -> FiscalYear:
    """The year of that name, until the transaction ends nobody else's to decide about. It may have no events yet.

    Raises:
        NotFoundError: the calendar has no such year.
    """
    fresh = new_year(label, stamp, calendar)
    lock(session, f"fiscal year {label}")
    return ledger.fiscal_year(label) or fresh


def new_year(label: str, stamp: Stamp, calendar: FiscalCalendar) -> FiscalYear:
    """A year to which nothing has happened yet.

    Raises:
        NotFoundError: the calendar has no such year.
    """
    try:
        year = calendar.named(label)
    except ValueError as unknown:
        present = calendar.of_instant(stamp.at).label
        raise NotFoundError(
            f"{unknown}.", f"The present one is {present}; `ledger archive status` lists those that have rows."
        ) from None
    return FiscalYear.open(stamp, year=year, calendar=calendar)


def save_year(ledger: Ledger, session: Session, year: FiscalYear) -> None:
    """Append what happened to a year, and write its row, in the session's transaction."""
    session.execute(
        text(
            "INSERT INTO ledger.fiscal_years (label, starts_on, ends_before, zone, state, generation)"
            " VALUES (:label, :starts_on, :ends_before, :zone, :state, :generation)"
            " ON CONFLICT (label) DO UPDATE SET state = excluded.state, generation = excluded.generation"
        ),
        row_of(year),
    )
    ledger.save(year, session=session)


def years_that_differ(ledger: Ledger) -> list[str]:
    """The labels of years whose rows are not what the log says."""
    with ledger.transaction() as session:
        there = {row.label: dict(row._mapping) for row in rows(session, "SELECT * FROM ledger.fiscal_years")}
        opened = rows(
            session, f"SELECT originator_id FROM {EVENTS_TABLE} WHERE topic = 'fiscal_year.opened' ORDER BY id"
        )
    years: list[object] = [ledger.repository.get(row.originator_id) for row in opened]
    told = {year.label: row_of(year) for year in years if isinstance(year, FiscalYear)}
    return sorted(label for label in there.keys() | told.keys() if there.get(label) != told.get(label))


def row_of(year: FiscalYear) -> dict[str, object]:
    """The row of a year."""
    return {
        "label": year.label,
        "starts_on": year.start,
        "ends_before": year.end,
        "zone": year.zone,
        "state": year.state.value,
        "generation": year.generation,
    }
