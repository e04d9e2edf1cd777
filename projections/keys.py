"""Keys: no two rows of a dataset in one fiscal year have the same.

Rules:
1. A unique index of each partition says so, whoever loads meanwhile: there is no look before the leap.
2. Rows with a key go into a table of the session first, and from there, in the order of their records, into the
   partitions. What a key refuses is left out, and told by its record. That costs in proportion to the rows, however
   many are refused.
"""

from __future__ import annotations

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


def insert_staged(cursor: Any, table: sql.Composable) -> list[int]:
    """Put the staged rows into the table; the records that another row's key keeps out, in order."""
    cursor.execute(
        sql.SQL(
            "WITH loaded AS (INSERT INTO {table} SELECT * FROM {staging} ORDER BY _record"
            " ON CONFLICT DO NOTHING RETURNING _record)"
            " SELECT _record FROM {staging} WHERE _record NOT IN (SELECT _record FROM loaded) ORDER BY 1"
        ).format(table=table, staging=STAGING)
    )
    return [int(record) for (record,) in cursor.fetchall()]
