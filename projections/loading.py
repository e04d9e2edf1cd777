"""Loading a chunk: from its bytes to the rows of a table, when it comes in and whenever its table is built anew.

Rules:
1. Nothing here depends on who loads: the same bytes, plan, contract and table give the same rows, totals and digest.
2. A record that its contract refuses is a flaw; so is one that only PostgreSQL refuses, and one that a key keeps out.
   The others are loaded all the same.
3. PostgreSQL's own words may quote a value: no error of loading repeats them. None names the file: a rebuild writes it
   down where names are not sealed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from uuid import UUID

import numpy
import psycopg2
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.blobs import BlobStore
from ledger.database import is_unavailable
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.reconciliation import LoadedChunk
from ledger.errors import LedgerError
from ledger.fiscal_years import FISCAL_YEAR_CLOSED
from projections.chunk import ChunkContent, Source, read_chunk
from projections.data_tables import CopiedRows, DataTable, copy_rows, is_about_the_file
from projections.fields import Reading
from projections.formats.blocks import read_exactly
from projections.formats.dialect import Dialect
from projections.formats.header import column_names
from projections.formats.rows import Flaw
from projections.formats.splitter import Chunk, Plan

# What PostgreSQL says (SQLSTATE) of a record that was checked before, what we call it, and in which words. Its own
# words may quote the value, and an error is kept in an event, which holds no row data.
REFUSALS = {"54000": ("record_too_long", "the record is too big for a row of a table")}
OTHER_REFUSAL, KEY_REPEATED = "record_refused", "key_repeated"
# The codes of flaws that no look at the file alone can find.
FOUND_BY_THE_LEDGER = frozenset(
    {OTHER_REFUSAL, KEY_REPEATED, FISCAL_YEAR_CLOSED, *(code for code, _ in REFUSALS.values())}
)
REASON_CHARACTERS_MAX = 200


class CopyFailedError(LedgerError):
    """COPY failed for a reason that is neither the file's nor the database's absence: a deadlock, say."""

    code = "copy_failed"


@dataclass(frozen=True)
class LoadedFile:
    """What is known of a planned file: its job, the text that its chunks are ranges of, and how that is read.

    `job_position` is the position of the job's Received event, `received_at` the time of it.
    """

    job_id: UUID
    job_position: int
    received_at: datetime
    text: str
    dialect: Dialect
    plan: Plan
    calendar: FiscalCalendar

    @property
    def received(self) -> date:
        """The day on which it was received."""
        return self.received_at.astimezone(self.calendar.zone).date()


def reading_of(contract: Contract, plan: Plan, calendar: FiscalCalendar) -> Reading:
    """How the values of a planned text are read into a contract."""
    by_name = {column.name: column for column in contract.columns}
    columns = contract.columns if plan.header is None else tuple(map(by_name.get, column_names(plan.header)))
    transcript = plan.places is not None and not plan.corrects
    return Reading(contract, columns, calendar, plan.writing, plan.own_null, transcript)


def chunk_bytes_of(blobs: BlobStore, file: LoadedFile, chunk: Chunk) -> bytes:
    """The bytes of a chunk."""
    return read_exactly(partial(blobs.read, file.text), chunk.start, chunk.size)


def checked_content(file: LoadedFile, contract: Contract, chunk: Chunk, data: bytes) -> ChunkContent:
    """The records of a chunk with these bytes, measured against a contract."""
    with telemetry.span(telemetry.SPAN_CHECK, {telemetry.CHUNK_BYTES: chunk.size}) as span:
        reading = reading_of(contract, file.plan, file.calendar)
        content = read_chunk(file.plan.without_trailer(chunk, data), chunk, file.dialect, reading)
        span.set_attribute(telemetry.CHUNK_REJECTS, len(content.flaws))
    return content


def copy_content(session: Session, file: LoadedFile, table: DataTable, content: ChunkContent) -> CopiedRows:
    """Copy the good records into a table; those that PostgreSQL refuses all the same are added to the flaws.

    Raises:
        PartitionMissingError: add the partition, then start the transaction again.
        CopyFailedError: PostgreSQL had another reason.
    """
    with telemetry.span(telemetry.SPAN_COPY, {telemetry.CHUNK_BYTES: content.chunk.size}) as span:
        copied = _copy(session, file, table, content)
        span.set_attribute(telemetry.CHUNK_ROWS, copied.rows)
    return copied


def loaded_chunk(file: LoadedFile, content: ChunkContent, data: bytes, copied: CopiedRows) -> LoadedChunk:
    """What a chunk came to: of its bytes, of its records, and of the rows that were copied."""
    chunk = content.chunk
    totals, digest = content.came_to()
    return LoadedChunk(
        number=chunk.number,
        start=chunk.start,
        end=chunk.end,
        sha256=hashlib.sha256(data).hexdigest(),
        first_record=chunk.first_record,
        records=chunk.records,
        rows_loaded=copied.rows,
        rows_rejected=len(content.flaws),
        rows_skipped=int(file.plan.has_trailer(chunk)),
        fiscal_years=copied.fiscal_years,
        totals=totals,
        row_set_digest=digest,
        late=dict(sorted(Counter(content.late.values()).items())),
    )


def _copy(session: Session, file: LoadedFile, table: DataTable, content: ChunkContent) -> CopiedRows:
    whole = content.whole()
    if whole is not None:
        copied = _try_copy(session, file, table, content, whole, content.chunk.first_record)
        if isinstance(copied, CopiedRows):
            return copied
    copied_rows, years, waiting = 0, set[str](), [content.good]
    while waiting:
        indexes = waiting.pop()
        if not indexes.size:
            continue
        copied = _try_copy(session, file, table, content, content.some(indexes), None)
        if isinstance(copied, CopiedRows):
            copied_rows += copied.rows
            years.update(copied.fiscal_years)
        elif indexes.size == 1:
            content.flaws[int(indexes[0])] = copied
        else:
            waiting += numpy.array_split(indexes, 2)
    return CopiedRows(copied_rows, sorted(years))


def _try_copy(
    session: Session,
    file: LoadedFile,
    table: DataTable,
    content: ChunkContent,
    source: Source,
    first_record: int | None,
) -> CopiedRows | Flaw:
    """Copy records, or undo that and say why PostgreSQL refuses one of them. What a key refuses joins the flaws."""
    form = content.form
    savepoint = session.begin_nested()
    try:
        copied = copy_rows(
            session,
            table,
            source,
            dialect=form.dialect,
            columns=form.columns,
            null_token=form.null_token,
            job=file.job_position,
            first_record=first_record,
            received=file.received,
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
            f"COPY of a chunk failed ({error.pgcode}: {_without_values(error)}).", "It will be tried again."
        ) from None
    savepoint.commit()
    content.flaws.update((record - content.chunk.first_record, _repeated(table)) for record in copied.repeated)
    return copied


def _flaw(error: psycopg2.Error) -> Flaw:
    code, reason = REFUSALS.get(error.pgcode or "", (OTHER_REFUSAL, _without_values(error)))
    return Flaw(code, reason)


def _repeated(table: DataTable) -> Flaw:
    key = table.contract.key
    return Flaw(KEY_REPEATED, f"another record of the fiscal year has its key ({', '.join(key)})", key[0])


def _without_values(error: psycopg2.Error) -> str:
    return re.sub(r'"[^"]*"', '"..."', error.diag.message_primary or type(error).__name__)[:REASON_CHARACTERS_MAX]
