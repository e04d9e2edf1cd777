"""Work on real PostgreSQL: who may do it, until when, and that nobody who lost it leaves anything behind.

Workers are threads. A worker is paused where its story needs it: inside its transaction, at a named step.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import NoResultFound

from ledger.application import Ledger
from ledger.domain.contract import Contract
from ledger.domain.words import Stage, Status
from ledger.errors import PartUnavailableError
from tests.integration.pause import Pause
from tests.integration.place import (
    ALL_ROWS,
    CONTRACT,
    LONG_LEASE_SECONDS,
    WAIT_SECONDS_MAX,
    Place,
    new_place,
    wait_until,
)
from workers import leases as leases_module
from workers import load as load_module
from workers.leases import END_HOLDERS, LeaseKeeper, LeaseLostError, Work, finish, release
from workers.load import load_chunk
from workers.plan import plan_file
from workers.workshop import Procedure, Workshop

SHORT_LEASE_SECONDS = 0.2
ATTEMPTS_MAX = 3
NUMBER, PAID_ON = CONTRACT.columns
KEYED = replace(CONTRACT, columns=(replace(NUMBER, nullable=False), PAID_ON), key=("number",))
LENIENT = replace(CONTRACT, rejects_max="1")


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    """A dataset of its own, in files of several chunks."""
    return new_place(
        ledger,
        tmp_path,
        chunk_bytes=2048,
        lease_seconds=LONG_LEASE_SECONDS,
        plan_attempts_max=ATTEMPTS_MAX,
        load_attempts_max=ATTEMPTS_MAX,
        retry_seconds_min=0.05,
        retry_seconds_max=0.05,
    )


def test_of_eight_claims_at_once_one_succeeds(place: Place) -> None:
    job_id = place.plan()
    chunks = place.ledger.job(job_id).chunks_total
    assert chunks >= 3
    together = threading.Barrier(8)

    def attempt(chunk: int) -> Work | None:
        together.wait(WAIT_SECONDS_MAX)
        return place.claim(job_id, Stage.LOAD, chunk, lease_seconds=LONG_LEASE_SECONDS)

    with ThreadPoolExecutor(8) as threads:
        for chunk in range(chunks):
            found = [work for work in threads.map(attempt, [chunk] * 8) if work is not None]
            assert [work.attempt for work in found] == [1]
    assert [attempts for _, _, _, attempts, *_ in place.work(job_id)] == [1] * chunks


def test_a_lease_that_ran_out_can_be_claimed_with_the_next_epoch(place: Place) -> None:
    job_id = place.receive()
    first = place.claim(job_id, Stage.PLAN, lease_seconds=SHORT_LEASE_SECONDS)
    [(*_, leased_until)] = place.work(job_id)
    second = place.claim_when_due(job_id, Stage.PLAN, lease_seconds=LONG_LEASE_SECONDS)
    assert first is not None
    assert first.epoch < second.epoch
    assert (first.attempt, second.attempt) == (1, 2)
    [(now,)] = place.query("SELECT clock_timestamp()")
    assert now > leased_until
    assert place.claim(job_id, Stage.PLAN, lease_seconds=LONG_LEASE_SECONDS) is None


@pytest.mark.parametrize("is_of_another_role", [False, True])
def test_a_paused_worker_cannot_commit_after_its_lease(
    place: Place, monkeypatch: pytest.MonkeyPatch, is_of_another_role: bool
) -> None:
    """Its connection is ended; that of another login role cannot be, and meets the fence."""
    if is_of_another_role:
        monkeypatch.setattr(leases_module, "END_HOLDERS", END_HOLDERS.replace("session_user", "'another'"))
    job_id = place.plan()
    chunks = place.ledger.job(job_id).chunks_total
    work = place.claim(job_id, Stage.LOAD, 0, lease_seconds=SHORT_LEASE_SECONDS)
    assert work is not None
    pause = Pause(monkeypatch, load_module, "lock_job")
    pause.start(lambda: load_chunk(place.workshop, work))

    other = place.claim_when_due(job_id, Stage.LOAD, 0, lease_seconds=LONG_LEASE_SECONDS)
    load_chunk(place.workshop, other)
    before = place.rows(), place.events(job_id)
    assert before[1] == ["received", "queued", "chunk_loaded"]

    assert isinstance(pause.end(), LeaseLostError if is_of_another_role else PartUnavailableError)
    assert (place.rows(), place.events(job_id)) == before
    for chunk in range(1, chunks):
        place.perform(job_id, Stage.LOAD, chunk)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    assert place.rows() == ALL_ROWS


def test_a_paused_worker_cannot_commit_before_the_one_that_took_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.plan()
    work = place.claim(job_id, Stage.LOAD, 0, lease_seconds=SHORT_LEASE_SECONDS)
    assert work is not None
    pause = Pause(monkeypatch, load_module, "lock_job")
    pause.start(lambda: load_chunk(place.workshop, work))
    other = place.claim_when_due(job_id, Stage.LOAD, 0, lease_seconds=LONG_LEASE_SECONDS)

    assert isinstance(pause.end(), LeaseLostError)
    assert place.rows() == (0, 0)
    assert place.events(job_id) == ["received", "queued"]
    load_chunk(place.workshop, other)
    assert place.events(job_id) == ["received", "queued", "chunk_loaded"]
    assert place.ledger.job(job_id).chunks[0].rows_loaded == place.rows()[0]


@pytest.mark.parametrize(("contract", "line"), [(KEYED, "2"), (LENIENT, "refused")], ids=["key", "reject"])
def test_a_paused_worker_does_not_hold_up_the_one_that_takes_over(
    place: Place, monkeypatch: pytest.MonkeyPatch, contract: Contract, line: str
) -> None:
    """What it has not committed has keys that the other's rows, or rejects, have too."""
    job_id = place.send(f"number,paid_on\n1,2026-04-01\n{line},2026-04-02\n".encode(), contract)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    brief = place.with_settings(lease_seconds=SHORT_LEASE_SECONDS, load_attempts_max=1)
    pause = Pause(monkeypatch, load_module, "lock_job")
    monkeypatch.setattr(LeaseKeeper, "_renew", lambda keeper: None)  # a process that is frozen renews nothing
    pause.start(lambda: brief.perform(job_id, Stage.LOAD))

    other = place.claim_when_due(job_id, Stage.LOAD, lease_seconds=LONG_LEASE_SECONDS)
    load_chunk(place.workshop, other)
    assert place.events(job_id) == ["received", "queued", "chunk_loaded", "completed"]
    before = place.rows(), place.events(job_id)
    assert pause.lasts, "the other had to wait for its end"
    assert pause.end() is None, "it has found out by itself that it was overtaken"
    assert (place.rows(), place.events(job_id)) == before


