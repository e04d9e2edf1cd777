"""A job that was retried lives on under the same id: what is late from its former life has no part in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.application import Ledger
from ledger.domain.words import Stage, Status
from tests.integration.place import ALL_ROWS, LONG_LEASE_SECONDS, STAMP, Place, patient_place
from workers.leases import LeaseLostError, Work
from workers.load import load_chunk
from workers.workshop import Workshop


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return patient_place(ledger, tmp_path)


def broken(workshop: Workshop, work: Work) -> None:
    raise ZeroDivisionError


def make_due(place: Place) -> None:
    """Let every pause be over, as far as the work's own table goes."""
    place.query("UPDATE work.items SET due_at = clock_timestamp() RETURNING 1")


def test_a_worker_of_a_former_life_cannot_commit_with_an_epoch_that_came_again(place: Place) -> None:
    job_id = place.plan(last_line="refused,2026-04-01\n")
    late = place.claim(job_id, Stage.LOAD, 0, lease_seconds=LONG_LEASE_SECONDS)
    place.perform(job_id, Stage.LOAD, place.ledger.job(job_id).chunks_total - 1)
    assert place.ledger.job(job_id).status is Status.FAILED

    place.ledger.retry(job_id, STAMP, reason="again")
    place.follow()
    place.perform(job_id, Stage.PLAN)
    place.follow()
    holder = place.claim(job_id, Stage.LOAD, 0, lease_seconds=LONG_LEASE_SECONDS)
    assert late is not None
    assert holder is not None
    before = place.rows(), place.events(job_id), place.work(job_id)
    with pytest.raises(LeaseLostError):
        load_chunk(place.workshop, late)
    assert (place.rows(), place.events(job_id), place.work(job_id)) == before
    load_chunk(place.workshop, holder)
    assert place.events(job_id)[-1] == "chunk_loaded"


def test_a_plan_that_comes_due_before_its_pause_is_over_is_made_and_not_forgotten(place: Place) -> None:
    """The dispatcher follows the operator's Retried only when the next attempt has failed and waits."""
    job_id = place.receive()
    place.perform(job_id, Stage.PLAN, procedure=broken)
    place.ledger.retry(job_id, STAMP, reason="now")
    make_due(place)
    place.perform(job_id, Stage.PLAN, procedure=broken)
    assert place.ledger.job(job_id).waiting
    place.follow()  # only now: it makes the plan due at once

    place.perform(job_id, Stage.PLAN)
    assert place.events(job_id) == ["received", "failed", "retried", "failed", "retried", "queued"]
    assert place.work(job_id) == []


def test_the_last_chunk_ends_a_job_whose_pause_is_not_over(place: Place) -> None:
    job_id = place.plan()
    chunks = place.ledger.job(job_id).chunks_total
    place.perform(job_id, Stage.LOAD, 0, procedure=broken)
    place.ledger.retry(job_id, STAMP, reason="now")
    make_due(place)
    place.perform(job_id, Stage.LOAD, 0, procedure=broken)
    place.follow()  # only now: it makes every chunk due at once

    for chunk in range(chunks):
        place.perform(job_id, Stage.LOAD, chunk)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    assert place.rows() == ALL_ROWS
    assert place.work(job_id) == []
    assert place.events(job_id)[-3:] == ["chunk_loaded", "retried", "completed"]
