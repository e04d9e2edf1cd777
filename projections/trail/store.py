"""The PostgreSQL side of the trail: its generations in one table, filled from the log, compared, switched, forgotten.

Rules:
1. A generation's position is that of its last entry, for every event is an entry: the two cannot differ, wherever a
   crash falls. A batch is one transaction, under a lock of the generation: no event is entered twice.
2. An event that cannot be read, or not be entered, stops whoever follows the log. None is skipped.
3. Generations stand side by side in one table, and one row says which is live, which was before it, and who switched.
   Every question looks that up in its own statement, so that it sees a whole generation whenever somebody switches.
4. Where an event makes that earlier ones of its job are read otherwise, because a name was erased, their entries are
   made once more, in the transaction that enters the event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from typing import Any
from uuid import UUID

from psycopg2.extras import execute_values
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import driver_cursor, lock, rows
from ledger.failpoints import failpoint
from projections.generation_comparison import Place, Seen
from projections.trail.entries import Entry, Subject, asked_for, entries_of
from projections.views import Live

TRAIL = "trail"
BATCH_EVENTS = 1_000
PAGE_ENTRIES = 5_000
# Below every position: somebody may have entered something before the beginning of the log.
POSITION_MIN = -(2**63)
COLUMNS = ", ".join(field.name for field in fields(Entry))
LIVE = "(SELECT generation FROM trail.live)"
TOLD_ANEW_AFTER = frozenset({"filejob.name_erased"})


class TrailStore:
    """One generation of the trail. Every method raises PartUnavailableError if PostgreSQL is away."""

    name = TRAIL

    def __init__(self, ledger: Ledger, generation: int) -> None:
        self.generation = generation
        self._ledger = ledger

    def position(self) -> int:
        """The position in the log that the generation reflects, 0 if none."""
        with self._ledger.transaction() as session:
            return self._position(session)

    def apply_batch(self, *, until: int | None = None) -> int:
        """Enter the next events of the log.

        Args:
            until: stop after this position; None means at the end of the log.

        Returns:
            How many events were entered; 0 means that the generation has reached the end (or `until`).

        Raises:
            UnreadableEventError: the next event cannot be read.
        """
        with self._ledger.transaction() as session:
            lock(session, f"trail {self.generation}")
            events = self._ledger.events_after(self._position(session), BATCH_EVENTS)
            if until is not None:
                events = [logged for logged in events if logged.position <= until]
            if not events:
                return 0
            with telemetry.span(telemetry.SPAN_PROJECT, {telemetry.VIEW: TRAIL, telemetry.EVENT_COUNT: len(events)}):
                known = self._subjects(session, asked_for(events))
                self._insert(session, entries_of(events, known))
                for logged in events:
                    if logged.topic in TOLD_ANEW_AFTER:
                        self._tell_anew(session, logged.event.originator_id)
                failpoint("trail_written")
        failpoint("trail_committed")
        return len(events)

    def digest(self) -> str:
        """SHA-256 over all entries in the order of the log, each a line of canonical JSON without its generation."""
        digest = hashlib.sha256()
        for entry in self.in_order():
            digest.update(line_of(entry))
        return digest.hexdigest()

    def in_order(self) -> Iterator[Entry]:
        """All entries in the order of the log, read in pages: no process holds the whole trail."""
        start = POSITION_MIN
        while page := self._page(start):
            yield from page
            start = page[-1].position + 1

    def at(self, places: Sequence[Place]) -> Seen:
        """The entries at some positions, as of one position: nobody enters any meanwhile."""
        with self._ledger.transaction() as session:
            lock(session, f"trail {self.generation}")
            position = self._position(session)
            found = rows(
                session,
                f"SELECT {COLUMNS} FROM trail.entries WHERE generation = :generation AND position = ANY (:positions)",
                generation=self.generation,
                positions=[position for position, _ in places],
            )
        return Seen(position, {(row.position, ""): Entry(*row) for row in found})

    def drop(self) -> None:
        """Forget the generation."""
        with self._ledger.transaction() as session:
            lock(session, f"trail {self.generation}")
            session.execute(
                text("DELETE FROM trail.entries WHERE generation = :generation"), {"generation": self.generation}
            )

    def _position(self, session: Session) -> int:
        return position_of(session, str(int(self.generation)))

    def _subjects(self, session: Session, streams: set[UUID]) -> dict[UUID, Subject]:
        found = rows(
            session,
            "SELECT stream, job, dataset, sha256, filename FROM trail.entries"
            " WHERE generation = :generation AND stream = ANY (:streams) AND version = 1",
            generation=self.generation,
            streams=sorted(streams),
        )
        return {row.stream: Subject(row.job, row.dataset, row.sha256, row.filename) for row in found}

    def _insert(self, session: Session, entries: Iterator[Entry]) -> None:
        with driver_cursor(session) as cursor:
            execute_values(
                cursor,
                f"INSERT INTO trail.entries (generation, {COLUMNS}) VALUES %s",
                [(self.generation, *astuple(entry)) for entry in entries],
                page_size=BATCH_EVENTS,
            )

    def _tell_anew(self, session: Session, job: UUID) -> None:
        streams = rows(
            session,
            "SELECT DISTINCT stream FROM trail.entries WHERE generation = :generation AND job = :job",
            generation=self.generation,
            job=job,
        )
        events = [logged for row in streams for logged in self._ledger.events_of(row.stream)]
        events.sort(key=lambda logged: logged.position)
        with driver_cursor(session) as cursor:
            execute_values(
                cursor,
                "UPDATE trail.entries SET filename = told.filename, text = told.text"
                " FROM (VALUES %s) AS told (generation, position, filename, text)"
                " WHERE (entries.generation, entries.position) = (told.generation, told.position)",
                [(self.generation, entry.position, entry.filename, entry.text) for entry in entries_of(events, {})],
                template="(%s, %s, %s::text, %s)",
            )

    def _page(self, start: int) -> list[Entry]:
        with self._ledger.transaction() as session:
            found = rows(
                session,
                f"SELECT {COLUMNS} FROM trail.entries WHERE generation = :generation AND position >= :start"
                " ORDER BY position LIMIT :limit",
                generation=self.generation,
                start=start,
                limit=PAGE_ENTRIES,
            )
        return [Entry(*row) for row in found]


def live_trail(ledger: Ledger) -> TrailStore:
    """The generation that readers see."""
    return TrailStore(ledger, live(ledger).generation)


def live(ledger: Ledger) -> Live:
    """What is live, what was before, and who switched."""
    with ledger.transaction() as session:
        [found] = rows(session, "SELECT generation, previous, switched_by FROM trail.live")
    return Live(found.generation, found.previous, found.switched_by)


def generations(ledger: Ledger) -> set[int]:
    """Every generation that left something behind. Looks at one entry of each."""
    with ledger.transaction() as session:
        found = rows(
            session,
            "WITH RECURSIVE found AS (SELECT min(generation) AS generation FROM trail.entries UNION ALL"
            " SELECT (SELECT min(e.generation) FROM trail.entries e WHERE e.generation > found.generation)"
            " FROM found WHERE generation IS NOT NULL) SELECT generation FROM found WHERE generation IS NOT NULL",
        )
    return {row.generation for row in found}


def new_generation(ledger: Ledger) -> int:
    """A number above the live generation and above every generation that left something behind."""
    return max(live(ledger).generation, *generations(ledger), 0) + 1


def switch(ledger: Ledger, generation: int, *, previous: int = 0, by: str | None = None) -> None:
    """Make a generation the live one. Whoever switches has let it catch up with the old one."""
    with ledger.transaction() as session:
        session.execute(
            text("UPDATE trail.live SET generation = :generation, previous = :previous, switched_by = :by"),
            {"generation": generation, "previous": previous, "by": by},
        )


def live_generation(session: Session) -> int:
    """The generation that readers see."""
    return int(session.execute(text("SELECT generation FROM trail.live")).scalar_one())


def position_of(session: Session, generation: str = LIVE) -> int:
    """The position of a generation, by default of the live one, 0 if it has none. `generation` is SQL."""
    found = session.execute(
        text(f"SELECT coalesce(max(position), 0) FROM trail.entries WHERE generation = {generation}")
    ).scalar_one()
    return int(found)


def line_of(entry: Entry) -> bytes:
    """An entry as a line of canonical JSON."""
    line = json.dumps(astuple(entry), default=_as_text, separators=(",", ":"), ensure_ascii=False)
    return line.encode() + b"\n"


def _as_text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
