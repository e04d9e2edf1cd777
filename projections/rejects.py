"""Rejects: the records that their contract refused, kept with what was sent, where it stands and why.

Rules:
1. The rejects of a chunk are written in the transaction that loads its rows, instead of what an earlier attempt wrote.
2. A reject is named by its job and its record's number. Its place is that of the record in the file, or in the text
   that was made of the file.
3. `raw` is the record as it stands there, with its line end; of a longer one than `RAW_BYTES_MAX` the beginning. The
   file keeps the rest.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import driver_cursor
from projections.formats.rows import Flaw

RAW_BYTES_MAX = 1 << 20
COLUMNS = "job_id, record, chunk, line, byte_offset, byte_length, raw, column_name, code, reason"


@dataclass(frozen=True)
class Reject:
    """A record that was refused. `record` and `line` count from 1; `line` is None in a file that has no lines."""

    record: int
    line: int | None
    byte_offset: int
    byte_length: int
    raw: bytes
    column: str | None
    code: str
    reason: str


def replace_rejects(session: Session, job_id: UUID, chunk: int, records: range, rejects: Sequence[Reject]) -> None:
    """Write the rejects of a chunk, whose records have these numbers, in the session's transaction."""
    session.execute(
        text("DELETE FROM rejects.records WHERE job_id = :job_id AND record >= :first AND record < :end"),
        {"job_id": job_id, "first": records.start, "end": records.stop},
    )
    if rejects:
        lines = (_copy_line(job_id, chunk, reject) for reject in rejects)
        cursor = driver_cursor(session)
        cursor.copy_expert(f"COPY rejects.records ({COLUMNS}) FROM STDIN", io.BytesIO(b"".join(lines)))


def rejects_of(
    session: Session,
    job_id: UUID,
    *,
    after_record: int = 0,
    before_record: int | None = None,
    limit: int,
    but_code: str | None = None,
) -> list[Reject]:
    """The rejects of a job but those of a code, in the order of its file: from behind a record on, before another."""
    found = session.execute(
        text(
            "SELECT record, line, byte_offset, byte_length, raw, column_name, code, reason FROM rejects.records"
            " WHERE job_id = :job_id AND record > :after_record"
            " AND record < coalesce(:before_record, 9223372036854775807) AND code IS DISTINCT FROM :but_code"
            " ORDER BY record LIMIT :limit"
        ),
        {
            "job_id": job_id,
            "after_record": after_record,
            "before_record": before_record,
            "limit": limit,
            "but_code": but_code,
        },
    )
    return [
        Reject(
            row.record,
            row.line,
            row.byte_offset,
            row.byte_length,
            bytes(row.raw),
            row.column_name,
            row.code,
            row.reason,
        )
        for row in found
    ]


def flaws_kept(session: Session, job_id: UUID, records: range, codes: Collection[str]) -> dict[int, Flaw]:
    """What was found wrong with records of a job, by their numbers, where it has one of these codes."""
    found = session.execute(
        text(
            "SELECT record, column_name, code, reason FROM rejects.records"
            " WHERE job_id = :job_id AND record >= :first AND record < :end AND code = ANY(:codes)"
        ),
        {"job_id": job_id, "first": records.start, "end": records.stop, "codes": sorted(codes)},
    )
    return {row.record: Flaw(row.code, row.reason, row.column_name) for row in found}


def records_rejected(session: Session, job_id: UUID) -> list[int]:
    """The numbers of a job's rejects, sorted."""
    statement = "SELECT record FROM rejects.records WHERE job_id = :job_id ORDER BY record"
    return list(session.execute(text(statement), {"job_id": job_id}).scalars())


def _copy_line(job_id: UUID, chunk: int, reject: Reject) -> bytes:
    """A reject as COPY's text format has it."""
    fields: Iterable[Any] = (
        job_id,
        reject.record,
        chunk,
        "\\N" if reject.line is None else reject.line,
        reject.byte_offset,
        reject.byte_length,
        "\\\\x" + reject.raw[:RAW_BYTES_MAX].hex(),
        "\\N" if reject.column is None else _escaped(reject.column),
        reject.code,
        _escaped(reject.reason),
    )
    return ("\t".join(map(str, fields)) + "\n").encode()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
