"""What an operator may order about a job, where it takes more than the record: cancelling it."""

from __future__ import annotations

from uuid import UUID

from ledger.application import Ledger
from ledger.database import lock_job
from ledger.domain.base import Stamp
from ledger.domain.filejob import FileJob
from projections.data_tables import share_table, withdraw
from workers.leases import drop_all


def cancel(ledger: Ledger, job_id: UUID, stamp: Stamp, *, reason: str) -> FileJob:
    """End a job without its rows, in one transaction; whoever works on it is fenced off.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended already.
    """
    dataset = ledger.job(job_id).dataset
    with ledger.transaction() as session:
        share_table(session, dataset)
        lock_job(session, job_id)
        job = ledger.job(job_id)
        withdrawn = withdraw(session, job.dataset, ledger.job_position(session, job.id))
        job.cancel(stamp, reason=reason, rows_withdrawn=withdrawn)
        drop_all(session, job_id)
        ledger.save(job, session=session)
    return job
