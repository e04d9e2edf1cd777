"""Loading one chunk: its rows, its rejects and its event in one transaction.

Order within the transaction: COPY first, which is the long part and blocks nobody; then the job's lock, the fence
and the job as it stands now; then the event, under the log's lock, held only until the commit. The transaction
of the last chunk also reconciles the file and completes it; that of the chunk with which more records are refused
than the contract allows fails it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import psycopg2
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.database import is_unavailable, lock_job
from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.domain.reconciliation import LoadedChunk, check_control_totals
from ledger.errors import FileRefusedError, LedgerError
from ledger.failpoints import failpoint
from projections.chunk import ChunkContent, Source, read_chunk
from projections.data_tables import (
    CopiedRows,
    DataTable,
    PartitionMissingError,
    add_partition,
    copy_rows,
    is_about_the_file,
    year_of_value,
)
from projections.formats.blocks import read_exactly
from projections.formats.dialect import Dialect
from projections.formats.rows import Flaw
from projections.formats.splitter import Chunk, Plan
from projections.plans import places_of, read_plan
from projections.rejects import rejects_of, replace_rejects
from workers.corrections import settle_corrected
from workers.leases import Work, fence, finish
from workers.plan import reading_of
from workers.retry import error_fields
from workers.workshop import Workshop, discard, fail_for_good

log = logging.getLogger(__name__)

# What PostgreSQL says (SQLSTATE) of a record that was checked before, what we call it, and in which words. Its own
# words may quote the value, and an error is kept in an event, which holds no row data.
REFUSALS = {"54000": ("record_too_long", "the record is too big for a row of a table")}
REASON_CHARACTERS_MAX = 200


class CopyFailedError(LedgerError):
    """COPY failed for a reason that is neither the file's nor the database's absence: a deadlock, say."""

    code = "copy_failed"


@dataclass(frozen=True)
class _Load:
    """What the load of one chunk works with."""

    workshop: Workshop
    work: Work
    job: FileJob
    plan: Plan
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
    plan = read_plan(workshop.blobs, job.plan)
    load = _Load(workshop, work, job, plan, plan.chunks[work.chunk], _table(workshop, job))
    attributes = {
        telemetry.JOB_ID: str(job.id),
        telemetry.JOB_DATASET: job.dataset,
        telemetry.CHUNK_NUMBER: load.chunk.number,
        telemetry.CHUNK_BYTES: load.chunk.end - load.chunk.start,
        telemetry.ATTEMPT: work.attempt,
    }
    with telemetry.span(telemetry.SPAN_LOAD, attributes):
        content, sha256 = _read(load)
        while True:
            try:
                _commit(load, content, sha256)
                return
            except PartitionMissingError as missing:
                year = year_of_value(load.table, workshop.calendar, missing.value)
                add_partition(workshop.ledger.engine, load.table, workshop.calendar, year)


def _read(load: _Load) -> tuple[ChunkContent, str]:
    """The chunk's records, checked, and the SHA-256 of its bytes."""
    job, chunk = load.job, load.chunk
    data = read_exactly(partial(load.workshop.blobs.read, job.transcript or job.sha256), chunk.start, chunk.size)
    with telemetry.span(telemetry.SPAN_CHECK, {telemetry.CHUNK_BYTES: chunk.size}) as span:
        reading = reading_of(load.table.contract, load.plan, load.workshop.calendar)
        records = load.plan.without_trailer(chunk, data)
        content = read_chunk(records, chunk, Dialect.from_dict(job.dialect), reading)
        span.set_attribute(telemetry.CHUNK_REJECTS, len(content.flaws))
    return content, hashlib.sha256(data).hexdigest()


def _commit(load: _Load, content: ChunkContent, sha256: str) -> None:
    with load.workshop.ledger.transaction() as session:
        copied = _write_rows(load, session, content)
        loaded = _loaded(load, copied, content, sha256)
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
    with telemetry.span(telemetry.SPAN_COPY, {telemetry.CHUNK_BYTES: chunk.size}) as span:
        copied = _copy(load, session, content)
        span.set_attribute(telemetry.CHUNK_ROWS, copied.rows)
    told_apart = content.flaws and not load.plan.corrects
    places = places_of(blobs, load.plan, chunk) if told_apart else None
    replace_rejects(session, load.work.job_id, chunk.number, chunk.record_numbers, content.rejects(places))
    return copied


def _append(load: _Load, session: Session, loaded: LoadedChunk) -> bool:
    """Append what the chunk does to its job; whether that ends it badly."""
    workshop, work = load.workshop, load.work
    job = workshop.ledger.job(work.job_id)
    job.load_chunk(workshop.stamp(job), loaded, attempt=work.attempt)
    wrong = _too_many_rejects(load, session, job) or _other_than_sent(job)
    if wrong is not None:
        fail_for_good(workshop, session, job, work, error_fields(wrong))
    else:
        _complete_if_last(workshop, session, job)
        finish(session, work)
    with telemetry.span(telemetry.SPAN_APPEND):
        workshop.ledger.save(job, session=session)
    return wrong is not None


