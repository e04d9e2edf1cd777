"""The trail as a view: its generations in one table, filled from the log, compared, switched and forgotten.

Rules:
1. A generation's position is that of its last entry, for every event is an entry: the two cannot differ, wherever a
   crash falls. A batch is one transaction, under a lock of the generation: no event is entered twice.
2. An event that cannot be read, or not be entered, stops whoever follows the log. None is skipped.
3. Generations stand side by side in one table, and one row says which is live. Every question looks that up in its own
   statement, so that it sees a whole generation whenever somebody switches, or drops one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple, fields
from typing import Any
from uuid import UUID

from psycopg2.extras import execute_values
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import lock, rows
from ledger.failpoints import failpoint
from projections.trail.entries import Entry, Subject, asked_for, entries_of

TRAIL = "trail"
BATCH_EVENTS = 1_000
DIGEST_PAGE_ENTRIES = 5_000
COLUMNS = ", ".join(field.name for field in fields(Entry))
LIVE = "(SELECT generation FROM trail.live)"


class TrailView:
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
                failpoint("trail_written")
        failpoint("trail_committed")
        return len(events)

    def digest(self) -> str:
        """SHA-256 over all entries in the order of the log, each a line of canonical JSON without its generation."""
        digest = hashlib.sha256()
        after = 0
        while page := self._page(after):
            for entry in page:
                line = json.dumps(
                    astuple(entry), default=_as_text, sort_keys=True, separators=(",", ":"), ensure_ascii=False
                )
                digest.update(line.encode() + b"\n")
            after = page[-1].position
        return digest.hexdigest()

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
        cursor: Any = session.connection().connection.cursor()
        with cursor:
            execute_values(
                cursor,
                f"INSERT INTO trail.entries (generation, {COLUMNS}) VALUES %s",
                [(self.generation, *astuple(entry)) for entry in entries],
                page_size=BATCH_EVENTS,
            )

    def _page(self, after: int) -> list[Entry]:
        with self._ledger.transaction() as session:
            found = rows(
                session,
                f"SELECT {COLUMNS} FROM trail.entries WHERE generation = :generation AND position > :after"
                " ORDER BY position LIMIT :limit",
                generation=self.generation,
                after=after,
                limit=DIGEST_PAGE_ENTRIES,
            )
        return [Entry(*row) for row in found]


def live_trail(ledger: Ledger) -> TrailView:
    """The generation that readers see."""
    return TrailView(ledger, live_generation(ledger))


def live_generation(ledger: Ledger) -> int:
    """The number of the generation that readers see."""
    with ledger.transaction() as session:
        return int(session.execute(text("SELECT generation FROM trail.live")).scalar_one())


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
    return max(live_generation(ledger), *generations(ledger), 0) + 1


def switch(ledger: Ledger, generation: int) -> None:
    """Make a generation the live one. Whoever switches has let it catch up with the old one."""
    with ledger.transaction() as session:
        session.execute(text("UPDATE trail.live SET generation = :generation"), {"generation": generation})


def position_of(session: Session, generation: str = LIVE) -> int:
    """The position of a generation, by default of the live one, 0 if it has none. `generation` is SQL."""
    found = session.execute(
        text(f"SELECT coalesce(max(position), 0) FROM trail.entries WHERE generation = {generation}")
    ).scalar_one()
    return int(found)


def _as_text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
