"""What the rows of a table come to, job by job: their number, their digest and their control totals.

It is computed from the values that stand in the table, by the same rules by which events tell of the records of a file
(`ledger.row_sets`): whoever gets the same has the same values. PostgreSQL sends the rows as CSV, ordered by job; they
are counted as they come, so that what is kept in memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy
import pyarrow
import pyarrow.csv
from psycopg2 import sql
from sqlalchemy.orm import Session

from ledger.domain.column import Column
from ledger.domain.reconciliation import DIGEST_BITS, add_totals
from ledger.row_sets import canonical, control_totals, row_set_digest

BLOCK_BYTES = 4 << 20  # of text, of which several forms are in memory at once


@dataclass(frozen=True)
class HeldRows:
    """What rows come to. `totals` are those of `ColumnTotals.to_dict` by column."""

    rows: int
    digest: int
    totals: dict[str, dict[str, Any]]

    def __add__(self, other: HeldRows) -> HeldRows:
        return HeldRows(
            self.rows + other.rows,
            (self.digest + other.digest) % (1 << DIGEST_BITS),
            add_totals([self.totals, other.totals]),
        )


NO_ROWS = HeldRows(0, 0, {})


def held_rows(
    session: Session,
    table: sql.Composable,
    columns_of: Callable[[int], Sequence[Column]],
    tell: Callable[[int, HeldRows], None],
    jobs: Sequence[int] | None = None,
) -> None:
    """Tell of each job (by the position of its Received event) what its rows come to; of all jobs, or of some.

    Args:
        columns_of: the columns that the contract of a job had.
    """
    cursor: Any = session.connection().connection.cursor()
    with cursor:
        names = _columns(cursor, table)
        rows = _Rows(names, columns_of, tell)
        cursor.execute("SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL TimeZone = 'UTC'")
        statement = _statement(table, names, jobs).as_string(cursor)
        cursor.copy_expert(statement, rows)
        rows.close()


class _Rows:
    """Takes rows of CSV, one at a time, ordered by job, and counts them some megabytes at a time."""

    def __init__(
        self, names: list[str], columns_of: Callable[[int], Sequence[Column]], tell: Callable[[int, HeldRows], None]
    ) -> None:
        self._names = names
        self._columns_of = columns_of
        self._tell = tell
        self._text = bytearray()
        self._job: int | None = None
        self._found = NO_ROWS

    def write(self, row: bytes) -> int:
        """Take a row: the driver writes each by itself."""
        self._text += row
        if len(self._text) >= BLOCK_BYTES:
            self._count()
        return len(row)

    def close(self) -> None:
        """Count what is left, and tell of the last job."""
        if self._text:
            self._count()
        if self._job is not None:
            self._tell(self._job, self._found)

    def _count(self) -> None:
        for job, rows in _by_job(_parsed(self._text, self._names)):
            if job != self._job:
                if self._job is not None:
                    self._tell(self._job, self._found)
                self._job, self._found = job, NO_ROWS
            self._found += _come_to(rows, self._columns_of(job))
        self._text = bytearray()


def _columns(cursor: Any, table: sql.Composable) -> list[str]:
    cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table))
    return [column.name for column in cursor.description]


def _statement(table: sql.Composable, names: list[str], jobs: Sequence[int] | None) -> sql.Composed:
    """As texts, which PostgreSQL writes in the same way whatever the format of COPY."""
    fields = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)
    chosen = sql.SQL("") if jobs is None else sql.SQL("WHERE _job = ANY({})").format(sql.Literal(list(jobs)))
    return sql.SQL("COPY (SELECT {} FROM {} {} ORDER BY _job) TO STDOUT (FORMAT csv, FORCE_QUOTE *)").format(
        fields, table, chosen
    )


def _parsed(text: bytearray, names: list[str]) -> pyarrow.Table:
    """Every value is quoted but NULL."""
    return pyarrow.csv.read_csv(
        pyarrow.BufferReader(text),
        pyarrow.csv.ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=False),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pyarrow.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


def _by_job(rows: pyarrow.Table) -> Iterator[tuple[int, pyarrow.Table]]:
    numbers = rows["_job"].cast(pyarrow.int64()).to_numpy()
    starts = [0, *(numpy.flatnonzero(numpy.diff(numbers)) + 1)]
    for start, end in pairwise([*starts, len(numbers)]):
        yield int(numbers[start]), rows.slice(start, end - start)


def _come_to(rows: pyarrow.Table, columns: Sequence[Column]) -> HeldRows:
    forms = {column.name: canonical(column, rows[column.name]) for column in columns}
    totals = control_totals(columns, forms)
    digest = row_set_digest(forms[column.name] for column in columns)
    return HeldRows(rows.num_rows, digest, {name: each.to_dict() for name, each in totals.items()})
