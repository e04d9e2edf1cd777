"""Closing a fiscal year, softly and for good, and reopening it: who may add rows to it, and until when.

Rules:
1. A year is closed when it has ended, and each job that has rows in it, or was received in it, has completed or was
   cancelled: so nothing brings rows of it any more, or takes some away. Everything that is in the way is told at once,
   before anything is changed.
2. Whoever closes a year holds the years alone (`ledger.fiscal_years`), from the last look at the jobs until the commit.
   Loads wait for as long as it takes to fingerprint the year's rows, readers do not.
3. The fence, the fingerprints and the event are one transaction, and so are the lifting of the fence and its event. In
   that, rows that were dropped are put back out of the copy that was restored, and their jobs are told. The copy goes
   then, as it does whenever a year is reopened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from psycopg2 import sql
from sqlalchemy.orm import Session

from archive import fence, restoration
from archive.fence import ClosedPartition, Fingerprint
from archive.partitions import SCHEMA, Partition, TableColumn, cursor_of, partitions_of, years_with_partitions
from archive.preflight import Refusal, YearNotReadyError, refusals, refuse
from archive.year_jobs import jobs_away
from archive.year_story import last_proof
from ledger.application import Ledger
from ledger.database import lock_shared, rows
from ledger.domain.base import Stamp
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import FENCED, CopyState, YearState
from ledger.errors import ConflictError
from ledger.failpoints import failpoint
from ledger.fiscal_years import hold_years
from ledger.year_records import new_year, save_year, year_to_decide_about

UNSETTLED = (
    "SELECT job_id FROM ledger.arrivals WHERE NOT EXISTS (SELECT FROM ledger.stored_events"
    " WHERE originator_id = job_id AND topic IN ('filejob.completed', 'filejob.cancelled')) ORDER BY position"
)
FILES = (
    "SELECT count(DISTINCT originator_id) AS files FROM ledger.stored_events"
    " WHERE topic = 'filejob.completed'"
    " AND convert_from(state, 'UTF8')::jsonb -> 'fiscal_years' @> to_jsonb(CAST(:label AS text))"
)


@dataclass(frozen=True)
class Closing:
    """What closing a year needs besides the year.

    `spool` is the folder that exports lie in; `wait_seconds` is how long those are waited for who change rows.
    """

    ledger: Ledger
    calendar: FiscalCalendar
    spool: Path
    wait_seconds: float


def in_the_way(closing: Closing, session: Session, year: FiscalYear) -> list[Refusal]:
    """All that is in the way of closing a year."""
    days = Year(year.label, year.start, year.end)
    return [
        *_not_now(closing, year),
        *_unsettled_jobs(closing, session, year),
        *refusals(session, closing.calendar, days, closing.spool),
    ]


def plan(closing: Closing, label: str, stamp: Stamp, also: Sequence[Refusal] = ()) -> dict[str, Any]:
    """What closing a year would close, and what is in the way, as JSON values. Nothing is changed.

    Args:
        also: what else is in the way, where the year is to be archived say.

    Raises:
        NotFoundError: the calendar has no such year.
    """
    with closing.ledger.transaction() as session:
        year = year_to_decide_about(closing.ledger, session, label, stamp, closing.calendar)
        refused = [*in_the_way(closing, session, year), *also]
        found = (
            [] if is_misfit(refused) else partitions_of(session, closing.calendar, Year(label, year.start, year.end))
        )
        tables = [{"dataset": each.dataset, "name": each.name, "rows": count(session, each)} for each in found]
        files = rows(session, FILES, label=label)[0].files
    return {
        "fiscal_year": label,
        "generation": year.generation + 1,
        "tables": tables,
        "rows": sum(table["rows"] for table in tables),
        "files": files,
        "in_the_way": [asdict(each) for each in refused],
    }


def known_year(closing: Closing, label: str, stamp: Stamp) -> FiscalYear:
    """Where a year stands; one that nothing ever happened to is open.

    Raises:
        NotFoundError: the calendar has no such year.
    """
    return closing.ledger.fiscal_year(label) or new_year(label, stamp, closing.calendar)


def known_years(closing: Closing, stamp: Stamp) -> list[FiscalYear]:
    """The years that have rows or a story, in their order."""
    with closing.ledger.transaction() as session:
        labels = {str(row.label) for row in rows(session, "SELECT label FROM ledger.fiscal_years")}
        labels |= years_with_partitions(session, closing.calendar)
    return sorted((known_year(closing, label, stamp) for label in labels), key=lambda year: year.start)


def check(closing: Closing, label: str, stamp: Stamp, also: Sequence[Refusal] = ()) -> None:
    """Raise what closing a year now would raise, or what else is in the way, without closing it."""
    with closing.ledger.transaction() as session:
        year = year_to_decide_about(closing.ledger, session, label, stamp, closing.calendar)
        check_ready(closing, session, year, also)


def close(
    closing: Closing, label: str, stamp: Stamp, *, requested_by: str, end: Callable[[Session, FiscalYear], None]
) -> None:
    """Close a year for good, as its next generation.

    Args:
        end: called at the end of the transaction, with the year as it is then.

    Raises:
        NotFoundError: the calendar has no such year.
        YearNotReadyError: something is in the way.
        TableInUseError: somebody changed rows of the year for too long.
    """
    ledger = closing.ledger
    for is_alone in (False, True):  # nobody has to wait for a closing that is refused
        with ledger.transaction() as session:
            if is_alone:
                hold_years(session)
            year = year_to_decide_about(ledger, session, label, stamp, closing.calendar)
            check_ready(closing, session, year)
            if is_alone:
                _close(closing, session, year, stamp, requested_by)
                end(session, year)


def check_ready(closing: Closing, session: Session, year: FiscalYear, also: Sequence[Refusal] = ()) -> None:
    """Raise YearNotReadyError if something is in the way of closing a year, and tell what."""
    refuse(
        [*in_the_way(closing, session, year), *also],
        f"Fiscal year {year.label} cannot be closed.",
        f"`ledger archive close {year.label} --dry-run` tells all that is in the way.",
    )


def soft_close(closing: Closing, label: str, stamp: Stamp) -> FiscalYear:
    """Have a year take adjustments only.

    Raises:
        NotFoundError: the calendar has no such year.
        ConflictError: it has not ended, or is closed.
    """
    with closing.ledger.transaction() as session:
        hold_years(session)
        year = year_to_decide_about(closing.ledger, session, label, stamp, closing.calendar)
        year.soft_close(stamp)
        for refused in _not_ended(closing, year):
            raise YearNotReadyError(refused.message, refused.remedy)
        save_year(closing.ledger, session, year)
    return year


def reopen(closing: Closing, label: str, stamp: Stamp) -> FiscalYear:
    """Approve, as a second person, that a year takes adjustments again, and lift its fence.

    Raises:
        NotFoundError: the calendar has no such year.
        ConflictError: nobody asked for it, the same person did, or its rows are in cold storage, or do not fit the
            table any more.
        RestorationDiffersError: they come out as other ones there.
        TableInUseError: somebody used one of its tables, or the copy, for too long.
    """
    with closing.ledger.transaction() as session:
        known = closing.ledger.fiscal_year(label)
        for each in closed_partitions(known) if known else ():
            lock_shared(session, f"table {each.partition.dataset}")  # nobody exchanges it meanwhile
        hold_years(session)
        year = year_to_decide_about(closing.ledger, session, label, stamp, closing.calendar)
        was_dropped, closed, copy = year.state is YearState.DROPPED, closed_partitions(year), year.copy
        year.reopen(stamp)
        days = Year(label, year.start, year.end)
        fence.reopen(session, closing.calendar, days, wait_seconds=closing.wait_seconds)
        if was_dropped:
            with fence.waiting(session, closing.wait_seconds):
                contents = {
                    table["dataset"]: table["text_sha256"] for table in last_proof(closing.ledger, year)["tables"]
                }
                restoration.put_back(session, days, year.generation, closed, contents)
            failpoint("rows_put_back")
            _tell_jobs(closing.ledger, session, year, stamp)
        if copy is not CopyState.NONE:
            restoration.release(session, days, year.generation, wait_seconds=closing.wait_seconds)
            year.release(stamp)
        save_year(closing.ledger, session, year)
        failpoint("reopened_appended")
    return year


def decide(
    closing: Closing,
    label: str,
    stamp: Stamp,
    act: Callable[[FiscalYear], None],
    also: Callable[[Session, FiscalYear], None] = lambda session, year: None,
) -> FiscalYear:
    """Have something happen to a year that changes nothing of who may add rows. Raises what the act does.

    Args:
        also: called in the same transaction, once the year is saved.
    """
    with closing.ledger.transaction() as session:
        year = year_to_decide_about(closing.ledger, session, label, stamp, closing.calendar)
        act(year)
        save_year(closing.ledger, session, year)
        also(session, year)
    return year


def closed_partitions(year: FiscalYear) -> list[ClosedPartition]:
    """The partitions of a closed year as they were when it was closed."""
    return [
        ClosedPartition(
            Partition(
                table["dataset"],
                table["name"],
                table["bounds"],
                tuple(TableColumn(**column) for column in table["columns"]),
                table["bytes_on_disk"],
            ),
            Fingerprint(table["rows"], int(table["fingerprint"])),
        )
        for table in year.tables
    ]


def is_misfit(refused: Sequence[Refusal]) -> bool:
    """Whether a table is not divided as the calendar is, so that nobody can say which partitions are the year's."""
    return any(each.code == "partition_bounds" for each in refused)