def _complete_if_last(workshop: Workshop, session: Session, job: FileJob) -> None:
    if not job.all_chunks_loaded:
        return
    stamp = workshop.stamp(job)
    if job.waiting:  # for a chunk that came due early: there is nothing left to wait for
        job.retry(stamp, reason="Its last chunk is loaded.")
    job.complete(stamp)
    settle_corrected(workshop, session, job)


def _copy(load: _Load, session: Session, content: ChunkContent) -> CopiedRows:
    """Copy the good records; those that PostgreSQL refuses all the same are added to the flaws."""
    whole = content.whole()
    if whole is not None:
        copied = _try_copy(load, session, content, whole, load.chunk.first_record)
        if isinstance(copied, CopiedRows):
            return copied
    copied_rows, years, waiting = 0, set[str](), [content.good]
    while waiting:
        indexes = waiting.pop()
        if not indexes.size:
            continue
        copied = _try_copy(load, session, content, content.some(indexes), None)
        if isinstance(copied, CopiedRows):
            copied_rows += copied.rows
            years.update(copied.fiscal_years)
        elif indexes.size == 1:
            content.flaws[int(indexes[0])] = copied
        else:
            waiting += numpy.array_split(indexes, 2)
    return CopiedRows(copied_rows, sorted(years))


def _try_copy(
    load: _Load, session: Session, content: ChunkContent, source: Source, first_record: int | None
) -> CopiedRows | Flaw:
    """Copy records, or undo that and say why PostgreSQL refuses one of them. What a key refuses joins the flaws."""
    job, workshop, form = load.job, load.workshop, content.form
    savepoint = session.begin_nested()
    try:
        copied = copy_rows(
            session,
            load.table,
            source,
            dialect=form.dialect,
            columns=form.columns,
            null_token=form.null_token,
            job=workshop.ledger.job_position(session, job.id),
            first_record=first_record,
            received=job.created_on.astimezone(workshop.calendar.zone).date(),
        )
    except psycopg2.Error as error:
        if source.failure is not None:
            raise source.failure from None
        if is_about_the_file(error):
            savepoint.rollback()
            return _flaw(error)
        if is_unavailable(error):
            raise
        # Not the original error behind it: its context may quote a record.
        raise CopyFailedError(
            f"COPY of {job.filename!r} failed ({error.pgcode}: {_without_values(error)}).", "It will be tried again."
        ) from None
    savepoint.commit()
    content.flaws.update((record - load.chunk.first_record, _repeated(load)) for record in copied.repeated)
    return copied


def _flaw(error: psycopg2.Error) -> Flaw:
    code, reason = REFUSALS.get(error.pgcode or "", ("record_refused", _without_values(error)))
    return Flaw(code, reason)


def _repeated(load: _Load) -> Flaw:
    key = load.table.contract.key
    return Flaw("key_repeated", f"another record of the fiscal year has its key ({', '.join(key)})", key[0])


def _loaded(load: _Load, copied: CopiedRows, content: ChunkContent, sha256: str) -> LoadedChunk:
    chunk = load.chunk
    totals, digest = content.came_to()
    return LoadedChunk(
        number=chunk.number,
        start=chunk.start,
        end=chunk.end,
        sha256=sha256,
        first_record=chunk.first_record,
        records=chunk.records,
        rows_loaded=copied.rows,
        rows_rejected=len(content.flaws),
        rows_skipped=int(load.plan.has_trailer(chunk)),
        fiscal_years=copied.fiscal_years,
        totals=totals,
        row_set_digest=digest,
    )


def _too_many_rejects(load: _Load, session: Session, job: FileJob) -> FileRefusedError | None:
    """What fails a job of whose records more were refused than its contract allows."""
    contract = load.table.contract
    rejected, allowed = sum(chunk.rows_rejected for chunk in job.chunks.values()), contract.rejects_allowed(job.records)
    if rejected <= allowed:
        return None
    [first] = rejects_of(session, job.id, limit=1)
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


def _table(workshop: Workshop, job: FileJob) -> DataTable:
    dataset = workshop.ledger.dataset(job.dataset)
    assert dataset is not None, "a queued job has a dataset"
    return DataTable(job.dataset, dataset.contracts[job.contract_version - 1])


def _without_values(error: psycopg2.Error) -> str:
    return re.sub(r'"[^"]*"', '"..."', error.diag.message_primary or type(error).__name__)[:REASON_CHARACTERS_MAX]
