"""What a worker needs in its hands, and how a piece of work is carried through: claim, do, or fail well.

Rules:
1. A message without due work behind it has no effect: it is a duplicate, late, or not ours.
2. The file's fault (it cannot be read, a value is refused, its counts do not close) fails the job for good and
   withdraws its rows, in one transaction.
3. The world's fault (a part away, a connection lost) gives the work back with a growing pause. After
   `attempts_max` attempts, which are counted before the work, the job fails for good as well.
4. Our own mistakes are logged with their traceback and treated like the world's: the job ends by rule 3.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg2
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger import telemetry
from ledger.application import Ledger
from ledger.blobs import BlobStore
from ledger.database import lock_job, unavailable_as_error
from ledger.domain.base import Stamp
from ledger.domain.filejob import CountsDoNotCloseError, FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.words import UNFINISHED, Stage
from ledger.errors import FileRefusedError, LedgerError
from ledger.settings import Settings
from projections.data_tables import withdraw
from workers.leases import LeaseKeeper, LeaseLostError, Work, claim, drop_all, fence, finish, release

log = logging.getLogger(__name__)

ACTOR = "worker"


@dataclass(frozen=True)
class Workshop:
    """What a worker process works with."""

    ledger: Ledger
    blobs: BlobStore
    settings: Settings
    calendar: FiscalCalendar

    def stamp(self, job: FileJob) -> Stamp:
        """When and as part of what this process decides something about a job."""
        return Stamp(datetime.now(UTC), ACTOR, job.correlation, telemetry.current_traceparent())


Procedure = Callable[[Workshop, Work], None]


def perform(
    workshop: Workshop, procedure: Procedure, job_id: UUID, stage: Stage, chunk: int, published_at_seconds: float
) -> None:
    """Do a piece of work if it is due, and see to it that its end, good or bad, is on record."""
    settings = workshop.settings
    telemetry.record_queue_wait(published_at_seconds, time.time(), stage.value)
    work = claim(
        workshop.ledger.engine,
        job_id,
        stage,
        chunk,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        lease_seconds=settings.lease_seconds,
    )
    if work is None:
        log.info("nothing due behind a message", extra={"action": "work_not_due", "job_id": str(job_id)})
        return
    started = time.monotonic()
    with LeaseKeeper(workshop.ledger.engine, work, settings.lease_seconds):
        outcome = _carry_through(workshop, procedure, work)
    telemetry.WORK_DURATION.record(
        time.monotonic() - started, {telemetry.STAGE: stage.value, telemetry.OUTCOME: outcome}
    )


def discard(workshop: Workshop, work: Work) -> None:
    """Forget work that the job no longer waits for."""
    with workshop.ledger.transaction() as session:
        finish(session, work)


def _carry_through(workshop: Workshop, procedure: Procedure, work: Work) -> str:
    where = {"job_id": str(work.job_id), "stage": work.stage.value, "chunk": work.chunk, "attempt": work.attempt}
    try:
        if work.attempt > workshop.settings.attempts_max:
            _fail(workshop, work, _exhausted(workshop, work))
            return "exhausted"
        with unavailable_as_error():
            procedure(workshop, work)
    except LeaseLostError as lost:
        log.warning("%s", lost, extra={"action": "lease_lost", **where})
        return "lease_lost"
    except (FileRefusedError, CountsDoNotCloseError) as error:
        # Only the code: the message, which the Failed event keeps for the sender, may quote the file.
        log.info("the file cannot be loaded: %s", error.code, extra={"action": "file_failed", **where})
        return _fail_or_give_back(workshop, work, error)
    except LedgerError as error:
        log.warning("%s", error, extra={"action": "work_given_back", **where})
        _give_back(workshop, work, error)
        return "given_back"
    except Exception as error:  # the edge of a task: whatever went wrong, the work must become due again
        log.exception("work failed unexpectedly", extra={"action": "work_given_back", **where})
        _give_back(workshop, work, error)
        return "given_back"
    return "done"


def _fail_or_give_back(workshop: Workshop, work: Work, error: LedgerError) -> str:
    try:
        _fail(workshop, work, error_fields(error))
    except LeaseLostError:
        return "lease_lost"
    except LedgerError as unavailable:
        _give_back(workshop, work, unavailable)
        return "given_back"
    return "failed"


def _fail(workshop: Workshop, work: Work, error: dict[str, Any]) -> None:
    ledger = workshop.ledger
    with ledger.transaction() as session:
        lock_job(session, work.job_id)
        fence(session, work)
        job = ledger.job(work.job_id)
        if job.status in UNFINISHED:
            withdrawn = withdraw(session, job.dataset, ledger.job_position(session, job.id))
            job.fail(
                workshop.stamp(job),
                stage=work.stage,
                chunk=work.chunk if work.stage is Stage.LOAD else None,
                attempt=work.attempt,
                error=error,
                rows_withdrawn=withdrawn,
            )
            ledger.save(job, session=session)
        drop_all(session, work.job_id)


def _give_back(workshop: Workshop, work: Work, error: Exception) -> None:
    pause_seconds = min(workshop.settings.retry_seconds_max, 0.5 * 2 ** min(work.attempt, 16))
    try:
        release(workshop.ledger.engine, work, pause_seconds=pause_seconds, reason=f"{type(error).__name__}: {error}")
    except (DBAPIError, psycopg2.Error) as unavailable:
        # The lease runs out by itself; the sweeper then finds the work due.
        log.warning("cannot give work back: %s", unavailable, extra={"action": "work_abandoned"})


def _exhausted(workshop: Workshop, work: Work) -> dict[str, Any]:
    with workshop.ledger.transaction() as session:
        reason = session.execute(
            text("SELECT last_error FROM work.items WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk"),
            work.key(),
        ).scalar()
    return error_fields(
        LedgerError(
            f"{work.attempt - 1} attempts at stage {work.stage} did not come to an end. "
            f"The last one: {reason or 'its worker died'}.",
            "Repair what the message names, then retry the job.",
        ),
        code="attempts_exhausted",
    )


def error_fields(error: LedgerError, code: str | None = None) -> dict[str, Any]:
    """An error as a Failed event and a task carry it."""
    return {
        "code": code or error.code,
        "message": error.message,
        "remedy": error.remedy,
        "record": getattr(error, "record", None),
        "line": getattr(error, "line", None),
        "byte_offset": getattr(error, "byte_offset", None),
        "column": getattr(error, "column", None),
    }