def test_a_worker_that_was_overtaken_ends_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = place.plan()
    lost = place.claim(job_id, Stage.LOAD, 0, lease_seconds=SHORT_LEASE_SECONDS)
    assert lost is not None
    other = place.claim_when_due(job_id, Stage.LOAD, 0, lease_seconds=LONG_LEASE_SECONDS)
    pause = Pause(monkeypatch, load_module, "lock_job")
    pause.start(lambda: load_chunk(place.workshop, other))
    with pytest.raises(LeaseLostError):
        load_chunk(place.workshop, lost)
    assert pause.end() is None
    assert place.events(job_id) == ["received", "queued", "chunk_loaded"]


def test_an_overtaken_worker_neither_ends_nor_gives_back_nor_renews_the_work_of_another(place: Place) -> None:
    job_id = place.receive()
    lost = place.claim(job_id, Stage.PLAN, lease_seconds=SHORT_LEASE_SECONDS)
    assert lost is not None
    place.claim_when_due(job_id, Stage.PLAN, lease_seconds=LONG_LEASE_SECONDS)
    before = place.work(job_id)
    with place.ledger.transaction() as session:
        finish(session, lost)
    with pytest.raises(NoResultFound), place.ledger.transaction() as session:
        release(session, lost, pause_seconds=0, reason="late")
    with LeaseKeeper(place.ledger.engine, lost, 0.03):
        [(start,)] = place.query("SELECT clock_timestamp()")
        wait_until(
            lambda: place.query("SELECT clock_timestamp() > :start + interval '0.3 second'", start=start)[0][0], "clock"
        )
    assert place.work(job_id) == before


@pytest.mark.parametrize(
    ("stage", "chunk"), [(Stage.PLAN, 0), (Stage.LOAD, 0), (Stage.LOAD, 99), (Stage.PLAN, 1)], ids=str
)
def test_a_duplicate_late_or_unknown_message_has_no_effect(place: Place, stage: Stage, chunk: int) -> None:
    job_id = place.plan()
    if (stage, chunk) == (Stage.LOAD, 0):
        place.perform(job_id, stage, chunk)
    before = place.rows(), place.events(job_id), place.work(job_id), place.ledger.position()
    for target in (job_id, job_id, uuid4()):
        place.perform(target, stage, 99 if target != job_id else chunk)
    assert (place.rows(), place.events(job_id), place.work(job_id), place.ledger.position()) == before


