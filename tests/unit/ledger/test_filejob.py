"""The life of a job: what may happen when, and when a file is complete."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.base import Stamp
from ledger.domain.filejob import FileJob
from ledger.domain.filejob_states import ALLOWED
from ledger.domain.reconciliation import CountsDoNotCloseError, LoadedChunk
from ledger.domain.words import Stage, Status
from ledger.errors import ConflictError

JOB_ID = UUID("0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51")
STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "admin", "request-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
ERROR = {"code": "value_invalid", "message": "Record 7 is refused.", "remedy": "Correct it."}


def received(size: int = 110) -> FileJob:
    return FileJob.receive(
        JOB_ID,
        STAMP,
        sha256="ab" * 32,
        size=size,
        filename="payments.csv",
        content_type="text/csv",
        door="http",
        dataset="payments",
    )


def queued(chunks_total: int = 2, records: int = 10, size: int = 110, data_start: int = 10) -> FileJob:
    job = received(size)
    job.queue(
        STAMP,
        format="delimited",
        dialect={"format": "delimited", "encoding": "utf-8"},
        parser_version="delimited-1",
        contract_version=1,
        contract_digest="cd" * 32,
        plan="ef" * 32,
        data_start=data_start,
        chunks_total=chunks_total,
        records=records,
    )
    return job


def chunk(number: int, start: int, end: int, records: int = 5, **changes: Any) -> LoadedChunk:
    values: dict[str, Any] = {
        "number": number,
        "start": start,
        "end": end,
        "sha256": "12" * 32,
        "first_record": 1,
        "records": records,
        "rows_loaded": records,
        "rows_rejected": 0,
        "rows_skipped": 0,
        "fiscal_years": ["FY2025-26"],
    }
    return LoadedChunk(**{**values, **changes})


def fail(job: FileJob, **changes: Any) -> None:
    job.fail(STAMP, **{"stage": Stage.LOAD, "chunk": 0, "attempt": 1, "error": ERROR, **changes})


def test_a_file_whose_chunks_cover_it_completes() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(1, 60, 110), attempt=1)
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    assert job.all_chunks_loaded
    job.complete(STAMP)
    completed = job.pending_events[-1]
    assert isinstance(completed, FileJob.Completed)
    assert (completed.records, completed.rows_loaded, completed.bytes_covered) == (10, 10, 100)
    assert job.status is Status.COMPLETED


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([chunk(0, 10, 60), chunk(1, 61, 110)], "gap"),
        ([chunk(0, 10, 60), chunk(1, 59, 110)], "overlap"),
        ([chunk(0, 11, 60), chunk(1, 60, 110)], "gap"),
        ([chunk(0, 10, 60), chunk(1, 60, 109)], "end at byte 109 of 110"),
        ([chunk(0, 10, 110)], "1 of 2"),
        ([chunk(0, 10, 60), chunk(1, 60, 110, records=4)], "counts 10 records, its chunks 9"),
    ],
)
def test_a_file_with_a_byte_or_record_unaccounted_for_does_not_complete(chunks: list[LoadedChunk], told: str) -> None:
    job = queued()
    for loaded in chunks:
        job.load_chunk(STAMP, loaded, attempt=1)
    with pytest.raises(CountsDoNotCloseError, match=told):
        job.complete(STAMP)
    assert job.status is Status.PROCESSING


def test_a_chunk_whose_own_numbers_do_not_add_up_is_not_counted_in() -> None:
    job = queued()
    with pytest.raises(CountsDoNotCloseError, match="holds 5 records, but 4 were loaded"):
        job.load_chunk(STAMP, chunk(0, 10, 60, rows_loaded=4), attempt=1)
    assert not job.chunks


def test_a_chunk_is_loaded_once() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    with pytest.raises(ConflictError, match="loaded already"):
        job.load_chunk(STAMP, chunk(0, 10, 60), attempt=2)


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_a_chunk_that_the_plan_does_not_know_is_refused(number: int) -> None:
    with pytest.raises(ConflictError, match="does not wait for"):
        queued().load_chunk(STAMP, chunk(number, 10, 60), attempt=1)


def test_failing_for_good_forgets_the_chunks_and_a_retry_starts_from_the_plan() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    fail(job, rows_withdrawn=5)
    assert (job.status, job.chunks, job.plan) == (Status.FAILED, {}, None)
    job.retry(STAMP, reason="corrected contract")
    retried = job.pending_events[-1]
    assert isinstance(retried, FileJob.Retried)
    assert (retried.stage, retried.attempt) == ("plan", 2)


def test_a_failure_that_will_be_retried_keeps_what_was_loaded() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    fail(job, retry_at=datetime(2026, 4, 2, tzinfo=UTC))
    job.retry(STAMP, reason="due")
    assert list(job.chunks) == [0]
    job.load_chunk(STAMP, chunk(1, 60, 110), attempt=2)
    job.complete(STAMP)
    assert job.status is Status.COMPLETED


def test_rows_are_never_withdrawn_by_a_failure_that_will_be_retried() -> None:
    with pytest.raises(AssertionError):
        fail(queued(), retry_at=datetime(2026, 4, 2, tzinfo=UTC), rows_withdrawn=1)


def archive(job: FileJob, year: str) -> None:
    job.archive(STAMP, fiscal_year=year, manifest="99" * 32, rows=1, row_set_digest="78" * 32, totals={})


def test_a_job_is_archived_when_none_of_its_years_is_left() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    job.load_chunk(STAMP, replace(chunk(1, 60, 110), fiscal_years=["FY2025-26", "FY2026-27"]), attempt=1)
    job.complete(STAMP)
    with pytest.raises(ConflictError, match="not in cold storage"):
        job.restore(STAMP, fiscal_years=["FY2026-27"], manifest="99" * 32)
    archive(job, "FY2026-27")
    assert (job.status, job.pending_events[-1].years_left) == (Status.COMPLETED, ["FY2025-26"])  # type: ignore[attr-defined]
    job.restore(STAMP, fiscal_years=["FY2026-27"], manifest="99" * 32)
    assert job.status is Status.COMPLETED
    with pytest.raises(ConflictError, match="archived already"):
        archive(job, "FY2026-27")
    archive(job, "FY2025-26")
    assert job.status is Status.ARCHIVED


def test_an_archived_job_can_be_restored_and_stays_archived() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    job.load_chunk(STAMP, chunk(1, 60, 110), attempt=1)
    job.complete(STAMP)
    archive(job, "FY2025-26")
    job.restore(STAMP, fiscal_years=["FY2025-26"], manifest="99" * 32)
    assert job.status is Status.ARCHIVED


def test_every_event_carries_who_when_and_the_trace() -> None:
    for event in queued().pending_events:
        assert isinstance(event, FileJob.Event)
        assert (event.timestamp, event.actor, event.correlation) == (STAMP.at, "admin", "request-1")
        assert event.traceparent == STAMP.traceparent


COMMANDS = {
    "Queued": lambda job: job.queue(
        STAMP,
        format="delimited",
        dialect={"format": "delimited", "encoding": "utf-8"},
        parser_version="delimited-1",
        contract_version=1,
        contract_digest="cd" * 32,
        plan="ef" * 32,
        data_start=0,
        chunks_total=1,
        records=5,
    ),
    "ChunkLoaded": lambda job: job.load_chunk(STAMP, chunk(0, 0, 110), attempt=1),
    "Completed": lambda job: job.complete(STAMP),
    "Failed": fail,
    "Retried": lambda job: job.retry(STAMP, reason="again"),
    "Cancelled": lambda job: job.cancel(STAMP, reason="not wanted", rows_withdrawn=0),
    "Archived": lambda job: archive(job, "FY2025-26"),
    "Restored": lambda job: job.restore(STAMP, fiscal_years=["FY2025-26"], manifest=""),
}


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=12))
def test_whatever_is_asked_in_whatever_order_only_allowed_events_happen(asked: list[str]) -> None:
    job = received()
    for name in asked:
        before, events = job.status, len(job.pending_events)
        try:
            COMMANDS[name](job)
        except (ConflictError, CountsDoNotCloseError):
            assert (job.status, len(job.pending_events)) == (before, events)
            continue
        assert before in ALLOWED[name]
        assert type(job.pending_events[-1]).__name__ == name


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=12))
def test_replaying_the_events_gives_the_same_job(asked: list[str]) -> None:
    job = received()
    for name in asked:
        try:
            COMMANDS[name](job)
        except (ConflictError, CountsDoNotCloseError):
            continue
    replayed: Any = None
    for event in job.pending_events:
        replayed = event.mutate(replayed)
    for name, value in vars(job).items():
        if name != "_pending_events":
            assert getattr(replayed, name) == value, name


RETRY_AT = datetime(2026, 4, 1, 0, 1, tzinfo=UTC)


def test_a_job_that_will_be_retried_keeps_its_chunks_and_goes_on_with_what_is_missing() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    fail(job, chunk=1, retry_at=RETRY_AT)
    assert (job.status, job.waiting, job.is_open, job.retry_at) == (Status.FAILED, True, True, RETRY_AT)
    job.retry(STAMP, reason="The pause is over.")
    assert (job.status, job.waiting, job.attempt, set(job.chunks)) == (Status.RETRIED, False, 2, {0})
    job.load_chunk(STAMP, chunk(1, 60, 110), attempt=2)
    job.complete(STAMP)
    retried = next(event for event in job.pending_events if isinstance(event, FileJob.Retried))
    assert retried.stage == "load"


def test_a_chunk_that_was_under_way_when_its_job_failed_may_still_end() -> None:
    job = queued()
    fail(job, chunk=1, retry_at=RETRY_AT)
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    assert (job.status, job.waiting, set(job.chunks)) == (Status.FAILED, True, {0})


def test_a_waiting_job_can_fail_for_good_and_then_starts_again_from_the_plan() -> None:
    job = queued()
    job.load_chunk(STAMP, chunk(0, 10, 60), attempt=1)
    fail(job, chunk=1, retry_at=RETRY_AT)
    fail(job, chunk=1, attempt=2, rows_withdrawn=5)
    assert (job.waiting, job.is_open, job.chunks, job.plan) == (False, False, {}, None)
    with pytest.raises(ConflictError):
        job.load_chunk(STAMP, chunk(1, 60, 110), attempt=2)
    job.retry(STAMP, reason="the sender corrected the contract")
    retried = job.pending_events[-1]
    assert isinstance(retried, FileJob.Retried)
    assert retried.stage == "plan"


def test_a_waiting_job_can_be_cancelled() -> None:
    job = queued()
    fail(job, retry_at=RETRY_AT)
    job.cancel(STAMP, reason="the wrong month", rows_withdrawn=0)
    assert (job.status, job.waiting, job.is_open) == (Status.CANCELLED, False, False)
    with pytest.raises(ConflictError):
        job.retry(STAMP, reason="no")


def test_a_job_is_planned_once_an_attempt() -> None:
    job = queued()
    fail(job, retry_at=RETRY_AT)
    job.retry(STAMP, reason="The pause is over.")
    with pytest.raises(ConflictError, match="has a plan already"):
        job.queue(
            STAMP,
            format="delimited",
            dialect={"format": "delimited", "encoding": "utf-8"},
            parser_version="delimited-1",
            contract_version=1,
            contract_digest="cd" * 32,
            plan="ef" * 32,
            data_start=10,
            chunks_total=2,
            records=10,
        )
