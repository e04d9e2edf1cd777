"""Data tables: one per dataset in schema `data`, range-partitioned by fiscal year; beside it those being built anew.

Rules:
1. A row's fiscal year is decided by the contract's fiscal-date column, else by the day its file was received
   (`_received`). Its partition is made when the first row needs it.
2. Every row says where it came from: `_job`, the position of its job's Received event, and `_record`, its number
   in the file counted from 1. `COPY` fills both from column defaults, so the file's bytes go in untouched:
   `_job` from a setting of the transaction, `_record` from a sequence of the session (see `schema.sql`).
3. What is copied was checked before (`projections.checking`). Where records were taken out, the others carry their
   numbers before their first field.
4. Whoever changes rows of a dataset shares its table (`share_table`) before any other lock, until the transaction ends.
   So whoever holds it alone (`hold_table`) knows that rows and log agree, and stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

import psycopg2
from psycopg2 import errors, sql
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger.database import driver_cursor, lock, lock_shared
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.domain.values import ColumnType
from projections import keys
from projections.formats.dialect import Dialect

LIVE = "data"
RECEIVED = "_received"
COPY_READ_BYTES = 1 << 20
PARTITION_KEY = re.compile(r"\) = \((?P<value>.*)\)\.?$")


class Readable(Protocol):
    """What `COPY` reads from."""

    def read(self, size: int = -1) -> bytes | memoryview:
        """The next bytes, empty at the end."""


@dataclass(frozen=True)
class DataTable:
    """The table of a dataset under one version of its contract, in the schema of those that are read or of others."""

    dataset: str
    contract: Contract
    schema: str = LIVE

    @property
    def partition_column(self) -> str:
        """The column that decides a row's fiscal year."""
        return self.contract.fiscal_date_column or RECEIVED

    @property
    def name(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(self.schema, self.dataset)

    def partition_name(self, label: str) -> str:
        """`flights__fy2025_26`: the table that holds the fiscal year of that label."""
        return f"{self.dataset}__{label.lower().replace('-', '_')}"


class PartitionMissingError(Exception):
    """A row needs the partition of a fiscal year that is not there yet."""

    def __init__(self, value: str) -> None:
        super().__init__("no partition")
        self.value = value


@dataclass(frozen=True)
class CopiedRows:
    """How many rows one COPY brought, and the labels of the fiscal years that they fell in.

    `repeated` are the numbers of the records that were left out because another row has their key.
    """

    rows: int
    fiscal_years: list[str]
    repeated: list[int] = field(default_factory=list)


def share_table(session: Session, dataset: str) -> None:
    """Keep whoever wants to exchange a dataset's table from that, until the transaction ends."""
    lock_shared(session, f"table {dataset}")


def hold_table(session: Session, dataset: str) -> None:
    """Let nobody else change rows of a dataset, until the transaction ends."""
    lock(session, f"table {dataset}")


def create(session: Session, table: DataTable) -> None:
    """Make the table of a dataset, without partitions, unless it is there; then add the columns that it lacks."""
    if exists(session, table.schema, table.dataset):
        _add_columns(session, table)
        return
    columns = [_definition(column) for column in table.contract.columns]
    columns += [
        sql.SQL("_job bigint NOT NULL DEFAULT lineage.job()"),
        sql.SQL("_record bigint NOT NULL DEFAULT nextval(lineage.record_sequence())"),
    ]
    if table.partition_column == RECEIVED:
        columns.append(sql.SQL("_received date NOT NULL DEFAULT lineage.received()"))
    with driver_cursor(session) as cursor:
        cursor.execute(
            sql.SQL("CREATE TABLE {} ({}) PARTITION BY RANGE ({})").format(
                table.name, sql.SQL(", ").join(columns), sql.Identifier(table.partition_column)
            )
        )
        cursor.execute(sql.SQL("CREATE INDEX ON {} USING brin (_job)").format(table.name))


def _add_columns(session: Session, table: DataTable) -> None:
    there = session.execute(
        text("SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0"),
        {"name": f'{table.schema}."{table.dataset}"'},
    )
    known = set(there.scalars())
    lacking = [column for column in table.contract.columns if column.name not in known]
    if lacking:
        added = sql.SQL(", ").join(sql.SQL("ADD COLUMN {}").format(_definition(column)) for column in lacking)
        with driver_cursor(session) as cursor:
            cursor.execute(sql.SQL("ALTER TABLE {} {}").format(table.name, added))


def _definition(column: Column) -> sql.Composable:
    return sql.SQL("{} {}{}").format(
        sql.Identifier(column.name), sql.SQL(column.type.value), sql.SQL("" if column.nullable else " NOT NULL")
    )


def add_partition(engine: Engine, table: DataTable, calendar: FiscalCalendar, year: Year) -> None:
    """Make the partition of a fiscal year, unless it is there. In its own transaction.

    ATTACH takes a lock that goes with running loads, where CREATE ... PARTITION OF would wait for all of them.
    """
    name = table.partition_name(year.label)
    partition = sql.Identifier(table.schema, name)
    with Session(engine) as session, session.begin():
        if table.schema == LIVE:
            share_table(session, table.dataset)
        lock(session, f"partition {table.schema}.{name}")
        if exists(session, table.schema, name):
            return
        start, end = _bounds(table, calendar, year)
        with driver_cursor(session) as cursor:
            cursor.execute(
                sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)").format(
                    partition, table.name
                )
            )
            cursor.execute(
                sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (%s) TO (%s)").format(
                    table.name, partition
                ),
                (start, end),
            )
            if table.contract.key:
                cursor.execute(keys.index(partition, table.contract.key))


