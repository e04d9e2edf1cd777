"""Access copies have the values of the text they are made of, and say that they are no evidence."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from archive import access
from archive.access import access_columns, take_over, write_access_copy, writer_of
from archive.parts import plan_parts
from archive.text_files import SpoolError
from ledger.application import Ledger
from tests.integration.fiscal_tables import YEAR, FiscalTables
from tests.integration.hostile_values import VALUES


@pytest.fixture
def tables(ledger: Ledger) -> FiscalTables:
    tables = FiscalTables(ledger)
    tables.clear()
    return tables


def access_copy(tables: FiscalTables, folder: Path) -> Any:
    [closed] = tables.close()
    _, [part], _ = tables.export(closed, folder)
    with tables.ledger.transaction() as session:
        columns = access_columns(session, closed.partition)
    write_access_copy(columns, folder / part.name, folder / "copy.parquet", part.name)
    return pyarrow.parquet.read_table(folder / "copy.parquet")


def test_a_copy_of_the_same_values_is_taken_over_however_it_is_kept_and_no_other(tmp_path: Path) -> None:
    schema = pyarrow.schema([("a", pyarrow.string()), ("b", pyarrow.float64())], {"copy_of": "data/x/00001"})
    values = {"a": ["x", "", None, 'a "quote"'], "b": [0.1, float("nan"), None, -0.0]}

    def copy(name: str, data: dict[str, list[Any]], kind: Any = schema, **options: Any) -> bytes:
        pyarrow.parquet.write_table(pyarrow.table(data, schema=kind), tmp_path / name, **options)
        return (tmp_path / name).read_bytes()

    own = copy("copy.parquet", values, compression="zstd")
    others = [
        copy("other", {**values, "a": ["x", None, None, 'a "quote"']}),
        copy("other", {**values, "b": [0.1, None, None, -0.0]}),
        copy("other", {name: column[:3] for name, column in values.items()}),
        copy("other", values, schema.with_metadata({"copy_of": "data/x/00002"})),
        copy("other", {"a": values["a"], "b": ["0.1", "nan", None, "-0"]}, schema.set(1, pyarrow.field("b", "string"))),
        b"none",
        own[:-5],
    ]
    for other in others:
        assert not take_over(tmp_path / "copy.parquet", iter([other]))
        assert (tmp_path / "copy.parquet").read_bytes() == own
    same = copy("other", values, compression="gzip", row_group_size=2)
    assert same != own
    assert take_over(tmp_path / "copy.parquet", iter([same[:100], same[100:]]))
    assert (tmp_path / "copy.parquet").read_bytes() == same
    assert writer_of(tmp_path / "copy.parquet").startswith("parquet-cpp-arrow version ")


def test_values_that_parquet_keeps_have_its_types(tables: FiscalTables, tmp_path: Path) -> None:
    tables.make(
        "values",
        "a bigint, b numeric(12,2), c date, d timestamp, e timestamptz, f boolean, g float8, h text, i numeric",
    )
    tables.do(
        "INSERT INTO data.values VALUES ('2025-04-01', -5, '1.10', '2025-05-01', '2025-05-01 10:00:00.5',"
        " '2025-05-01 10:00:00+02', true, 0.1, 'x', 12.5, 1, 1)",
        "INSERT INTO data.values (day, f, _job, _record) VALUES ('2025-04-01', false, 1, 2)",
    )
    found = access_copy(tables, tmp_path)
    assert found.to_pylist() == [
        {
            "day": date(2025, 4, 1), "a": -5, "b": Decimal("1.10"), "c": date(2025, 5, 1),
            "d": datetime(2025, 5, 1, 10, 0, 0, 500_000),
            "e": datetime(2025, 5, 1, 8, tzinfo=UTC), "f": True, "g": 0.1, "h": "x", "i": Decimal("12.5"),
            "_job": 1, "_record": 1,
        },
        {
            "day": date(2025, 4, 1), "a": None, "b": None, "c": None, "d": None, "e": None, "f": False, "g": None,
            "h": None, "i": None, "_job": 1, "_record": 2,
        },
    ]  # fmt: skip
    assert found.schema.metadata[b"authoritative"] == b"false"
    assert found.schema.metadata[b"copy_of"] == b"values-1.zst"
    assert found.schema.field("b").metadata[b"postgresql_type"] == b"numeric(12,2)"


@pytest.mark.parametrize("kind", VALUES)
def test_hostile_values_are_kept_or_are_text(tables: FiscalTables, tmp_path: Path, kind: str) -> None:
    values = [value.replace("'", "''") for value in VALUES[kind]]
    tables.make("values", f"value {kind}")
    tables.do(
        *(
            f"INSERT INTO data.values VALUES ('2025-04-01', E'{value}', 1, {number})"
            for number, value in enumerate(values, 1)
        )
    )
    found = access_copy(tables, tmp_path)
    column = found.column("value")
    pinned = "SET LOCAL TimeZone = 'UTC'", "SET LOCAL extra_float_digits = 1", "SET LOCAL lc_monetary = 'C'"
    with tables.ledger.transaction() as session:
        cursor = session.connection().connection.cursor()
        for setting in pinned:
            cursor.execute(setting)
        cursor.execute("SELECT format('%s', value) FROM data.values ORDER BY _record")
        expected = [row[0] for row in cursor.fetchall()] if pyarrow.types.is_string(column.type) else None
    if expected is not None:
        assert column.to_pylist() == expected
    else:
        assert kind in ("smallint", "integer", "bigint", "real", "double precision", "boolean")


@pytest.mark.parametrize("value", ["0.00000000001", "1e28", "-1e28", "NaN", "Infinity"])
def test_a_number_that_parquet_would_not_keep_makes_its_column_text(
    tables: FiscalTables, tmp_path: Path, value: str
) -> None:
    tables.make("values", "value numeric", rows=0)
    tables.do(f"INSERT INTO data.values VALUES ('2025-04-01', '{value}', 1, 1), ('2025-04-01', 1.5, 1, 2)")
    assert access_copy(tables, tmp_path).column("value").to_pylist()[1] == "1.5"


def test_rows_in_several_batches_are_all_there(
    tables: FiscalTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ROW_GROUP_BYTES", 1000)
    tables.make("payments", rows=30_000)  # several blocks of zstd
    found = access_copy(tables, tmp_path)
    assert sorted(found.column("_record").to_pylist()) == list(range(1, 30_001))
    assert pyarrow.parquet.ParquetFile(tmp_path / "copy.parquet").num_row_groups > 5


def test_a_full_disk_is_told(tables: FiscalTables, tmp_path: Path) -> None:
    (tmp_path / "copy.parquet.part").symlink_to("/dev/full")
    tables.make("payments")
    with pytest.raises(SpoolError):
        access_copy(tables, tmp_path)


CHILD = """
import os, sys
from pathlib import Path
from archive.access import access_columns, write_access_copy
from archive.parts import Place, PlannedPart, write_part
from archive.partitions import Partition, TableColumn
from archive.restoration import ArchivedPart, ArchivedTable, try_restoring
from archive.fence import Fingerprint
from ledger.application import Ledger
from ledger.domain.fiscal_calendar import Year
from ledger.settings import Settings
import datetime
ledger, folder, partition = Ledger(Settings()), Path({folder!r}), {partition!r}
written = write_part(ledger.engine, partition, {planned!r}, folder / "part.zst")
def read():
    with open(folder / "part.zst", "rb") as file:
        while block := file.read(1 << 20):
            yield block
