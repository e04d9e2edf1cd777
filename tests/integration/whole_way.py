"""A year on its whole way over S3: exported, sealed, held, dropped, brought back, read, let go, and reopened.

Rules:
1. A step that ended somewhere is done again, and goes on from there: by the same process, or by another one.
2. At any time (`check`) all rows are here, or in an archive that is whole, locked and verified. Whatever is in the
   store is there once, and nothing hides it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from sqlalchemy import Engine, text

from archive import closing
from archive.closing import Closing
from archive.dropping import drop_if_due
from archive.exporting import export
from archive.finishing import ArchiveDiffersError, finish
from archive.manifest import Manifest, parse_manifest
from archive.restoration import schema_of
from archive.retention import carry_out_holds
from archive.retrieval import release
from archive.stores import LockMode, Tier, open_cold_store
from archive.verifier import verify_archive
from archive.volume import prefix_of
from ledger.application import Ledger
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import CopyState, Ground, YearState
from ledger.settings import Settings
from tests.integration.archiving import ORIGIN, Archive
from tests.integration.place import STAMP, Place
from tests.integration.views import new_order
from tests.integration.years import SECOND
from tests.s3_servers import new_bucket
from tests.strict_s3.objects import COLD, Bucket, Version
from tests.strict_s3.server import StrictS3
from workers.archives import request_restore, restore_fiscal_year
from workers.operations import NotYetError
from workers.years import closing_of

HERE = (YearState.CLOSED, YearState.EXPORTED, YearState.VERIFIED, YearState.REOPENED)
RESTORED_IN = timedelta(hours=12)
DAYS = 2
CASE = "2026/17"
# In their order: what is done to a year, each by the method of `WholeWay` that has its name.
STEPS = (
    "export", "finish", "hold", "lift", "drop", "request", "ask", "bring_back", "read_all", "release",
    "bring_back_again", "reopen",
)  # fmt: skip


class WholeWay:
    """A year that was closed, its archive in a bucket of the double, and every step that there is."""

    def __init__(self, archive: Archive, s3: StrictS3, label: str) -> None:
        self.archive = archive
        self.s3 = s3
        self.label = label
        self.rows = self._rows("data")
        self.restore_id: UUID | None = None

    @property
    def ledger(self) -> Ledger:
        return self.archive.ledger

    @property
    def closing(self) -> Closing:
        return replace(closing_of(self.ledger, self.archive.places[0].workshop.settings), wait_seconds=20)

    @property
    def year(self) -> FiscalYear:
        return self.archive.year(self.label)

    @property
    def prefix(self) -> str:
        return f"books/{prefix_of(ORIGIN, self.label, self.year.generation)}/"

    def export(self) -> None:
        export(self.archive.archiving, self.label)
        self.archive.seal()

    def finish(self) -> None:
        finish(self.archive.archiving, self.label)

    def hold(self) -> None:
        """For a case, to the last object."""
        if CASE not in self.year.holds:
            closing.decide(self.closing, self.label, STAMP, lambda year: year.place_hold(STAMP, case=CASE))
        carry_out_holds(self.ledger, self.archive.archiving.store, self.year)

    def lift(self) -> None:
        """Lift the hold, as a second person."""
        if CASE in self.year.holds:
            closing.decide(
                self.closing, self.label, SECOND, lambda year: year.lift_hold(SECOND, case=CASE, reason="settled")
            )
        carry_out_holds(self.ledger, self.archive.archiving.store, self.year)

    def drop(self) -> None:
        """With a second person's word."""
        if not self.year.is_drop_authorized:
            self.archive.archiving.decide(self.label, lambda _, year: _allow(year))
        drop_if_due(self.archive.archiving, self.label, days=None)

    def request(self) -> None:
        asked = request_restore(
            self.closing,
            self.archive.archiving.store,
            self.label,
            STAMP,
            tier=Tier.STANDARD,
            days=DAYS,
            reason="an audit",
        )
        self.restore_id = asked.id

    def ask(self) -> None:
        with suppress(NotYetError):
            self.bring_back()

    def bring_back(self) -> None:
        """As a worker does that looks whether all is there."""
        assert self.restore_id is not None
        order = replace(new_order(fiscal_year=self.label), id=self.restore_id)
        restore_fiscal_year(self.archive.places[0].workshop, order, self.s3.clock.now)

    def restore_all(self) -> None:
        """As an auditor does by hand who wants to read every object; what is asked for is there at once."""
        for each in self.kept():
            if each.storage_class in COLD:
                self.bucket.restore(each, DAYS, Tier.STANDARD.value)
        self.s3.clock.advance(RESTORED_IN)

    def read_all(self) -> None:
        """As `ledger archive verify --content` does. Raises ArchiveDiffersError unless all is as it was signed."""
        archiving = self.archive.archiving
        prefix = prefix_of(ORIGIN, self.label, self.year.generation)
        found = verify_archive(archiving.store, prefix, archiving.keys, content=True)
        if not found.holds:
            raise ArchiveDiffersError(f"It differs: {found.findings} {found.not_compared}", "Read it again.")

    def release(self) -> None:
        release(self.closing, self.label, STAMP)

    def bring_back_again(self) -> None:
        """While the store still has the copies that it restored."""
        if self.year.copy is CopyState.NONE:
            self.request()
        self.bring_back()

    def reopen(self) -> None:
        """By one person and another."""
        if self.year.reopen_requested_by is None:
            closing.decide(
                self.closing, self.label, STAMP, lambda year: year.request_reopen(STAMP, reason="an invoice")
            )
        closing.reopen(self.closing, self.label, SECOND)

    def copy(self) -> list[list[tuple[Any, ...]]]:
        """The rows that were brought back."""
        year = self.year
        return self._rows(schema_of(Year(self.label, year.start, year.end), year.generation))

    def kept(self) -> list[Version]:
        """All that the store has of the year, delete markers too."""
        return self.bucket.all(self.prefix)

    def manifest(self) -> bytes:
        """The one that there is."""
        [found] = [each for each in self.kept() if each.key == f"{self.prefix}MANIFEST.json"]
        return found.data

    def check(self) -> None:
        """See that no row is in no place, and nothing in the store twice (rule 2)."""
        kept = self.kept()
        assert not any(each.is_delete_marker for each in kept)
        assert len(kept) == len({each.key for each in kept})
        if self.year.state in HERE:
            assert self._rows("data") == self.rows
        else:
            self.check_archive()

    def check_archive(self) -> None:
        """See that the archive is whole, and locked to its last object until its end."""
        data = self.manifest()
        assert hashlib.sha256(data).hexdigest() == self.year.manifest_sha256
        manifest: Manifest = parse_manifest(data)
        kept = {each.key.removeprefix(self.prefix): each for each in self.kept()}
        for entry in manifest.objects():
            there = kept[entry.key]
            assert (there.id, hashlib.sha256(there.data).hexdigest()) == (entry.version, entry.sha256)
        named = {entry.key for entry in manifest.objects()}
        assert kept.keys() - named == {"MANIFEST.json", "MANIFEST.note", "README.txt", "verify.sh"}
        until = datetime.fromisoformat(manifest.policy.retain_until)
        assert {(each.lock_mode, each.lock_until) for each in kept.values()} == {(LockMode.COMPLIANCE, until)}

    def topics(self) -> list[str]:
        return self.archive.topics(self.label)

    def times_told(self, topic: str) -> int:
        """How often the jobs were told something."""
        return sum(logged.topic == topic for logged in self.ledger.events_after(0, 1_000_000))

    @property
    def bucket(self) -> Bucket:
        """Its bucket, as the double has it."""
        return self.s3.operations.buckets[urlsplit(self.url).netloc]

    @property
    def url(self) -> str:
        """Where its archive lies."""
        return str(self.archive.places[0].workshop.settings.archive_url)

    def _rows(self, schema: str) -> list[list[tuple[Any, ...]]]:
        year = self.year
        return [
            self.archive.query(
                "SELECT number, paid_on, amount, note, _job, _record"
                f" FROM {schema}.{place.dataset} WHERE paid_on >= :start AND paid_on < :end ORDER BY _job, _record",
                start=year.start,
                end=year.end,
            )
            for place in self.archive.places
        ]


