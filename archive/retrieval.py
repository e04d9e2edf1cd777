"""Retrieval: bringing the rows of an archived year back from cold storage, to be read beside the archive.

Rules:
1. Each call of `ask` looks at every part and asks for what is missing: a copy that is not on its way, was let go, or
   would be gone before all are read. So it may end anywhere and is simply called again; nobody waits in between.
2. Where there is no capacity for an expedited restore, the standard one is asked for, and said to be.
3. Only when all parts are ready are they read. They are streamed into PostgreSQL and compared there
   (`archive.restoration`); the event that tells of it is in the same transaction, with what was compared. Their jobs
   are told of it afterwards, some at a time.
4. What a table was is what the Closed event, the manifest and the archived definitions say, not what it has become
   since. Where they differ nothing is restored.
5. The year's lock is taken only at the end: those who decide about it are not held up by the reading.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from archive import restoration
from archive.closing import Closing, closed_partitions
from archive.definitions import archived_statements
from archive.fence import ClosedPartition
from archive.manifest import PartEntry, TableEntry
from archive.restoration import ArchivedPart, ArchivedTable, RestorationDiffersError
from archive.retrieval_plan import parts_to_read, time_to_read
from archive.sealed import SealedArchive
from archive.stores import ColdStore, NoCapacityError, Restoration, StoredObject, Tier, damaged
from archive.volume import Volume
from archive.year_jobs import jobs_away
from ledger.application import Ledger
from ledger.database import lock, lock_job
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import CopyState
from ledger.errors import ConflictError
from ledger.event_log import LoggedEvent
from ledger.failpoints import failpoint
from ledger.year_records import save_year, year_to_decide_about

log = logging.getLogger(__name__)

JOBS_AT_ONCE = 100
MAJOR = 10_000  # 180001 is release 1 of version 18


@dataclass(frozen=True)
class Asked:
    """How many parts there are, how many of them can be read, and for how many the tier had no capacity."""

    parts: int
    ready: int
    slower: int

    @property
    def is_ready(self) -> bool:
        """Whether all can be read."""
        return self.ready == self.parts


def ask(store: ColdStore, archive: SealedArchive, tier: Tier, days: int, now: datetime) -> Asked:
    """Have each part of an archive brought back that is not (rule 1); where that stands.

    Raises:
        ObjectDamagedError: the store holds something else than the manifest says.
        NotFoundError: a part is gone.
        PartUnavailableError: the store cannot be reached.
    """
    lasting = now + time_to_read(archive.manifest)
    parts = ready = slower = 0
    for part in parts_to_read(archive.manifest):
        parts += 1
        key = f"{archive.prefix}/{part.key}"
        kept = store.head(key, part.version)
        if (kept.size_bytes, kept.sha256) != (part.bytes, part.sha256):
            raise damaged(key, part.version, "is not what the manifest says")
        if _is_readable(kept, lasting):
            ready += 1
        elif kept.restoration is not Restoration.UNDER_WAY:
            restored, is_slower = _restore(store, kept, tier, days)
            ready += restored is Restoration.READY
            slower += is_slower
            failpoint("part_asked_for")
    if slower:
        said = {"action": "restore_slower", "fiscal_year": archive.manifest.fiscal_year, "objects": slower}
        log.warning("no capacity for %s: %s objects are restored as Standard", tier.value, slower, extra=said)
    return Asked(parts, ready, slower)


def bring_back(
    ledger: Ledger, calendar: FiscalCalendar, store: ColdStore, archive: SealedArchive, label: str, stamp: Stamp
) -> dict[str, Any]:
    """Restore a year to be read, and say so in its story; what was shown equal, as the event tells it.

    Raises:
        ConflictError: nobody wants the copy any more, or there is one.
        NotRestoredError: a copy was let go before it was read. Ask for it again.
        ObjectDamagedError, RestorationDiffersError: see `archive.restoration.restore`.
    """
    manifest = archive.manifest
    with ledger.transaction() as session:
        lock(session, f"copy of fiscal year {label}")
        wanted = ledger.fiscal_year(label)
        assert wanted is not None, f"{label} has an archive and no story"
        _check_wanted(wanted, manifest.generation)
        days = Year(label, wanted.start, wanted.end)
        tables = list(_tables(wanted, store, archive, _postgresql(session)))
        schema = restoration.restore(session, days, manifest.generation, tables)
        failpoint("copy_made")
        year = year_to_decide_about(ledger, session, label, stamp, calendar)
        _check_wanted(year, manifest.generation)
        proof = _proof(session, archive, schema, [table for table, _ in tables])
        year.restore(stamp, proof=proof)
        save_year(ledger, session, year)
        failpoint("restored_appended")
    failpoint("restored_committed")
    return proof


def tell_jobs(ledger: Ledger, label: str, archive_sha256: str, stamp: Stamp) -> int:
    """Say in the story of each job whose rows were archived that they are back; of how many it was said now.

    Those that know it already, since the copy was asked for, are left out: so it goes on where it was interrupted.
    """
    year = ledger.fiscal_year(label)
    assert year is not None, f"{label} has a copy and no story"
    asked_at = last_request(ledger, year).position
    told, last = 0, UUID(int=0)
    while True:
        with ledger.transaction() as session:
            lock(session, f"copy of fiscal year {label}")
            found = jobs_away(session, label, since=asked_at, last=last, limit=JOBS_AT_ONCE)
            if not found:
                return told
            last = found[-1]
            for job_id in found:
                lock_job(session, job_id)
            jobs = list(map(ledger.job, found))
            for job in jobs:
                job.restore(stamp, fiscal_years=[label], manifest=archive_sha256)
            ledger.save(*jobs, session=session)
        told += len(jobs)
        failpoint("jobs_told")


def release(closing: Closing, label: str, stamp: Stamp) -> FiscalYear:
    """Drop the copy of a year, or want none any more; the year then.

    Raises:
        NotFoundError: the calendar has no such year.
        ConflictError: there is no copy, or something was made of it.
        TableInUseError: somebody read it for too long.
    """
    ledger = closing.ledger
    with ledger.transaction() as session:
        year = year_to_decide_about(ledger, session, label, stamp, closing.calendar)
        year.release(stamp)
        days = Year(label, year.start, year.end)
        restoration.release(session, days, year.generation, wait_seconds=closing.wait_seconds)
        failpoint("copy_dropped")
        save_year(ledger, session, year)
    return year


def last_request(ledger: Ledger, year: FiscalYear) -> LoggedEvent:
    """Where and how the copy that is wanted, or there, was asked for."""
    events = ledger.events_of(year.id)
    return next(logged for logged in reversed(events) if isinstance(logged.event, FiscalYear.RestoreRequested))


def _is_readable(kept: StoredObject, lasting: datetime) -> bool:
    return kept.is_readable and (kept.restored_until is None or kept.restored_until.astimezone(UTC) >= lasting)


def _restore(store: ColdStore, kept: StoredObject, tier: Tier, days: int) -> tuple[Restoration, bool]:
    """Ask for a copy; where it stands, and whether it comes slower than was wanted."""
    try:
        return store.restore(kept.key, kept.version, tier, days), False
    except NoCapacityError:
        if tier is not Tier.EXPEDITED:
            raise
        return store.restore(kept.key, kept.version, Tier.STANDARD, days), True


def _check_wanted(year: FiscalYear, generation: int) -> None:
    if year.copy is not CopyState.REQUESTED or year.generation != generation:
        raise ConflictError(
            f"The copy of generation {generation} of fiscal year {year.label} is not wanted any more, or is there"
            " already.",
            f"See where it stands: `ledger archive status {year.label}`.",
        )


def _tables(
    year: FiscalYear, store: ColdStore, archive: SealedArchive, postgresql: int
) -> Iterator[tuple[ArchivedTable, Iterable[ArchivedPart]]]:
    closed = {each.partition.dataset: each for each in closed_partitions(year)}
    entries = {entry.dataset: entry for entry in archive.manifest.tables}
    if closed.keys() != entries.keys():
        raise _differs(year.label, f"has other datasets: {', '.join(sorted(closed.keys() ^ entries.keys()))}")
    volume = Volume(store, archive.prefix, None)
    statements = archived_statements(volume, archive.manifest.definitions, year)
    is_same_postgresql = archive.manifest.software.postgresql // MAJOR == postgresql // MAJOR
    for dataset, each in closed.items():
        entry = entries[dataset]
        if _columns(entry) != [(column.name, column.type, column.nullable) for column in each.partition.columns]:
            raise _differs(year.label, f"has other columns of {dataset!r}")
        yield (
            _table(each, entry, statements[dataset], is_same_postgresql),
            [_part(volume, part) for part in entry.parts],
        )


def _table(closed: ClosedPartition, entry: TableEntry, statement: str, is_same_postgresql: bool) -> ArchivedTable:
    partition = closed.partition
    return ArchivedTable(
        partition.dataset,
        statement,
        partition.columns,
        entry.text_sha256,
        closed.fingerprint,
        is_digest_comparable=is_same_postgresql,
    )


def _part(volume: Volume, part: PartEntry) -> ArchivedPart:
    return ArchivedPart(part.key, part.raw_bytes, part.raw_sha256, part.sha256, partial(volume.read, part))


def _columns(entry: TableEntry) -> list[tuple[str, str, bool]]:
    return [(column.name, column.type, column.is_nullable) for column in entry.columns]


def _proof(session: Session, archive: SealedArchive, schema: str, tables: list[ArchivedTable]) -> dict[str, Any]:
    return {
        "schema": schema,
        "generation": archive.manifest.generation,
        "manifest_sha256": archive.manifest_sha256,
        "postgresql": _postgresql(session),
        "tables": [
            {"dataset": table.dataset, "rows": table.fingerprint.rows, "text_sha256": table.content_sha256}
            for table in tables
        ],
    }


def _postgresql(session: Session) -> int:
    return int(session.execute(text("SHOW server_version_num")).scalar_one())


def _differs(label: str, how: str) -> RestorationDiffersError:
    return RestorationDiffersError(
        f"The archive of fiscal year {label} is of something else than the log says was closed: it {how}.",
        "Nothing was restored. Verify the record and the archive.",
    )