table = ArchivedTable(partition.dataset, partition.ddl(), partition.columns, written.raw_sha256, {fingerprint!r})
part = ArchivedPart("part.zst", written.raw_bytes, written.raw_sha256, written.sha256, read)
try_restoring(ledger.engine, {year!r}, 1, [(table, [part])])
with ledger.transaction() as session:
    columns = access_columns(session, partition)
write_access_copy(columns, folder / "part.zst", folder / "copy.parquet", "part.zst")
print(written.raw_bytes, next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_a_part(tables: FiscalTables, tmp_path: Path) -> None:
    """More text than the memory that all of it may take: exported, restored, and copied for access."""
    tables.make("values", "note text")
    tables.do(
        "ALTER TABLE data.values__fy2025_26 ALTER note SET STORAGE EXTERNAL",  # to compress it would take its time
        "INSERT INTO data.values SELECT '2025-04-01', repeat('a\\b' || n, 200000), 1, n"
        " FROM generate_series(1, 300) AS n",
    )
    [closed] = tables.close()
    with tables.ledger.transaction() as session:
        [planned] = plan_parts(session, closed.partition, 1 << 30)
    code = CHILD.format(
        folder=str(tmp_path), partition=closed.partition, planned=planned, fingerprint=closed.fingerprint, year=YEAR
    )
    url = tables.ledger.engine.url.render_as_string(hide_password=False)
    environment = {**os.environ, "LEDGER_DATABASE_URL": url}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    raw_bytes, peak_kibibytes = map(int, ended.stdout.split())
    assert raw_bytes > 256 << 20
    assert peak_kibibytes < 256 << 10
