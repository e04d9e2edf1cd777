"""The status of a job: one document per job, folded from its events.

Rules:
1. `fold` is the only way from events to a status. The view in MongoDB and an answer straight from the event store
   are the same fold, so they cannot differ in anything but age.
2. A document says which event it reflects last (`version`, `position`); folding an older event changes nothing.
3. An event that `fold` does not know is an error, never skipped: an unknown fact cannot be shown truthfully.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from ledger.domain.filejob import FileJob
from ledger.domain.personal import ERASED
from ledger.domain.words import Status
from ledger.event_log import LoggedEvent

Document = dict[str, Any]

TASK_FIELDS = (
    "task_id",
    "filename",
    "dataset",
    "status",
    "size",
    "sha256",
    "records",
    "rows_loaded",
    "rows_rejected",
    "chunks_total",
    "chunks_loaded",
    "received_at",
    "finished_at",
    "error",
    "position",
)


def fold(document: Document | None, logged: LoggedEvent) -> Document | None:
    """The document after one more event; the same document if the event is not news for it.

    Raises:
        KeyError: no rule exists for the event's class.
    """
    event = logged.event
    if not isinstance(event, FileJob.Event):
        return document
    if document is None:
        assert isinstance(event, FileJob.Received), f"the story of job {event.originator_id} lacks its beginning"
        document = _received(event, logged.position)
    elif event.originator_version <= document["version"]:
        return document
    else:
        changes = RULES[type(event)](document, event)
        document = {**document, **changes}
    return {**document, "version": event.originator_version, "position": logged.position}


def fold_all(events: Iterable[LoggedEvent]) -> Document | None:
    """The document after all events of a job."""
    document: Document | None = None
    for logged in events:
        document = fold(document, logged)
    return document


def task(document: Document) -> Document:
    """A job as every door shows it."""
    return {field: document[field] for field in TASK_FIELDS}


def rfc3339(instant: datetime) -> str:
    """An instant in UTC, to the microsecond, ending in Z."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def rfc3339_or_none(instant: datetime | None) -> str | None:
    """The same of an instant that may not be known, or not have come."""
    return None if instant is None else rfc3339(instant)


def _received(event: FileJob.Received, position: int) -> Document:
    return {
        "_id": str(event.originator_id),
        "task_id": str(event.originator_id),
        "filename": event.filename,
        "dataset": event.dataset,
        "status": Status.RECEIVED.value,
        "size": event.size,
        "sha256": event.sha256,
        "records": None,
        "rows_loaded": 0,
        "rows_rejected": 0,
        "chunks_total": None,
        "chunks_loaded": 0,
        "received_at": rfc3339(event.timestamp),
        "received_by": event.actor,
        "received_position": position,
        "door": event.door,
        "finished_at": None,
        "error": None,
        "attempt": 1,
    }


def _queued(document: Document, event: FileJob.Queued) -> Document:
    return {
        "status": Status.QUEUED.value,
        "records": event.records,
        "chunks_total": event.chunks_total,
        "chunks_loaded": 0,
        "error": None,
    }


def _chunk_loaded(document: Document, event: FileJob.ChunkLoaded) -> Document:
    return {
        # A chunk that was under way when the job failed may still end: the job waits for its retry all the same.
        "status": document["status"] if document["status"] == Status.FAILED else Status.PROCESSING.value,
        "chunks_loaded": document["chunks_loaded"] + 1,
        "rows_loaded": document["rows_loaded"] + event.rows_loaded,
        "rows_rejected": document["rows_rejected"] + event.rows_rejected,
    }


def _completed(document: Document, event: FileJob.Completed) -> Document:
    return {
        "status": Status.COMPLETED.value,
        "records": event.records,
        "rows_loaded": event.rows_loaded,
        "rows_rejected": event.rows_rejected,
        "finished_at": rfc3339(event.timestamp),
        "error": None,
    }


def _failed(document: Document, event: FileJob.Failed) -> Document:
    error = {**event.error, "stage": event.stage, "chunk": event.chunk, "retry_at": event.retry_at}
    changes: Document = {"status": Status.FAILED.value, "error": error}
    if event.retry_at is None:
        changes |= {**_WITHDRAWN, "finished_at": rfc3339(event.timestamp)}
    return changes


def _retried(document: Document, event: FileJob.Retried) -> Document:
    return {"status": Status.RETRIED.value, "attempt": event.attempt, "finished_at": None, "error": None}


def _cancelled(document: Document, event: FileJob.Cancelled) -> Document:
    return {"status": Status.CANCELLED.value, "finished_at": rfc3339(event.timestamp), **_WITHDRAWN}


def _archived(document: Document, event: FileJob.Archived) -> Document:
    return {} if event.years_left else {"status": Status.ARCHIVED.value}


def _restored(document: Document, event: FileJob.Restored) -> Document:
    return {"status": Status.COMPLETED.value} if event.is_put_back else {}


def _name_erased(document: Document, event: FileJob.NameErased) -> Document:
    error = document["error"]
    told = None if error is None else {**error, "message": ERASED, "remedy": ERASED}
    return {"filename": ERASED, "error": told}


_WITHDRAWN: Document = {"rows_loaded": 0, "rows_rejected": 0, "chunks_loaded": 0}

RULES: dict[type[FileJob.Event], Callable[[Document, Any], Document]] = {
    FileJob.Queued: _queued,
    FileJob.ChunkLoaded: _chunk_loaded,
    FileJob.Completed: _completed,
    FileJob.Failed: _failed,
    FileJob.Retried: _retried,
    FileJob.Cancelled: _cancelled,
    FileJob.Archived: _archived,
    FileJob.Restored: _restored,
    FileJob.NameErased: _name_erased,
}
