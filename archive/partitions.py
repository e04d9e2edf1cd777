"""Partitions: which tables hold the rows of a fiscal year, and what these tables are.

Rules:
1. PostgreSQL's catalogue decides, by the bounds of a partition and not by its name. A partition that holds some days of
   a year and not just all of them is refused: its rows could neither be left nor taken.
2. What is archived of a table is its columns: names, types, which may be null, and collations. Not its defaults, which
   are about loading, nor its indexes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.errors import ConflictError

SCHEMA = "data"
DEFAULT = "DEFAULT"
BOUNDS = re.compile(r"FOR VALUES FROM \('([^']+)'\) TO \('([^']+)'\)")
TABLES = (
    "SELECT parent.oid, parent.relname AS dataset, partnatts AS columns, format_type(atttypid, NULL) AS type"
    " FROM pg_partitioned_table JOIN pg_class parent ON parent.oid = partrelid"
    " LEFT JOIN pg_attribute ON attrelid = parent.oid AND attnum = partattrs[0]"
    " WHERE relnamespace = to_regnamespace(:schema) AND NOT relispartition ORDER BY 2"
)
LEAVES = (
    "SELECT leaf.oid, leaf.relname AS name, pg_get_expr(relpartbound, leaf.oid) AS bounds,"
    " pg_table_size(leaf.oid) AS bytes"
    " FROM pg_inherits JOIN pg_class leaf ON leaf.oid = inhrelid WHERE inhparent = :parent ORDER BY 2"
)
COLUMNS = (
    "SELECT attname AS name, format_type(atttypid, atttypmod) AS type, NOT attnotnull AS nullable,"
    " CASE WHEN attcollation <> typcollation THEN format('%I.%I', nspname, collname) END AS collation"
    " FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
    " LEFT JOIN pg_collation ON pg_collation.oid = attcollation"
    " LEFT JOIN pg_namespace ON pg_namespace.oid = collnamespace"
    " WHERE attrelid = :table AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)


@dataclass(frozen=True)
class TableColumn:
    """A column as it is archived. `type` has its precision; `collation` is None for the one that the type has."""

    name: str
    type: str
    nullable: bool
    collation: str | None = None


@dataclass(frozen=True)
class Partition:
    """The rows of one dataset in one fiscal year: the table that they stand in, and the bounds that it was given.

    `bytes_on_disk` is about what the rows take as text.
    """

    dataset: str
    name: str
    bounds: str
    columns: tuple[TableColumn, ...]
    bytes_on_disk: int

    @property
    def table(self) -> sql.Identifier:
        """The table's quoted name."""
        return sql.Identifier(SCHEMA, self.name)

    @property
    def parent(self) -> sql.Identifier:
        """The quoted name of the dataset's table."""
        return sql.Identifier(SCHEMA, self.dataset)

    def ddl(self) -> str:
        """The statement that makes an equal table of the dataset's name, in whatever schema comes first in the path."""
        return ddl_of(self.dataset, self.columns)


class BoundsError(ConflictError):
    """A table is not divided into the fiscal years of the calendar."""

    code = "partition_bounds"


def partitions_of(session: Session, calendar: FiscalCalendar, year: Year) -> list[Partition]:
    """The partitions of a fiscal year, at most one for each dataset, by the dataset's name.

    Raises:
        BoundsError: a table has a partition for a part of the year, or for more than it.
    """
    session.execute(text("SET LOCAL TimeZone = 'UTC'"))
    session.execute(text("SET LOCAL DateStyle = 'ISO, YMD'"))
    return [
        Partition(table.dataset, leaf.name, leaf.bounds, columns_of(session, leaf.oid), leaf.bytes)
        for table in rows(session, TABLES, schema=SCHEMA)
        for leaf in rows(session, LEAVES, parent=table.oid)
        if _is_of(table, leaf, calendar, year)
    ]


def other_partitions(session: Session, partition: Partition) -> list[sql.Identifier]:
    """The quoted names of the dataset's other partitions."""
    [table] = [each for each in rows(session, TABLES, schema=SCHEMA) if each.dataset == partition.dataset]
    leaves = rows(session, LEAVES, parent=table.oid)
    return [sql.Identifier(SCHEMA, leaf.name) for leaf in leaves if leaf.name != partition.name]


