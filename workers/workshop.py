"""What a worker needs in its hands, and how a piece of work is carried through: claim, do, or fail well.

Rules:
1. A message without due work behind it has no effect: it is a duplicate, late, or not ours.
2. An error that is not worth another attempt (see `workers.retry`), or that came with the last one, fails the job
   for good and withdraws its rows, in one transaction.
3. Any other error gives the work back with a pause, and Failed tells when it will be retried. The whole job waits
   until then: what else of it is due would most likely meet the same trouble. Whoever is first to work on the job
   again appends Retried.
4. Where the log itself is away nothing can be written down: the lease runs out, and the work is due again.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg2
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.application import Ledger
from ledger.blobs import BlobStore, open_blob_store
from ledger.database import lock_job, now, unavailable_as_error
from ledger.domain.base import Stamp
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.errors import LedgerError
from ledger.failpoints import failpoint
from ledger.settings import Settings
from projections.data_tables import share_table, withdraw
from workers.leases import (
    LeaseKeeper,
    LeaseLostError,
    Work,
    claim,
    drop_all,
    end_overtaken,
    fence,
    finish,
    hold_back,
    release,
)
from workers.retry import RetryPolicy, error_fields, is_worth_retrying

log = logging.getLogger(__name__)

ACTOR = "worker"


@dataclass(frozen=True)
class Workshop:
    """What a worker process works with."""

    ledger: Ledger
    blobs: BlobStore
    settings: Settings
    calendar: FiscalCalendar

    @classmethod
    def of(cls, ledger: Ledger, settings: Settings) -> Workshop:
        """The workshop that settings describe."""
        calendar = FiscalCalendar.parse(settings.fiscal_calendar, settings.time_zone)
        return cls(ledger, open_blob_store(settings.blobs_url), settings, calendar)

    def stamp(self, about: FileJob | Operation) -> Stamp:
        """When and as part of what this process decides something about a job or an operation."""
        return Stamp(datetime.now(UTC), ACTOR, about.correlation, telemetry.current_traceparent())


Procedure = Callable[[Workshop, Work], None]
# Carries a claimed piece of work through; what the attempt came to, in a word.
Carry = Callable[[Work], str]


def perform(
    workshop: Workshop, procedure: Procedure, job_id: UUID, stage: Stage, chunk: int, published_at_seconds: float
) -> None:
    """Do a job's piece of work if it is due, and see to it that its end, good or bad, is on record."""
    attend(workshop, partial(_carry_through, workshop, procedure), job_id, stage, chunk, published_at_seconds)


def attend(
    workshop: Workshop, carry: Carry, job_id: UUID, stage: Stage, chunk: int, published_at_seconds: float
) -> None:
    """Have a piece of work carried through, under a lease that is renewed meanwhile, if it is due."""
    settings = workshop.settings
    telemetry.record_queue_wait(published_at_seconds, time.time(), stage.value)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        with unavailable_as_error():
            work = claim(
                workshop.ledger.engine, job_id, stage, chunk, worker=worker, lease_seconds=settings.lease_seconds
            )
    except LedgerError as unavailable:  # the work stays due, and its message will be sent again
        log.warning("cannot claim work: %s", unavailable, extra={"action": "work_not_claimed", "job_id": str(job_id)})
        return
    if work is None:
        log.info("nothing due behind a message", extra={"action": "work_not_due", "job_id": str(job_id)})
        return
    failpoint("work_claimed")
    started = time.monotonic()
    with LeaseKeeper(workshop.ledger.engine, work, settings.lease_seconds):
        outcome = carry(work)
    telemetry.WORK_DURATION.record(
        time.monotonic() - started, {telemetry.STAGE: stage.value, telemetry.OUTCOME: outcome}
    )


def discard(workshop: Workshop, work: Work) -> None:
    """Forget work that the job no longer waits for."""
    log.info("the job does not want this", extra={"action": "work_discarded", "job_id": str(work.job_id)})
    with workshop.ledger.transaction() as session:
        finish(session, work)


def _carry_through(workshop: Workshop, procedure: Procedure, work: Work) -> str:
    where = {"job_id": str(work.job_id), "stage": work.stage.value, "chunk": work.chunk, "attempt": work.attempt}
    try:
        if work.attempt > RetryPolicy.of(workshop.settings, work.stage).attempts_max:
            return _record(workshop, work, vanished(workshop, work), where)
        with unavailable_as_error():
            if workshop.ledger.job(work.job_id).waiting:
                _open_next_attempt(workshop, work)
            procedure(workshop, work)
    except LeaseLostError as lost:
        log.warning("%s", lost, extra={"action": "lease_lost", **where})
        return "lease_lost"
    except LedgerError as error:
        # Only the code: the message, which the Failed event keeps for the sender, may quote the file.
        action = "work_failed" if is_worth_retrying(error) else "file_failed"
        log.warning("work failed: %s", error.code, extra={"action": action, **where})
        return _record(workshop, work, error, where)
    except Exception as error:  # the edge of a task: whatever went wrong, the work must become due again
        log.exception("work failed unexpectedly", extra={"action": "work_failed", **where})
        return _record(workshop, work, error, where)
    return "done"


