"""Errors of the database inside a chunk's transaction, each staged for real: the chunk is tried again, and loaded once.

Another session of PostgreSQL plays whoever the worker runs into. Where that needs the worker to stand still, its step
is used; where it needs the worker to wait for a lock, PostgreSQL is asked whether it does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import lock_job
from ledger.domain.words import Stage, Status
from ledger.event_store import EVENTS_TABLE
from ledger.settings import Settings
from projections import loading
from tests.faults.faults import fault
from tests.integration.place import ALL_ROWS, WAIT_SECONDS_MAX, Place, new_place, running_ledger, wait_until
from workers import load as load_module
from workers import workshop as workshop_module

CHUNK = 1


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger(lock_seconds_max=1.0) as ledger:
        yield ledger


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return new_place(ledger, tmp_path, chunk_bytes=2048, retry_seconds_min=0.05, retry_seconds_max=0.05)


@contextmanager
def another(place: Place) -> Iterator[Session]:
    """A session of somebody else, whose transaction ends with the block. In a deadlock it waits longer."""
    with Session(place.ledger.engine) as session, session.begin():
        session.execute(text("SET LOCAL ROLE NONE"))  # the ledger's own role may not change this
        session.execute(text("SET LOCAL deadlock_timeout = '600s'"))
        yield session


def beside(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def wait_for_waiting(place: Place, kind: str) -> None:
    statement = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = :kind"
    wait_until(lambda: place.query(statement, kind=kind), f"nobody waits for a lock of kind {kind}")


def check_that_it_was_tried_again(place: Place, job_id: UUID, error: str) -> None:
    """The chunk failed, for a while; then the job is done, with every row once."""
    failed: Any = place.ledger.events_of(job_id)[-1].event
    assert place.events(job_id)[-1] == "failed"
    assert error in failed.error["message"]
    assert failed.retry_at is not None
    assert (failed.chunk, failed.rows_withdrawn) == (CHUNK, 0)
    for chunk in range(place.ledger.job(job_id).chunks_total):
        wait_until(lambda number=chunk: _is_loaded(place, job_id, number), "a chunk is not loaded")  # type: ignore[misc]
    assert place.events(job_id).count("failed") == place.events(job_id).count("retried") == 1
    assert place.ledger.job(job_id).status is Status.COMPLETED
    assert place.rows() == ALL_ROWS
    assert place.work(job_id) == []


def _is_loaded(place: Place, job_id: UUID, chunk: int) -> bool:
    place.perform(job_id, Stage.LOAD, chunk)
    return chunk in place.ledger.job(job_id).chunks


def at_step(monkeypatch: pytest.MonkeyPatch, wanted: str, act: Callable[[], object]) -> None:
    """Do something when a worker first gets to a step, before it goes on."""
    left = [act]

    def arrive(name: str) -> None:
        if name == wanted and left:
            left.pop()()

    monkeypatch.setattr(load_module, "failpoint", arrive)


@fault(
    16,
    "a deadlock between a load and somebody who holds the lock of its job",
    protection="an error that PostgreSQL may not repeat is worth another attempt",
    seen="with unknown errors of PostgreSQL not worth a retry: Failed for good",
)
def test_a_deadlock_over_the_lock_of_the_job_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has copied rows and wants the job's lock; who has that wants the table for itself."""
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0)
    copied = threading.Event()

    def hold_the_job_and_want_the_table() -> None:
        with another(place) as session:
            lock_job(session, job_id)
            holds.set()
            assert copied.wait(WAIT_SECONDS_MAX)
            session.execute(text(f"LOCK TABLE data.{place.dataset} IN ACCESS EXCLUSIVE MODE"))

    def go_on_when_the_other_waits() -> None:
        copied.set()
        wait_for_waiting(place, "relation")

    holds = threading.Event()
    other = beside(hold_the_job_and_want_the_table)
    assert holds.wait(WAIT_SECONDS_MAX)
    at_step(monkeypatch, "chunk_copied", go_on_when_the_other_waits)
    place.perform(job_id, Stage.LOAD, CHUNK)
    other.join(WAIT_SECONDS_MAX)
    assert not other.is_alive()
    check_that_it_was_tried_again(place, job_id, "OperationalError")


@fault(
    16,
    "a deadlock within COPY",
    protection="an error that PostgreSQL may not repeat is worth another attempt",
    seen="with unknown errors of PostgreSQL not worth a retry: Failed for good",
)
def test_a_deadlock_within_copy_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """COPY wants to write to the table for which another waits that COPY's session blocks."""
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0)
    table, real = f"data.{place.dataset}", loading.copy_rows
    others: list[threading.Thread] = []

    def copy_rows(session: Session, *arguments: Any, **named: Any) -> Any:
        if not others:
            holds = threading.Event()

            def hold_the_table_and_want_the_job() -> None:
                with another(place) as other:
                    other.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))
                    holds.set()
                    lock_job(other, job_id)

            lock_job(session, job_id)
            others.append(beside(hold_the_table_and_want_the_job))
            assert holds.wait(WAIT_SECONDS_MAX)
            wait_for_waiting(place, "advisory")
        return real(session, *arguments, **named)

    monkeypatch.setattr(loading, "copy_rows", copy_rows)
    place.perform(job_id, Stage.LOAD, CHUNK)
    others[0].join(WAIT_SECONDS_MAX)
    check_that_it_was_tried_again(place, job_id, "40P01")


@fault(
    16,
    "the lock of the log is held for longer than a load waits for it",
    protection="a wait for a lock has a limit, and its end is worth another attempt",
    seen="with unknown errors of PostgreSQL not worth a retry: Failed for good",
)
def test_a_wait_for_the_log_that_takes_too_long_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0)
    holds, gave_up = threading.Event(), threading.Event()

    def hold_the_log() -> None:
        with another(place) as session:
            session.execute(text(f"LOCK TABLE {EVENTS_TABLE} IN EXCLUSIVE MODE"))
            holds.set()
            assert gave_up.wait(WAIT_SECONDS_MAX)

    def lock_job_to_write_the_failure_down(session: Session, job_id: UUID) -> None:
        gave_up.set()
        other.join(WAIT_SECONDS_MAX)
        lock_job(session, job_id)

    other = beside(hold_the_log)
    assert holds.wait(WAIT_SECONDS_MAX)
    monkeypatch.setattr(workshop_module, "lock_job", lock_job_to_write_the_failure_down)
    place.perform(job_id, Stage.LOAD, CHUNK)
    assert gave_up.is_set()
    check_that_it_was_tried_again(place, job_id, "OperationalError")


def test_a_transaction_that_cannot_be_serialized_is_tried_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that isolates more by default, a lease renewed meanwhile is a row changed under the worker."""
    job_id = place.plan()
    place.perform(job_id, Stage.LOAD, 0)

    def renew_the_lease() -> None:
        place.query("UPDATE work.items SET leased_until = leased_until + interval '1 second' RETURNING 1")

    strict = Ledger(Settings(database_url=_strictly_isolated(place.ledger)))
    try:
        at_step(monkeypatch, "chunk_copied", renew_the_lease)
        new_place(strict, tmp_path, **place.workshop.settings.model_dump()).perform(job_id, Stage.LOAD, CHUNK)
    finally:
        strict.engine.dispose()
    check_that_it_was_tried_again(place, job_id, "OperationalError")


def _strictly_isolated(ledger: Ledger) -> str:
    url = ledger.engine.url.update_query_dict({"options": "-c default_transaction_isolation=serializable"})
    return url.render_as_string(hide_password=False)
