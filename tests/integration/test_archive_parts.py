"""Rows become text and come back, bit for bit, however they are cut."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from archive import parts, types
from archive.fence import ClosedPartition
from archive.partitions import Partition
from archive.parts import PartTooLargeError, PlannedPart, plan_parts, write_part
from archive.restoration import (
    RestorationDiffersError,
    release,
    restore,
    schema_of,
    try_restoring,
)
from archive.stores import ObjectDamagedError
from archive.text_files import SpoolError
from ledger.application import Ledger
from ledger.errors import ConflictError
from tests.integration.fiscal_tables import YEAR, FiscalTables, copied, reading, text_of
from tests.integration.hostile_values import VALUES
from tests.thorough import thorough

RESTORED = schema_of(YEAR, 1)


@pytest.fixture
def tables(ledger: Ledger) -> FiscalTables:
    tables = FiscalTables(ledger)
    tables.clear()
    return tables


@pytest.fixture
def payments(tables: FiscalTables) -> FiscalTables:
    tables.make("payments")
    return tables


def planned_of(tables: FiscalTables, partition: Partition, bytes_max: int) -> list[PlannedPart]:
    with tables.ledger.transaction() as session:
        return plan_parts(session, partition, bytes_max)


@pytest.mark.parametrize("kind", VALUES)
def test_values_of_a_type_come_back_bit_for_bit(tables: FiscalTables, tmp_path: Path, kind: str) -> None:
    assert types.is_archived(kind)
    values = [value.replace("'", "''") for value in VALUES[kind]]
    tables.make("values", f"value {kind}")
    tables.do(
        *(
            f"INSERT INTO data.values VALUES ('2025-04-01', E'{value}', 1, {number})"
            for number, value in enumerate(values, 1)
        ),
        f"INSERT INTO data.values VALUES ('2025-04-01', NULL, 1, {len(values) + 1})",
    )
    # What PostgreSQL keeps of a row, byte for byte, which no function of ours has to do with.
    stored = "SELECT record_send(ROW(value))::text, value::text FROM {} ORDER BY _record"
    before = tables.query(stored.format("data.values"))
    [closed] = tables.close()
    table, archived, whole = tables.export(closed, tmp_path)
    assert whole == copied(tables, "data.values__fy2025_26")
    with tables.ledger.transaction() as session:
        restore(session, YEAR, 1, [(table, archived)])
    assert tables.query(stored.format(f"{RESTORED}.values")) == before
    assert copied(tables, f"{RESTORED}.values") == whole


def test_every_type_that_is_archived_is_tried_with_hostile_values() -> None:
    assert {types.base_of(kind) for kind in VALUES} == types.ARCHIVED


def test_the_text_does_not_depend_on_how_the_server_or_the_role_is_set_up(tables: FiscalTables, tmp_path: Path) -> None:
    tables.make("values", "at timestamptz, took interval, data bytea, share float8, price money")
    tables.do(
        "INSERT INTO data.values VALUES ('2025-04-01', '2025-04-01 12:00+02', '-1 year 2 days -03:04', '\\x00ff',"
        " 0.1::float8 + 0.2, '1234.56', 1, 1)"
    )
    [closed] = tables.close()
    _, _, before = tables.export(closed, tmp_path)
    settings = {
        "DateStyle": "German", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Kolkata", "bytea_output": "escape",
        "extra_float_digits": "-5",
    }  # fmt: skip
    database = tables.query("SELECT current_database()")[0][0]
    try:
        with tables.owner() as session:
            for name, value in settings.items():
                session.execute(text(f"ALTER DATABASE {database} SET {name} = '{value}'"))
        tables.ledger.engine.dispose()
        _, _, after = tables.export(closed, tmp_path)
    finally:
        with tables.owner() as session:
            session.execute(text(f"ALTER DATABASE {database} RESET ALL"))
        tables.ledger.engine.dispose()
    assert after == before


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
rows_of_chance = st.lists(
    st.tuples(st.none() | texts, st.none() | st.decimals(allow_infinity=False), st.none() | st.binary(max_size=20)),
    max_size=25,
)


def test_parts_of_any_size_make_up_the_whole(tables: FiscalTables, tmp_path: Path) -> None:
    @given(rows=rows_of_chance, bytes_max=st.integers(1, 400), jobs=st.integers(1, 4))
    @thorough(examples=25, steps=1)
    def check(rows: list[tuple[object, ...]], bytes_max: int, jobs: int) -> None:
        tables.clear()
        tables.make("values", "note text, amount numeric, data bytea", rows=0)
        with tables.ledger.transaction() as session:
            cursor = session.connection().connection.cursor()
            for number, row in enumerate(rows):
                place = (number % jobs, number)
                cursor.execute("INSERT INTO data.values VALUES ('2025-04-01', %s, %s, %s, %s, %s)", (*row, *place))
        [closed] = tables.close()
        table, archived, whole = tables.export(closed, tmp_path, bytes_max)
        assert whole == copied(tables, "data.values__fy2025_26")
        assert len(archived) <= len(rows)
        try_restoring(tables.ledger.engine, YEAR, 1, [(table, archived)])

    check()


def test_a_part_is_near_the_size_that_is_aimed_at(payments: FiscalTables, tmp_path: Path) -> None:
    [closed] = payments.close()
    _, archived, whole = payments.export(closed, tmp_path, len(whole_of(payments)) // 10)
    assert 8 <= len(archived) <= 12
    assert max(part.raw_bytes for part in archived) < len(whole) / 7


def whole_of(tables: FiscalTables) -> bytes:
    return copied(tables, "data.payments__fy2025_26")


def test_the_plan_names_each_row_once_and_in_order(payments: FiscalTables) -> None:
    [closed] = payments.close()
    planned = planned_of(payments, closed.partition, 900)
    assert planned == planned_of(payments, closed.partition, 900)
    places = payments.query("SELECT _job, _record FROM data.payments__fy2025_26 ORDER BY 1, 2")
    starts = list(itertools.accumulate((part.rows for part in planned), initial=0))
    assert starts[-1] == len(places)
    for part, start, end in zip(planned, starts, starts[1:], strict=False):
        assert (part.first, part.last) == (places[start], places[end - 1])


def test_an_empty_partition_has_no_parts_and_is_restored_empty(tables: FiscalTables) -> None:
    tables.make("payments", rows=0)
    [closed] = tables.close()
    table, archived, _ = tables.export(closed, Path())
    assert archived == [] and table.content_sha256 == hashlib.sha256().hexdigest()
    with tables.ledger.transaction() as session:
        restore(session, YEAR, 1, [(table, [])])
    assert tables.query(f"SELECT count(*) FROM {RESTORED}.payments") == [(0,)]


def test_two_rows_that_are_the_same_record_are_refused(payments: FiscalTables) -> None:
    payments.do("INSERT INTO data.payments (day, _job, _record) VALUES ('2025-05-01', 7, 2)")
    [closed] = payments.close()
    with pytest.raises(ConflictError, match=r"\(7, 2\)"):
        planned_of(payments, closed.partition, 900)


KILLED = """
import os, sys
from pathlib import Path
from archive.parts import Place, PlannedPart, write_part
from archive.partitions import Partition, TableColumn
from archive.text_files import TextWriter
from ledger.application import Ledger
from ledger.settings import Settings
write, calls = TextWriter.write, []
def killed(self, block):
    write(self, block)
    self._file.flush()
    calls.append(block)
    if len(calls) == 3:
        os.kill(os.getpid(), 9)
