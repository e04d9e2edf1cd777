"""The jobs of a fiscal year: those that have rows in it, and those that were received in it and have rows nowhere.

So each file is in the archive of every year that it has rows in, and one without rows in that of the year of its
arrival. What counts is what had happened when the year was closed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from archive.year_story import YearStory
from ledger.database import rows
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.event_store import EVENTS_TABLE

PAGE = 1_000
# The timestamp of an event is {"_type_": "datetime_iso", "_data_": "2026-04-01T09:30:04+00:00"}.
JOBS = f"""
SELECT received.id AS job, received.originator_id AS job_id, arrivals.dataset, received.state AS received,
    queued.state AS queued, completed.state AS completed
FROM ledger.arrivals
JOIN {EVENTS_TABLE} received ON received.id = arrivals.position
LEFT JOIN LATERAL (SELECT state FROM {EVENTS_TABLE} e WHERE e.originator_id = job_id AND e.topic = 'filejob.queued'
    AND e.id <= :until ORDER BY e.originator_version DESC LIMIT 1) queued ON true
LEFT JOIN LATERAL (SELECT state FROM {EVENTS_TABLE} e WHERE e.originator_id = job_id AND e.topic = 'filejob.completed'
    AND e.id <= :until) completed ON true
CROSS JOIN LATERAL (SELECT
    coalesce(convert_from(completed.state, 'UTF8')::jsonb -> 'fiscal_years', '[]') AS years,
    (convert_from(received.state, 'UTF8')::json -> 'timestamp' ->> '_data_')::timestamptz AS received_at) told
WHERE arrivals.position > :after AND arrivals.position <= :until
    AND (years ? :year OR (years = '[]' AND received_at >= :start AND received_at < :end))
ORDER BY arrivals.position LIMIT :page
"""

AWAY = f"""
SELECT DISTINCT archived.originator_id AS job_id FROM {EVENTS_TABLE} archived
WHERE archived.topic = 'filejob.archived' AND archived.originator_id > :last
    AND convert_from(archived.state, 'UTF8')::jsonb -> 'fiscal_years' @> to_jsonb(CAST(:label AS text))
    AND NOT EXISTS (SELECT FROM {EVENTS_TABLE} restored
        WHERE restored.originator_id = archived.originator_id AND restored.topic = 'filejob.restored'
        AND convert_from(restored.state, 'UTF8')::jsonb -> 'fiscal_years' @> to_jsonb(CAST(:label AS text))
        AND (restored.id > :since
            OR (restored.id > archived.id AND convert_from(restored.state, 'UTF8')::jsonb -> 'is_put_back' = 'true')))
ORDER BY 1 LIMIT CAST(:limit AS bigint)
"""


@dataclass(frozen=True)
class YearJob:
    """A job of the year. `transcript` is the text that its chunks are ranges of, if that is not the file itself."""

    job: int
    job_id: UUID
    dataset: str
    sha256: str
    size_bytes: int
    plan: str | None
    transcript: str | None
    transcript_bytes: int | None
    is_completed: bool
    fiscal_years: tuple[str, ...]


def jobs_of(session: Session, calendar: FiscalCalendar, story: YearStory) -> Iterator[YearJob]:
    """The jobs of a year, in the order in which they were received."""
    start, end = calendar.bounds_of_instants(story.days)
    after = 0
    while True:
        page = rows(
            session, JOBS,
            after=after, until=story.position, year=story.days.label, start=start, end=end, page=PAGE,
        )  # fmt: skip
        yield from map(_job, page)
        if len(page) < PAGE:
            return
        after = page[-1].job


def jobs_away(session: Session, label: str, *, since: int, last: UUID, limit: int | None) -> list[UUID]:
    """The jobs whose rows of a year were archived and not put back, behind `last`, by their ids, at most `limit`.

    Those that were told since a position of the log that rows of them are back are left out.
    """
    found = rows(session, AWAY, label=label, since=since, last=last, limit=limit)
    return [row.job_id for row in found]


def _job(row: Any) -> YearJob:
    received, queued, completed = (
        {} if state is None else json.loads(bytes(state)) for state in (row.received, row.queued, row.completed)
    )
    return YearJob(
        job=row.job,
        job_id=row.job_id,
        dataset=row.dataset,
        sha256=received["sha256"],
        size_bytes=received["size"],
        plan=queued.get("plan"),
        transcript=queued.get("transcript"),
        transcript_bytes=queued.get("text_size"),
        is_completed=row.completed is not None,
        fiscal_years=tuple(completed.get("fiscal_years", ())),
    )
