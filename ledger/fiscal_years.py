"""Fiscal years as those who add rows ask for them: which are closed, and to whom.

Rules:
1. `ledger.fiscal_years` has a row for each year that has events, written in the transaction of the event
   (`ledger.year_records`).
2. Whoever adds rows shares the years (`share_years`) from before he asks which are closed until his transaction ends;
   whoever closes or reopens one holds them alone (`hold_years`). So no row comes after the event that closes its year,
   and none is refused that came before it.
3. The days of a year stay what they were when something first happened to it. A calendar by which they would be others
   is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy.orm import Session

from ledger.database import lock, lock_shared, rows
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.year_states import TAKES_ADJUSTMENTS, YearState
from ledger.errors import LedgerError

YEARS_LOCK = "fiscal years"
# The code of a record that was refused only because its fiscal year is closed.
FISCAL_YEAR_CLOSED = "fiscal_year_closed"


class CalendarChangedError(LedgerError):
    """By the calendar that is set, years that have a story would have had other days."""

    code = "calendar_changed"


@dataclass(frozen=True)
class ClosedYear:
    """A year that is not open: its days from `start` up to, and without, `end`."""

    label: str
    start: date
    end: date
    takes_adjustments: bool


def share_years(session: Session) -> None:
    """Let nobody close or reopen a year until the transaction ends."""
    lock_shared(session, YEARS_LOCK)


def hold_years(session: Session) -> None:
    """Let nobody else add rows until the transaction ends; those who were about to are waited for."""
    lock(session, YEARS_LOCK)


def closed_years(session: Session) -> list[ClosedYear]:
    """The years that are not open, in their order."""
    found = rows(
        session,
        "SELECT label, starts_on, ends_before, state FROM ledger.fiscal_years WHERE state <> :open ORDER BY starts_on",
        open=YearState.OPEN.value,
    )
    return [
        ClosedYear(row.label, row.starts_on, row.ends_before, YearState(row.state) in TAKES_ADJUSTMENTS)
        for row in found
    ]


def closed_to(session: Session, *, may_adjust: bool) -> list[ClosedYear]:
    """The years that somebody may add no rows to, who may adjust or not."""
    return [year for year in closed_years(session) if not (year.takes_adjustments and may_adjust)]


def dropped_years(session: Session) -> list[str]:
    """The labels of the years whose rows are in cold storage and no longer here, in their order."""
    found = rows(
        session,
        "SELECT label FROM ledger.fiscal_years WHERE state = :dropped ORDER BY starts_on",
        dropped=YearState.DROPPED.value,
    )
    return [str(row.label) for row in found]


def check_calendar(session: Session, calendar: FiscalCalendar) -> None:
    """Refuse a calendar by which a year that has events would have other days.

    Raises:
        CalendarChangedError: it would.
    """
    for row in rows(session, "SELECT label, starts_on, ends_before, zone FROM ledger.fiscal_years ORDER BY starts_on"):
        was = f"Fiscal year {row.label} has the days from {row.starts_on} up to {row.ends_before} in {row.zone}"
        try:
            year = calendar.named(row.label)
        except ValueError:
            year = None
        if year is None or (year.start, year.end, calendar.zone.key) != (row.starts_on, row.ends_before, row.zone):
            raise CalendarChangedError(
                f"{was}, and would have others by the calendar {str(calendar)!r} in {calendar.zone.key}.",
                "Set LEDGER_FISCAL_CALENDAR and LEDGER_TIME_ZONE back. A change for years to come is added to the"
                " calendar: `04-01, 01-01 from 2027-01-01`.",
            )
