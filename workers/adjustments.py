"""Posting late records as an adjustment, as an operation: the file that is made of them, and its receipt.

Rules:
1. What is posted are the open rejects of one job that came too late for one year: all of them, as one file into the
   adjustments of the job's dataset (`ledger.domain.adjustment`), which is registered for its first.
2. They are posted on a day of a year that is open to everybody. A day to come is none yet.
3. The operation ends with the receipt of the file, whose job has an id made of the operation's: so whoever was killed
   goes on, and posts nothing twice. From there on it is loaded like any other.
4. Two postings of the same records at once are two files, or one if they are for the same day. Of two, the one that
   completes first settles the records, and the other fails (`workers.corrections`, rule 4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID, uuid5

from ledger.application import Arrival, Ledger
from ledger.blobs import BlobStore
from ledger.domain.adjustment import Posting, adjustment_contract, adjustments_of
from ledger.domain.base import Stamp
from ledger.domain.evolution import evolution_refused
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.operation import Operation
from ledger.domain.words import ENDED_WELL, OnDuplicate, Stage
from ledger.domain.year_states import YearState
from ledger.errors import ConflictError, InvalidRequestError
from ledger.failpoints import failpoint
from ledger.year_records import new_year
from projections.adjustments import READING, write_adjustment
from projections.late_records import late_records
from projections.plans import read_plan
from projections.views import Order
from workers.load import contract_of, file_of
from workers.workshop import Workshop

log = logging.getLogger(__name__)

ADJUSTMENTS = UUID("4b8a0c52-6f0e-4d1f-9a53-0c7b0d6a9f18")
DOOR = "adjustment"


@dataclass(frozen=True)
class Adjustment:
    """What is to be posted: records of a job by their numbers, and where."""

    job: FileJob
    records: list[int]
    posting: Posting

    def to_dict(self) -> dict[str, Any]:
        """What is posted where, as JSON values."""
        return {
            "fiscal_year": self.posting.fiscal_year,
            "job": str(self.job.id),
            "dataset": adjustments_of(self.job.dataset),
            "records": len(self.records),
            "posted_on": self.posting.posted_on.isoformat(),
            "posted_in": self.posting.posted_in,
        }


def today_of(calendar: FiscalCalendar, stamp: Stamp) -> date:
    """The day on which something is decided, in the ledger's zone."""
    return stamp.at.astimezone(calendar.zone).date()


def open_late_records(ledger: Ledger, job_id: UUID, label: str) -> list[int]:
    """The numbers of a job's records that came too late for a year and are not settled, sorted."""
    with ledger.transaction() as session:
        late = late_records(session, job_id, label)
    settlement = ledger.settlement(job_id)
    return late if settlement is None else [record for record in late if record not in settlement.settled]


def adjustment_of(
    ledger: Ledger, calendar: FiscalCalendar, label: str, job_id: UUID, posted_on: date, stamp: Stamp
) -> Adjustment:
    """What posting the late records of a job and a year would post now.

    Raises:
        NotFoundError: the calendar has no such year, or there is no such job.
        InvalidRequestError: nothing is posted on such a day.
        ConflictError: the year is open, the job has no late records left, or the year of that day is not open.
    """
    year = ledger.fiscal_year(label) or new_year(label, stamp, calendar)
    if year.state is YearState.OPEN:
        raise ConflictError(
            f"Fiscal year {label} is open, so nothing comes too late for it.", "Send its files: `ledger load`."
        )
    job = ledger.job(job_id)
    posting = Posting(label, posted_on, _open_year(ledger, calendar, posted_on, today_of(calendar, stamp)))
    records = open_late_records(ledger, job_id, label) if job.status in ENDED_WELL else []
    if not records:
        raise ConflictError(
            f"Job {job_id}, which is {job.status}, has no late records of fiscal year {label} left to post.",
            f"See which jobs have some: `ledger archive status {label}`.",
        )
    return Adjustment(job, records, posting)


def plan(ledger: Ledger, blobs: BlobStore, calendar: FiscalCalendar, adjustment: Adjustment) -> dict[str, Any]:
    """What would be posted, and what its columns come to, as JSON values. Nothing is written."""
    totals = _write(lambda data: None, ledger, blobs, calendar, adjustment, lambda offset: None)
    return {**adjustment.to_dict(), "columns": totals["columns"]}


def request_adjustment(
    ledger: Ledger, calendar: FiscalCalendar, label: str, job_id: UUID, posted_on: date, stamp: Stamp, *, reason: str
) -> Operation:
    """Ask for the late records of a job and a year to be posted; the operation.

    Raises as `adjustment_of`, and InvalidRequestError also: no reason is given.
    """
    if not reason.strip():
        raise InvalidRequestError("Nothing says why the records are posted.", "Give a reason, for the record.")
    adjustment = adjustment_of(ledger, calendar, label, job_id, posted_on, stamp)
    told = {"job": str(adjustment.job.id), "posted_on": posted_on.isoformat(), "reason": reason}
    return ledger.request(Stage.POST_ADJUSTMENT, {"fiscal_year": label, **told}, stamp)