def years_with_partitions(session: Session, calendar: FiscalCalendar) -> set[str]:
    """The labels of the fiscal years that a partition of a dataset begins in."""
    session.execute(text("SET LOCAL TimeZone = 'UTC'"))
    session.execute(text("SET LOCAL DateStyle = 'ISO, YMD'"))
    found = [
        datetime.fromisoformat(bounds[1])
        for table in rows(session, TABLES, schema=SCHEMA)
        for leaf in rows(session, LEAVES, parent=table.oid)
        if (bounds := BOUNDS.fullmatch(leaf.bounds))
    ]
    return {
        (calendar.of_day(first.date()) if first.tzinfo is None else calendar.of_instant(first)).label for first in found
    }


def columns_of(session: Session, table: int) -> tuple[TableColumn, ...]:
    """The columns of a table, which is given by its oid, in their order."""
    return tuple(TableColumn(**row._mapping) for row in rows(session, COLUMNS, table=table))


def tables_of_datasets(session: Session) -> list[tuple[str, str]]:
    """The datasets that have a table, each with the type of the column that decides a row's year."""
    return [(table.dataset, table.type) for table in rows(session, TABLES, schema=SCHEMA)]


def name_of(dataset: str, year: Year) -> str:
    """`flights__fy2025_26`: how the table is called that holds a dataset's rows of a fiscal year."""
    return f"{dataset}__{identifier_of(year)}"


def identifier_of(year: Year) -> str:
    """`fy2025_26`: a year's label as a part of names in PostgreSQL."""
    return year.label.lower().replace("-", "_")


def bounds_of(calendar: FiscalCalendar, year: Year, kind: str) -> tuple[date, date]:
    """The first value of a year, and the first after it, of a column of this type."""
    if kind == "timestamp with time zone":
        return calendar.bounds_of_instants(year)
    return year.start, year.end


def column_list(columns: tuple[TableColumn, ...]) -> sql.Composed:
    """The columns' quoted names, with commas between."""
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)


def ddl_of(dataset: str, columns: tuple[TableColumn, ...]) -> str:
    """The statement that makes a table of these columns."""
    lines = [
        f"    {_quoted(column.name)} {column.type}"
        + (f" COLLATE {column.collation}" if column.collation else "")
        + ("" if column.nullable else " NOT NULL")
        for column in columns
    ]
    return f"CREATE TABLE {_quoted(dataset)} (\n" + ",\n".join(lines) + "\n);\n"


def cursor_of(session: Session) -> Any:
    """A cursor of the driver in the session's transaction, for what SQLAlchemy has no words for."""
    return session.connection().connection.cursor()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_of(table: Any, leaf: Any, calendar: FiscalCalendar, year: Year) -> bool:
    if leaf.bounds == DEFAULT:
        return False  # `preflight` refuses it
    found = BOUNDS.fullmatch(leaf.bounds)
    if found is None or table.columns != 1:
        raise _misfit(table, leaf, year)
    try:
        start, end = (_day_or_instant(table.type, value) for value in found.groups())
    except ValueError:  # no day of a calendar: before Christ, or at the end of time
        raise _misfit(table, leaf, year) from None
    first, after = bounds_of(calendar, year, table.type)
    if table.type == "timestamp without time zone":
        first, after = (datetime(day.year, day.month, day.day) for day in (first, after))
    if (start, end) == (first, after):
        return True
    if start < after and first < end:
        raise _misfit(table, leaf, year)
    return False


def _day_or_instant(kind: str, value: str) -> date:
    return date.fromisoformat(value) if kind == "date" else datetime.fromisoformat(value)


def _misfit(table: Any, leaf: Any, year: Year) -> BoundsError:
    return BoundsError(
        f"The partition {SCHEMA}.{leaf.name} of {table.dataset!r} is made {leaf.bounds}, which is neither all of"
        f" {year.label} ({year.start} up to {year.end}) nor outside of it.",
        "Divide the table as the calendar does: make it anew with `ledger rebuild`, or move the rows by hand.",
    )