def count(session: Session, partition: Partition) -> int:
    """How many rows a partition has now."""
    cursor = cursor_of(session)
    cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(partition.table))
    [found] = cursor.fetchone()
    return int(found)


def _close(closing: Closing, session: Session, year: FiscalYear, stamp: Stamp, requested_by: str) -> None:
    days = Year(year.label, year.start, year.end)
    closed = fence.close(session, closing.calendar, days, wait_seconds=closing.wait_seconds)
    failpoint("year_fenced")
    tables = [_table(each) for each in closed]
    year.close(stamp, position=closing.ledger.position(), tables=tables, requested_by=requested_by)
    save_year(closing.ledger, session, year)
    failpoint("year_closed_appended")


def _tell_jobs(ledger: Ledger, session: Session, year: FiscalYear, stamp: Stamp) -> None:
    """Say in the story of each job that its rows are where they were. All at once: the log is locked from the first."""
    found = jobs_away(session, year.label, since=ledger.position(), last=UUID(int=0), limit=None)
    jobs = list(map(ledger.job, found))
    for job in jobs:
        job.restore(stamp, fiscal_years=[year.label], manifest=str(year.manifest_sha256), is_put_back=True)
    try:
        ledger.save(*jobs, session=session)
    except IntegrityError as changed:
        raise ConflictError(
            f"Something happened to a file of fiscal year {year.label} at the same time.",
            "Nothing was changed. Try again.",
        ) from changed


