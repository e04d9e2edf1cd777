"""Tables of a fiscal year for the tests of its archive, and other people who use them meanwhile."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from archive import fence
from archive.copying import BLOCK_BYTES
from archive.fence import ClosedPartition
from archive.partitions import cursor_of
from archive.parts import plan_parts, write_part
from archive.restoration import ArchivedPart, ArchivedTable
from archive.text_files import TextFacts, file_blocks, raw_blocks
from ledger.application import Ledger
from ledger.domain.fiscal_calendar import FiscalCalendar
from tests.integration.place import unguard, wait_until

CALENDAR = FiscalCalendar.parse("04-01", "UTC")
YEAR, NEXT_YEAR = CALENDAR.named("FY2025-26"), CALENDAR.named("FY2026-27")
WAIT_SECONDS = 20.0
ROWS = 500
BOUNDS = {"fy2025_26": "FROM ('2025-04-01') TO ('2026-04-01')", "fy2026_27": "FROM ('2026-04-01') TO ('2027-04-01')"}


class FiscalTables:
    """The data tables of a ledger, and what is done with a year of them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def clear(self) -> None:
        """Have no data tables, nor anything that was restored."""
        [(role,)] = self.query("SELECT current_user")
        schemas = self.query("SELECT nspname FROM pg_namespace WHERE nspname ~ '^fy[0-9]|^data$|^elsewhere$'")
        with self.owner() as session:
            for (schema,) in schemas:
                session.execute(text(f"DROP SCHEMA {schema} CASCADE"))
            session.execute(text(f"CREATE SCHEMA data AUTHORIZATION {role}"))

    def make(self, dataset: str, columns: str = "amount numeric, note text", rows: int = ROWS) -> None:
        """A table of two fiscal years, with so many rows in each if it has an amount."""
        self.do(
            f"CREATE TABLE data.{dataset} (day date NOT NULL, {columns}, _job bigint NOT NULL, _record bigint NOT NULL)"
            " PARTITION BY RANGE (day)",
            *(
                f"CREATE TABLE data.{dataset}__{name} PARTITION OF data.{dataset} FOR VALUES {bounds}"
                for name, bounds in BOUNDS.items()
            ),
        )
        if "amount" in columns and rows:
            self.do(
                f"INSERT INTO data.{dataset} (day, amount, _job, _record)"
                f" SELECT start + n % 365, n / 4.0, 7 + n % 2, n FROM generate_series(1, {rows}) AS n,"
                " (VALUES (date '2025-04-01'), (date '2026-04-01')) AS years (start)"
            )

    def do(self, *statements: str) -> None:
        with self.ledger.transaction() as session:
            for statement in statements:
                cursor_of(session).execute(statement)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.ledger.transaction() as session:
            cursor = cursor_of(session)
            cursor.execute(statement)
            return list(cursor.fetchall())

    @contextmanager
    def owner(self) -> Iterator[Session]:
        """Somebody who owns the database, and whom no ordinary trigger stops."""
        with self.ledger.transaction() as session:
            unguard(session)
            yield session

    def interrupt_detach(self, dataset: str) -> None:
        """Begin to detach the year's partition, and be interrupted."""
        detaching = psycopg2.connect(self.ledger.engine.url.set(drivername="postgresql").render_as_string(False))
        detaching.autocommit = True

        def detach() -> None:
            with detaching.cursor() as cursor, suppress(psycopg2.errors.QueryCanceled):
                cursor.execute(f"ALTER TABLE data.{dataset} DETACH PARTITION data.{dataset}__fy2025_26 CONCURRENTLY")

        with Session(self.ledger.engine) as reader:
            reader.execute(text(f"SELECT count(*) FROM data.{dataset}"))
            thread = threading.Thread(target=detach)
            thread.start()
            wait_until(lambda: self.query("SELECT FROM pg_inherits WHERE inhdetachpending"), "it does not begin")
            with self.owner() as session:
                session.execute(text("SELECT pg_cancel_backend(:pid)"), {"pid": detaching.info.backend_pid})
            thread.join()
        detaching.close()

    def close(self, wait_seconds: float = WAIT_SECONDS) -> list[ClosedPartition]:
        with self.ledger.transaction() as session:
            return fence.close(session, CALENDAR, YEAR, wait_seconds=wait_seconds)

    def drop(self, closed: Sequence[ClosedPartition], wait_seconds: float = WAIT_SECONDS) -> None:
        with self.ledger.transaction() as session:
            fence.drop(session, YEAR, closed, wait_seconds=wait_seconds)

    def export(
        self, closed: ClosedPartition, spool: Path, bytes_max: int = 1 << 30
    ) -> tuple[ArchivedTable, list[ArchivedPart], bytes]:
        """A partition in the spool folder: what a manifest would say of it, and its text."""
        partition = closed.partition
        with self.ledger.transaction() as session:
            planned = plan_parts(session, partition, bytes_max)
        paths = [spool / f"{partition.dataset}-{part.number}.zst" for part in planned]
        written = [
            write_part(self.ledger.engine, partition, part, path) for part, path in zip(planned, paths, strict=True)
        ]
        whole = b"".join(text_of(path) for path in paths)
        table = ArchivedTable(
            partition.dataset,
            partition.ddl(),
            partition.columns,
            hashlib.sha256(whole).hexdigest(),
            closed.fingerprint,
        )
        return table, [archived_part(part, path) for part, path in zip(written, paths, strict=True)], whole


def text_of(path: Path) -> bytes:
    return b"".join(raw_blocks(file_blocks(path), path.name))


def archived_part(written: TextFacts, path: Path, read: Callable[[], Iterator[bytes]] | None = None) -> ArchivedPart:
    return ArchivedPart(path.name, written.raw_bytes, written.raw_sha256, written.sha256, read or reading(path))


def reading(path: Path) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([path.read_bytes()[at : at + BLOCK_BYTES] for at in range(0, path.stat().st_size, BLOCK_BYTES)])


def copied(tables: FiscalTables, table: str, columns: str = "*") -> bytes:
    """What anybody sees of a table, by a COPY that owes nothing to ours."""
    pieces: list[bytes] = []

    class Sink:
        def write(self, data: bytes) -> None:
            pieces.append(bytes(data))

    with tables.ledger.transaction() as session:
        cursor = cursor_of(session)
        for name, value in (
            ("bytea_output", "hex"),
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO, YMD"),
            ("lc_monetary", "C"),
        ):
            cursor.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        cursor.copy_expert(f"COPY (SELECT {columns} FROM {table} ORDER BY _job, _record) TO STDOUT", Sink())
    return b"".join(pieces)