def post_late_records(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Receive the adjustment that an order asks for; what is posted where, and by which job.

    Raises as `adjustment_of`, and ConflictError also: there is another dataset of that name.
    """
    ledger, arguments = workshop.ledger, order.arguments
    operation, job_id = ledger.operation(order.id), uuid5(ADJUSTMENTS, str(order.id))
    if ledger.dataset_of_job(job_id) is None:
        stamp = replace(workshop.stamp(operation), actor=operation.requested_by)
        label, posted_on = arguments["fiscal_year"], date.fromisoformat(arguments["posted_on"])
        adjustment = adjustment_of(ledger, workshop.calendar, label, UUID(arguments["job"]), posted_on, stamp)
        arrival = _arrival(workshop, adjustment, job_id, arguments["reason"], order.tell)
        failpoint("adjustment_written")
        _register(ledger, adjustment.job, stamp)
        [received] = ledger.receive([arrival], stamp, door=DOOR, on_duplicate=OnDuplicate.RETURN)
        if ledger.job(received.job_id).corrects != adjustment.job.id:  # of another file that had the same records
            [received] = ledger.receive([arrival], stamp, door=DOOR, on_duplicate=OnDuplicate.ALLOW)
        job_id = received.job_id
        where = {"action": "adjustment_received", "fiscal_year": label, "job_id": str(job_id)}
        log.info("%d late records of fiscal year %s are to be posted", len(adjustment.records), label, extra=where)
    job, posted_on = ledger.job(job_id), date.fromisoformat(arguments["posted_on"])
    return {
        "fiscal_year": arguments["fiscal_year"],
        "job": arguments["job"],
        "dataset": job.dataset,
        "records": job.control_totals["records"],
        "posted_on": arguments["posted_on"],
        "posted_in": workshop.calendar.of_day(posted_on).label,
        "by_job": str(job.id),
    }


def _arrival(
    workshop: Workshop, adjustment: Adjustment, job_id: UUID, reason: str, tell: Callable[[dict[str, Any]], None]
) -> Arrival:
    """The file of an adjustment, written into the blob store."""
    job, posting = adjustment.job, adjustment.posting
    writer, size = workshop.blobs.writer(), 0

    def write(data: bytes) -> None:
        nonlocal size
        writer.write(data)
        size += len(data)

    def tell_offset(offset: int) -> None:
        tell({"events": 0, "position": offset, "log_position": job.text_size})

    try:
        totals = _write(write, workshop.ledger, workshop.blobs, workshop.calendar, adjustment, tell_offset)
        sha256 = writer.finish()
    except BaseException:
        writer.abort()
        raise
    return Arrival(
        job_id,
        sha256,
        size,
        f"{posting.fiscal_year}-{job.id}.csv",
        "text/csv",
        adjustments_of(job.dataset),
        reading=READING,
        corrects=job.id,
        control_totals=totals,
        may_adjust=True,
        adjustment={"fiscal_year": posting.fiscal_year, "reason": reason},
    )


def _write(
    write: Callable[[bytes], object],
    ledger: Ledger,
    blobs: BlobStore,
    calendar: FiscalCalendar,
    adjustment: Adjustment,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    job = adjustment.job
    file = file_of(ledger, calendar, job, read_plan(blobs, str(job.plan)))
    return write_adjustment(write, blobs, file, contract_of(ledger, job), adjustment.records, adjustment.posting, tell)


def _register(ledger: Ledger, job: FileJob, stamp: Stamp) -> None:
    """Register the dataset of adjustments, or give it the columns that its dataset has got, if it lacks them."""
    name, wanted = adjustments_of(job.dataset), adjustment_contract(contract_of(ledger, job))
    known = ledger.dataset(name)
    if known is None or evolution_refused(wanted, known.contract):
        ledger.register_dataset(name, wanted, stamp, reason=f"The contract of dataset {job.dataset} has changed.")


def _open_year(ledger: Ledger, calendar: FiscalCalendar, day: date, today: date) -> str:
    """The label of the year that a day is in, which is open."""
    if day > today:
        raise InvalidRequestError(f"{day} is a day to come.", "Post on a day that has come: today, by default.")
    try:
        label = calendar.of_day(day).label
    except ValueError as outside:
        raise InvalidRequestError(
            f"Nothing is posted on {day}: {outside}.", "Name a day of a year that is open."
        ) from None
    year = ledger.fiscal_year(label)
    if year is not None and year.state is not YearState.OPEN:
        raise ConflictError(
            f"{day} is in fiscal year {label}, which is {year.state.value}.",
            "Post on a day of a year that is open: today, by default.",
        )
    return label