def _table(closed: ClosedPartition) -> dict[str, Any]:
    partition = closed.partition
    return {
        "dataset": partition.dataset,
        "schema": SCHEMA,
        "name": partition.name,
        "rows": closed.fingerprint.rows,
        "fingerprint": str(closed.fingerprint.digest),
        "bounds": partition.bounds,
        "columns": [asdict(column) for column in partition.columns],
        "bytes_on_disk": partition.bytes_on_disk,
    }


def _not_now(closing: Closing, year: FiscalYear) -> Iterator[Refusal]:
    if year.state in FENCED:
        message = f"It is {year.state.value} already."
        yield Refusal(
            "closed_already", message, f"To change its rows, reopen it: `ledger archive reopen {year.label}`."
        )
    yield from _not_ended(closing, year)


def _not_ended(closing: Closing, year: FiscalYear) -> Iterator[Refusal]:
    today = datetime.now(UTC).astimezone(closing.calendar.zone).date()
    if today < year.end:
        yield Refusal("not_ended", f"Fiscal year {year.label} ends before {year.end}.", "Wait until it has ended.")


def _unsettled_jobs(closing: Closing, session: Session, year: FiscalYear) -> Iterator[Refusal]:
    for row in rows(session, UNSETTLED):
        job = closing.ledger.job(row.job_id)
        received = closing.calendar.of_instant(job.created_on).label
        touched = _years_touched(closing.ledger, job.id)
        if year.label != received and year.label not in touched:
            continue
        why = "has rows of the year" if year.label in touched else "was received in the year"
        failed = not job.is_open
        remedy = f"Retry or cancel it: `ledger jobs retry {job.id}`." if failed else "Wait until it has ended."
        yield Refusal("job_failed" if failed else "job_open", f"Job {job.id} is {job.status} and {why}.", remedy)


def _years_touched(ledger: Ledger, job_id: UUID) -> set[str]:
    """The fiscal years that a job had rows in at any time."""
    events: list[Any] = [logged.event for logged in ledger.events_of(job_id)]
    return {label for event in events if isinstance(event, FileJob.ChunkLoaded) for label in event.fiscal_years}
