"""The content of an archive, read again to the last byte, and compared with what its signed manifest says.

Rules:
1. Each object is fetched into a file and hashed before anything in it is looked at (`archive.fetched_objects`). So
   nothing but signed bytes is decompressed or taken apart, and no more than some blocks of them are in memory.
2. Each text comes to its digest, size and number of lines; the parts of a table to those of the whole table, from the
   first row to the last; every file that was sent comes out of the packs with its own SHA-256.
3. The events are leaves one after the other, and with the hashes that the manifest has of the rest of the tree they
   come to the root of its checkpoint.
4. The rows of each job are as many as the reconciliation says.
5. Of a sample each object is read by itself: it is the one that was put, and if it is a text, the one that was signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from archive.fetched_objects import Fetcher
from archive.manifest import EventsEntry, Manifest, ObjectEntry, TableEntry, TextEntry
from archive.verified_packs import check_packs
from ledger.merkle import CompactRange, ProofRefusedError, check_consistency
from ledger.notes import Checkpoint
from ledger.verify_proof import leaf_of

CLOSED = "fiscal_year.closed"


def check_content(fetcher: Fetcher, manifest: Manifest) -> None:
    """Read every object of an archive, and note what is not as the manifest says. Raises PartUnavailableError."""
    fetcher.text(manifest.definitions)
    rows_of_jobs: dict[str, Counter[int]] | None = {}
    for table in manifest.tables:
        jobs = _check_table(fetcher, table)
        if jobs is None or rows_of_jobs is None:
            rows_of_jobs = None
        else:
            rows_of_jobs[table.dataset] = jobs
    for copy in manifest.access:
        with fetcher.fetched(copy):
            pass
    for entry in manifest.snapshots:
        fetcher.text(entry)
    _check_events(fetcher, manifest)
    check_packs(fetcher, manifest.files)
    _check_reconciliation(fetcher, manifest, rows_of_jobs)


def check_some(fetcher: Fetcher, entries: Iterable[ObjectEntry]) -> None:
    """Read some objects of an archive, each by itself. Raises PartUnavailableError."""
    for entry in entries:
        if isinstance(entry, TextEntry):
            fetcher.text(entry)
        else:
            with fetcher.fetched(entry):
                pass


def _check_table(fetcher: Fetcher, table: TableEntry) -> Counter[int] | None:
    """Read the parts of a table; how many rows each job has, None if they cannot be had."""
    digest = hashlib.sha256()
    jobs: Counter[int] = Counter()
    names = [column.name for column in table.columns]
    job, record = (len(names) - names.index(name) for name in ("_job", "_record"))
    ends: list[tuple[int, int]] = []

    def place(line: bytes) -> tuple[int, int]:
        fields = line.rsplit(b"\t", max(job, record))
        return int(fields[-job]), int(fields[-record])

    def take(block: bytes) -> None:
        digest.update(block)
        lines = block.split(b"\n")[:-1]
        ends.extend((place(lines[0]), place(lines[-1])))
        jobs.update(int(line.rsplit(b"\t", job)[-job]) for line in lines)

    is_whole = True
    for part in table.parts:
        ends.clear()
        if not fetcher.text(part, take):
            is_whole = False
        elif ends != sorted(ends) or ends[:1] != [part.first] or ends[-1:] != [part.last]:
            fetcher.differs("part_differs", part.key, f"does not hold the rows from {part.first} to {part.last}")
    if not is_whole:
        return None
    found = (digest.hexdigest(), sum(jobs.values()), sum(part.raw_bytes for part in table.parts))
    if found != (table.text_sha256, table.rows, table.text_bytes):
        fetcher.differs("table_differs", f"data/{table.dataset}", "has parts that are not the whole table")
    return jobs


class _Events:
    """The events of an archive, as they are read."""

    def __init__(self, entry: EventsEntry) -> None:
        self._entry = entry
        self._position = entry.first_position - 1
        self.leaves: CompactRange | None = None
        self.count = 0
        self.last: dict[str, Any] = {}

    def take(self, block: bytes) -> None:
        """Take in lines. Raises ValueError: one is none of this place."""
        for line in block.split(b"\n")[:-1]:
            event = json.loads(line)
            if self.leaves is None:
                index, before = event["index"], [bytes.fromhex(each) for each in self._entry.before]
                if index.bit_count() != len(before):
                    raise ValueError(f"the first event has the index {index}, to which the hashes before it do not go")
                self.leaves = CompactRange(index, before)
            if event["index"] != self.leaves.size:
                raise ValueError(f"index {event['index']} comes after {self.leaves.size - 1}")
            if not self._position < event["id"] <= self._entry.last_position:
                raise ValueError(f"position {event['id']} comes after {self._position}")
            self._position = event["id"]
            for _ in self.leaves.add(leaf_of(event)):
                pass
            self.count += 1
            self.last = event


def _check_events(fetcher: Fetcher, manifest: Manifest) -> None:
    entry = manifest.events
    events = _Events(entry)
    is_whole = True
    for part in entry.parts:
        is_whole = (fetcher.text(part, events.take) if is_whole else fetcher.text(part)) and is_whole
    if not is_whole:
        return
    name = entry.parts[-1].key if entry.parts else "events"
    if events.leaves is None or events.count != entry.count or events.last["id"] != entry.last_position:
        fetcher.differs(
            "events_differ", name, f"ends the events after {events.count:,}, and there were {entry.count:,}"
        )
        return
    if not _is_closing(events.last, manifest):
        fetcher.differs("events_differ", name, f"does not end with the event that closed {manifest.fiscal_year}")
    checkpoint = Checkpoint.parse(manifest.checkpoint)
    after: Sequence[bytes] = [bytes.fromhex(each) for each in entry.after]
    try:
        check_consistency(events.leaves.size, checkpoint.size, after, events.leaves.root(), checkpoint.root)
    except ProofRefusedError as refused:
        fetcher.differs("root_differs", name, f"ends events that do not come to the checkpoint: {refused.message}")


def _is_closing(event: dict[str, Any], manifest: Manifest) -> bool:
    if event["topic"] != CLOSED:
        return False
    state = json.loads(base64.b64decode(event["state"]))
    return (state["label"], state["generation"]) == (manifest.fiscal_year, manifest.generation)


def _check_reconciliation(fetcher: Fetcher, manifest: Manifest, rows_of_jobs: dict[str, Counter[int]] | None) -> None:
    told: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def take(block: bytes) -> None:
        for line in block.split(b"\n")[:-1]:
            job = json.loads(line)
            told[job["dataset"]][job["job"]] += job["rows"]

    if fetcher.text(manifest.reconciliation, take) and rows_of_jobs is not None:
        for dataset, jobs in rows_of_jobs.items():
            for job in sorted(jobs.keys() | told[dataset].keys()):
                if jobs[job] != told[dataset][job]:
                    how = f"says {told[dataset][job]:,} rows of {dataset} for job {job}, and {jobs[job]:,} are there"
                    fetcher.differs("reconciliation_differs", manifest.reconciliation.key, how)
