"""What an operator orders about a job, and what one chunk's failure means for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage, Status
from tests.integration.place import ALL_ROWS, CONTRACT, LONG_LEASE_SECONDS, STAMP, Place, patient_place
from workers import plan as plan_module
from workers.commands import cancel
from workers.leases import LeaseLostError, Work
from workers.plan import plan_file
from workers.workshop import Workshop


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return patient_place(ledger, tmp_path)


def broken(workshop: Workshop, work: Work) -> None:
    raise ZeroDivisionError


def test_a_failure_that_will_be_retried_makes_the_rest_of_its_job_wait(place: Place) -> None:
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0, broken)
    retry_at = place.ledger.job(job_id).retry_at
    assert retry_at is not None
    before = place.work(job_id)
    assert [due_at >= retry_at for *_, due_at, _ in before] == [True] * len(before)
    for chunk in range(len(before)):
        place.perform(job_id, Stage.LOAD, chunk)
    assert place.work(job_id) == before
    assert place.events(job_id) == ["received", "queued", "failed"]


def test_an_order_to_retry_ends_the_wait_of_the_whole_job(place: Place) -> None:
    job_id = place.plan()
    chunks = place.ledger.job(job_id).chunks_total
    place.perform(job_id, Stage.LOAD, 0, broken)
    place.ledger.retry(job_id, STAMP, reason="the disk is repaired")
    place.follow()
    for chunk in range(chunks):
        place.perform(job_id, Stage.LOAD, chunk)
    assert place.events(job_id)[2:] == ["failed", "retried", *["chunk_loaded"] * chunks, "completed"]
    assert place.rows() == ALL_ROWS


def test_a_cancelled_job_keeps_neither_rows_nor_work(place: Place) -> None:
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0)
    assert place.rows() != (0, 0)
    cancel(place.ledger, job_id, STAMP, reason="the wrong month")
    assert place.rows() == (0, 0)
    assert place.work(job_id) == []


def test_work_that_is_written_down_after_its_job_was_cancelled_is_forgotten_at_once(place: Place) -> None:
    job_id = place.receive()
    place.perform(job_id, Stage.PLAN)
    cancel(place.ledger, job_id, STAMP, reason="the wrong month")
    place.follow()
    for _, chunk, *_ in place.work(job_id):
        place.perform(job_id, Stage.LOAD, chunk)
    assert place.work(job_id) == []
    assert place.events(job_id) == ["received", "queued", "cancelled"]
    assert place.ledger.job(job_id).status is Status.CANCELLED


def test_a_worker_that_was_overtaken_cannot_write_its_plan_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = place.receive()
    late = place.claim(job_id, Stage.PLAN, lease_seconds=LONG_LEASE_SECONDS)
    assert late is not None

    def overtake(step: str) -> None:
        place.query("UPDATE work.items SET leased_until = clock_timestamp() - interval '1 second' RETURNING 1")
        assert place.claim(job_id, Stage.PLAN, lease_seconds=LONG_LEASE_SECONDS) is not None

    monkeypatch.setattr(plan_module, "failpoint", overtake)
    with pytest.raises(LeaseLostError):
        plan_file(place.workshop, late)
    assert place.events(job_id) == ["received"]


def test_a_contract_that_changes_while_a_file_is_planned_decides_how_it_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = place.receive()
    wider = replace(CONTRACT, columns=(*CONTRACT.columns, Column("note", ColumnType.TEXT)))
    stored = plan_module.put

    def put(*arguments: Any) -> str:
        place.ledger.register_dataset(place.dataset, wider, STAMP, reason="meanwhile")
        return stored(*arguments)

    monkeypatch.setattr(plan_module, "put", put)
    place.perform(job_id, Stage.PLAN)
    job = place.ledger.job(job_id)
    assert job.status is Status.FAILED
    error = place.ledger.events_of(job_id)[-1].event.error
    assert (error["code"], "'note'" in error["message"]) == ("contract_differs", True)
