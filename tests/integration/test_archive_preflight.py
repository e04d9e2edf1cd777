"""What is in the way of archiving a year is told before anything is changed, all at once, with what to do."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from archive import preflight
from archive.preflight import Refusal, refusals
from ledger.application import Ledger
from tests.integration.fiscal_tables import CALENDAR, YEAR, FiscalTables

WAYS = {
    "default_partition": (["CREATE TABLE data.payments_rest PARTITION OF data.payments DEFAULT"], "payments_rest"),
    "foreign_key": (
        [
            "CREATE UNIQUE INDEX payments_record ON data.payments__fy2025_26 (_record)",
            "CREATE TABLE data.notes (payment bigint REFERENCES data.payments__fy2025_26 (_record))",
        ],
        "data.notes",
    ),
    "foreign_key to others": (
        [
            "CREATE TABLE data.accounts (note text PRIMARY KEY)",
            "ALTER TABLE data.payments ADD FOREIGN KEY (note) REFERENCES data.accounts",
        ],
        "data.payments",
    ),
    "partition_divided": (
        [
            "DROP TABLE data.payments__fy2025_26",
            "CREATE TABLE data.payments__fy2025_26 PARTITION OF data.payments"
            " FOR VALUES FROM ('2025-04-01') TO ('2026-04-01') PARTITION BY LIST (note)",
        ],
        "payments__fy2025_26",
    ),
    "partition_bounds": (
        [
            "DROP TABLE data.payments__fy2025_26",
            "CREATE TABLE data.payments_long PARTITION OF data.payments FOR VALUES FROM (MINVALUE) TO ('2026-04-01')",
        ],
        "payments_long",
    ),
    "view_of_partition": (["CREATE VIEW data.old AS SELECT * FROM data.payments__fy2025_26"], "data.old"),
    "collation_not_archived": (
        [
            "CREATE COLLATION data.odd (provider = libc, locale = 'C')",
            "ALTER TABLE data.payments ADD COLUMN odd text COLLATE data.odd",
        ],
        "'odd'",
    ),
    "lineage_missing": (["ALTER TABLE data.payments RENAME COLUMN _record TO record"], "data.payments"),
}
TYPES = {
    "an enumeration": ["CREATE TYPE data.mood AS ENUM ('good')", "ALTER TABLE data.payments ADD COLUMN odd data.mood"],
    "a composite": ["CREATE TYPE data.pair AS (a int)", "ALTER TABLE data.payments ADD COLUMN odd data.pair"],
    "a domain": ["CREATE DOMAIN data.digit AS int", "ALTER TABLE data.payments ADD COLUMN odd data.digit"],
    "an array of them": [
        "CREATE TYPE data.mood AS ENUM ('good')", "ALTER TABLE data.payments ADD COLUMN odd data.mood[]",
    ],
    "a name of an object": ["ALTER TABLE data.payments ADD COLUMN odd regclass"],
    "another's type of a known name": [
        "CREATE TYPE data.text AS ENUM ('good')", "ALTER TABLE data.payments ADD COLUMN odd data.text",
    ],
}  # fmt: skip


@pytest.fixture
def tables(ledger: Ledger) -> FiscalTables:
    tables = FiscalTables(ledger)
    tables.clear()
    tables.make("payments")
    tables.make("refunds")
    return tables


def found(tables: FiscalTables, spool: Path) -> list[Refusal]:
    with tables.ledger.transaction() as session:
        return refusals(session, CALENDAR, YEAR, spool)


def test_nothing_is_in_the_way_of_a_plain_year(tables: FiscalTables, tmp_path: Path) -> None:
    assert found(tables, tmp_path) == []


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_the_way_is_told_with_its_name_and_a_remedy(tables: FiscalTables, tmp_path: Path, way: str) -> None:
    statements, name = WAYS[way]
    tables.do(*statements)
    [refusal] = found(tables, tmp_path)
    assert refusal.code == way.partition(" ")[0]
    assert name in refusal.message and refusal.remedy


@pytest.mark.parametrize("statements", TYPES.values(), ids=TYPES.keys())
def test_a_type_that_is_not_postgresqls_own_is_refused(
    tables: FiscalTables, tmp_path: Path, statements: list[str]
) -> None:
    tables.do(*statements)
    [refusal] = found(tables, tmp_path)
    assert refusal.code == "type_not_archived"
    assert "'odd'" in refusal.message


def test_a_detach_that_was_interrupted_is_refused(tables: FiscalTables, tmp_path: Path) -> None:
    tables.interrupt_detach("payments")
    codes = {refusal.code: refusal for refusal in found(tables, tmp_path)}
    assert "payments__fy2025_26" in codes["detach_pending"].message
    tables.do(codes["detach_pending"].remedy.split("`")[1])
    assert "detach_pending" not in {refusal.code for refusal in found(tables, tmp_path)}


def test_too_little_room_in_the_spool_folder_is_refused(
    tables: FiscalTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage(1, 1, 100))
    assert [refusal.code for refusal in found(tables, tmp_path)] == ["spool_full"]


def test_a_spool_folder_that_is_not_there_is_refused(tables: FiscalTables, tmp_path: Path) -> None:
    assert [refusal.code for refusal in found(tables, tmp_path / "absent")] == ["spool_unusable"]


def test_everything_is_told_at_once_and_nothing_is_changed(tables: FiscalTables, tmp_path: Path) -> None:
    tables.do(*WAYS["default_partition"][0], *WAYS["foreign_key"][0], *TYPES["an enumeration"])
    codes = [refusal.code for refusal in found(tables, tmp_path / "absent")]
    assert codes == ["default_partition", "foreign_key", "type_not_archived", "spool_unusable"]
    tables.do("INSERT INTO data.payments (day, _job, _record) VALUES ('2025-05-01', 9, 0)")
