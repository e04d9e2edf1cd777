"""Loading one chunk: its rows and its event in one transaction.

Order within the transaction: COPY first, which is the long part and blocks nobody; then the job's lock, the fence
and the job as it stands now; then the event, under the log's lock, held only until the commit. The transaction
of the last chunk also reconciles the file and completes it.
"""

from __future__ import annotations

import hashlib
import io
import re

import psycopg2
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.blobs import BlobRange, BlobStore
from ledger.database import is_unavailable, lock_job
from ledger.domain.filejob import FileJob, LoadedChunk
from ledger.domain.fiscal_calendar import YEAR_MAX, YEAR_MIN
from ledger.errors import FileRefusedError, LedgerError
from ledger.failpoints import failpoint
from projections.data_tables import (
    CopiedRows,
    DataTable,
    PartitionMissingError,
    add_partition,
    copy_rows,
    is_about_the_file,
    refused_at,
    year_of_value,
)
from projections.formats.dialect import Dialect, read_records
from projections.formats.splitter import Chunk, Plan, cut_blank_lines
from workers.leases import Work, fence, finish
from workers.plan import columns_in_file
from workers.workshop import Workshop, discard

PLANS_KEPT = 16
PLAN_BYTES_MAX = 256 << 20
REASON_CHARACTERS_MAX = 200

# What PostgreSQL says (SQLSTATE), what we call it, and in which words. Its own words quote the value, and an error
# is kept in an event, which holds no row data.
REFUSALS = {
    "22P02": ("value_invalid", "the value is not of the column's type"),
    "22003": ("value_out_of_range", "the value is out of the range of the column's type"),
    "22007": ("date_invalid", "the value is no date or time as YYYY-MM-DD or YYYY-MM-DD HH:MM:SS"),
    "22008": ("date_invalid", "the value is a date or time that does not exist"),
    "22021": ("encoding_invalid", "it holds bytes that are not UTF-8"),
    "23502": ("value_missing", "the value is missing, and the contract wants one"),
    "54000": ("record_too_long", "the record is too big for a row of a table"),
}
RAGGED = "22P04"


_plans: dict[str, Plan] = {}


class CopyFailedError(LedgerError):
    """COPY failed for a reason that is neither the file's nor the database's absence: a deadlock, say."""

    code = "copy_failed"


def load_chunk(workshop: Workshop, work: Work) -> None:
    """Load one chunk of a job.

    Raises:
        FileRefusedError: PostgreSQL refuses a record; it is named.
        CountsDoNotCloseError: records are missing or too many.
        LeaseLostError: another worker has taken over.
    """
    job = workshop.ledger.job(work.job_id)
    if job.plan is None or work.chunk in job.chunks:  # it failed for good, was cancelled, or the chunk is loaded
        discard(workshop, work)
        return
    chunk = _plan(workshop.blobs, job.plan).chunks[work.chunk]
    attributes = {
        telemetry.JOB_ID: str(job.id),
        telemetry.JOB_DATASET: job.dataset,
        telemetry.CHUNK_NUMBER: chunk.number,
        telemetry.CHUNK_BYTES: chunk.end - chunk.start,
        telemetry.ATTEMPT: work.attempt,
    }
    with telemetry.span(telemetry.SPAN_LOAD, attributes):
        while True:
            try:
                _commit_chunk(workshop, work, job, chunk)
                return
            except PartitionMissingError as missing:
                _add_partition(workshop, job, chunk, missing)


def _commit_chunk(workshop: Workshop, work: Work, job: FileJob, chunk: Chunk) -> None:
    ledger = workshop.ledger
    source = BlobRange(workshop.blobs, job.sha256, chunk.start, chunk.end)
    with ledger.transaction() as session:
        with telemetry.span(telemetry.SPAN_COPY, {telemetry.CHUNK_BYTES: chunk.end - chunk.start}) as span:
            copied = _copy(workshop, session, job, chunk, source)
            span.set_attribute(telemetry.CHUNK_ROWS, copied.rows)
        failpoint("chunk_copied")
        lock_job(session, job.id)
        fence(session, work)
        current = ledger.job(job.id)
        stamp = workshop.stamp(current)
        current.load_chunk(stamp, _loaded(chunk, copied, source.sha256), attempt=work.attempt)
        if current.all_chunks_loaded:
            if current.waiting:  # for a chunk that came due early: there is nothing left to wait for
                current.retry(stamp, reason="Its last chunk is loaded.")
            current.complete(stamp)
        finish(session, work)
        with telemetry.span(telemetry.SPAN_APPEND):
            ledger.save(current, session=session)
        failpoint("chunk_appended")
    failpoint("chunk_committed")
    telemetry.ROWS_LOADED.add(copied.rows)


def _copy(workshop: Workshop, session: Session, job: FileJob, chunk: Chunk, source: BlobRange) -> CopiedRows:
    table = _table(workshop, job)
    dialect = Dialect.from_dict(job.dialect)
    header = _plan(workshop.blobs, str(job.plan)).header
    try:
        return copy_rows(
            session,
            table,
            dialect,
            columns_in_file(table.contract, header),
            _WithoutBlankLines(source, dialect) if chunk.blank_lines else source,
            job=workshop.ledger.job_position(session, job.id),
            first_record=chunk.first_record,
            received=job.created_on.astimezone(workshop.calendar.zone).date(),
        )
    except psycopg2.Error as error:
        if source.failure is not None:  # COPY ends as if somebody had cancelled it
            raise source.failure from None
        if is_about_the_file(error):
            raise _refusal(workshop, job, chunk, error) from error
        if is_unavailable(error):
            raise
        # Not the original error behind it: its context may quote a record.
        raise CopyFailedError(
            f"COPY of {job.filename!r} failed ({error.pgcode}: {_without_values(error)}).",
            "It will be tried again.",
        ) from None


