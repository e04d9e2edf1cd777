"""Years for tests that are in cold storage already: closed, put there under a manifest, and dropped if wanted.

It is made of the same parts as an export and takes none of its care: no books are balanced, and nobody verifies.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from archive import closing, fence
from archive.closing import Closing, closed_partitions
from archive.definitions import definitions_of
from archive.fence import ClosedPartition
from archive.manifest import Manifest, PartEntry, TextEntry
from archive.parts import plan_parts, write_part
from archive.stores import ColdStore, Lock, LockMode, StorageClass
from archive.text_files import TextWriter
from archive.verifier import MANIFEST, NOTE
from archive.volume import Volume, prefix_of
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import Ground
from ledger.year_records import save_year, year_to_decide_about
from tests.integration.fiscal_tables import text_of
from tests.integration.place import STAMP, Place
from workers.years import closing_of

ORIGIN = "books"
RETAINED_UNTIL = datetime(2044, 4, 1, tzinfo=UTC)
WHILE_UNDER_WAY = Lock(LockMode.GOVERNANCE, datetime(2040, 1, 1, tzinfo=UTC))
DIGEST = "0123456789abcdef" * 4
PART_BYTES = 2_000


class Shelf:
    """A cold store, and the years of a ledger that are put there."""

    def __init__(self, place: Place, store: ColdStore, spool: Path, storage_class: StorageClass) -> None:
        self.place = place
        self.store = store
        self.spool = spool
        self.storage_class = storage_class

    @property
    def closing(self) -> Closing:
        return replace(closing_of(self.place.ledger, self.place.workshop.settings), wait_seconds=20)

    def year(self, label: str) -> FiscalYear:
        found = self.place.ledger.fiscal_year(label)
        assert found is not None
        return found

    def export(self, label: str) -> Manifest:
        """Close a year and put it there: its rows are still here."""
        closing.close(self.closing, label, STAMP, requested_by=STAMP.actor, end=lambda session, year: None)
        year = self.year(label)
        volume = Volume(self.store, prefix_of(ORIGIN, label, year.generation), WHILE_UNDER_WAY)
        manifest = self._manifest(volume, year)
        sealed = volume.keep(MANIFEST, self._file(manifest.to_bytes()), StorageClass.STANDARD)
        volume.keep(NOTE, self._file(b"a note"), StorageClass.STANDARD)
        key = f"{prefix_of(ORIGIN, label, year.generation)}/{MANIFEST}"
        self._decide(
            label,
            lambda year: year.plan(STAMP, parts=[{"name": "all"}], pinned={}),
            lambda year: year.store_parts(STAMP, objects=[{"name": "all", "bytes": 1}]),
            lambda year: year.export(
                STAMP, manifest_sha256=sealed.sha256, manifest_key=key, manifest_version=sealed.version, objects=1,
                size_bytes=1, previous_manifest_sha256=None,
            ),
        )  # fmt: skip
        return manifest

    def defined(self, definitions: bytes) -> bytes:
        """What is archived as the definitions of a year."""
        return definitions

    def drop(self, label: str) -> Manifest:
        """Close a year, put it there, and take its rows away from here."""
        manifest = self.export(label)
        self._decide(
            label,
            lambda year: year.verify(STAMP, evidence={}),
            lambda year: year.authorize_drop(STAMP, ground=Ground.GRACE),
        )
        ledger = self.place.ledger
        with ledger.transaction() as session:
            year = year_to_decide_about(ledger, session, label, STAMP, self.place.workshop.calendar)
            fence.drop(session, Year(label, year.start, year.end), closed_partitions(year), wait_seconds=20)
            year.drop(STAMP, tables=[])
            save_year(ledger, session, year)
        for job_id in self.jobs(label):
            job = ledger.job(job_id)
            told: dict[str, Any] = {"rows": 1, "row_set_digest": DIGEST, "totals": {}}
            job.archive(STAMP, fiscal_year=label, manifest=hashlib.sha256(manifest.to_bytes()).hexdigest(), **told)
            ledger.save(job)
        return manifest

    def jobs(self, label: str) -> list[UUID]:
        """The jobs with rows of a year."""
        found = self.place.query("SELECT job_id FROM ledger.arrivals ORDER BY position")
        completed = [(job_id, self.place.ledger.job(job_id)) for (job_id,) in found]
        return [
            job_id
            for job_id, job in completed
            if any(label in chunk.fiscal_years for chunk in job.chunks.values()) and label not in job.years_archived
        ]

    def _decide(self, label: str, *acts: Any) -> None:
        for act in acts:
            closing.decide(self.closing, label, STAMP, act)

    def _manifest(self, volume: Volume, year: FiscalYear) -> Manifest:
        tables = [self._table(volume, each) for each in closed_partitions(year)]
        told = definitions_of(year, {table["dataset"]: [] for table in year.tables})
        definitions, index, reconciliation = (
            self._text(volume, stem, data).model_dump(mode="json")
            for stem, data in (("definitions", self.defined(told)), ("files/index", b""), ("reconciliation", b""))
        )
        return Manifest.model_validate_json(
            Manifest.model_construct(
                origin=ORIGIN, fiscal_year=year.label, generation=year.generation,
                calendar={
                    "definition": year.calendar, "zone": year.zone, "start": str(year.start), "end": str(year.end)
                },
                closed={"at": STAMP.at.isoformat(), "by": STAMP.actor, "position": 1},
                previous=None, supersedes=year.manifest_sha256, checkpoint="books\n7\nAAAA\n",
                policy={"mode": "COMPLIANCE", "retain_until": RETAINED_UNTIL.isoformat()},
                software={"name": "ledger", "version": "1", "postgresql": 180000, "encoding": "UTF8"},
                definitions=definitions, tables=tables, access=[], snapshots=[],
                events={"first_position": 1, "last_position": 1, "count": 1, "before": [], "after": [], "parts": []},
                files={"count": 0, "bytes": 0, "packs": [], "index": index}, reconciliation=reconciliation,
            ).model_dump_json(warnings=False)
        )  # fmt: skip

    def _table(self, volume: Volume, closed: ClosedPartition) -> dict[str, Any]:
        partition = closed.partition
        ledger = self.place.ledger
        with ledger.transaction() as session:
            planned = plan_parts(session, partition, PART_BYTES)
        whole, parts = hashlib.sha256(), []
        for part in planned:
            path = self.spool / "part"
            written = write_part(ledger.engine, partition, part, path)
            whole.update(text_of(path))
            stem = f"data/{partition.dataset}/{part.number:05}"
            places = {"first": tuple(part.first), "last": tuple(part.last)}
            kept = volume.keep_text(stem, "copy.zst", path, written, self.storage_class, PartEntry, **places)
            parts.append(kept.model_dump(mode="json"))
        columns = [{"name": c.name, "type": c.type, "is_nullable": c.nullable} for c in partition.columns]
        return {
            "dataset": partition.dataset, "name": partition.name, "contract_version": 1, "columns": columns,
            "rows": closed.fingerprint.rows, "text_bytes": sum(part["raw_bytes"] for part in parts),
            "text_sha256": whole.hexdigest(), "fingerprint": "", "totals": [], "parts": parts,
        }  # fmt: skip

    def _text(self, volume: Volume, stem: str, data: bytes) -> TextEntry:
        path = self.spool / "text"
        with TextWriter(path) as writer:
            writer.write(data)
        return volume.keep_text(stem, "json.zst", path, writer.facts(), StorageClass.STANDARD, TextEntry)

    def _file(self, data: bytes) -> Path:
        path = self.spool / "file"
        path.write_bytes(data)
        return path