def year_of_value(table: DataTable, calendar: FiscalCalendar, value: str) -> Year:
    """The fiscal year of a partition key as PostgreSQL prints it (ISO, in UTC).

    Raises:
        ValueError: the value is null, or no day that the calendar knows.
    """
    if _column_type(table) is ColumnType.TIMESTAMPTZ:
        return calendar.of_instant(datetime.fromisoformat(value))
    return calendar.of_day(date.fromisoformat(value[:10]))


def copy_rows(
    session: Session,
    table: DataTable,
    source: Readable,
    *,
    dialect: Dialect,
    columns: Sequence[str],
    null_token: str,
    job: int,
    first_record: int | None,
    received: date,
) -> CopiedRows:
    """Copy the records of `source` into the table, in the session's transaction.

    Args:
        columns: those that `source` has, in its order.
        null_token: what no value is written as.
        job: the position of the job's Received event.
        first_record: the number of the first record of `source`; None if each has its own before its first field.
        received: the day the file was received.

    Raises:
        PartitionMissingError: add the partition, then start the transaction again.
        psycopg2.Error: see `is_about_the_file`.
    """
    with driver_cursor(session) as cursor:
        cursor.execute("CREATE TEMPORARY SEQUENCE IF NOT EXISTS ledger_record CACHE 1000")
        cursor.execute(
            "SELECT setval('pg_temp.ledger_record', %(first_record)s, false), set_config('ledger.job', %(job)s, true),"
            " set_config('ledger.received', %(received)s, true),"
            " set_config('ledger.record_sequence', 'pg_temp.ledger_record'::regclass::oid::text, true),"
            " set_config('DateStyle', 'ISO, YMD', true), set_config('TimeZone', 'UTC', true)",
            {"first_record": first_record or 1, "job": str(job), "received": received.isoformat()},
        )
        fields = columns if first_record is not None else ["_record", *columns]
        target = keys.staging(cursor, table.name) if table.contract.key else table.name
        statement = _copy_statement(cursor, target, dialect, fields, null_token)
        before = _rows_by_partition(cursor, table)
        repeated: list[int] = []
        try:
            cursor.copy_expert(statement, source, size=COPY_READ_BYTES)
            rows = int(cursor.rowcount)
            if table.contract.key:
                touched, repeated = keys.insert_staged(cursor, table.name)
            else:
                touched = _rows_by_partition(cursor, table) - before
        except errors.CheckViolation as error:
            key = PARTITION_KEY.search(error.diag.message_detail or "")
            if key is not None and "no partition" in str(error):
                raise PartitionMissingError(key["value"]) from error
            raise
    rows -= len(repeated)
    assert touched.total() == rows, f"COPY says {rows} rows, the partitions {touched}"
    return CopiedRows(rows, sorted(_label(table, name) for name in touched), repeated)


def withdraw(session: Session, dataset: str, job: int, schema: str = LIVE) -> int:
    """Take a job's rows out of its dataset's table, which the transaction shares; how many there were."""
    if not exists(session, schema, dataset):
        return 0
    with driver_cursor(session) as cursor:
        cursor.execute(sql.SQL("DELETE FROM {} WHERE _job = %s").format(sql.Identifier(schema, dataset)), (job,))
        return int(cursor.rowcount)


def is_about_the_file(error: psycopg2.Error) -> bool:
    """Whether PostgreSQL refused the data (classes 22, 23 and 54), and not the circumstances."""
    return (error.pgcode or "")[:2] in ("22", "23", "54")


def exists(session: Session, schema: str, name: str) -> bool:
    """Whether there is a table of that name."""
    found = session.execute(text("SELECT to_regclass(:name)"), {"name": f'{schema}."{name}"'}).scalar()
    return found is not None


def _copy_statement(
    cursor: Any, target: sql.Composable, dialect: Dialect, columns: Sequence[str], null_token: str
) -> str:
    options: list[sql.Composable] = [sql.SQL("FORMAT csv"), sql.SQL("ENCODING 'UTF8'")]
    options += [_option("DELIMITER", dialect.delimiter), _option("QUOTE", dialect.quote)]
    if dialect.quoting:
        options.append(_option("NULL", null_token))
    else:  # an empty line of plain text is a record with an empty text
        options.append(sql.SQL("FORCE_NOT_NULL ({})").format(sql.Identifier(columns[-1])))
    statement = sql.SQL("COPY {} ({}) FROM STDIN ({})").format(
        target, sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(options)
    )
    return str(statement.as_string(cursor))


def _option(name: str, value: str) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.SQL(name), sql.Literal(value))


def _rows_by_partition(cursor: Any, table: DataTable) -> Counter[str]:
    # PostgreSQL counts what this session inserted anyway: asking it costs nothing per row.
    cursor.execute(
        "SELECT c.relname, pg_stat_get_xact_tuples_inserted(c.oid) FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
        (f'{table.schema}."{table.dataset}"',),
    )
    return Counter({name: int(count or 0) for name, count in cursor.fetchall()})


def _label(table: DataTable, partition: str) -> str:
    return partition.removeprefix(f"{table.dataset}__").upper().replace("_", "-")


def _column_type(table: DataTable) -> ColumnType:
    if table.partition_column == RECEIVED:
        return ColumnType.DATE
    column: Column = next(c for c in table.contract.columns if c.name == table.partition_column)
    return column.type


def _bounds(table: DataTable, calendar: FiscalCalendar, year: Year) -> tuple[Any, Any]:
    if _column_type(table) is ColumnType.TIMESTAMPTZ:
        return calendar.bounds_of_instants(year)
    return year.start, year.end
