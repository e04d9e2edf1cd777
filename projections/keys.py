"""Keys: no two rows of a dataset in one fiscal year have the same.

Rules:
1. A unique index of each partition says so, whoever loads meanwhile: there is no look before the leap.
2. Rows with a key go into a table of the session first, and from there, in the order of their records, into the
   partitions. What a key refuses is left out, and told by its record. That costs in proportion to the rows, however
   many are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

STAGING = sql.Identifier("pg_temp", "ledger_staging")


def index(partition: sql.Composable, key: Sequence[str]) -> sql.Composed:
    """The statement that makes a partition's unique index."""
    return sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(partition, sql.SQL(", ").join(map(sql.Identifier, key)))


def staging(cursor: Any, table: sql.Composable) -> sql.Composable:
    """Make the empty table that rows of `table` go into first."""
    cursor.execute("DROP TABLE IF EXISTS pg_temp.ledger_staging")
    cursor.execute(
        sql.SQL("CREATE TEMPORARY TABLE ledger_staging (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP").format(table)
    )
    return STAGING


def insert_staged(cursor: Any, table: sql.Composable) -> tuple[Counter[str], list[int]]:
    """Put the staged rows into the table.

    Returns:
        How many rows each partition got, and the records that another row's key keeps out, in order.
    """
    cursor.execute(insertion(table))
    found = cursor.fetchall()
    repeated: list[int] = next((records for partition, _, records in found if partition is None), [])
    return Counter({partition: int(count) for partition, count, _ in found if partition is not None}), repeated


def insertion(table: sql.Composable) -> sql.Composed:
    """The statement that inserts, and answers with partitions, their counts, and the records that went nowhere.

    By joins, which PostgreSQL does by sorting what its memory does not hold: with NOT IN it would compare every record
    with every other.
    """
    return sql.SQL(
        "WITH loaded AS (INSERT INTO {table} SELECT * FROM {staging} ORDER BY _record"
        " ON CONFLICT DO NOTHING RETURNING _record, tableoid)"
        " SELECT c.relname, count(*), array_agg(s._record ORDER BY s._record) FILTER (WHERE c.oid IS NULL)"
        " FROM {staging} s LEFT JOIN loaded l USING (_record) LEFT JOIN pg_class c ON c.oid = l.tableoid"
        " GROUP BY c.relname"
    ).format(table=table, staging=STAGING)
