"""The deepest level of a verification: everything that is derived from the log, and every file, against the log.

Rules:
1. Each view is built anew beside the live one and compared (`projections.views`), and each job is replayed from its
   file (`workers.replay`). Nothing is changed by it.
2. What cannot be built is a finding, and the others are looked at all the same. A part that is away is none: then the
   verification is tried again.
3. A view that events come into too fast to be compared is told as not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

from ledger.database import rows
from ledger.errors import BlobCutError, ConflictError, LedgerError, PartUnavailableError
from ledger.findings import Finding
from ledger.keys import keys_that_differ
from ledger.year_records import years_that_differ
from projections.rebuild import view_names, view_of
from projections.views import Order, Parts
from workers.replay import replay_job
from workers.workshop import Workshop

Tell = Callable[[dict[str, Any]], None]

ARRIVALS = """
SELECT coalesce(e.originator_id, a.job_id) AS job_id, e.id AS position
FROM (SELECT id, originator_id, convert_from(state, 'UTF8')::jsonb AS state
      FROM ledger.stored_events WHERE topic = 'filejob.received') e
FULL JOIN ledger.arrivals a ON a.job_id = e.originator_id
WHERE (a.position, a.dataset, a.sha256) IS DISTINCT FROM (e.id, e.state ->> 'dataset', e.state ->> 'sha256')
ORDER BY 1
"""
JOBS = "SELECT originator_id FROM ledger.stored_events WHERE topic = 'filejob.received' AND id <= :until ORDER BY id"


def findings_about_views(parts: Parts, order: Order) -> Iterator[Finding]:
    """What of each view is not what the log says."""
    for name in view_names(parts.ledger):
        try:
            found = view_of(parts, name).check(_part_of(order, view=name))
        except LedgerError as error:
            _raise_unless_about_content(error)
            yield Finding("view_not_built", f"The view {name} cannot be built from the log: {error}")
            continue
        if found["equal"] is None:
            yield Finding("view_not_compared", f"Events came in too fast to compare the view {name}: try again.")
        elif not found["equal"]:
            count = found["differences_total"]
            message = f"The view {name} differs from what the log says in {count:,} places: `ledger rebuild {name}`."
            yield Finding("view_differs", message)


def findings_about_arrivals(parts: Parts) -> Iterator[Finding]:
    """What of the index of arrivals is not what the log says."""
    with parts.ledger.transaction() as session:
        found = rows(session, ARRIVALS)
    for row in found:
        message = f"The index of arrivals says of job {row.job_id} something else than its Received event."
        yield Finding("arrival_differs", message, row.position, row.job_id)


def findings_about_years(parts: Parts) -> Iterator[Finding]:
    """What of the fiscal years that rows are refused by is not what the log says."""
    for label in years_that_differ(parts.ledger):
        yield Finding(
            "fiscal_year_differs", f"Rows of fiscal year {label} are taken or refused otherwise than the log says."
        )


def findings_about_access(parts: Parts) -> Iterator[Finding]:
    """What of the keys that requests are let in by is not what the log says."""
    for key_id in keys_that_differ(parts.ledger):
        message = f"Requests are let in by the key {key_id} otherwise than the log says. Restart an API: it mends that."
        yield Finding("access_differs", message)


def findings_about_files(workshop: Workshop, order: Order) -> Iterator[Finding]:
    """What of each job's file, plan, text and rejects is not what its events say."""
    with workshop.ledger.transaction() as session:
        jobs = [row.originator_id for row in rows(session, JOBS, until=workshop.ledger.position())]
    for number, job_id in enumerate(jobs, 1):
        yield from _about_file(workshop, _part_of(order, job_id=str(job_id)), job_id)
        order.tell({"events": number, "position": number, "log_position": len(jobs)})


def _part_of(order: Order, **arguments: Any) -> Order:
    """An order that is carried out as a part of another: its end is not that of the operation."""
    return replace(order, arguments=arguments, finish=lambda session, result: None)


def _raise_unless_about_content(error: LedgerError) -> None:
    """Raise what only says that a part is away; a blob that was cut is there, and is a finding."""
    if isinstance(error, PartUnavailableError) and not isinstance(error, BlobCutError):
        raise error


def _about_file(workshop: Workshop, order: Order, job_id: UUID) -> Iterator[Finding]:
    try:
        result = replay_job(workshop, order)
    except ConflictError:
        return  # it was never planned, so nothing was made of its file
    except LedgerError as error:
        _raise_unless_about_content(error)
        yield Finding("file_not_read", f"Job {job_id} cannot be replayed: {error}", stream=job_id)
        return
    for each in result["differences"]:
        where = "" if each["chunk"] is None else f", chunk {each['chunk']}"
        message = f"Job {job_id}{where}: {each['what']} is {each['got']}, and by the log {each['expected']}."
        yield Finding("file_differs", message, stream=job_id)
