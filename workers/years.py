"""Closing a fiscal year, as an operation: on somebody's request, or by itself some days after its end.

Rules:
1. The operation ends in the transaction that closes the year. Tried again, it does not find the year closed by itself.
2. Some days after its end a year that has rows is proposed, once: by an event, in the process's log, and by mail. It is
   closed by itself only if the settings say so; whatever is in the way then ends that operation, and people go on.
3. If the settings let time drop rows, archiving is asked for once a year's time has come, and then once a day until its
   rows are gone. Under a hold nothing is asked for.
"""

from __future__ import annotations

import logging
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from archive import closing
from archive.closing import Closing
from archive.dropping import is_due
from archive.partitions import years_with_partitions
from ledger import telemetry
from ledger.application import Ledger
from ledger.database import rows
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.domain.year_states import ALLOWED, YearState
from ledger.settings import Settings
from ledger.year_records import save_year, year_to_decide_about
from projections.views import Order
from workers.operations import SCHEDULE
from workers.workshop import Workshop

log = logging.getLogger(__name__)

# How long those are waited for who change rows of the year: the closing is tried again.
WAIT_SECONDS = 30.0
# The kinds of operations that can be about a year.
OF_YEARS = (
    Stage.CLOSE_YEAR, Stage.ARCHIVE_YEAR, Stage.RESTORE_YEAR, Stage.HOLD_YEAR, Stage.POST_ADJUSTMENT, Stage.VERIFY,
)  # fmt: skip
# How often years are looked after, and how often archiving is asked for that does not come to an end.
LOOK_SECONDS = 3_600
ASK_SECONDS = 86_400


def closing_of(ledger: Ledger, settings: Settings) -> Closing:
    """What closing years needs, by the settings."""
    calendar = FiscalCalendar.parse(settings.fiscal_calendar, settings.time_zone)
    return Closing(ledger, calendar, settings.scratch_folder or Path(tempfile.gettempdir()), WAIT_SECONDS)


def close_fiscal_year(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Close the year that an order names; what was closed. Raises as `archive.closing.close`."""
    operation = workshop.ledger.operation(order.id)
    results: list[dict[str, Any]] = []

    def end(session: Session, year: FiscalYear) -> None:
        results.append(_result(year))
        order.finish(session, results[0])

    label, stamp = order.arguments["fiscal_year"], workshop.stamp(operation)
    closes = closing_of(workshop.ledger, workshop.settings)
    with telemetry.span(telemetry.SPAN_ARCHIVE_CLOSE, {telemetry.FISCAL_YEAR: label}) as span:
        closing.close(closes, label, stamp, requested_by=operation.requested_by, end=end)
        span.set_attribute(telemetry.TABLE_ROWS, results[0]["rows"])
    log.info("fiscal year %s is closed", label, extra={"action": "year_closed", "fiscal_year": label})
    return results[0]


def operations_under_way(ledger: Ledger, label: str) -> list[Operation]:
    """The operations about a year that were asked for and have not ended."""
    with ledger.transaction() as session:
        found = rows(
            session, "SELECT DISTINCT job_id FROM work.items WHERE stage = ANY(:stages)", stages=list(OF_YEARS)
        )
    operations = [ledger.operation(row.job_id) for row in found]
    about = [each for each in operations if each.is_open and each.arguments.get("fiscal_year") == label]
    return sorted(about, key=lambda each: each.created_on)


def look_after_years(ledger: Ledger, settings: Settings) -> None:
    """Propose the years whose time of grace is over, and ask for those to be dropped whose time has come.

    It is looked once in `LOOK_SECONDS`, however many dispatchers run.
    """
    if not _is_due(ledger, Stage.CLOSE_YEAR.value, LOOK_SECONDS):
        return
    calendar = FiscalCalendar.parse(settings.fiscal_calendar, settings.time_zone)
    stamp = Stamp(datetime.now(UTC), SCHEDULE, str(uuid4()), telemetry.current_traceparent())
    then = calendar.of_day(stamp.at.astimezone(calendar.zone).date() - timedelta(days=settings.archive_grace_days))
    with ledger.transaction() as session:
        found = [calendar.named(label) for label in years_with_partitions(session, calendar)]
        verified = [
            str(row.label)
            for row in rows(
                session,
                "SELECT label FROM ledger.fiscal_years WHERE state = :state ORDER BY starts_on",
                state=YearState.VERIFIED.value,
            )
        ]
    for ended in sorted((each for each in found if each.end <= then.start), key=lambda each: each.start):
        _propose(ledger, settings, calendar, ended.label, stamp)
    for label in verified:
        _have_dropped_if_due(ledger, settings, label, stamp)


def _propose(ledger: Ledger, settings: Settings, calendar: FiscalCalendar, label: str, stamp: Stamp) -> None:
    """Propose to close a year, if nobody has. If the settings say so, its closing is also asked for."""
    with ledger.transaction() as session:
        year = year_to_decide_about(ledger, session, label, stamp, calendar)
        if year.is_proposed or year.state not in ALLOWED["Proposed"]:
            return
        by_itself = settings.archive_closes_by_itself
        year.propose(stamp, grace_days=settings.archive_grace_days, closes_by_itself=by_itself)
        save_year(ledger, session, year)
        if by_itself:
            operation = Operation.request(uuid4(), stamp, kind=Stage.CLOSE_YEAR, arguments={"fiscal_year": label})
            ledger.save(operation, session=session)
    said = {"action": "year_proposed", "fiscal_year": label}
    log.warning("fiscal year %s has ended, and is to be closed", label, extra=said)


def _have_dropped_if_due(ledger: Ledger, settings: Settings, label: str, stamp: Stamp) -> None:
    year = ledger.fiscal_year(label)
    assert year is not None, "it was verified"
    if not is_due(ledger, year, settings.archive_drop_days, stamp.at):
        return
    if _is_due(ledger, f"{Stage.ARCHIVE_YEAR} {label}", ASK_SECONDS):
        ledger.request(Stage.ARCHIVE_YEAR, {"fiscal_year": label}, stamp)
        said = {"action": "year_drop_requested", "fiscal_year": label}
        log.warning("fiscal year %s is to drop its rows, as time allows it now", label, extra=said)


def _is_due(ledger: Ledger, name: str, seconds: float) -> bool:
    """Whether that was not done for a while by anybody; then it is the caller's to do."""
    with ledger.transaction() as session:
        due = session.execute(
            text(
                "INSERT INTO work.schedule (name, asked_at) VALUES (:name, clock_timestamp()) ON CONFLICT (name)"
                " DO UPDATE SET asked_at = clock_timestamp()"
                " WHERE schedule.asked_at < clock_timestamp() - :seconds * interval '1 second' RETURNING name"
            ),
            {"name": name, "seconds": seconds},
        ).scalar()
    return due is not None


def _result(year: FiscalYear) -> dict[str, Any]:
    tables = [{name: table[name] for name in ("dataset", "name", "rows", "fingerprint")} for table in year.tables]
    return {
        "fiscal_year": year.label,
        "generation": year.generation,
        "tables": tables,
        "rows": sum(table["rows"] for table in tables),
    }
