"""Comparing the live table of a dataset with one that was built anew: by job and partition, to the number of a record.

Rules:
1. A row's digest is the SHA-256 of its columns in the contract's order, its record's number and its day of receipt, as
   PostgreSQL sends a row of them in its binary form. The digest of a set of rows is the sum of theirs modulo 2**256: it
   does not depend on order, and what jobs come to adds up to the whole.
2. What differs is told by job, partition and records, never by values: a finding is kept in an event.
3. Jobs whose rows changed while a comparison went on are compared again, alone, while nothing changes. So the long part
   of it holds nobody up, and in the end all is compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import driver_cursor
from ledger.domain.reconciliation import digest_text
from projections.data_tables import RECEIVED, DataTable, exists
from projections.views import DIFFERENCES_TOLD_MAX, Comparison

RECORDS_TOLD_MAX = 10
SUMMED_ROWS = 10_000
# Rows of job, partition and digest in the binary form of COPY, see https://www.postgresql.org/docs/current/sql-copy.html
HEADER_BYTES = 19
WORDS = 8
ROW = numpy.dtype(
    [
        ("fields", ">i2"),
        ("job_bytes", ">i4"),
        ("job", ">i8"),
        ("partition_bytes", ">i4"),
        ("partition", ">u4"),
        ("digest_bytes", ">i4"),
        ("digest", ">u4", WORDS),
    ]
)


class Place(NamedTuple):
    """Rows of one job (the position of its Received event) in one partition."""

    job: int
    partition: str


@dataclass(frozen=True)
class Content:
    """How many rows, and their digest as a number."""

    rows: int
    digest: int


NO_ROWS = Content(0, 0)
Contents = dict[Place, Content]


class TableComparison:
    """Compares two tables. What it keeps grows with the number of jobs: about 300 bytes for each."""

    def __init__(self) -> None:
        self._live_contents: Contents = {}
        self._built_contents: Contents = {}
        self._told: dict[int, dict[str, Any]] = {}

    def compare(self, session: Session, live: DataTable, built: DataTable, jobs: Collection[int] | None = None) -> None:
        """Read both tables as the session sees them: all of them, or again what these jobs have in them."""
        self._live, self._built = live, built
        self._told = {} if jobs is None else {job: told for job, told in self._told.items() if job not in jobs}
        for table, known in ((self._live, self._live_contents), (self._built, self._built_contents)):
            if jobs is not None:
                for place in [place for place in known if place.job in jobs]:
                    del known[place]
            known.update(_contents(session, table, self._built, jobs))

    def result(self, session: Session) -> Comparison:
        """What it came to. The session says which records differ, as it sees them; that is kept like the rest."""
        different: dict[int, list[Place]] = defaultdict(list)
        for place in sorted(self._live_contents.keys() | self._built_contents.keys()):
            if self._live_contents.get(place) != self._built_contents.get(place):
                different[place.job].append(place)
        first = sorted(different)[:DIFFERENCES_TOLD_MAX]
        self._told = {job: self._told.get(job) or self._tell(session, job, different[job]) for job in first}
        return Comparison(
            equal=not different,
            digest=_whole(self._built_contents),
            digest_before=_whole(self._live_contents),
            differences=list(self._told.values()),
            differences_total=len(different),
        )

    @property
    def rows(self) -> int:
        """How many rows the built table has."""
        return sum(content.rows for content in self._built_contents.values())

    def _tell(self, session: Session, job: int, places: list[Place]) -> dict[str, Any]:
        job_id = session.execute(
            text("SELECT job_id FROM ledger.arrivals WHERE position = :position"), {"position": job}
        ).scalar()
        missing, unknown, changed = _records(session, self._live, self._built, job)
        return {
            "job_id": None if job_id is None else str(job_id),
            "job_position": job,
            "partitions": {
                place.partition: {
                    "rows": self._live_contents.get(place, NO_ROWS).rows,
                    "rows_in_log": self._built_contents.get(place, NO_ROWS).rows,
                }
                for place in places
            },
            "records_missing": missing,
            "records_unknown": unknown,
            "records_changed": changed,
        }


def _whole(contents: Mapping[Place, Content]) -> str:
    return digest_text(sum(content.digest for content in contents.values()))


def _contents(
    session: Session, table: DataTable, shape: DataTable, jobs: Collection[int] | None
) -> Iterator[tuple[Place, Content]]:
    if not exists(session, table.schema, table.dataset):
        return
    cursor = driver_cursor(session)
    query = sql.SQL("SELECT _job, partition, digest FROM ({}) AS r").format(_rows(session, table, shape, jobs))
    sums = _Sums()
    cursor.copy_expert(sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query).as_string(cursor), sums)
    sums.add()
    cursor.execute(
        "SELECT oid::bigint, relname FROM pg_class WHERE oid = ANY(%s::bigint[]::oid[])", (sums.partitions(),)
    )
    names = dict(cursor.fetchall())
    for (job, partition), (rows, digest) in sums.found.items():
        yield Place(job, names[partition]), Content(rows, digest)


class _Sums:
    """Takes what COPY gives, and adds it up by job and partition."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], tuple[int, int]] = {}
        self._pieces: list[bytes] = []
        self._skipped = HEADER_BYTES

    def partitions(self) -> list[int]:
        """The partitions that rows stand in."""
        return sorted({partition for _, partition in self.found})

    def write(self, data: bytes) -> int:
        """Take the next bytes."""
        self._pieces.append(bytes(data))
        if len(self._pieces) >= SUMMED_ROWS:
            self.add()
        return len(data)

    def add(self) -> None:
        """Add up what was taken; what is left over is the beginning of a row, or the end of all."""
        data = b"".join(self._pieces)
        start, self._skipped = self._skipped, 0
        rows = numpy.frombuffer(data, ROW, max(0, len(data) - start) // ROW.itemsize, start)
        self._pieces = [data[start + len(rows) * ROW.itemsize :]]
        if not len(rows):
            return
        places, where = numpy.unique(rows[["job", "partition"]], return_inverse=True)
        order = numpy.argsort(where, kind="stable")
        starts = numpy.searchsorted(where[order], numpy.arange(len(places)))
        words = numpy.add.reduceat(rows["digest"][order].astype(numpy.uint64), starts, axis=0)
        counts = numpy.diff(numpy.append(starts, len(rows)))
        for place, count, sums in zip(places.tolist(), counts.tolist(), words.tolist(), strict=True):
            known_rows, known_digest = self.found.get(place, (0, 0))
            digest = sum(total << 32 * (WORDS - 1 - number) for number, total in enumerate(sums))
            self.found[place] = known_rows + count, known_digest + digest


def _records(session: Session, live: DataTable, built: DataTable, job: int) -> tuple[list[int], list[int], list[int]]:
    """The first records of a job that the live table lacks, that only it has, and that it has otherwise."""
    sides = [table for table in (live, built) if exists(session, table.schema, table.dataset)]
    found: dict[str, set[int]] = {live.schema: set(), built.schema: set()}
    for table in sides:
        other = built if table is live else live
        without = (
            sql.SQL(" EXCEPT ALL SELECT _record, digest FROM ({}) AS o").format(_rows(session, other, built, [job]))
            if other in sides
            else sql.SQL("")
        )
        statement = sql.SQL("SELECT _record FROM (SELECT _record, digest FROM ({}) AS r{}) AS d ORDER BY 1 LIMIT {}")
        cursor = driver_cursor(session)
        cursor.execute(
            statement.format(_rows(session, table, built, [job]), without, sql.Literal(2 * RECORDS_TOLD_MAX))
        )
        found[table.schema] = {int(record) for (record,) in cursor.fetchall()}
    only_live, only_built = found[live.schema], found[built.schema]
    parts = (only_built - only_live, only_live - only_built, only_live & only_built)
    missing, unknown, changed = (sorted(part)[:RECORDS_TOLD_MAX] for part in parts)
    return missing, unknown, changed


def _rows(session: Session, table: DataTable, shape: DataTable, jobs: Collection[int] | None) -> sql.Composable:
    """A query of a table's rows: job, record, partition and digest."""
    known = set(
        session.execute(
            text("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0"),
            {"name": f'{table.schema}."{table.dataset}"'},
        ).scalars()
    )
    columns: list[sql.Composable] = [
        sql.Identifier(column.name)
        if column.name in known
        else sql.SQL("NULL::{}").format(sql.SQL(column.type.value))  # it has no file yet with that column
        for column in shape.contract.columns
    ]
    columns.append(sql.Identifier("_record"))
    if shape.partition_column == RECEIVED:
        columns.append(sql.Identifier(RECEIVED))
    # No parameters: the name of a column may hold a percent sign.
    where = sql.SQL("" if jobs is None else " WHERE _job = ANY({}::bigint[])").format(sql.Literal(sorted(jobs or ())))
    return sql.SQL(
        "SELECT _job, _record, tableoid AS partition, sha256(record_send(ROW({}))) AS digest FROM {}{}"
    ).format(sql.SQL(", ").join(columns), table.name, where)
