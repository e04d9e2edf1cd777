"""The rows of a closed year come to a rest, and go only if they are what they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from archive import fence
from archive.fence import YEAR_CLOSED, ContentChangedError, TableInUseError
from archive.partitions import BoundsError, partitions_of
from ledger.application import Ledger
from ledger.errors import ConflictError
from projections.data_tables import DataTable, add_partition
from tests.integration.fiscal_tables import CALENDAR, NEXT_YEAR, ROWS, YEAR, FiscalTables
from tests.integration.place import CONTRACT, wait_until

CHANGES = {
    "insert": "INSERT INTO data.{0} (day, _job, _record) VALUES ('2025-05-01', 9, 9)",
    "insert into the partition": "INSERT INTO data.{0}__fy2025_26 (day, _job, _record) VALUES ('2025-05-01', 9, 9)",
    "update": "UPDATE data.{0} SET amount = 0 WHERE day = '2025-05-01'",
    "update that moves rows in": "UPDATE data.{0} SET day = '2025-05-01' WHERE day = '2026-05-01'",
    "update that moves rows out": "UPDATE data.{0} SET day = '2026-05-01' WHERE day = '2025-05-01'",
    "delete": "DELETE FROM data.{0} WHERE day = '2025-05-01'",
    "delete of everything": "DELETE FROM data.{0}",
    "truncate": "TRUNCATE data.{0}",
    "truncate of the partition": "TRUNCATE data.{0}__fy2025_26",
    "merge": "MERGE INTO data.{0} t USING (SELECT date '2025-05-01' AS day) s ON t.day = s.day"
    " WHEN MATCHED THEN UPDATE SET amount = 0",
}


@pytest.fixture
def tables(ledger: Ledger) -> FiscalTables:
    tables = FiscalTables(ledger)
    tables.clear()
    tables.make("payments")
    tables.make("refunds")
    return tables


@pytest.fixture
def reader(ledger: Ledger) -> Iterator[Session]:
    with Session(ledger.engine) as session:
        yield session
        session.rollback()


def refused(tables: FiscalTables, statement: str) -> psycopg2.Error:
    with pytest.raises(psycopg2.Error) as caught:
        tables.do(statement)
    return caught.value


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_of_a_closed_year_is_refused_with_the_year(tables: FiscalTables, statement: str) -> None:
    closed = tables.close()
    error = refused(tables, statement.format("payments"))
    assert error.pgcode == YEAR_CLOSED
    assert error.diag.message_detail == YEAR.label
    assert YEAR.label in str(error) and "closed" in str(error)
    assert tables.close() == closed


def test_a_copy_into_a_closed_year_is_refused(tables: FiscalTables) -> None:
    tables.close()
    with tables.ledger.transaction() as session, pytest.raises(psycopg2.Error) as caught:
        cursor = session.connection().connection.cursor()
        cursor.copy_expert("COPY data.payments (day, _job, _record) FROM STDIN", _Lines(b"2025-05-01\t9\t9\n"))
    assert caught.value.pgcode == YEAR_CLOSED


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES.keys())
def test_a_role_that_ordinary_triggers_do_not_stop_is_refused_as_well(tables: FiscalTables, statement: str) -> None:
    tables.close()
    with pytest.raises(DBAPIError) as caught, tables.owner() as session:
        session.execute(text(statement.format("payments")))
    assert caught.value.orig is not None and caught.value.orig.pgcode == YEAR_CLOSED  # type: ignore[attr-defined]


def test_the_open_year_goes_on_as_before(tables: FiscalTables) -> None:
    tables.close()
    tables.do("INSERT INTO data.payments (day, amount, _job, _record) VALUES ('2026-05-01', 1, 9, 9)")
    tables.do(
        "UPDATE data.payments SET amount = 2 WHERE _job = 9", "DELETE FROM data.payments WHERE day >= '2026-04-01'"
    )


def test_closing_tells_what_there_is_and_the_same_when_it_is_done_again(tables: FiscalTables) -> None:
    closed = tables.close()
    assert [(each.partition.dataset, each.fingerprint.rows) for each in closed] == [
        ("payments", ROWS),
        ("refunds", ROWS),
    ]
    assert tables.close() == closed


def test_a_dataset_without_rows_of_the_year_is_closed_as_well(tables: FiscalTables) -> None:
    tables.do("DROP TABLE data.refunds__fy2025_26")
    closed = {each.partition.dataset: each.fingerprint.rows for each in tables.close()}
    assert closed == {"payments": ROWS, "refunds": 0}
    table = DataTable("refunds", CONTRACT)
    add_partition(tables.ledger.engine, table, CALENDAR, YEAR)  # as somebody does who loads a row of it
    assert refused(tables, CHANGES["insert"].format("refunds")).pgcode == YEAR_CLOSED


def test_a_year_of_instants_is_closed_by_its_first_and_last_instant(ledger: Ledger) -> None:
    tables = FiscalTables(ledger)
    tables.clear()
    tables.do(
        "CREATE TABLE data.calls (at timestamptz, _job bigint, _record bigint) PARTITION BY RANGE (at)",
        "CREATE TABLE data.calls__fy2025_26 PARTITION OF data.calls"
        " FOR VALUES FROM ('2025-04-01 00:00+00') TO ('2026-04-01 00:00+00')",
        "CREATE TABLE data.rings (at timestamp, _job bigint, _record bigint) PARTITION BY RANGE (at)",
        "CREATE TABLE data.rings__fy2025_26 PARTITION OF data.rings FOR VALUES FROM ('2025-04-01') TO ('2026-04-01')",
        "CREATE TABLE data.empty (at timestamptz, _job bigint, _record bigint) PARTITION BY RANGE (at)",
    )
    assert [each.partition.name for each in tables.close()] == [
        "calls__fy2025_26", "empty__fy2025_26", "rings__fy2025_26",
    ]  # fmt: skip
    assert len(tables.close()) == 3


def test_a_partition_that_does_not_fit_the_year_is_refused_whatever_its_name(tables: FiscalTables) -> None:
    tables.do(
        "DROP TABLE data.payments__fy2025_26",
        "CREATE TABLE data.payments__fy2025_26 PARTITION OF data.payments"
        " FOR VALUES FROM ('2025-04-01') TO ('2026-01-01')",
    )
    with pytest.raises(BoundsError, match="payments__fy2025_26"):
        tables.close()
    assert tables.query("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'fiscal_year_fence%'") == [(0,)]


def test_a_partition_of_another_name_is_known_by_its_bounds(tables: FiscalTables) -> None:
    tables.do("ALTER TABLE data.payments__fy2025_26 RENAME TO payments_old")
    with tables.ledger.transaction() as session:
        assert [partition.name for partition in partitions_of(session, CALENDAR, YEAR)] == [
            "payments_old", "refunds__fy2025_26",
        ]  # fmt: skip


def test_closing_waits_for_who_changes_rows_and_counts_them(tables: FiscalTables, reader: Session) -> None:
    reader.execute(text(CHANGES["insert"].format("payments")))
    closed: list[int] = []
    closing = threading.Thread(target=lambda: closed.append(tables.close()[0].fingerprint.rows))
    closing.start()
    wait_until(
        lambda: tables.query("SELECT FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND NOT granted"),
        "nobody waits for the change",
    )
    reader.commit()
    closing.join()
    assert closed == [ROWS + 1]


def test_closing_gives_up_when_somebody_changes_rows_for_too_long(tables: FiscalTables, reader: Session) -> None:
    reader.execute(text(CHANGES["insert"].format("payments")))
    with pytest.raises(TableInUseError):
        tables.close(wait_seconds=0.05)
    reader.rollback()
    tables.do(CHANGES["insert"].format("payments"))


def test_a_reopened_year_takes_rows_and_can_be_closed_again(tables: FiscalTables, reader: Session) -> None:
    tables.close()
    reader.execute(text("SELECT count(*) FROM data.payments"))  # a reader holds nobody up, nor is he held up
    with tables.ledger.transaction() as session:
        fence.reopen(session, CALENDAR, YEAR, wait_seconds=0.5)
    tables.do(CHANGES["insert"].format("payments"))
    assert tables.close()[0].fingerprint.rows == ROWS + 1
    assert refused(tables, CHANGES["insert"].format("payments")).pgcode == YEAR_CLOSED


def test_a_dropped_year_is_gone_and_says_that_it_is_archived(tables: FiscalTables) -> None:
    tables.drop(tables.close())
    assert tables.query("SELECT count(*), min(day) >= '2026-04-01' FROM data.payments") == [(ROWS, True)]
    for name in ("insert", "insert into the partition", "update that moves rows in", "truncate"):
        error = refused(tables, CHANGES[name].format("payments"))
        assert error.pgcode == YEAR_CLOSED and "is archived" in str(error)
    bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'payments__fy2025_26'"
    assert tables.query(bounds) == [("FOR VALUES FROM ('2025-04-01') TO ('2026-04-01')",)]
    tables.do("INSERT INTO data.payments (day, _job, _record) VALUES ('2026-05-01', 9, 9)")


TAMPERING = {
    "a value": ["UPDATE {0} SET amount = amount + 1 WHERE _record = 17"],
    "a pair that leaves the sum alone": [
        "UPDATE {0} SET amount = amount + 1 WHERE _record = 17",
        "UPDATE {0} SET amount = amount - 1 WHERE _record = 18",
    ],
    "two values exchanged": ["UPDATE {0} SET amount = (35 - _record) / 4.0 WHERE _record IN (17, 18)"],
    "only how a number is written": ["UPDATE {0} SET amount = trim_scale(amount) WHERE _record = 17"],
    "nothing instead of no text": ["UPDATE {0} SET note = '' WHERE _record = 17"],
    "a row for another": [
        "DELETE FROM {0} WHERE _record = 17",
        "INSERT INTO {0} (day, amount, _job, _record) VALUES ('2025-05-01', 4.25, 7, 17)",
    ],
    "a row less": ["DELETE FROM {0} WHERE _record = 17"],
    "a value in a column added since": [
        "ALTER TABLE data.refunds ADD COLUMN since text",
        "UPDATE {0} SET since = 'x' WHERE _record = 17",
    ],
    "a column": ["ALTER TABLE data.refunds DROP COLUMN note"],
}


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING.keys())
def test_what_an_owner_changes_behind_the_fence_stops_the_drop(tables: FiscalTables, statements: list[str]) -> None:
    closed = tables.close()
    with tables.owner() as session:
        session.execute(text("ALTER TABLE data.refunds__fy2025_26 DISABLE TRIGGER ALL"))
        for statement in statements:
            session.execute(text(statement.format("data.refunds__fy2025_26")))
        session.execute(text("ALTER TABLE data.refunds__fy2025_26 ENABLE ALWAYS TRIGGER fiscal_year_fence_of_rows"))
    with pytest.raises(ContentChangedError) as caught:
        tables.drop(closed)
    assert "data.refunds__fy2025_26" in caught.value.message
    assert "payments" not in caught.value.message
    assert tables.query("SELECT count(*) FROM data.payments WHERE day < '2026-04-01'") == [(ROWS,)]


def test_a_partition_that_is_gone_stops_the_drop(tables: FiscalTables) -> None:
    closed = tables.close()
    tables.do("DROP TABLE data.refunds__fy2025_26")
    with pytest.raises(ContentChangedError, match="refunds__fy2025_26"):
        tables.drop(closed)


def test_a_column_added_since_and_empty_does_not_stop_the_drop(tables: FiscalTables) -> None:
    closed = tables.close()
    tables.do("ALTER TABLE data.refunds ADD COLUMN since text")
    tables.drop(closed)
    assert "is archived" in str(refused(tables, CHANGES["insert"].format("refunds")))


def test_a_long_reader_is_not_stopped_and_nothing_is_changed(tables: FiscalTables, reader: Session) -> None:
    closed = tables.close()
    reader.execute(text("DECLARE rows CURSOR FOR SELECT * FROM data.refunds"))
    reader.execute(text("FETCH 1 FROM rows"))
    with pytest.raises(TableInUseError, match="Nothing was changed"):
        tables.drop(closed, wait_seconds=0.05)
    assert len(reader.execute(text("FETCH ALL FROM rows")).all()) == 2 * ROWS - 1
    reader.commit()
    assert tables.close() == closed
    tables.drop(closed)


def test_who_reads_two_tables_in_any_order_is_never_stopped(tables: FiscalTables) -> None:
    closed = tables.close()
    failures: list[Exception] = []
    ended = threading.Event()

    def read(first: str, second: str) -> None:
        while not ended.is_set():
            try:
                with tables.ledger.transaction() as session:
                    for table in (first, second):
                        session.execute(text(f"SELECT count(*) FROM data.{table} WHERE day >= '2026-04-01'"))
                        session.execute(text("SELECT pg_sleep(0.02)"))
            except Exception as error:
                failures.append(error)
                return

    readers = [
        threading.Thread(target=read, args=pair)
        for pair in (("payments", "refunds"), ("refunds", "payments"), ("payments", "refunds__fy2026_27"))
    ]
    for thread in readers:
        thread.start()
    try:
        with suppress(TableInUseError):  # they leave hardly a moment; it is they who are not to be stopped
            tables.drop(closed, wait_seconds=5)
    finally:
        ended.set()
        for thread in readers:
            thread.join()
    assert failures == []


def test_a_reader_who_holds_one_table_and_waits_for_another_is_let_through(
    tables: FiscalTables, reader: Session
) -> None:
    """The order in which PostgreSQL would end the reader: he waits for the first table while we wait for his second."""
    closed = tables.close()
    reader.execute(text("SELECT count(*) FROM data.refunds"))
    failures: list[BaseException] = []

    def drop() -> None:
        try:
            tables.drop(closed)
        except BaseException as error:
            failures.append(error)

    dropping = threading.Thread(target=drop)
    dropping.start()
    wait_until(
        lambda: tables.query(
            "SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'data.refunds'::regclass"
            " AND NOT granted"
        ),
        "nobody waits for the reader",
    )
    assert reader.execute(text("SELECT count(*) FROM data.payments")).scalar() == 2 * ROWS
    reader.commit()
    dropping.join()
    assert failures == []
    assert tables.query("SELECT count(*) FROM data.payments") == [(ROWS,)]


def test_readers_are_let_in_while_rows_are_counted(tables: FiscalTables, reader: Session) -> None:
    closed = tables.close()
    with tables.ledger.transaction() as session:
        session.execute(text("SET LOCAL lock_timeout = '20s'"))
        for each in closed:
            fence._hold(session, each.partition)
        reader.execute(text("SET LOCAL lock_timeout = '1s'"))
        assert reader.execute(text("SELECT count(*) FROM data.payments")).scalar() == 2 * ROWS
        session.rollback()


def test_a_view_that_hangs_on_a_partition_stops_the_drop_and_stays(tables: FiscalTables) -> None:
    closed = tables.close()
    tables.do("CREATE VIEW data.old AS SELECT * FROM data.payments__fy2025_26")
    with pytest.raises(ConflictError, match="old"):
        tables.drop(closed)
    assert tables.query("SELECT count(*) FROM data.old") == [(ROWS,)]


IN_THE_WAY = {
    "rows that refer to it": (
        [
            "CREATE UNIQUE INDEX payments_record ON data.payments (day, _record)",
            "CREATE TABLE data.notes (day date, payment bigint, CONSTRAINT note_of FOREIGN KEY (day, payment)"
            " REFERENCES data.payments (day, _record))",
            "INSERT INTO data.notes SELECT day, _record FROM data.payments WHERE day < '2026-04-01' LIMIT 1",
        ],
        "data.notes",
    ),
    "a foreign key to the partition": (
        [
            "CREATE UNIQUE INDEX payments_record ON data.payments__fy2025_26 (_record)",
            "CREATE TABLE data.notes (payment bigint REFERENCES data.payments__fy2025_26 (_record))",
        ],
        "data.notes",
    ),
    "a table that was detached": (
        ["ALTER TABLE data.payments DETACH PARTITION data.payments__fy2025_26"],
        "payments__fy2025_26",
    ),
}


@pytest.mark.parametrize("way", IN_THE_WAY)
def test_what_was_made_of_a_table_since_it_was_closed_stops_the_drop_and_is_told(
    tables: FiscalTables, way: str
) -> None:
    statements, name = IN_THE_WAY[way]
    closed = tables.close()
    tables.do(*statements)
    with pytest.raises(ConflictError) as refused:
        tables.drop(closed)
    assert name in str(refused.value) and "Nothing was changed" in refused.value.remedy
    assert tables.query("SELECT count(*) FROM data.payments__fy2025_26") == [(ROWS,)]


def test_a_detach_that_was_interrupted_since_stops_the_drop_until_it_is_undone(tables: FiscalTables) -> None:
    closed = tables.close()
    tables.interrupt_detach("payments")
    with pytest.raises(ConflictError, match="payments__fy2025_26") as refused:
        tables.drop(closed)
    assert "FINALIZE" in refused.value.remedy
    bounds = closed[0].partition.bounds
    tables.do(
        "ALTER TABLE data.payments DETACH PARTITION data.payments__fy2025_26 FINALIZE",
        f"ALTER TABLE data.payments ATTACH PARTITION data.payments__fy2025_26 {bounds}",
    )
    tables.drop(closed)
    assert tables.query("SELECT count(*) FROM data.payments") == [(ROWS,)]


def test_years_that_follow_each_other_are_closed_and_dropped_by_themselves(tables: FiscalTables) -> None:
    tables.drop(tables.close())
    with tables.ledger.transaction() as session:
        closed = fence.close(session, CALENDAR, NEXT_YEAR, wait_seconds=20)
        fence.drop(session, NEXT_YEAR, closed, wait_seconds=20)
    assert [each.fingerprint.rows for each in closed] == [ROWS, ROWS]
    assert tables.query("SELECT count(*) FROM data.payments") == [(0,)]


class _Lines:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1) -> bytes:
        given, self._data = self._data, b""
        return given
