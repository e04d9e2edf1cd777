"""Loading one chunk: its rows, its rejects and its event in one transaction.

Order within the transaction: whoever was overtaken at this work is ended; the table's lock and that of the fiscal
years, shared with all who load; COPY, which is the long part and blocks nobody; then the job's lock, the fence and the
job as it stands now; then the event, under the log's lock, held only until the commit. The transaction of the last
chunk also reconciles the file, completes it, and tells the years that are closed what came too late for them; that of
the chunk with which more records are refused than the contract allows fails it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import lock_job
from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.reconciliation import LoadedChunk, check_control_totals
from ledger.errors import FileRefusedError
from ledger.failpoints import failpoint
from ledger.fiscal_years import FISCAL_YEAR_CLOSED, closed_to, share_years
from ledger.year_records import year_to_decide_about
from projections.chunk import ChunkContent
from projections.data_tables import (
    CopiedRows,
    DataTable,
    PartitionMissingError,
    add_partition,
    share_table,
    year_of_value,
)
from projections.formats.dialect import Dialect
from projections.formats.splitter import Chunk, Plan
from projections.late_records import set_late_aside
from projections.loading import LoadedFile, checked_content, chunk_bytes_of, copy_content, loaded_chunk
from projections.plans import places_of, read_plan
from projections.rejects import rejects_of, replace_rejects
from workers.corrections import Correction, adjusted_year, brought_twice, correction_of, settle_corrected
from workers.leases import Work, end_overtaken, fence, finish
from workers.retry import error_fields
from workers.workshop import Workshop, discard, fail_for_good

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Load:
    """What the load of one chunk works with."""

    workshop: Workshop
    work: Work
    job: FileJob
    file: LoadedFile
    chunk: Chunk
    table: DataTable


def load_chunk(workshop: Workshop, work: Work) -> None:
    """Load one chunk of a job.

    Raises:
        CountsDoNotCloseError: records are missing or too many.
        LeaseLostError: another worker has taken over.
    """
    job = workshop.ledger.job(work.job_id)
    if job.plan is None or work.chunk in job.chunks:  # it failed for good, was cancelled, or the chunk is loaded
        discard(workshop, work)
        return
    file = file_of(workshop.ledger, workshop.calendar, job, read_plan(workshop.blobs, job.plan))
    table = DataTable(job.dataset, contract_of(workshop.ledger, job))
    load = _Load(workshop, work, job, file, file.plan.chunks[work.chunk], table)
    attributes = {
        telemetry.JOB_ID: str(job.id),
        telemetry.JOB_DATASET: job.dataset,
        telemetry.CHUNK_NUMBER: load.chunk.number,
        telemetry.CHUNK_BYTES: load.chunk.end - load.chunk.start,
        telemetry.ATTEMPT: work.attempt,
    }
    with telemetry.span(telemetry.SPAN_LOAD, attributes):
        data = chunk_bytes_of(workshop.blobs, file, load.chunk)
        content = checked_content(file, load.table.contract, load.chunk, data)
        while True:
            try:
                _commit(load, content, data)
                return
            except PartitionMissingError as missing:
                year = year_of_value(load.table, workshop.calendar, missing.value)
                add_partition(workshop.ledger.engine, load.table, workshop.calendar, year)


def _commit(load: _Load, content: ChunkContent, data: bytes) -> None:
    with load.workshop.ledger.transaction() as session:
        end_overtaken(session, load.work)
        share_table(session, load.job.dataset)
        share_years(session)
        # What its sender might do when the file came is what counts.
        set_late_aside(content, load.file.received, closed_to(session, may_adjust=load.job.may_adjust))
        copied = _write_rows(load, session, content)
        loaded = loaded_chunk(load.file, content, data, copied)
        failpoint("chunk_copied")
        lock_job(session, load.work.job_id)
        fence(session, load.work)
        failed = _append(load, session, loaded)
        if failed:
            failpoint("failure_appended")
        else:
            failpoint("chunk_appended")
    if failed:
        where = {"job_id": str(load.job.id), "stage": load.work.stage.value, "chunk": load.chunk.number}
        log.warning("a file does not fit", extra={"action": "file_failed", **where})
        failpoint("failure_committed")
    else:
        failpoint("chunk_committed")
    telemetry.ROWS_LOADED.add(copied.rows)
    telemetry.ROWS_REJECTED.add(len(content.flaws))


def _write_rows(load: _Load, session: Session, content: ChunkContent) -> CopiedRows:
    """Copy the good records, and keep the others as rejects."""
    chunk, blobs = load.chunk, load.workshop.blobs
    copied = copy_content(session, load.file, load.table, content)
    told_apart = content.flaws and not load.file.plan.corrects
    places = places_of(blobs, load.file.plan, chunk) if told_apart else None
    replace_rejects(session, load.work.job_id, chunk.number, chunk.record_numbers, content.rejects(places))
    return copied


def _append(load: _Load, session: Session, loaded: LoadedChunk) -> bool:
    """Append what the chunk does to its job; whether that ends it badly."""
    workshop, work = load.workshop, load.work
    job = workshop.ledger.job(work.job_id)
    job.load_chunk(workshop.stamp(job), loaded, attempt=work.attempt)
    wrong = _too_many_rejects(load, session, job) or _other_than_sent(job)
    correction = None if wrong is not None else correction_of(workshop, session, job)
    if correction is not None:
        wrong = brought_twice(job, correction)
    if wrong is not None:
        fail_for_good(workshop, session, job, work, error_fields(wrong))
        years = []
    else:
        years = _complete(workshop, session, job, correction) if job.all_chunks_loaded else []
        finish(session, work)
    with telemetry.span(telemetry.SPAN_APPEND):
        workshop.ledger.save(*years, job, session=session)
    return wrong is not None


def _complete(workshop: Workshop, session: Session, job: FileJob, correction: Correction | None) -> list[FiscalYear]:
    """Complete a job; the fiscal years with news of it. They are locked before anything is appended."""
    stamp = workshop.stamp(job)
    if job.waiting:  # for a chunk that came due early: there is nothing left to wait for
        job.retry(stamp, reason="Its last chunk is loaded.")
    job.complete(stamp)
    years = []
    for label, records in job.late.items():
        year = year_to_decide_about(workshop.ledger, session, label, stamp, workshop.calendar)
        year.find_late(stamp, job=job.id, dataset=job.dataset, records=records)
        years.append(year)
    if job.adjustment:
        assert not years, "an adjustment is posted whole, or fails"
        years.append(adjusted_year(workshop, session, job))
    if correction is not None:
        settle_corrected(workshop, session, job, correction)
    return years


def _too_many_rejects(load: _Load, session: Session, job: FileJob) -> FileRefusedError | None:
    """What fails a job of whose records more were refused than its contract allows; late ones do not count."""
    contract, chunks = load.table.contract, job.chunks.values()
    rejected = sum(chunk.rows_rejected for chunk in chunks) - sum(job.late.values())
    allowed = contract.rejects_allowed(job.records)
    if rejected <= allowed:
        return None
    [first] = rejects_of(session, job.id, limit=1, but_code=FISCAL_YEAR_CLOSED)
    where = f"record {first.record:,}" + ("" if first.line is None else f" (line {first.line:,})")
    of_column = "" if first.column is None else f", column {first.column!r}{_type_of(contract, first.column)}"
    return FileRefusedError(
        "rejects_too_many",
        f"{rejected:,} of the {job.records:,} records of {job.filename!r} do not fit dataset {job.dataset!r}, which "
        f"allows {allowed:,} ({contract.rejects_max}). The first: {where}{of_column}: {first.reason}.",
        f"Correct what `ledger jobs rejects {job.id}` lists and send the file again. Nothing of it stays loaded.",
        record=first.record,
        line=first.line,
        byte_offset=first.byte_offset,
        column=first.column,
    )


def _other_than_sent(job: FileJob) -> FileRefusedError | None:
    """What fails a job that has come to something else than its sender said."""
    if not job.all_chunks_loaded:
        return None
    came_to = job.came_to()
    found = [*check_control_totals(came_to, job.control_totals), *check_control_totals(came_to, job.trailer)]
    if not found:
        return None
    return FileRefusedError(
        "control_totals_differ",
        f"{job.filename!r} does not come to what its sender said. {' '.join(found)}{_left_out(came_to)}",
        "Find out which is wrong, the file or the totals, and send both again. Nothing of this file stays loaded.",
    )


def _left_out(came_to: dict[str, Any]) -> str:
    rejected = came_to["rows_rejected"]
    return f" Records that were refused ({rejected:,}) are in no total." if rejected else ""


def _type_of(contract: Contract, name: str) -> str:
    types = {column.name: column.type for column in contract.columns}
    return f" ({types[name]})" if name in types else ""


def file_of(ledger: Ledger, calendar: FiscalCalendar, job: FileJob, plan: Plan) -> LoadedFile:
    """A job's file as it is loaded by its plan."""
    with ledger.transaction() as session:
        position = ledger.job_position(session, job.id)
    return LoadedFile(
        job_id=job.id,
        job_position=position,
        received_at=job.created_on,
        text=job.transcript or job.sha256,
        dialect=Dialect.from_dict(job.dialect),
        plan=plan,
        calendar=calendar,
    )


def contract_of(ledger: Ledger, job: FileJob) -> Contract:
    """The contract by which a planned job is loaded."""
    dataset = ledger.dataset(job.dataset)
    assert dataset is not None, "a queued job has a dataset"
    return dataset.contracts[job.contract_version - 1]
