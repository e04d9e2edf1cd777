"""Leases: who may do a piece of work, and until when.

Rules:
1. A claim succeeds only if nobody holds the work; it takes an epoch that no claim had before and counts the
   attempt, in its own transaction, before the work begins.
2. The holder renews its lease while it works. A holder that is paused or cut off stops renewing, and after
   `lease_seconds` another may claim the work with the next epoch.
3. The transaction that commits the work checks the epoch under a row lock (`fence`), after the job's lock and
   before the event. A holder that was overtaken can never commit.
4. Nor can it hold up the one that took over (`end_overtaken`): rows that it has not committed may have keys that the
   others need, and a process that is frozen would keep them for as long as it likes.
5. Only PostgreSQL's clock counts.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ledger.database import lock, lock_at_once, lock_key
from ledger.domain.words import Stage

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
REASON_CHARACTERS_MAX = 500
# An advisory lock's key of 64 bits stands in two columns of 32. Of other login roles nobody may end a connection.
END_HOLDERS = """
SELECT pid, pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = :key AND granted
  AND datname = current_database() AND usename = session_user
"""


class LeaseLostError(Exception):
    """Another worker has claimed the work, or it is no longer wanted."""


@dataclass(frozen=True)
class Work:
    """A claimed piece of work. `attempt` counts from 1."""

    job_id: UUID
    stage: Stage
    chunk: int
    epoch: int
    attempt: int

    def key(self) -> dict[str, object]:
        """The parameters that name the work in SQL."""
        return {"job_id": self.job_id, "stage": self.stage.value, "chunk": self.chunk, "epoch": self.epoch}


def claim(engine: Engine, job_id: UUID, stage: Stage, chunk: int, *, worker: str, lease_seconds: float) -> Work | None:
    """Take a piece of work if it is due and nobody has it; None otherwise."""
    statement = text(
        "UPDATE work.items SET epoch = nextval('work.epochs'), attempts = attempts + 1, worker = :worker,"
        " leased_until = clock_timestamp() + :lease_seconds * interval '1 second' "
        "WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk AND due_at <= clock_timestamp()"
        " AND (leased_until IS NULL OR leased_until < clock_timestamp()) RETURNING epoch, attempts"
    )
    with Session(engine) as session, session.begin():
        found = session.execute(
            statement,
            {
                "job_id": job_id,
                "stage": stage.value,
                "chunk": chunk,
                "worker": worker,
                "lease_seconds": lease_seconds,
            },
        ).first()
    return None if found is None else Work(job_id, stage, chunk, found.epoch, found.attempts)


def is_leased(session: Session, job_id: UUID) -> bool:
    """Whether somebody is at work for a job or an operation."""
    statement = "SELECT 1 FROM work.items WHERE job_id = :job_id AND leased_until >= clock_timestamp() LIMIT 1"
    return session.execute(text(statement), {"job_id": job_id}).first() is not None


def fence(session: Session, work: Work) -> None:
    """Make sure, until the transaction ends, that the work is still ours.

    Raises:
        LeaseLostError: it is not.
    """
    _check_ours(session, work, " FOR UPDATE")


def end_overtaken(session: Session, work: Work) -> None:
    """End the transaction that an overtaken holder of the work left open, before this one does anything.

    PostgreSQL closes its connection, if the same login role opened it. One of another role stays: the fence decides.

    Raises:
        LeaseLostError: it is this worker that was overtaken.
    """
    name = f"work {work.stage} {work.chunk} of {work.job_id}"
    if lock_at_once(session, name):
        return
    _check_ours(session, work)  # so whoever has the lock lost the work before, and nothing it does counts
    with Session(session.get_bind()) as other, other.begin():
        other.execute(text("SET LOCAL ROLE NONE"))  # the ledger's own role may end nobody's connection
        ended = [pid for pid, _ in other.execute(text(END_HOLDERS), {"key": lock_key(name)})]
    log.warning("an overtaken worker stands in the way", extra={"action": "overtaken_ended", "connections": ended})
    if ended:
        lock(session, name)  # soon: it is being ended


def _check_ours(session: Session, work: Work, locked: str = "") -> None:
    statement = "SELECT 1 FROM work.items WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk"
    if session.execute(text(f"{statement} AND epoch = :epoch{locked}"), work.key()).first() is None:
        raise LeaseLostError(f"{work.stage} {work.chunk} of job {work.job_id} is no longer ours (epoch {work.epoch})")


def finish(session: Session, work: Work) -> None:
    """The work is done: forget it, with the transaction."""
    session.execute(
        text("DELETE FROM work.items WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk AND epoch = :epoch"),
        work.key(),
    )


def drop_all(session: Session, job_id: UUID) -> None:
    """Nothing more is wanted for a job: whoever still works on it will be fenced off."""
    session.execute(text("DELETE FROM work.items WHERE job_id = :job_id"), {"job_id": job_id})


def release(
    session: Session, work: Work, *, pause_seconds: float, reason: str, is_going_well: bool = False
) -> datetime:
    """Give the work back, with the transaction; when it will be due again.

    If it only waits for something, no attempt counts that was made so far.
    """
    found = session.execute(
        text(
            "UPDATE work.items SET leased_until = NULL, published_at = NULL, last_error = :reason,"
            " attempts = CASE WHEN :is_going_well THEN 0 ELSE attempts END,"
            " due_at = clock_timestamp() + :pause_seconds * interval '1 second' "
            "WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk AND epoch = :epoch RETURNING due_at"
        ),
        {
            **work.key(),
            "pause_seconds": pause_seconds,
            "reason": reason[:REASON_CHARACTERS_MAX],
            "is_going_well": is_going_well,
        },
    ).scalar_one()
    assert isinstance(found, datetime)
    return found


def hold_back(session: Session, job_id: UUID, *, until: datetime) -> None:
    """Let a job's work that nobody has begun wait until then."""
    session.execute(
        text(
            "UPDATE work.items SET due_at = greatest(due_at, :until), published_at = NULL WHERE job_id = :job_id"
            " AND (leased_until IS NULL OR leased_until < clock_timestamp())"
        ),
        {"job_id": job_id, "until": until},
    )


def hurry(session: Session, job_id: UUID) -> None:
    """Make a job's work due now, but for what somebody is at."""
    session.execute(
        text(
            "UPDATE work.items SET due_at = least(due_at, clock_timestamp()), published_at = NULL"
            " WHERE job_id = :job_id AND (leased_until IS NULL OR leased_until < clock_timestamp())"
        ),
        {"job_id": job_id},
    )


class LeaseKeeper:
    """Renews a lease from a thread of its own while the work goes on: `with LeaseKeeper(...): ...`."""

    def __init__(self, engine: Engine, work: Work, lease_seconds: float) -> None:
        self._engine = engine
        self._work = work
        self._lease_seconds = lease_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._done.wait(self._lease_seconds / RENEWALS_PER_LEASE):
            try:
                self._renew()
            except SQLAlchemyError as error:  # the fence decides; a failed renewal only means that it may be lost
                log.warning("cannot renew a lease: %s", error, extra={"action": "lease_renewal_failed"})

    def _renew(self) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(
                text(
                    "UPDATE work.items SET leased_until = clock_timestamp() + :lease_seconds * interval '1 second' "
                    "WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk AND epoch = :epoch"
                ),
                {**self._work.key(), "lease_seconds": self._lease_seconds},
            )
