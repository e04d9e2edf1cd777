"""Lineage: from a row back to the bytes that it was made of.

Rules:
1. A row names its job (`_job`) and its record's number in the file (`_record`); the plan that the job's Queued event
   pins says in which chunk the record stands, and the chunk is read and cut again as it was when it was loaded.
2. Nothing is kept for this but the file, its plan, and for a transcript where each record stands in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from psycopg2 import errors, sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.blobs import BlobStore
from ledger.database import driver_cursor
from ledger.domain.column import excerpt
from ledger.domain.contract import Contract, check_dataset_name
from ledger.domain.filejob import FileJob
from ledger.errors import InvalidRequestError, NotFoundError
from projections.formats.blocks import read_exactly
from projections.formats.dialect import Dialect
from projections.formats.records import find_records
from projections.plans import places_of, read_plan


@dataclass(frozen=True)
class Origin:
    """Where a record stands: in which chunk of which file, and its bytes.

    `line` is None in a file that has no lines. `byte_offset` and `byte_length` are those in the file (after
    decompression), or a row's number and 0 for a format whose records are no stretch of bytes; `text` is the record as
    it was loaded, and `text_offset` where it begins in the text that was.
    """

    record: int
    chunk: int
    line: int | None
    byte_offset: int
    byte_length: int
    text: bytes
    text_offset: int


def origin_of(blobs: BlobStore, job: FileJob, record: int) -> Origin:
    """Where a record of a job stands.

    Raises:
        NotFoundError: the job has no such record, or is not planned yet.
    """
    plan = None if job.plan is None else read_plan(blobs, job.plan)
    chunk = next((chunk for chunk in plan.chunks if record in chunk.record_numbers), None) if plan else None
    if chunk is None or plan is None:
        raise NotFoundError(
            f"Job {job.id} has no record {record:,}.",
            f"Its records are numbered from 1 to {job.records:,}." if plan else "It was not examined yet, or ended.",
        )
    read = partial(blobs.read, job.transcript or job.sha256)
    found = find_records(read_exactly(read, chunk.start, chunk.size), Dialect.from_dict(job.dialect))
    index = record - chunk.first_record
    raw, start, places = found.bytes_of(index), chunk.start + int(found.starts[index]), places_of(blobs, plan, chunk)
    if places is not None and not plan.corrects:
        return Origin(record, chunk.number, None, *places[index], raw, start)
    line = chunk.first_line + found.line_of(index)
    return Origin(record, chunk.number, line, start, len(raw), raw, start)


def rows_where(
    session: Session, dataset: str, contract: Contract, where: Mapping[str, str], limit: int
) -> list[tuple[UUID, int, dict[str, Any]]]:
    """Rows whose columns have these values: the job, the record's number, and the row, each value as text.

    Args:
        where: values by column as PostgreSQL reads them; `_job` and `_record` may be among the columns.

    Raises:
        InvalidRequestError: a column does not exist, or a value cannot be one of its column.
    """
    check_dataset_name(dataset)
    names = [column.name for column in contract.columns]
    for name in where:
        if name not in (*names, "_job", "_record"):
            raise InvalidRequestError(
                f"Dataset {dataset!r} has no column {excerpt(name)}.", f"It has {', '.join(names)}."
            )
        if "\0" in where[name]:
            raise InvalidRequestError(f"No value of column {excerpt(name)} holds a NUL character.")
    conditions = [sql.SQL("data.{} = %s").format(sql.Identifier(name)) for name in where]
    statement = sql.SQL(
        "SELECT arrivals.job_id, data._record, to_jsonb(data) FROM data.{} AS data"
        " JOIN ledger.arrivals ON arrivals.position = data._job WHERE {} ORDER BY data._job, data._record LIMIT %s"
    ).format(sql.Identifier(dataset), sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"))
    session.execute(text("SET LOCAL TimeZone = 'UTC'"))
    cursor = driver_cursor(session)
    try:
        cursor.execute(statement, (*where.values(), limit))
    except errors.DataError as error:
        raise InvalidRequestError(
            f"A value does not fit its column: {error.diag.message_primary}.", "Give it as the column has it."
        ) from None
    return [(UUID(str(job_id)), record, row) for job_id, record, row in cursor.fetchall()]
