"""A job that was retried lives on under the same id: what is late from its former life has no part in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.application import Ledger
from ledger.domain.words import Stage, Status
from tests.integration.place import ALL_ROWS, STAMP, Place, new_place, running_ledger
from workers.leases import LeaseLostError, Work
from workers.load import load_chunk
from workers.workshop import Workshop

LEASE_SECONDS = 300.0


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return new_place(
        ledger,
        tmp_path,
        chunk_bytes=2048,
        lease_seconds=LEASE_SECONDS,
        retry_seconds_min=LEASE_SECONDS,
        retry_seconds_max=LEASE_SECONDS,
        retry_jitter_share=0,
    )


def test_a_worker_of_a_former_life_cannot_commit_with_an_epoch_that_came_again(place: Place) -> None:
    job_id = place.plan(last_line="refused,2026-04-01\n")
    late = place.claim(job_id, Stage.LOAD, 0, lease_seconds=LEASE_SECONDS)
    place.perform(job_id, Stage.LOAD, place.ledger.job(job_id).chunks_total - 1)
    assert place.ledger.job(job_id).status is Status.FAILED

    place.ledger.retry(job_id, STAMP, reason="again")
    place.follow()
    place.perform(job_id, Stage.PLAN)
    place.follow()
    holder = place.claim(job_id, Stage.LOAD, 0, lease_seconds=LEASE_SECONDS)
    assert late is not None
    assert holder is not None
    before = place.rows(), place.events(job_id), place.work(job_id)
    with pytest.raises(LeaseLostError):
        load_chunk(place.workshop, late)
    assert (place.rows(), place.events(job_id), place.work(job_id)) == before
    load_chunk(place.workshop, holder)
    assert place.events(job_id)[-1] == "chunk_loaded"
