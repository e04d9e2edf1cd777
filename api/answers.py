"""How a job is told: from the view, which may lag and says so, or from the log, which never does.

Rules:
1. A job that the view does not know yet is told from the log, so a fresh task is never "not found".
2. Without MongoDB every answer about one job comes from the log.
3. An answer says which position of the log it reflects, and an answer from the view also how far the view is
   behind, or that nobody can tell because PostgreSQL is away.
4. Who waits for the end of a job is told it from the log, without waiting for the view as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from itertools import takewhile
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from api.state import State
from ledger.application import Ledger
from ledger.database import LogListener
from ledger.domain.base import LedgerEvent
from ledger.domain.filejob import FileJob
from ledger.domain.moments import end_of
from ledger.domain.operation import Operation
from ledger.errors import NotFoundError, PartUnavailableError, no_such_job
from ledger.event_log import LoggedEvent
from projections.runner import live_store
from projections.status import fold_all, rfc3339, task

log = logging.getLogger(__name__)

# Each waiter keeps a thread and a connection.
WAITERS_MAX = 8
ENDS = (
    FileJob.Completed,
    FileJob.Cancelled,
    FileJob.Archived,
    FileJob.Restored,
    FileJob.NameErased,
    Operation.Completed,
    Operation.Failed,
)
_waiters = threading.BoundedSemaphore(WAITERS_MAX)

# What an event's own fields are, apart from what every event has.
COMMON_FIELDS = frozenset(
    {"originator_id", "originator_version", "timestamp", "actor", "correlation", "traceparent", "originator_topic"}
)


def task_from_log(ledger: Ledger, job_id: UUID) -> dict[str, Any]:
    """A job as its events tell it.

    Raises:
        NotFoundError: there is no such job.
    """
    document = fold_all(ledger.events_of(job_id))
    if document is None:
        raise no_such_job(job_id)
    return task(document)


def job_events(ledger: Ledger, job_id: UUID) -> list[LoggedEvent]:
    """The whole story of a job.

    Raises:
        NotFoundError: there is no such job; what else has that id is none.
    """
    events = ledger.events_of(job_id)
    if not events or not isinstance(events[0].event, FileJob.Received):
        raise no_such_job(job_id)
    return events


def task_at(state: State, job_id: UUID, at: str) -> dict[str, Any]:
    """A job as its events told it at a time, or up to a version. A later event is not looked at, whatever its time is.

    Args:
        at: an instant, a day (its end, in the ledger's zone), or a version.

    Raises:
        NotFoundError: there is no such job, or there was none then; or it has no such version.
        InvalidRequestError: `at` is none of these.
    """
    events = job_events(state.ledger, job_id)
    if at.isascii() and at.isdigit():
        if not 1 <= int(at) <= len(events):
            raise NotFoundError(
                f"Job {job_id} has no version {at[:20]}: its versions are 1 to {len(events)}.",
                "`ledger jobs events` shows them.",
            )
        then = events[: int(at)]
    else:
        end = end_of(at, ZoneInfo(state.settings.time_zone))
        then = list(takewhile(lambda logged: logged.event.timestamp < end, events))
        if not then:
            raise NotFoundError(
                f"There was no job {job_id} at {at}: it was received at {rfc3339(events[0].event.timestamp)}.",
                "Ask for a later time.",
            )
    document = fold_all(then)
    assert document is not None, "a story begins with Received"
    last = then[-1].event
    told = {"at": rfc3339(last.timestamp), "version": last.originator_version, "versions": len(events)}
    return {**task(document), **told, "view": None}


def task_answer(state: State, job_id: UUID) -> dict[str, Any]:
    """A job as the view tells it, else as the log does."""
    try:
        store = live_store(state.views)
        position = store.position()  # before the document, which is then at least as new as is said
        document = store.document(str(job_id))
        if document is not None:
            return {**task(document), "view": view_answer(state, position)}
    except PartUnavailableError as error:
        log.warning("the status view is away: %s", error, extra={"action": "view_unavailable"})
    return {**task_from_log(state.ledger, job_id), "view": None}


def wait_for_end(ledger: Ledger, originator_id: UUID, seconds_max: float) -> bool:
    """Wait until a job or an operation has ended; whether it has. Does not wait when `WAITERS_MAX` others do."""
    if not _waiters.acquire(blocking=False):
        return False
    listener = LogListener(ledger.engine)
    deadline = time.monotonic() + seconds_max
    try:
        listener.wait(0)  # from here on no event is missed
        while not _is_end(ledger.last_event(originator_id)):
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                return False
            listener.wait(seconds_left)
        return True
    finally:
        listener.close()
        _waiters.release()


def _is_end(event: LedgerEvent | None) -> bool:
    return isinstance(event, ENDS) or (isinstance(event, FileJob.Failed) and event.retry_at is None)


def tasks_answer(
    state: State,
    *,
    datasets: Collection[str] | None,
    status: str | None,
    sha256: str | None,
    before: int | None,
    limit: int,
) -> dict[str, Any]:
    """A page of jobs, newest first, with the cursor of the next page; of some datasets, or of all."""
    store = live_store(state.views)
    position = store.position()
    documents = store.page(datasets=datasets, status=status, sha256=sha256, before=before, limit=limit)
    following = documents[-1]["received_position"] if len(documents) == limit else None
    return {
        "tasks": [task(document) for document in documents],
        "next": following,
        "view": view_answer(state, position),
    }


def view_answer(state: State, position: int) -> dict[str, int | None]:
    """How old the view is: its position, the log's, and the events in between; null while the log cannot be asked."""
    try:
        log_position = max(position, state.ledger.position())
    except PartUnavailableError:
        return {"position": position, "log_position": None, "lag": None}
    return {"position": position, "log_position": log_position, "lag": log_position - position}


def event_answer(logged: LoggedEvent) -> dict[str, Any]:
    """An event as JSON: where it stands, what, when, by whom, and its own fields."""
    event = logged.event
    return {
        "position": logged.position,
        "version": event.originator_version,
        "type": logged.topic,
        "at": rfc3339(event.timestamp),
        "actor": event.actor,
        "correlation": event.correlation,
        "traceparent": event.traceparent,
        "data": {name: value for name, value in vars(event).items() if name not in COMMON_FIELDS},
    }