def test_a_message_before_its_time_has_no_effect(place: Place) -> None:
    job_id = place.receive()
    place.perform(job_id, Stage.LOAD, 0)
    assert place.events(job_id) == ["received"]
    place.perform(job_id, Stage.PLAN)
    assert place.events(job_id) == ["received", "queued"]


def test_work_that_comes_back_after_the_job_has_ended_is_forgotten(place: Place) -> None:
    job_id = place.plan()
    for chunk in range(place.ledger.job(job_id).chunks_total):
        place.perform(job_id, Stage.LOAD, chunk)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    for stage in (Stage.PLAN, Stage.LOAD):
        place.query("INSERT INTO work.items (job_id, stage, chunk) VALUES (:job_id, :stage, 0) RETURNING 1",
                    job_id=job_id, stage=stage.value)  # fmt: skip
        place.perform(job_id, stage, 0)
    assert place.work(job_id) == []
    assert place.rows() == ALL_ROWS
    assert place.events(job_id).count("completed") == 1


def away(workshop: Workshop, work: Work) -> None:
    raise PartUnavailableError("The blob store is away.", "Bring it back.")


def broken(workshop: Workshop, work: Work) -> None:
    raise ZeroDivisionError


def perform_until_forgotten(
    place: Place, job_id: UUID, stage: Stage, chunk: int, procedure: Procedure | None = None
) -> None:
    def forgotten() -> bool:
        place.perform(job_id, stage, chunk, procedure)
        return place.work(job_id) == []

    wait_until(forgotten, "it is tried for ever")


@pytest.mark.parametrize("procedure", [away, broken], ids=["a part is away", "our own mistake"])
def test_work_given_back_is_due_again_after_its_pause(place: Place, procedure: Procedure) -> None:
    job_id = place.receive()
    [(before,)] = place.query("SELECT clock_timestamp()")
    place.with_settings(retry_seconds_min=0.4, retry_seconds_max=0.4, retry_jitter_share=0).perform(
        job_id, Stage.PLAN, procedure=procedure
    )
    [(_, _, epoch, attempts, due_at, leased_until)] = place.work(job_id)
    assert (attempts, leased_until) == (1, None)
    assert (due_at - before).total_seconds() >= 0.4
    work = place.claim_when_due(job_id, Stage.PLAN, lease_seconds=LONG_LEASE_SECONDS)
    assert work.epoch > epoch
    assert work.attempt == 2
    [(now,)] = place.query("SELECT clock_timestamp()")
    assert now >= due_at
    assert place.events(job_id) == ["received", "failed"]
    assert place.ledger.job(job_id).retry_at == due_at


def test_work_that_kills_its_workers_is_counted_and_fails_its_job_for_good(place: Place) -> None:
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0)
    loaded = place.rows()[0]
    assert loaded > 0
    for attempt in range(1, ATTEMPTS_MAX + 1):  # each claims, then is never heard of again
        work = place.claim_when_due(job_id, Stage.LOAD, 1, lease_seconds=SHORT_LEASE_SECONDS)
        assert work.attempt == attempt
    perform_until_forgotten(place, job_id, Stage.LOAD, 1)
    failed: Any = place.ledger.events_of(job_id)[-1].event
    assert place.events(job_id)[-1] == "failed"
    assert failed.error["code"] == "attempts_exhausted"
    assert (failed.rows_withdrawn, failed.chunk, failed.retry_at) == (loaded, 1, None)
    assert place.rows() == (0, 0)


def test_work_that_always_fails_fails_its_job_with_the_last_reason(place: Place) -> None:
    job_id = place.receive()
    perform_until_forgotten(place, job_id, Stage.PLAN, 0, broken)
    failed: Any = place.ledger.events_of(job_id)[-1].event
    assert place.events(job_id) == ["received", *["failed", "retried"] * (ATTEMPTS_MAX - 1), "failed"]
    assert "ZeroDivisionError" in failed.error["message"]
    assert (failed.attempt, failed.retry_at) == (ATTEMPTS_MAX, None)


