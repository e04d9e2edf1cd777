"""The fold from events to a status: the same whoever folds, however often, in whatever batches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.filejob import FileJob
from ledger.event_log import LoggedEvent
from projections.status import RULES, TASK_FIELDS, fold, fold_all, task
from tests.unit.ledger.test_filejob import RETRY_AT, STAMP, chunk, fail, queued


def logged(job: FileJob) -> list[LoggedEvent]:
    """A job's events, as if other events stood between them in the log."""
    return [
        LoggedEvent(position, event, getattr(event, "TOPIC"))  # noqa: B009 - TOPIC is the library's convention
        for position, event in enumerate(job.pending_events, start=41)
        if isinstance(event, FileJob.Event)
    ]


def completed() -> FileJob:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    job.load_chunk(STAMP, chunk(1, 60, 110), attempt=1)
    job.complete(STAMP)
    return job


def folded(job: FileJob) -> dict[str, Any]:
    document = fold_all(logged(job))
    assert document is not None
    return document


def test_a_completed_job_shows_its_counts() -> None:
    shown = task(folded(completed()))
    assert tuple(shown) == TASK_FIELDS
    assert (shown["status"], shown["records"], shown["rows_loaded"]) == ("Completed", 10, 10)
    assert (shown["chunks_total"], shown["chunks_loaded"], shown["position"]) == (2, 2, 45)
    assert shown["received_at"] == shown["finished_at"] == "2026-04-01T00:00:00.000000Z"


def test_a_failed_job_shows_its_error_and_no_rows() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    fail(job, rows_withdrawn=5)
    shown = task(folded(job))
    assert (shown["status"], shown["rows_loaded"], shown["chunks_loaded"]) == ("Failed", 0, 0)
    assert shown["error"]["message"] == "Record 7 is refused."
    assert shown["finished_at"] is not None


def test_a_job_that_waits_for_its_retry_shows_when_and_goes_on_counting() -> None:
    job = queued()
    fail(job, chunk=1, retry_at=RETRY_AT)
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    shown = task(folded(job))
    assert (shown["status"], shown["rows_loaded"], shown["chunks_loaded"]) == ("Failed", 5, 1)
    assert (shown["error"]["retry_at"], shown["finished_at"]) == (RETRY_AT.isoformat(), None)
    job.retry(STAMP, reason="The pause is over.")
    shown = task(folded(job))
    assert (shown["status"], shown["rows_loaded"], shown["error"]) == ("Retried", 5, None)


def test_every_event_of_a_job_has_a_rule() -> None:
    events = {kind for kind in vars(FileJob).values() if isinstance(kind, type) and issubclass(kind, FileJob.Event)}
    assert set(RULES) == events - {FileJob.Event, FileJob.Received}


def test_an_event_without_a_rule_stops_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, FileJob.Queued)
    with pytest.raises(KeyError):
        folded(queued())


@given(st.data())
def test_events_that_come_again_or_late_change_nothing(data: st.DataObject) -> None:
    events = logged(completed())
    document = None
    for position, event in enumerate(events):
        document = fold(document, event)
        for old in data.draw(st.lists(st.sampled_from(events[: position + 1]), max_size=3)):
            assert fold(document, old) is document
    assert document == fold_all(events)
