"""Parts: the rows of a partition as compressed text, cut into files that a store takes.

Rules:
1. A plan names the first and the last row of each part before any is made. It cuts where about so many bytes of text
   are together; what one part holds does not depend on whether others were made.
2. A part that is made again has the same text. How it is compressed may depend on the library; what proves content is
   the SHA-256 of the text.
3. Until a part was checked on the disk its file has another name. So whoever is killed leaves a whole part or none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from psycopg2 import errors, sql
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from archive.copying import Sink, copy_out
from archive.partitions import SCHEMA, Partition, TableColumn, cursor_of
from archive.stores import OBJECT_BYTES_MAX
from archive.text_files import TextFacts, TextWriter, check_text, spooling
from ledger.database import unavailable_as_error
from ledger.errors import ConflictError
from ledger.folders import sync_folder

COPIED_BYTES_OF_SEPARATOR = 1
# What text takes more or less than a value in memory: bytes are written as two digits each, and PostgreSQL tells how
# long a text is, not how long compressed, without reading it.
SIZES = {
    "text": "octet_length({})",
    "character varying": "octet_length({})",
    "bytea": "2 * octet_length({})",
}

PLAN = sql.SQL(
    "WITH sized AS (SELECT _job, _record, {size} AS size FROM {table}),"
    " placed AS (SELECT _job, _record, row_number() OVER in_order AS number,"
    " div(sum(size) OVER in_order - size, {bytes_max}) AS part"
    " FROM sized WINDOW in_order AS (ORDER BY _job, _record ROWS UNBOUNDED PRECEDING)),"
    " ends AS (SELECT *, lag(part) OVER in_order IS DISTINCT FROM part AS is_first,"
    " lead(part) OVER in_order IS DISTINCT FROM part AS is_last"
    " FROM placed WINDOW in_order AS (ORDER BY _job, _record))"
    " SELECT _job, _record, number, is_first, is_last FROM ends WHERE is_first OR is_last ORDER BY number"
)


class Place(NamedTuple):
    """Where a row comes in the order of its table: its job, as the position of the Received event, and its record."""

    job: int
    record: int


@dataclass(frozen=True)
class PlannedPart:
    """Which rows a part is made of. Numbers count from 1 in each partition."""

    number: int
    first: Place
    last: Place
    rows: int


class PartTooLargeError(ConflictError):
    """A part is larger than an object may be."""

    code = "part_too_large"


def plan_parts(session: Session, partition: Partition, bytes_max: int) -> list[PlannedPart]:
    """Divide the rows of a closed partition, in order, into parts of about `bytes_max` bytes of text.

    It gives the partition an index of that order, which each part is then read by. An empty one has no parts.

    Raises:
        ConflictError: two rows say that they are the same record of the same job.
    """
    cursor = cursor_of(session)
    _index(cursor, partition)
    size = sql.SQL(" + ").join(map(_size, partition.columns))
    cursor.execute(PLAN.format(size=size, table=partition.table, bytes_max=sql.Literal(bytes_max)))
    parts: list[PlannedPart] = []
    for job, record, number, is_first, is_last in cursor.fetchall():
        if is_first:
            first, before = Place(job, record), number - 1
        if is_last:
            parts.append(PlannedPart(len(parts) + 1, first, Place(job, record), number - before))
    return parts


def write_part(engine: Engine, partition: Partition, planned: PlannedPart, path: Path) -> TextFacts:
    """Write a part to a file of the spool folder, in the place of what is there.

    Raises:
        ConflictError: the rows are not as many as they were when they were planned.
        PartTooLargeError: an object could not hold it.
        SpoolError: the disk is full or broken.
    """
    aside = path.with_name(f"{path.name}.part")
    with TextWriter(aside) as part:
        rows = _copy(engine, partition, planned, part.write)
    written = part.facts()
    if written.bytes > OBJECT_BYTES_MAX:
        raise PartTooLargeError(
            f"A part takes more than {OBJECT_BYTES_MAX:,} bytes, which no object of the archive may.",
            "Set LEDGER_ARCHIVE_PART_BYTES lower, and plan the year again.",
        )
    check_text(aside, written)
    if rows != planned.rows:
        raise ConflictError(
            f"Part {planned.number} of {SCHEMA}.{partition.name} has {rows:,} rows, and was planned with"
            f" {planned.rows:,}: the rows of a closed year were changed.",
            "Find out who did it. Reopen the year and close it again if it is to be archived as it is now.",
        )
    with spooling(path):
        os.replace(aside, path)
        sync_folder(path.parent)
    return written


def _copy(engine: Engine, partition: Partition, planned: PlannedPart, sink: Sink) -> int:
    between = sql.SQL(" WHERE (_job, _record) BETWEEN ({}, {}) AND ({}, {})").format(
        *map(sql.Literal, (*planned.first, *planned.last))
    )
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with unavailable_as_error(), engine.connect().execution_options(**options) as connection, connection.begin():
        cursor = connection.connection.cursor()
        return copy_out(cursor, partition.table, partition.columns, sink, between)


def _size(column: TableColumn) -> sql.Composable:
    measure = SIZES.get(column.type.partition("(")[0], "pg_column_size({})")
    size = sql.SQL(measure).format(sql.Identifier(column.name))
    return sql.SQL("coalesce({}, 2) + {}").format(size, sql.Literal(COPIED_BYTES_OF_SEPARATOR))


def _index(cursor: Any, partition: Partition) -> None:
    cursor.execute("SELECT %s::regclass::oid", (f'{SCHEMA}."{partition.name}"',))
    name = sql.Identifier(f"rows_in_order_{cursor.fetchone()[0]}")
    try:
        cursor.execute(
            sql.SQL("CREATE UNIQUE INDEX IF NOT EXISTS {} ON {} (_job, _record)").format(name, partition.table)
        )
    except errors.UniqueViolation as error:
        raise ConflictError(
            f"Rows of {SCHEMA}.{partition.name} are there twice: {error.diag.message_detail}",
            "Build the table anew from the files that were received: `ledger rebuild TABLE`.",
        ) from error
