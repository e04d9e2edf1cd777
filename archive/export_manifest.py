"""The manifest of an export, composed of what the log says: of the closing, the plan and the parts that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from archive.export_run import Run
from archive.export_tables import ACCESS, ROWS
from archive.export_texts import contract_versions
from archive.manifest import (
    AccessEntry,
    CalendarEntry,
    ClosedEntry,
    Entry,
    EventsEntry,
    FilesEntry,
    Manifest,
    ObjectEntry,
    PartEntry,
    PolicyEntry,
    SoftwareEntry,
    TableEntry,
    TextEntry,
    TotalsEntry,
    entry_of,
)
from ledger.database import rows
from ledger.merkle import complete_subtrees, consistency_proof
from ledger.notes import Checkpoint
from ledger.seal import StoredNodes

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def compose(run: Run, checkpoint: str) -> Manifest:
    """The manifest of a year all parts of which are stored."""
    year, story = run.year, run.story
    assert year.parts and not year.missing_parts, "all parts are stored"
    return Manifest(
        origin=run.archiving.origin,
        fiscal_year=year.label,
        generation=year.generation,
        calendar=CalendarEntry(
            definition=year.calendar, zone=year.zone, start=year.start.isoformat(), end=year.end.isoformat()
        ),
        closed=ClosedEntry(at=rfc3339(story.closed_at), by=story.closed_by, position=story.position),
        previous=story.previous,
        supersedes=story.supersedes,
        checkpoint=checkpoint,
        policy=entry_of(PolicyEntry, year.pinned["policy"]),
        software=entry_of(SoftwareEntry, year.pinned["software"]),
        definitions=entry_of(TextEntry, year.stored["definitions"]),
        tables=tuple(_table(run, table) for table in year.tables),
        access=tuple(entry_of(AccessEntry, each) for each in _stored(run, f"{ACCESS}/")),
        events=_events(run, checkpoint),
        snapshots=tuple(entry_of(TextEntry, each) for each in _stored(run, "snapshots/")),
        files=_files(run),
        reconciliation=entry_of(TextEntry, year.stored["reconciliation"]),
    )


def rfc3339(instant: datetime) -> str:
    """An instant as a manifest has it, in UTC."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def in_years(instant: datetime, years: int) -> datetime:
    """The same day and time so many years later, as no store knows less than a second; of a leap day, the day after."""
    whole = (instant.astimezone(UTC) + timedelta(microseconds=999_999)).replace(microsecond=0)
    try:
        return whole.replace(year=whole.year + years)
    except ValueError:
        return whole.replace(year=whole.year + years, month=3, day=1)


def _stored(run: Run, begin: str) -> Iterator[dict[str, Any]]:
    return (run.year.stored[name] for name in run.year.parts if name.startswith(begin))


def _table(run: Run, table: dict[str, Any]) -> TableEntry:
    dataset = table["dataset"]
    stored = list(_stored(run, f"{ROWS}/{dataset}/"))
    totals = run.year.stored["reconciliation"]["totals"][dataset]
    columns = [
        {"name": column["name"], "type": column["type"], "is_nullable": column["nullable"]}
        for column in table["columns"]
    ]
    values = {
        "dataset": dataset,
        "name": table["name"],
        "contract_version": len(contract_versions(run.archiving, run.story, dataset)),
        "columns": columns,
        "rows": table["rows"],
        "text_bytes": stored[0]["text_bytes"] if stored else 0,
        "text_sha256": stored[0]["text_sha256"] if stored else EMPTY_SHA256,
        "fingerprint": table["fingerprint"],
        "totals": [_picked(TotalsEntry, each) for each in totals],
        "parts": [_picked(PartEntry, each) for each in stored],
    }
    return entry_of(TableEntry, values)


def _picked(kind: type[Entry], values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in kind.model_fields}


def _events(run: Run, checkpoint: str) -> EventsEntry:
    parts = tuple(entry_of(TextEntry, each) for each in _stored(run, "events/"))
    log = run.story.log
    with run.ledger.transaction() as session:
        leaves = rows(
            session,
            "SELECT min(index) AS first, max(index) AS last FROM ledger.leaves WHERE position BETWEEN :first AND :last",
            first=log.first,
            last=log.last,
        )[0]
        nodes = StoredNodes(session)
        before = complete_subtrees(nodes, leaves.first)
        after = consistency_proof(nodes, leaves.last + 1, Checkpoint.parse(checkpoint).size)
    return EventsEntry(
        first_position=log.first,
        last_position=log.last,
        count=sum(part.lines for part in parts),
        before=tuple(each.hex() for each in before),
        after=tuple(each.hex() for each in after),
        parts=parts,
    )


def _files(run: Run) -> FilesEntry:
    index = run.year.stored["files/index"]
    packs: Iterable[dict[str, Any]] = _stored(run, "files/pack-")
    return FilesEntry(
        count=index["files"],
        bytes=index["files_bytes"],
        packs=tuple(entry_of(ObjectEntry, each) for each in packs),
        index=entry_of(TextEntry, index),
    )