def _allow(year: FiscalYear) -> None:
    year.authorize_drop(SECOND, ground=Ground.APPROVAL)


@contextmanager
def copied(way: WholeWay, folder: Path) -> Iterator[WholeWay]:
    """The same year of the same log in a database of its own, with an empty bucket and a spool of its own."""
    way.s3.faults.disarm()
    engine = way.ledger.engine
    name = f"copy_{uuid4().hex[:8]}"
    engine.dispose()  # nobody may be connected to what is copied
    _administer(engine, f"CREATE DATABASE {name} TEMPLATE {engine.url.database}")
    url = engine.url.set(database=name).render_as_string(hide_password=False)
    ledger = Ledger(Settings(database_url=url))
    bucket = f"s3://{new_bucket()}/books"
    workshop = way.archive.places[0].with_settings(archive_url=bucket, scratch_folder=folder).workshop
    places = [Place(replace(workshop, ledger=ledger), place.dataset) for place in way.archive.places]
    store = open_cold_store(bucket)
    archiving = replace(way.archive.archiving, ledger=ledger, store=store, spool=folder)
    try:
        yield WholeWay(Archive(places, archiving), way.s3, way.label)
    finally:
        ledger.engine.dispose()
        _administer(engine, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("RESET ROLE"))
        connection.execute(text(statement))
    engine.dispose()  # the next connection takes its role
