"""Dropping the rows of a year whose archive was verified, and saying so of each of its files.

Rules:
1. The rows go in the transaction of the event that tells of it, if they are what they were when the year was closed,
   and if the archive is what was signed: that is looked at once more.
   The same rows in the generation of a table that a rebuild has put aside go with them.
2. What allows it is time: so many days after the archive was verified; or a person other than who closed the year.
3. Then each file of the year is told to be archived, some in one transaction, from the books that lie in the archive.
   These are read to their end first: nothing is told of what is not whole. Whoever is killed goes on with those that
   are left.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from psycopg2 import sql
from sqlalchemy.orm import Session

from archive import fence
from archive.closing import closed_partitions
from archive.export_run import Archiving, step
from archive.finishing import stored_manifest, verified_now
from archive.partitions import cursor_of
from archive.text_files import READ_BYTES, raw_blocks
from archive.volume import Volume, prefix_of
from archive.year_story import verified_at
from ledger import telemetry
from ledger.application import Ledger
from ledger.database import lock_job, lock_shared, rows
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import Ground, YearState
from ledger.failpoints import failpoint
from ledger.fiscal_years import share_years
from ledger.year_records import save_year, year_to_decide_about

ARCHIVED_AT_ONCE = 100
SUPERSEDED = "superseded"  # where a rebuild puts the partitions that were live before it


def drop_if_due(archiving: Archiving, label: str, days: int | None) -> FiscalYear:
    """Drop the rows of a verified year if that is allowed, or becomes so by time, and tell its files.

    Args:
        days: after how many days time allows it; None for never.

    Raises:
        ArchiveDiffersError: the store does not hold any more what was verified. Nothing was dropped.
        ContentChangedError: rows were changed since the year was closed; it names the tables. Nothing was dropped.
        ConflictError: a hold stands.
        TableInUseError: somebody reads one of its tables for too long.
    """
    year = archiving.ledger.fiscal_year(label)
    assert year is not None, "it was verified"
    if year.state is YearState.VERIFIED and not year.holds:
        stamp = archiving.stamp()
        if not year.is_drop_authorized and is_due(archiving.ledger, year, days, stamp.at):
            year = archiving.decide(label, lambda _, each: each.authorize_drop(stamp, ground=Ground.GRACE))
        if year.is_drop_authorized:
            verified_now(archiving, year)  # it may have been verified long ago
            with step(telemetry.SPAN_ARCHIVE_DROP, label) as span:
                year = _drop(archiving, year)
                span.set_attribute(telemetry.TABLE_ROWS, sum(table["rows"] for table in year.tables))
    if year.state is YearState.DROPPED:
        with step(telemetry.SPAN_ARCHIVE_TELL_FILES, label):
            tell_files(archiving, year)
    return year


def is_due(ledger: Ledger, year: FiscalYear, days: int | None, now: datetime) -> bool:
    """Whether time allows that a year drops its rows: so many days after it was verified, and under no hold."""
    if days is None or year.state is not YearState.VERIFIED or year.holds:
        return False
    return (now - verified_at(ledger, year)).days >= days


def _drop(archiving: Archiving, known: FiscalYear) -> FiscalYear:
    """Locks are taken in the order of `ledger.year_records`: what was read before is decided about behind them."""
    days, closed = Year(known.label, known.start, known.end), closed_partitions(known)
    stamp = archiving.stamp()
    with archiving.ledger.transaction() as session:
        for each in closed:
            lock_shared(session, f"table {each.partition.dataset}")
        share_years(session)  # who closes or reopens one comes before this or after it
        fence.drop(session, days, closed, wait_seconds=archiving.wait_seconds)
        for each in closed:
            _drop_superseded(session, each.partition.dataset, each.partition.bounds)
        failpoint("rows_dropped")
        year = year_to_decide_about(archiving.ledger, session, known.label, stamp, archiving.calendar)
        tables = [{name: table[name] for name in ("dataset", "name", "rows", "fingerprint")} for table in year.tables]
        year.drop(stamp, tables=tables)
        save_year(archiving.ledger, session, year)
        failpoint("year_dropped_appended")
    failpoint("year_dropped")
    return year


def _drop_superseded(session: Session, dataset: str, bounds: str) -> None:
    for row in rows(
        session,
        "SELECT each ->> 'name' AS name FROM views.data_tables, jsonb_array_elements(superseded) AS each"
        " WHERE dataset = :dataset AND each ->> 'bounds' = :bounds",
        dataset=dataset,
        bounds=bounds,
    ):
        cursor_of(session).execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(SUPERSEDED, row.name)))


def tell_files(archiving: Archiving, year: FiscalYear) -> None:
    """Tell each file of a dropped year that its rows are archived. Those that know it are left out."""
    manifest, _ = stored_manifest(archiving, year)
    volume = Volume(archiving.store, prefix_of(archiving.origin, year.label, year.generation), None)
    entry = manifest.reconciliation
    archiving.spool.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=archiving.spool) as file:
        for block in volume.read(entry):
            file.write(block)
        file.seek(0)
        lines = _lines(raw_blocks(iter(partial(file.read, READ_BYTES), b""), entry.key))
        told = (line for line in lines if line["is_completed"])
        while batch := list(islice(told, ARCHIVED_AT_ONCE)):
            with archiving.ledger.transaction() as session:
                for line in batch:
                    lock_job(session, UUID(line["job_id"]))
                now = year_to_decide_about(archiving.ledger, session, year.label, archiving.stamp(), archiving.calendar)
                if (now.state, now.generation) != (year.state, year.generation):
                    return  # it was reopened, and its rows are here again
                for line in batch:
                    _tell_file(archiving, session, year, line)
            failpoint("files_told")


def _tell_file(archiving: Archiving, session: Session, year: FiscalYear, line: dict[str, Any]) -> None:
    job = archiving.ledger.job(UUID(line["job_id"]))
    if year.label in job.years_archived:
        return
    assert year.manifest_sha256 is not None, "it was exported"
    job.archive(
        archiving.stamp(),
        fiscal_year=year.label,
        manifest=year.manifest_sha256,
        rows=line["rows"],
        row_set_digest=line["row_set_digest"],
        totals={each.pop("column"): each for each in line["totals"]},
    )
    archiving.ledger.save(job, session=session)


def _lines(blocks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    left = b""
    for block in blocks:
        *whole, left = (left + block).split(b"\n")
        yield from map(json.loads, whole)
    assert not left, "the text ends with a line"