def fail_with_the_last_chunk(place: Place, job_id: UUID) -> None:
    place.perform(job_id, Stage.LOAD, place.ledger.job(job_id).chunks_total - 1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_job_that_fails_while_a_chunk_was_copied_but_not_fenced_keeps_no_rows(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job_id = place.plan(last_line="refused,2026-04-01\n")
    place.perform(job_id, Stage.LOAD, 1 - number)
    work = place.claim(job_id, Stage.LOAD, number, lease_seconds=LONG_LEASE_SECONDS)
    assert work is not None
    pause = Pause(monkeypatch, load_module, "lock_job")
    pause.start(lambda: load_chunk(place.workshop, work))
    fail_with_the_last_chunk(place, job_id)
    assert place.ledger.job(job_id).status is Status.FAILED
    assert isinstance(pause.end(), LeaseLostError)
    assert place.rows() == (0, 0)
    assert place.events(job_id) == ["received", "queued", "chunk_loaded", "chunk_loaded", "failed"]
    assert place.work(job_id) == []


def test_a_job_that_fails_while_a_chunk_is_being_committed_waits_for_it_and_withdraws_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.plan(last_line="refused,2026-04-01\n")
    pause = Pause(monkeypatch, load_module, "finish")
    pause.start(lambda: place.perform(job_id, Stage.LOAD, 0))
    failing = threading.Thread(target=fail_with_the_last_chunk, args=(place, job_id), daemon=True)
    failing.start()
    wait_until(lambda: place.query("SELECT 1 FROM pg_locks WHERE NOT granted"), "nobody waits for the job's lock")
    assert pause.end() is None
    failing.join(WAIT_SECONDS_MAX)
    assert not failing.is_alive()
    assert place.events(job_id) == ["received", "queued", "chunk_loaded", "chunk_loaded", "failed"]
    failed: Any = place.ledger.events_of(job_id)[-1].event
    assert failed.error["code"] == "rejects_too_many"
    assert failed.rows_withdrawn > 0
    assert place.rows() == (0, 0)
    assert place.work(job_id) == []


def test_a_long_piece_of_work_stays_with_the_worker_that_renews_its_lease(place: Place) -> None:
    lease_seconds = 2.0
    job_id = place.receive()
    begun, go_on = threading.Event(), threading.Event()

    def long(workshop: Workshop, work: Work) -> None:
        begun.set()
        assert go_on.wait(WAIT_SECONDS_MAX)
        plan_file(workshop, work)

    patient = place.with_settings(lease_seconds=lease_seconds)
    worker = threading.Thread(target=patient.perform, args=(job_id, Stage.PLAN, 0, long), daemon=True)
    worker.start()
    assert begun.wait(WAIT_SECONDS_MAX)
    [(*_, first_end)] = place.work(job_id)

    def two_leases_later() -> bool:
        assert place.claim(job_id, Stage.PLAN, lease_seconds=lease_seconds) is None, "another could take it"
        question = "SELECT clock_timestamp() > :first_end + interval '2 second'"
        return bool(place.query(question, first_end=first_end)[0][0])

    wait_until(two_leases_later, "clock")
    go_on.set()
    worker.join(WAIT_SECONDS_MAX)
    assert place.events(job_id) == ["received", "queued"]
    assert place.work(job_id) == []


def test_workers_that_end_all_chunks_at_once_complete_the_job_once(place: Place) -> None:
    job_id = place.plan()
    chunks = place.ledger.job(job_id).chunks_total
    together = threading.Barrier(chunks)

    def work(chunk: int) -> None:
        together.wait(WAIT_SECONDS_MAX)
        place.perform(job_id, Stage.LOAD, chunk)

    with ThreadPoolExecutor(chunks) as threads:
        list(threads.map(work, range(chunks)))
    assert place.events(job_id) == ["received", "queued", *["chunk_loaded"] * chunks, "completed"]
    events: list[Any] = [logged.event for logged in place.ledger.events_of(job_id)]
    assert [event.attempt for event in events[2:-1]] == [1] * chunks, "none had to be repeated"
    assert place.rows() == ALL_ROWS


def test_two_followers_of_the_log_write_work_down_once(place: Place) -> None:
    job_id = place.receive()
    place.perform(job_id, Stage.PLAN)
    together = threading.Barrier(4)

    def follow() -> None:
        together.wait(WAIT_SECONDS_MAX)
        place.follow()

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(follow) for _ in range(4)]:
            future.result(WAIT_SECONDS_MAX)
    assert [row[1] for row in place.work(job_id)] == list(range(place.ledger.job(job_id).chunks_total))
