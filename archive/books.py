"""Whether the books of a fiscal year balance: the rows that are there are those that events tell of, job by job.

Rules:
1. Every row belongs to a job that has completed, with the year among its fiscal years.
2. What the rows of a job come to, over all the years that it has rows in, is what its Completed event says: their
   number, their digest and their control totals. Rows of years that were archived before count as the events say that
   they were archived.
3. A job whose event was written before there were digests is compared by its number of rows.
4. If one of this does not hold, nothing is archived: it says which job, and what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql
from sqlalchemy.orm import Session

from archive.held_rows import NO_ROWS, HeldRows, held_rows
from ledger.application import Ledger
from ledger.database import rows as rows_of
from ledger.domain.column import Column
from ledger.domain.reconciliation import digest_text
from ledger.errors import LedgerError
from ledger.event_store import EVENTS_TABLE

VERIFY = "See what was changed with `ledger audit verify --level views`, and mend it with `ledger rebuild`."
COMPLETED = f"""
SELECT received.id AS job, received.originator_id AS job_id, received.state AS received, completed.state AS completed,
    (SELECT state FROM {EVENTS_TABLE} queued
     WHERE queued.originator_id = completed.originator_id AND queued.topic = 'filejob.queued'
     ORDER BY originator_version DESC LIMIT 1) AS queued
FROM {EVENTS_TABLE} completed
JOIN {EVENTS_TABLE} received ON received.originator_id = completed.originator_id AND received.originator_version = 1
JOIN ledger.arrivals ON arrivals.job_id = received.originator_id AND arrivals.dataset = :dataset
WHERE completed.topic = 'filejob.completed' AND completed.id <= :until
    AND (convert_from(completed.state, 'UTF8')::json -> 'fiscal_years')::jsonb ? :year
ORDER BY received.id
"""


class BooksDoNotBalanceError(LedgerError):
    """The rows of a year are not those that the events tell of."""

    code = "books_do_not_balance"


@dataclass(frozen=True)
class JobOfYear:
    """A job with rows in the year, as its events tell it. `digest` is None for one of before there were digests."""

    job: int
    job_id: str
    sha256: str
    size: int
    contract_version: int
    rows_loaded: int
    fiscal_years: tuple[str, ...]
    digest: str | None
    totals: Mapping[str, Any]


@dataclass(frozen=True)
class Balanced:
    """A job, and what its rows of the year come to."""

    job: JobOfYear
    held: HeldRows


class Books:
    """Compares the rows of datasets in a year with what events say, up to a position of the log.

    Args:
        archived: what the rows of a job came to in years that are not in the database any more.
    """

    def __init__(self, ledger: Ledger, year: str, until: int, archived: Callable[[int], HeldRows]) -> None:
        self._ledger = ledger
        self._year = year
        self._until = until
        self._archived = archived

    def balance(
        self, session: Session, dataset: str, rows: sql.Composable, elsewhere: Iterable[sql.Composable]
    ) -> list[Balanced]:
        """The jobs of a dataset with rows in the year, in the order in which they were received.

        Args:
            rows: the table with the rows of the year; `elsewhere`: those of other years.

        Raises:
            BooksDoNotBalanceError: see rule 4.
        """
        jobs = {each.job: each for each in jobs_of_year(session, dataset, self._year, self._until)}
        known = self._ledger.dataset(dataset)
        assert known is not None, f"{dataset} has a table and no contract"

        def columns_of(job: int) -> Sequence[Column]:
            if job not in jobs:
                raise BooksDoNotBalanceError(
                    f"Dataset {dataset!r} has rows of {self._year} with _job {job}, and no job that has completed"
                    " with rows of that year is at this position of the log.",
                    VERIFY,
                )
            return known.contracts[jobs[job].contract_version - 1].columns

        held: dict[int, HeldRows] = {}
        held_rows(session, rows, columns_of, held.__setitem__)
        whole = {job: held.get(job, NO_ROWS) + self._archived(job) for job in jobs}

        def add(job: int, more: HeldRows) -> None:
            whole[job] += more

        several = [each.job for each in jobs.values() if len(each.fiscal_years) > 1]
        if several:
            for other in elsewhere:
                held_rows(session, other, columns_of, add, several)
        for job in jobs.values():
            _check(job, dataset, self._year, held.get(job.job, NO_ROWS), whole[job.job])
        return [Balanced(job, held[job.job]) for job in jobs.values()]


def jobs_of_year(session: Session, dataset: str, year: str, until: int) -> Iterator[JobOfYear]:
    """The jobs of a dataset that have completed up to a position of the log, with rows in the year."""
    for row in rows_of(session, COMPLETED, dataset=dataset, year=year, until=until):
        received, queued, completed = (json.loads(bytes(state)) for state in (row.received, row.queued, row.completed))
        yield JobOfYear(
            row.job,
            str(row.job_id),
            received["sha256"],
            received["size"],
            queued["contract_version"],
            completed["rows_loaded"],
            tuple(completed["fiscal_years"]),
            completed.get("row_set_digest"),
            completed.get("totals", {}),
        )


def _check(job: JobOfYear, dataset: str, year: str, held: HeldRows, whole: HeldRows) -> None:
    if not held.rows:
        found, expected = "no row of that year", "some"
    elif whole.rows != job.rows_loaded:
        found, expected = f"{whole.rows:,} rows", f"{job.rows_loaded:,}"
    elif job.digest is None or (digest_text(whole.digest), whole.totals) == (job.digest, job.totals):
        return
    elif digest_text(whole.digest) != job.digest:
        found, expected = f"rows with the digest {digest_text(whole.digest)}", job.digest
    else:
        found, expected = f"the control totals {whole.totals}", str(job.totals)
    raise BooksDoNotBalanceError(
        f"The books of {year} do not balance: of job {job.job_id} dataset {dataset!r} has {found}, and its events say"
        f" {expected}.",
        VERIFY,
    )