def _record(workshop: Workshop, work: Work, error: Exception, where: dict[str, Any]) -> str:
    """Write an error down, as the end of the job or as a pause; what the attempt came to."""
    policy = RetryPolicy.of(workshop.settings, work.stage)
    try:
        if not is_worth_retrying(error):
            _end(workshop, work, error_fields(error))
            return "failed"
        if work.attempt >= policy.attempts_max:
            _end(workshop, work, error_fields(_exhausted(work, policy.attempts_max, error), code="attempts_exhausted"))
            return "exhausted"
        _give_back(workshop, work, error, policy.pause_seconds(work.attempt, random.random()))  # noqa: S311 - no secret
        return "given_back"
    except LeaseLostError as lost:
        log.warning("%s", lost, extra={"action": "lease_lost", **where})
        return "lease_lost"
    except (LedgerError, DBAPIError, psycopg2.Error) as unavailable:
        # The lease runs out by itself; the sweeper then finds the work due.
        log.warning("cannot write down a failure: %s", unavailable, extra={"action": "work_abandoned", **where})
        return "abandoned"


def _open_next_attempt(workshop: Workshop, work: Work) -> None:
    """Say that a job which waited goes on, unless this is a chunk that was under way before its pause is over."""
    ledger = workshop.ledger
    with ledger.transaction() as session:
        job = _job_of(workshop, session, work)
        # Without a plan this is the only work there is, so somebody made it due before its time.
        if job.retry_at is not None and (job.plan is None or job.retry_at <= now(session)):
            job.retry(workshop.stamp(job), reason="Its work is due again.")
            ledger.save(job, session=session)
    failpoint("retry_committed")


def fail_for_good(workshop: Workshop, session: Session, job: FileJob, work: Work, error: dict[str, Any]) -> None:
    """End a job without its rows, in the session's transaction, which shares their table; its news is not saved yet."""
    withdrawn = withdraw(session, job.dataset, workshop.ledger.job_position(session, job.id))
    _fail(workshop, job, work, error, None, withdrawn)
    drop_all(session, work.job_id)


def _end(workshop: Workshop, work: Work, error: dict[str, Any]) -> None:
    dataset = workshop.ledger.job(work.job_id).dataset
    with workshop.ledger.transaction() as session:
        share_table(session, dataset)
        job = _job_of(workshop, session, work)
        if job.is_open:
            fail_for_good(workshop, session, job, work, error)
            workshop.ledger.save(job, session=session)
        else:
            drop_all(session, work.job_id)
        failpoint("failure_appended")
    failpoint("failure_committed")


def _give_back(workshop: Workshop, work: Work, error: Exception, pause_seconds: float) -> None:
    with workshop.ledger.transaction() as session:
        job = _job_of(workshop, session, work)
        reason = error.message if isinstance(error, LedgerError) else type(error).__name__
        retry_at = release(session, work, pause_seconds=pause_seconds, reason=reason)
        if job.is_open and not job.waiting:
            hold_back(session, job.id, until=retry_at)
            _fail(workshop, job, work, error_fields(error), retry_at, 0)
            workshop.ledger.save(job, session=session)
        failpoint("pause_appended")
    failpoint("pause_committed")


def _job_of(workshop: Workshop, session: Session, work: Work) -> FileJob:
    """The job as it stands, until the transaction ends: nobody else decides about it, and the work is ours."""
    end_overtaken(session, work)
    lock_job(session, work.job_id)
    fence(session, work)
    return workshop.ledger.job(work.job_id)


def _fail(
    workshop: Workshop,
    job: FileJob,
    work: Work,
    error: dict[str, Any],
    retry_at: datetime | None,
    rows_withdrawn: int,
) -> None:
    job.fail(
        workshop.stamp(job),
        stage=work.stage,
        chunk=work.chunk if work.stage is Stage.LOAD else None,
        attempt=work.attempt,
        error=error,
        retry_at=retry_at,
        rows_withdrawn=rows_withdrawn,
    )


def _exhausted(work: Work, attempts: int, error: Exception) -> LedgerError:
    """What ends a job whose last attempt failed with `error`."""
    last = error_fields(error)["message"]
    return LedgerError(
        f"No attempt at stage {work.stage} came to an end, and there were {attempts}. The last one: {last}",
        f"Repair what the message names, then retry the job: ledger jobs retry {work.job_id}",
    )


def vanished(workshop: Workshop, work: Work) -> LedgerError:
    """What ends a job or an operation whose workers died, one after the other."""
    with workshop.ledger.transaction() as session:
        reason = session.execute(
            text("SELECT last_error FROM work.items WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk"),
            work.key(),
        ).scalar()
    return LedgerError(f"Its worker died or never came back (last known error: {reason or 'none'}).")
