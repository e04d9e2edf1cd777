"""Replaying: making of a file's bytes again what an event says that they came to, and telling what differs.

Rules:
1. What a chunk's records come to follows from bytes, plan and contract alone, but for those that the table refused, or
   that came too late: which these were depends on what stood there, and which years were closed, at that time. They are
   taken from the rejects that were kept.
2. That this was right is shown by the counts and the row-set digest, which the event pins. An event of before there
   were digests pins only the counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.blobs import BlobStore
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.reconciliation import LoadedChunk
from ledger.event_log import LoggedEvent
from projections.chunk import ChunkContent
from projections.formats.dialect import Dialect
from projections.formats.splitter import Plan
from projections.loading import FOUND_BY_THE_LEDGER, LoadedFile
from projections.plans import read_plan
from projections.rejects import flaws_kept

PINNED = (
    "start",
    "end",
    "sha256",
    "first_record",
    "records",
    "rows_loaded",
    "rows_rejected",
    "rows_skipped",
    "fiscal_years",
)
PINNED_WITH_DIGEST = ("totals", "row_set_digest")

# What differs: its name, what the event says, and what was found.
Difference = tuple[str, Any, Any]


@dataclass(frozen=True)
class Story:
    """What the log tells of a job, as far as replaying its chunks needs it. `version` is that of the last event."""

    received: FileJob.Received
    position: int
    plans: tuple[FileJob.Queued, ...]
    withdrawals: tuple[int, ...]
    version: int

    def plan_of(self, chunk: FileJob.ChunkLoaded) -> FileJob.Queued:
        """The plan that a chunk was loaded by."""
        return [plan for plan in self.plans if plan.originator_version < chunk.originator_version][-1]

    def is_withdrawn(self, chunk: FileJob.ChunkLoaded) -> bool:
        """Whether the rows of a chunk were taken out again."""
        return any(version > chunk.originator_version for version in self.withdrawals)


def story_of(events: Iterable[LoggedEvent]) -> Story:
    """The story that all events of a job tell."""
    first, *others = events
    assert isinstance(first.event, FileJob.Received), f"the story of job {first.event.originator_id} has no beginning"
    plans = tuple(logged.event for logged in others if isinstance(logged.event, FileJob.Queued))
    withdrawals = tuple(logged.event.originator_version for logged in others if is_withdrawal(logged.event))
    version = others[-1].event.originator_version if others else first.event.originator_version
    return Story(first.event, first.position, plans, withdrawals, version)


def is_withdrawal(event: object) -> bool:
    """Whether an event takes the rows of its job out again."""
    return isinstance(event, FileJob.Cancelled) or (isinstance(event, FileJob.Failed) and event.retry_at is None)


def file_of(blobs: BlobStore, story: Story, queued: FileJob.Queued, calendar: FiscalCalendar) -> LoadedFile:
    """A file as it was loaded by a plan.

    Raises:
        BlobDamagedError: the plan is not what was written.
        NotFoundError: the blob store has no such plan.
    """
    return loaded_file(story, queued, read_plan(blobs, queued.plan), calendar)


def loaded_file(story: Story, queued: FileJob.Queued, plan: Plan, calendar: FiscalCalendar) -> LoadedFile:
    """A file as it was loaded by a plan that was read before."""
    received = story.received
    return LoadedFile(
        job_id=received.originator_id,
        job_position=story.position,
        received_at=received.timestamp,
        text=queued.transcript or received.sha256,
        dialect=Dialect.from_dict(queued.dialect),
        plan=plan,
        calendar=calendar,
    )


def take_out_what_the_ledger_refused(session: Session, file: LoadedFile, content: ChunkContent) -> None:
    """Add to a chunk's flaws those that no look at its file finds (rule 1)."""
    kept = flaws_kept(session, file.job_id, content.chunk.record_numbers, FOUND_BY_THE_LEDGER)
    first = content.chunk.first_record
    content.flaws.update({record - first: flaw for record, flaw in kept.items() if record - first not in content.flaws})


def differences(
    event: FileJob.ChunkLoaded, found: LoadedChunk, *, but: frozenset[str] = frozenset()
) -> list[Difference]:
    """What a chunk comes to otherwise than its event says. `but` are names that are not looked at."""
    names = PINNED if event.row_set_digest is None else (*PINNED, *PINNED_WITH_DIGEST)
    return [
        (name, getattr(event, name), getattr(found, name))
        for name in names
        if name not in but and getattr(event, name) != getattr(found, name)
    ]


def read_story(ledger: Ledger, job_id: Any) -> Story:
    """The story of a job, read from the log."""
    return story_of(ledger.events_of(job_id))
