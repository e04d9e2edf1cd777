r"""`make bench-archive`: exporting and restoring a year beside `COPY TO` and `\copy ... FROM` of the same rows.

All go to the same PostgreSQL server, and take turns in one run; medians are compared, because a machine that others
share is slow at times. What the archive does besides: it orders rows, hashes and compresses them, and reads the spooled
bytes again (export); decompresses and hashes them, makes a primary key, and writes all rows again to compare them
(restore). Also printed: the size of the compressed text and of the access copy in Parquet, and the peak memory of this
process, of which about 200 MiB are the modules that start the server.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy.orm import Session

from api.embedded.postgresql import installed_folder
from archive import fence
from archive.access import access_columns, write_access_copy
from archive.partitions import cursor_of
from archive.parts import plan_parts, write_part
from archive.restoration import ArchivedPart, ArchivedTable, try_restoring
from archive.text_files import TextFacts, file_blocks, raw_blocks
from ledger.application import Ledger
from ledger.domain.fiscal_calendar import FiscalCalendar
from tests.golden.examples import MASTER_KEY
from tests.integration.place import running_ledger
from tests.stack import memory_peak_bytes, open_folder

SUFFIXES = {"zstd": ".zst", "Parquet": ".parquet"}
CALENDAR = FiscalCalendar.parse("04-01", "UTC")
YEAR = CALENDAR.named("FY2025-26")
COLUMNS = (
    "id bigint, account text, booked_on date NOT NULL, amount numeric, currency text, memo text, valid boolean,"
    " at timestamp, _job bigint NOT NULL, _record bigint NOT NULL"
)
ROWS = (
    "INSERT INTO data.payments SELECT n, 'AC' || lpad((random() * 1e6)::int::text, 6, '0'),"
    " date '2025-04-01' + (random() * 364)::int, (random() * 1e8)::int / 100.0, 'EUR',"
    " 'payment ' || (random() * 1e9)::int || ' to supplier ' || (random() * 1e5)::int, n % 2 = 0,"
    " timestamp '2025-05-01 10:00' + n * interval '1 second', 1 + n / 500000, n FROM generate_series(1, {}) AS n"
)


class Bench:
    """A closed year of payments, and what is done with it."""

    def __init__(self, ledger: Ledger, folder: Path, rows: int, part_bytes: int) -> None:
        self._ledger = ledger
        self._folder = folder
        self._url = ledger.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with Session(ledger.engine) as session, session.begin():
            cursor_of(session).execute(
                f"SELECT setseed(0.5); CREATE TABLE data.payments ({COLUMNS}) PARTITION BY RANGE (booked_on);"
                " CREATE TABLE data.payments__fy2025_26 PARTITION OF data.payments"
                " FOR VALUES FROM ('2025-04-01') TO ('2026-04-01'); " + ROWS.format(rows)
            )
        with Session(ledger.engine) as session, session.begin():
            [self.closed] = fence.close(session, CALENDAR, YEAR, wait_seconds=10)
            self._planned = plan_parts(session, self.closed.partition, part_bytes)
            self._columns = access_columns(session, self.closed.partition)
        self.psql("VACUUM ANALYZE data.payments__fy2025_26")
        self.written: list[TextFacts] = []

    def psql(self, *commands: str) -> None:
        """Run psql on the server."""
        program = [str(installed_folder() / "bin" / "psql"), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"]
        what = [part for command in ("SET client_min_messages = warning", *commands) for part in ("--command", command)]
        subprocess.run([*program, *what, self._url], check=True)

    def copy_to(self) -> None:
        """The rows as text into a file, in no order."""
        self.psql(f"\\copy (SELECT * FROM data.payments) TO '{self._folder / 'rows.copy'}'")

    def copy_from(self) -> None:
        """The same file into a bare table."""
        self.psql("DROP TABLE IF EXISTS data.bare", f"CREATE TABLE data.bare ({COLUMNS})")
        self.psql(f"\\copy data.bare FROM '{self._folder / 'rows.copy'}'")

    def export(self) -> None:
        """All parts into the spool folder."""
        engine, partition = self._ledger.engine, self.closed.partition
        self.written = [write_part(engine, partition, part, self._path(part.number)) for part in self._planned]

    def restore(self) -> None:
        """All parts into a schema of their own, shown equal, and away again."""
        parts = [
            ArchivedPart(path.name, facts.raw_bytes, facts.raw_sha256, facts.sha256, partial(file_blocks, path))
            for facts, path in zip(self.written, map(self._path, range(1, len(self.written) + 1)), strict=True)
        ]
        partition = self.closed.partition
        table = ArchivedTable(
            partition.dataset, partition.ddl(), partition.columns, self._content_sha256, self.closed.fingerprint
        )
        try_restoring(self._ledger.engine, YEAR, 1, [(table, parts)])

    def access_copies(self) -> None:
        """An access copy of each part."""
        for part in self._planned:
            target = self._path(part.number).with_suffix(".parquet")
            write_access_copy(self._columns, self._path(part.number), target, "bench")

    def hash_content(self) -> None:
        """What a manifest says of the table, once for all rounds."""
        content = hashlib.sha256()
        for part in self._planned:
            for block in raw_blocks(file_blocks(self._path(part.number)), "bench"):
                content.update(block)
        self._content_sha256 = content.hexdigest()

    def bytes_of(self, suffix: str) -> int:
        """The size of all parts, or of all access copies."""
        return sum(self._path(part.number).with_suffix(suffix).stat().st_size for part in self._planned)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.zst"


def measure(bench: Bench, step: Callable[[], None]) -> float:
    """Seconds that a step takes, from a server that has nothing left to write."""
    bench.psql("CHECKPOINT")
    started = time.monotonic()
    step()
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part-bytes", type=int, default=200_000_000)
    options = parser.parse_args()
    with open_folder() as folder, running_ledger(subject_key=SecretStr(MASTER_KEY)) as ledger:
        bench = Bench(ledger, folder, options.rows, options.part_bytes)
        steps = {
            "COPY TO": bench.copy_to, "export": bench.export, r"\copy FROM": bench.copy_from,
            "restore": bench.restore, "access copy": bench.access_copies,
        }  # fmt: skip
        bench.export()
        bench.hash_content()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(1, options.rounds + 1):
            for name, step in steps.items():
                seconds[name].append(measure(bench, step))
            print(
                f"round {number}  " + "  ".join(f"{name} {took[-1]:.2f} s" for name, took in seconds.items()),
                flush=True,
            )
        raw_bytes = sum(part.raw_bytes for part in bench.written)
        parts = len(bench.written)
        print(f"{options.rows:,} rows, {raw_bytes / 1e6:.0f} MB of text in {parts} parts, {os.cpu_count()} cores")
        for name, took in seconds.items():
            middle = statistics.median(took)
            print(f"{name:12} {middle:6.2f} s  {raw_bytes / 1e6 / middle:6.0f} MB/s")
        sizes = [f"{what} {bench.bytes_of(suffix) / raw_bytes:.3f}" for what, suffix in SUFFIXES.items()]
        print(f"of the text: {', '.join(sizes)}; peak {memory_peak_bytes(os.getpid()) >> 20} MiB")


if __name__ == "__main__":
    main()
