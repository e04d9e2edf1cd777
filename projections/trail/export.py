"""An export: every entry of the trail that a question asks for, in the order of the log, as a file and its manifest.

Rules:
1. It tells the trail up to the position that it begins with, in the generation that is live then. It is read page by
   page: no process holds the whole, and no transaction lasts as long as it takes. If the generation goes meanwhile, it
   fails: nobody takes a part for the whole.
2. With each entry go the SHA-256 of its event as it is stored, and its place in the sealed log, if it has one.
3. In CSV a text that a spreadsheet would take for a formula begins with an apostrophe: one that begins with = + - @, a
   tabulator or a carriage return, be it behind spaces. NDJSON has every text as it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import rows
from ledger.domain.audit import Told
from ledger.domain.words import ExportFormat
from ledger.errors import ConflictError
from ledger.event_store import EVENTS_TABLE
from ledger.seal import newest_checkpoint
from projections.status import rfc3339
from projections.trail.entries import Entry
from projections.trail.questions import Page, Question, oldest_first
from projections.trail.store import live_generation, position_of

PAGE_ENTRIES = 1_000
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Of an entry whose event is no longer in the log.
GONE = {"state_sha256": None, "leaf_index": None}
COLUMNS = (*(field.name for field in fields(Entry)), "state_sha256", "leaf_index")


class Export:
    """One export: iterate over `blocks` to its end, then ask what it came to."""

    def __init__(self, ledger: Ledger, question: Question, format: ExportFormat) -> None:
        self._ledger = ledger
        self._question = question
        self.format = format
        self._digest = hashlib.sha256()
        self._topics: Counter[str] = Counter()
        self._first: int | None = None
        self._last: int | None = None
        self.size = 0
        with ledger.transaction() as session:
            self._generation = live_generation(session)
            self.position = position_of(session, str(self._generation))
            newest = newest_checkpoint(session)
        self._checkpoint = None if newest is None else newest[1].decode()

    def blocks(self) -> Iterator[bytes]:
        """The file, block by block.

        Raises:
            ConflictError: the generation of the trail that is told is gone, or a part of it.
        """
        if self.format is ExportFormat.CSV:
            yield self._counted(_csv([list(COLUMNS)]))
        more, after = True, None
        while more:
            with self._ledger.transaction() as session:
                page = self._page(session, after)
                stored = stored_at(session, [entry.position for entry in page.entries])
            values = [{**entry_values(entry), **stored.get(entry.position, GONE)} for entry in page.entries]
            if page.entries:
                self._topics.update(entry.topic for entry in page.entries)
                self._first = page.entries[0].position if self._first is None else self._first
                self._last = after = page.entries[-1].position
                yield self._counted(written(values, self.format))
            more = page.more

    @property
    def told(self) -> Told:
        """How many entries were told so far."""
        return Told(self._topics.total(), self._first, self._last)

    @property
    def sha256(self) -> str:
        """Of the bytes so far."""
        return self._digest.hexdigest()

    def manifest_values(self) -> dict[str, Any]:
        """What a manifest says of the file: how it was made, and what it came to."""
        return {
            "format": self.format.value,
            "trail_position": self.position,
            "entries": self.told.entries,
            "first_position": self._first,
            "last_position": self._last,
            "topics": dict(sorted(self._topics.items())),
            "size": self.size,
            "sha256": self.sha256,
            "checkpoint": self._checkpoint,
        }

    def _page(self, session: Session, after: int | None) -> Page:
        page = oldest_first(
            session,
            self._question,
            after=after,
            limit=PAGE_ENTRIES,
            upto=self.position,
            generation=self._generation,
        )
        if position_of(session, str(self._generation)) < self.position:  # by now, so it was whole when it was read
            raise ConflictError(
                "The trail was built anew, and what this export tells was dropped, before it came to its end.",
                "Throw away what there is of it, and export again.",
            )
        return page

    def _counted(self, block: bytes) -> bytes:
        self._digest.update(block)
        self.size += len(block)
        return block


def stored_at(session: Session, positions: list[int]) -> dict[int, dict[str, Any]]:
    """The digest of each event as it is stored, and the index of its leaf if it is sealed, by position."""
    found = rows(
        session,
        f"SELECT e.id, encode(sha256(e.state), 'hex') AS state_sha256, l.index AS leaf_index FROM {EVENTS_TABLE} e"
        " LEFT JOIN ledger.leaves l ON l.position = e.id WHERE e.id = ANY (:positions)",
        positions=positions,
    )
    return {row.id: {"state_sha256": row.state_sha256, "leaf_index": row.leaf_index} for row in found}


def entry_values(entry: Entry) -> dict[str, Any]:
    """An entry as JSON values."""
    ids = {name: None if value is None else str(value) for name, value in _ids(entry).items()}
    return {**vars(entry), **ids, "at": rfc3339(entry.at)}


def _ids(entry: Entry) -> dict[str, Any]:
    return {"stream": entry.stream, "job": entry.job, "related_job": entry.related_job}


def written(values: list[dict[str, Any]], format: ExportFormat) -> bytes:
    """Entries as the lines of a file."""
    if format is ExportFormat.CSV:
        return _csv([[_cell(each[name]) for name in COLUMNS] for each in values])
    return "".join(json.dumps(each, separators=(",", ":"), ensure_ascii=False) + "\n" for each in values).encode()


def _csv(lines: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = " ".join(value) if isinstance(value, list) else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text