def _add_partition(workshop: Workshop, job: FileJob, chunk: Chunk, missing: PartitionMissingError) -> None:
    table = _table(workshop, job)
    try:
        year = year_of_value(table, workshop.calendar, missing.value)
    except ValueError:
        where, record, line = _place(workshop, job, chunk, missing.line)
        raise FileRefusedError(
            "fiscal_date_invalid",
            f"{where} of {job.filename!r} belongs to no fiscal year from {YEAR_MIN} to {YEAR_MAX}: its column "
            f"{table.partition_column!r} is empty or far away in time.",
            "Correct it and send the file again. Nothing of this file stays loaded.",
            record=record,
            line=line,
            column=table.partition_column,
        ) from None
    add_partition(workshop.ledger.engine, table, workshop.calendar, year)


def _loaded(chunk: Chunk, copied: CopiedRows, sha256: str) -> LoadedChunk:
    return LoadedChunk(
        number=chunk.number,
        start=chunk.start,
        end=chunk.end,
        sha256=sha256,
        first_record=chunk.first_record,
        records=chunk.records,
        rows_loaded=copied.rows,
        rows_rejected=0,
        rows_skipped=0,
        fiscal_years=copied.fiscal_years,
    )


def _plan(blobs: BlobStore, digest: str) -> Plan:
    if digest not in _plans:
        data = blobs.read(digest, 0, PLAN_BYTES_MAX)
        assert hashlib.sha256(data).hexdigest() == digest, f"the blob of plan {digest} is not what was written"
        if len(_plans) >= PLANS_KEPT:
            _plans.clear()
        _plans[digest] = Plan.from_json(data)
    return _plans[digest]


def _table(workshop: Workshop, job: FileJob) -> DataTable:
    dataset = workshop.ledger.dataset(job.dataset)
    assert dataset is not None, "a queued job has a dataset"
    return DataTable(job.dataset, dataset.contracts[job.contract_version - 1])


class _WithoutBlankLines:
    """A chunk for COPY, which takes a blank line for a record: without them. Rare, so it is read as a whole."""

    def __init__(self, source: BlobRange, dialect: Dialect) -> None:
        self._pieces = io.BytesIO(b"".join(cut_blank_lines(source.read(), dialect)))

    def read(self, size: int = -1) -> bytes:
        return self._pieces.read(size)


def _refusal(workshop: Workshop, job: FileJob, chunk: Chunk, error: psycopg2.Error) -> FileRefusedError:
    line_copied, column = refused_at(error)
    code, reason = REFUSALS.get(error.pgcode or "", ("record_refused", _without_values(error)))
    if error.pgcode == RAGGED:  # these words name columns, never values
        code, reason = "record_malformed", error.diag.message_primary or "it has another number of fields"
    where, record, line = _place(workshop, job, chunk, line_copied)
    of_column = "" if column is None else f", column {column!r}{_type_of(workshop, job, column)}"
    return FileRefusedError(
        code,
        f"{where} of {job.filename!r} does not fit dataset {job.dataset!r}{of_column}: {reason}.",
        "Correct it and send the file again. Nothing of this file stays loaded.",
        record=record,
        line=line,
        column=column,
    )


def _place(
    workshop: Workshop, job: FileJob, chunk: Chunk, line_copied: int | None
) -> tuple[str, int | None, int | None]:
    """Where a line that COPY complained about stands in the file: in words, as a record, and as a line."""
    if line_copied is None:
        return f"A record between bytes {chunk.start} and {chunk.end}", None, None
    data = workshop.blobs.read(job.sha256, chunk.start, chunk.end - chunk.start)
    record_in_chunk, line_in_chunk = _locate(data, Dialect.from_dict(job.dialect), line_copied)
    record, line = chunk.first_record + record_in_chunk - 1, chunk.first_line + line_in_chunk - 1
    return f"Record {record} (line {line})", record, line


def _type_of(workshop: Workshop, job: FileJob, column: str) -> str:
    types = {known.name: known.type for known in _table(workshop, job).contract.columns}
    return f" ({types[column]})" if column in types else ""


def _without_values(error: psycopg2.Error) -> str:
    return re.sub(r'"[^"]*"', '"..."', error.diag.message_primary or type(error).__name__)[:REASON_CHARACTERS_MAX]


def _locate(data: bytes, dialect: Dialect, line_copied: int) -> tuple[int, int]:
    """The record and the last physical line of it within a chunk, for a line as COPY counts them.

    COPY was not sent the blank lines. Within quotes it counts newlines only once a record has shown it that lines
    end with them alone, and carriage returns before that and in a file of Windows line ends.
    """
    if not dialect.quoting:
        return line_copied, line_copied
    records = lines = counted = 0
    for fields in read_records(data.decode(dialect.encoding), dialect.delimiter, dialect.quote):
        lines += 1 + sum(text.count("\n") for text in fields)
        if fields:
            records += 1
            newline = "\n" if records > 1 and dialect.line_end == "\n" else "\r"
            counted += 1 + sum(text.count(newline) for text in fields)
        if counted >= line_copied:
            break
    return records, lines