TextWriter.write = killed
from archive import copying
copying.BLOCK_BYTES = 1000
write_part(Ledger(Settings()).engine, {partition!r}, {planned!r}, Path({path!r}))
"""


def test_who_is_killed_leaves_no_part_and_the_next_makes_the_same(payments: FiscalTables, tmp_path: Path) -> None:
    [closed] = payments.close()
    [planned] = planned_of(payments, closed.partition, 1 << 20)
    path = tmp_path / "part.zst"
    code = KILLED.format(partition=closed.partition, planned=planned, path=str(path))
    url = payments.ledger.engine.url.render_as_string(hide_password=False)
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LEDGER_DATABASE_URL": url}, capture_output=True, check=False
    )
    assert ended.returncode == -9, ended.stderr
    assert [left.name for left in tmp_path.iterdir()] == ["part.zst.part"]
    written = write_part(payments.ledger.engine, closed.partition, planned, path)
    assert text_of(path) == whole_of(payments)
    assert list(tmp_path.iterdir()) == [path]
    assert (written.sha256, written.bytes) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    assert (written.raw_sha256, written.raw_bytes) == (
        hashlib.sha256(whole_of(payments)).hexdigest(), len(whole_of(payments)),
    )  # fmt: skip


def test_what_the_disk_does_not_give_back_as_it_was_is_no_part(
    payments: FiscalTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [closed] = payments.close()
    [planned] = planned_of(payments, closed.partition, 1 << 20)
    sync = os.fsync
    path = tmp_path / "part.zst"

    def flip(descriptor: int) -> None:
        sync(descriptor)
        with (tmp_path / "part.zst.part").open("r+b") as file:
            file.seek(100)
            byte = file.read(1)[0]
            file.seek(100)
            file.write(bytes([byte ^ 1]))

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(SpoolError, match="does not hold"):
        write_part(payments.ledger.engine, closed.partition, planned, path)
    assert not path.exists()


def test_a_full_disk_is_told(payments: FiscalTables, tmp_path: Path) -> None:
    [closed] = payments.close()
    [planned] = planned_of(payments, closed.partition, 1 << 20)
    (tmp_path / "part.zst.part").symlink_to("/dev/full")
    with pytest.raises(SpoolError, match="No space left"):
        write_part(payments.ledger.engine, closed.partition, planned, tmp_path / "part.zst")


def test_a_part_that_no_object_could_hold_is_refused(
    payments: FiscalTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [closed] = payments.close()
    [planned] = planned_of(payments, closed.partition, 1 << 20)
    monkeypatch.setattr(parts, "OBJECT_BYTES_MAX", 1000)
    with pytest.raises(PartTooLargeError):
        write_part(payments.ledger.engine, closed.partition, planned, tmp_path / "part.zst")


def test_a_row_that_went_since_the_plan_stops_its_part(payments: FiscalTables, tmp_path: Path) -> None:
    [closed] = payments.close()
    [planned] = planned_of(payments, closed.partition, 1 << 20)
    with payments.owner() as session:
        session.execute(text("ALTER TABLE data.payments__fy2025_26 DISABLE TRIGGER ALL"))
        session.execute(text("DELETE FROM data.payments WHERE day < '2026-04-01' AND _record = 17"))
    with pytest.raises(ConflictError, match="changed"):
        write_part(payments.ledger.engine, closed.partition, planned, tmp_path / "part.zst")
    assert not (tmp_path / "part.zst").exists()


@pytest.fixture
def closed(payments: FiscalTables) -> ClosedPartition:
    return payments.close()[0]


def test_a_trial_leaves_nothing_behind(payments: FiscalTables, closed: ClosedPartition, tmp_path: Path) -> None:
    table, archived, _ = payments.export(closed, tmp_path, 900)
    try_restoring(payments.ledger.engine, YEAR, 1, [(table, archived)])
    assert payments.query(f"SELECT to_regnamespace('{RESTORED}')") == [(None,)]


def test_a_restored_year_is_read_and_not_changed_and_can_be_released(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path
) -> None:
    payments.do("UPDATE data.payments SET note = '' WHERE false")
    table, archived, whole = payments.export(closed, tmp_path, 900)
    payments.drop([closed])
    payments.do("ALTER TABLE data.payments ADD COLUMN since text", "ALTER TABLE data.payments DROP COLUMN note")
    with payments.ledger.transaction() as session:
        assert restore(session, YEAR, 1, [(table, archived)]) == RESTORED
    assert copied(payments, f"{RESTORED}.payments") == whole
    for change in ("DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET note = 'x'", "INSERT INTO {} SELECT * FROM {}"):
        with pytest.raises(Exception, match="permission denied"):
            payments.do(change.format(*[f"{RESTORED}.payments"] * 2))
        with pytest.raises(Exception, match="was restored to be read"), payments.owner() as session:
            session.execute(text(change.format(*[f"{RESTORED}.payments"] * 2)))
    with pytest.raises(ConflictError, match="restored already"), payments.ledger.transaction() as session:
        restore(session, YEAR, 1, [(table, archived)])
    with payments.ledger.transaction() as session:
        release(session, YEAR, 1, wait_seconds=20)
        release(session, YEAR, 1, wait_seconds=20)
    assert payments.query(f"SELECT to_regnamespace('{RESTORED}')") == [(None,)]


def test_what_was_made_of_a_restored_year_stops_its_release(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path
) -> None:
    table, archived, _ = payments.export(closed, tmp_path)
    with payments.ledger.transaction() as session:
        restore(session, YEAR, 1, [(table, archived)])
    payments.do(f"CREATE VIEW data.findings AS SELECT * FROM {RESTORED}.payments")
    with pytest.raises(ConflictError, match="findings"), payments.ledger.transaction() as session:
        release(session, YEAR, 1, wait_seconds=20)
    assert payments.query("SELECT count(*) FROM data.findings") == [(closed.fingerprint.rows,)]


def flipped(path: Path, at: int) -> Iterator[bytes]:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    yield bytes(data)


DAMAGE = {
    "a bit at the beginning": lambda path: flipped(path, 0),
    "a bit in the middle": lambda path: flipped(path, path.stat().st_size // 2),
    "a bit at the end": lambda path: flipped(path, -1),
    "cut": lambda path: iter([path.read_bytes()[:-1]]),
    "cut in the middle": lambda path: iter([path.read_bytes()[:200]]),
    "empty": lambda path: iter([]),
    "a byte more": lambda path: iter([path.read_bytes(), b"x"]),
    "an empty piece more": lambda path: iter([path.read_bytes(), zstandard.compress(b"")]),
    "twice": lambda path: iter([path.read_bytes(), path.read_bytes()]),
    "other text": lambda path: iter([zstandard.compress(b"2025-04-01\t1\t\\N\t1\t1\n")]),
    "no rows": lambda path: iter([zstandard.compress(b"nothing\n")]),
    "much more text": lambda path: iter([zstandard.compress(b"2025-04-01\t1\t\\N\t1\t1\n" * 100_000)]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_told_by_its_name_and_nothing_is_restored(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path, damage: str
) -> None:
    table, archived, _ = payments.export(closed, tmp_path, 4000)
    path = tmp_path / archived[1].name
    read = DAMAGE[damage]
    archived[1] = type(archived[1])(**{**vars(archived[1]), "read": lambda: read(path)})
    with pytest.raises(ObjectDamagedError, match=archived[1].name), payments.ledger.transaction() as session:
        restore(session, YEAR, 1, [(table, archived)])
    assert payments.query(f"SELECT to_regnamespace('{RESTORED}')") == [(None,)]


def test_a_store_that_fails_while_it_is_read_says_so_itself(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path
) -> None:
    table, [part], _ = payments.export(closed, tmp_path)

    def broken() -> Iterator[bytes]:
        yield (tmp_path / part.name).read_bytes()[:100]
        raise SpoolError("The store went away.")

    with pytest.raises(SpoolError, match="went away"):
        given = type(part)(**{**vars(part), "read": broken})
        try_restoring(payments.ledger.engine, YEAR, 1, [(table, [given])])


def test_parts_that_are_missing_exchanged_or_given_twice_are_not_the_archive(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path
) -> None:
    table, archived, _ = payments.export(closed, tmp_path, 900)
    for given_parts in (archived[1:], [*archived, archived[0]], archived[:1]):
        with pytest.raises(RestorationDiffersError):
            try_restoring(payments.ledger.engine, YEAR, 1, [(table, given_parts)])


def test_text_that_postgresql_does_not_take_is_told_apart_from_damage(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path
) -> None:
    table, [part], _ = payments.export(closed, tmp_path)
    raw = b"no day\t1\t\\N\t1\t1\n"
    path = tmp_path / "foreign.zst"
    path.write_bytes(zstandard.compress(raw))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    foreign = type(part)("foreign.zst", len(raw), hashlib.sha256(raw).hexdigest(), sha256, reading(path))
    with pytest.raises(RestorationDiffersError, match=r"foreign\.zst.*no day"):
        try_restoring(payments.ledger.engine, YEAR, 1, [(table, [foreign])])


def test_rows_that_are_not_those_of_the_archive_are_found_by_each_proof(
    payments: FiscalTables, closed: ClosedPartition, tmp_path: Path
) -> None:
    table, archived, _ = payments.export(closed, tmp_path)
    fingerprint = table.fingerprint
    wrong = [
        ("content_sha256", "0" * 64, "SHA-256"),
        ("fingerprint", type(fingerprint)(fingerprint.rows, fingerprint.digest + 1), "fingerprint"),
        ("fingerprint", type(fingerprint)(fingerprint.rows + 1, fingerprint.digest), "rows"),
        ("columns", table.columns[1:], "columns"),
    ]
    for field, value, told in wrong:
        with pytest.raises(RestorationDiffersError, match=told):
            other = type(table)(**{**vars(table), field: value})
            try_restoring(payments.ledger.engine, YEAR, 1, [(other, archived)])


def test_columns_keep_their_collation_and_whether_they_may_be_null(tables: FiscalTables, tmp_path: Path) -> None:
    tables.make("values", 'a text COLLATE "C", "B %s \'q\'""" numeric(60,20) NOT NULL, c timestamp(3)[], d char(3)')
    tables.do("INSERT INTO data.values VALUES ('2025-04-01', 'x', 1.5, '{2025-01-01}', 'a', 1, 1)")
    [closed] = tables.close()
    table, archived, _ = tables.export(closed, tmp_path)
    assert 'COLLATE pg_catalog."C"' in table.ddl
    with tables.ledger.transaction() as session:
        restore(session, YEAR, 1, [(table, archived)])
    made = "SELECT attname, atttypmod, attcollation, attnotnull FROM pg_attribute WHERE attrelid = {}::regclass"
    shapes = [
        tables.query(made.format(f"'{name}'") + " AND attnum > 0 ORDER BY attnum")
        for name in ("data.values__fy2025_26", f"{RESTORED}.values")
    ]
    assert shapes[0] == shapes[1]
