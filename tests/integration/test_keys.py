"""What a key keeps out is told, in proportion to the rows and not to their square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2 import sql
from sqlalchemy.orm import Session

from ledger.application import Ledger
from projections import keys

TABLE = sql.SQL("data.keyed")
ROWS = 300_000  # more than a hash of them that PostgreSQL holds in memory


@pytest.fixture
def cursor(ledger: Ledger) -> Iterator[Any]:
    """In a transaction with a keyed table of two partitions, which is undone."""
    with Session(ledger.engine) as session:
        cursor: Any = session.connection().connection.cursor()
        cursor.execute(
            "CREATE TABLE data.keyed (name bigint, half int, _record bigint) PARTITION BY LIST (half);"
            "CREATE TABLE data.keyed__0 PARTITION OF data.keyed FOR VALUES IN (0);"
            "CREATE TABLE data.keyed__1 PARTITION OF data.keyed FOR VALUES IN (1)"
        )
        for half in (0, 1):
            cursor.execute(keys.index(sql.SQL(f"data.keyed__{half}"), ["name"]))
        yield cursor
        session.rollback()


def stage(cursor: Any, rows: str) -> None:
    keys.staging(cursor, TABLE)
    cursor.execute(f"INSERT INTO pg_temp.ledger_staging {rows}")


def test_the_first_of_a_key_in_a_partition_is_loaded_and_the_others_are_told(cursor: Any) -> None:
    stage(cursor, "VALUES (1, 0, 4), (1, 0, 2), (1, 1, 3), (2, 0, 5), (2, 0, 9), (2, 0, 7)")
    assert keys.insert_staged(cursor, TABLE) == (Counter({"keyed__0": 2, "keyed__1": 1}), [4, 7, 9])
    stage(cursor, "VALUES (3, 1, 1), (1, 1, 2)")
    assert keys.insert_staged(cursor, TABLE) == (Counter({"keyed__1": 1}), [2])
    stage(cursor, "VALUES (3, 1, 1)")
    assert keys.insert_staged(cursor, TABLE) == (Counter(), [1])
    stage(cursor, "SELECT 1, 1, 1 WHERE false")
    assert keys.insert_staged(cursor, TABLE) == (Counter(), [])


def test_no_row_is_compared_with_every_other(cursor: Any) -> None:
    stage(cursor, f"SELECT number, 0, number FROM generate_series(1, {ROWS}) number")
    cursor.execute(sql.SQL("EXPLAIN ") + keys.insertion(TABLE))
    plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "SubPlan" not in plan
    assert "Nested Loop" not in plan
