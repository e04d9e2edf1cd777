"""What the log says of the closing of a fiscal year, and of the archives that came before it.

What a manifest says besides its objects is found here, and all of it is older than the closing, or the closing itself:
so whoever asks again is told the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from archive.log_lines import LogRange
from archive.manifest import PreviousEntry
from ledger.application import Ledger
from ledger.database import rows
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.notes import PublicKey, open_note


@dataclass(frozen=True)
class YearStory:
    """A closed generation of a year. `log` is from behind the archive before it to the event of its closing."""

    days: Year
    generation: int
    closed_at: datetime
    closed_by: str
    log: LogRange
    previous: PreviousEntry | None
    supersedes: str | None

    @property
    def position(self) -> int:
        """The position of the event that closed it."""
        return self.log.last


def story_of(ledger: Ledger, session: Session, year: FiscalYear) -> YearStory:
    """The story of a year's present generation, which was closed once."""
    logged = [each for each in ledger.events_of(year.id) if isinstance(each.event, FiscalYear.Closed)][-1]
    closed: Any = logged.event
    assert closed.generation == year.generation, "a year is closed once for each generation"
    return _story(session, year, closed.generation, closed.timestamp, closed.requested_by, logged.position)


def story_if_closed(session: Session, year: FiscalYear, stamp: Stamp, position: int) -> YearStory:
    """The story that a year would have if it were closed at a position of the log."""
    return _story(session, year, year.generation + 1, stamp.at, stamp.actor, position)


def covering_checkpoint(session: Session, position: int, known: Iterable[PublicKey]) -> str | None:
    """The text of the smallest checkpoint that covers an event; None if it is not sealed yet.

    Raises:
        NoteRefusedError: it is signed by nobody who is known.
    """
    found = rows(
        session,
        "SELECT note FROM ledger.checkpoints WHERE size > (SELECT index FROM ledger.leaves WHERE position = :position)"
        " ORDER BY size LIMIT 1",
        position=position,
    )
    return open_note(bytes(found[0].note), known)[0] if found else None


def last_proof(ledger: Ledger, year: FiscalYear) -> dict[str, Any]:
    """What was shown equal when the copy of the year that is there was made."""
    events = [logged.event for logged in ledger.events_of(year.id)]
    return next(event for event in reversed(events) if isinstance(event, FiscalYear.Restored)).proof


def verified_at(ledger: Ledger, year: FiscalYear) -> datetime:
    """When the archive of the year's present generation was verified, which it was."""
    events = [logged.event for logged in ledger.events_of(year.id)]
    verified: Any = next(event for event in reversed(events) if isinstance(event, FiscalYear.Verified))
    at: datetime = verified.timestamp
    return at


def _story(session: Session, year: FiscalYear, generation: int, at: datetime, by: str, position: int) -> YearStory:
    exported = _last_exported(session, before=position + 1)
    own = _last_exported(session, before=position + 1, label=year.label)
    after = 0
    if exported is not None:
        after = rows(
            session,
            f"SELECT max(id) AS closed FROM {EVENTS_TABLE}"
            " WHERE originator_id = :id AND topic = 'fiscal_year.closed' AND id < :exported",
            id=exported.originator_id,
            exported=exported.id,
        )[0].closed
    return YearStory(
        days=Year(year.label, year.start, year.end),
        generation=generation,
        closed_at=at,
        closed_by=by,
        log=LogRange(after + 1, position),
        previous=None if exported is None else _previous(exported),
        supersedes=None if own is None else _content(own)["manifest_sha256"],
    )


def _last_exported(session: Session, before: int, label: str | None = None) -> Any:
    of_label = "" if label is None else " AND convert_from(state, 'UTF8')::json ->> 'label' = :label"
    found = rows(
        session,
        f"SELECT id, originator_id, state FROM {EVENTS_TABLE} WHERE topic = 'fiscal_year.exported' AND id < :before"
        f"{of_label} ORDER BY id DESC LIMIT 1",
        before=before,
        **({} if label is None else {"label": label}),
    )
    return found[0] if found else None


def _previous(exported: Any) -> PreviousEntry:
    content = _content(exported)
    return PreviousEntry(
        fiscal_year=content["label"],
        generation=content["generation"],
        manifest_sha256=content["manifest_sha256"],
    )


def _content(exported: Any) -> dict[str, Any]:
    content = content_of(bytes(exported.state))
    assert content is not None, "the log was verified before"
    return content
