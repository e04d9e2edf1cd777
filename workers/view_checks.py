"""The deepest level of a verification: everything that is derived from the log, and every file, against the log.

Rules:
1. Each view is built anew beside the live one and compared (`projections.views`), and each job is replayed from its
   file (`workers.replay`). Of a job that was never planned only the file is looked at. Nothing is changed by it.
2. What cannot be built or read is a finding, whatever is wrong with it, and the others are looked at all the same. A
   part that is away is none: then the verification is tried again.
3. A view that is being rebuilt is no finding: it is told as not compared.
4. Findings name jobs, views and codes of errors. An error's own words may name a file, and a finding is for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from ledger.application import Ledger
from ledger.blobs import sha256_of
from ledger.database import rows, unavailable_as_error
from ledger.errors import BlobCutError, LedgerError, PartUnavailableError
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.findings import Finding, NotCompared
from ledger.keys import keys_that_differ
from ledger.year_records import years_that_differ
from projections.rebuild import view_names, view_of
from projections.table_exchange import TableInUseError
from projections.views import Order, Parts, ViewBusyError
from workers.replay import NeverPlannedError, replay_job
from workers.workshop import Workshop

Found = Finding | NotCompared

PAGE = 1_000
BEFORE_ALL = -(1 << 63)
SHA256 = re.compile(r"[0-9a-f]{64}")
RECEIVED = f"""
SELECT e.id, e.originator_id AS job_id, coalesce(e.state, '') AS state, a.position, a.dataset, a.sha256
FROM {EVENTS_TABLE} e LEFT JOIN ledger.arrivals a ON a.job_id = e.originator_id
WHERE e.topic = 'filejob.received' AND e.id > :after AND e.id <= :until ORDER BY e.id LIMIT :page
"""
ARRIVALS_OF_NO_EVENT = f"""
SELECT job_id FROM ledger.arrivals a WHERE NOT EXISTS
    (SELECT FROM {EVENTS_TABLE} e WHERE e.originator_id = a.job_id AND e.topic = 'filejob.received') ORDER BY 1
"""


def findings_about_views_and_files(workshop: Workshop, parts: Parts, order: Order) -> Iterator[Found]:
    """Everything that the deepest level finds besides. Raises PartUnavailableError if a part is away."""
    yield from _guarded("The list of views", partial(_about_views, parts, order))
    yield from _guarded("The index of arrivals", partial(_about_arrivals, parts.ledger))
    yield from _guarded("The fiscal years that rows are refused by", partial(_about_years, parts.ledger))
    yield from _guarded("The keys that requests are let in by", partial(_about_access, parts.ledger))
    yield from _guarded("The list of files", partial(_about_files, workshop, order))


def _guarded(
    what: str, check: Callable[[], Iterable[Found]], code: str = "not_checked", stream: UUID | None = None
) -> Iterator[Found]:
    """What a check finds, and a finding in its stead if it breaks (rule 2): of that code if the world is to blame."""
    try:
        with unavailable_as_error():
            yield from check()
    except LedgerError as error:
        if isinstance(error, PartUnavailableError) and not isinstance(error, BlobCutError):  # what was cut is there
            raise
        yield Finding(code, f"{what} cannot be checked ({type(error).__name__}, {error.code}).", stream=stream)
    except Exception as error:  # the edge of a check: what was changed may break anything that reads it
        yield Finding("not_checked", f"{what} cannot be checked ({type(error).__name__}).", stream=stream)


def _about_views(parts: Parts, order: Order) -> Iterator[Found]:
    for name in view_names(parts.ledger):
        yield from _guarded(f"The view {name}", partial(_about_view, parts, order, name), "view_not_built")


def _about_view(parts: Parts, order: Order, name: str) -> Iterator[Found]:
    """Whether a view is what the log says."""
    try:
        found = view_of(parts, name).check(_part_of(order, view=name))
    except (ViewBusyError, TableInUseError) as busy:
        yield NotCompared(f"The view {name} was not compared, for it is in use ({busy.code}).")
        return
    if not found["equal"]:
        count = found["differences_total"]
        message = f"The view {name} differs from what the log says in {count:,} places: `ledger rebuild {name}`."
        yield Finding("view_differs", message)


def _about_years(ledger: Ledger) -> Iterator[Found]:
    """Whether the fiscal years that rows are refused by are what the log says."""
    for label in years_that_differ(ledger):
        message = f"Rows of fiscal year {label} are taken or refused otherwise than the log says."
        yield Finding("fiscal_year_differs", message)


def _about_arrivals(ledger: Ledger) -> Iterator[Found]:
    """Whether the index of arrivals is what the log says."""
    for row in _received(ledger):
        event = content_of(bytes(row.state))
        if event is None:
            message = f"The Received event of job {row.job_id} cannot be read, so its arrival is not checked."
            yield Finding("not_checked", message, row.id, row.job_id)
        elif (row.position, row.dataset, row.sha256) != (row.id, event.get("dataset"), event.get("sha256")):
            message = f"The index of arrivals says of job {row.job_id} something else than its Received event."
            yield Finding("arrival_differs", message, row.id, row.job_id)
    with ledger.transaction() as session:
        unknown = rows(session, ARRIVALS_OF_NO_EVENT)
    for row in unknown:
        message = f"The index of arrivals has a job {row.job_id} of which the log knows no Received event."
        yield Finding("arrival_differs", message, stream=row.job_id)


def _about_access(ledger: Ledger) -> Iterator[Found]:
    """Whether the keys that requests are let in by are what the log says."""
    for key_id in keys_that_differ(ledger):
        message = f"Requests are let in by the key {key_id} otherwise than the log says. Restart an API: it mends that."
        yield Finding("access_differs", message)


def _about_files(workshop: Workshop, order: Order) -> Iterator[Found]:
    """Whether each job's file, plan, text and rejects are what its events say."""
    log_position = workshop.ledger.position()
    for number, row in enumerate(_received(workshop.ledger), 1):
        yield from _guarded(
            f"The file of job {row.job_id}",
            partial(_about_file, workshop, _part_of(order, job_id=str(row.job_id)), row),
            "file_not_read",
            row.job_id,
        )
        order.tell({"events": number, "position": row.id, "log_position": log_position})


def _about_file(workshop: Workshop, order: Order, received: Any) -> Iterator[Found]:
    try:
        result = replay_job(workshop, order)
    except NeverPlannedError:
        sha256 = (content_of(bytes(received.state)) or {}).get("sha256")
        if not SHA256.fullmatch(str(sha256)) or sha256_of(workshop.blobs, str(sha256)) != sha256:
            message = f"Job {received.job_id}: what is kept as its file is not what arrived, by the log {sha256}."
            yield Finding("file_differs", message, received.id, received.job_id)
        return
    for each in result["differences"]:
        where = "" if each["chunk"] is None else f", chunk {each['chunk']}"
        says = "fails now" if each["what"] == "reading" else f"is {each['got']}, and by the log {each['expected']}"
        message = f"Job {received.job_id}{where}: {each['what']} {says}."
        yield Finding("file_differs", message, stream=received.job_id)


def _received(ledger: Ledger) -> Iterator[Any]:
    """Each Received event that there is now as it is stored, and its arrival, page by page."""
    after, until = BEFORE_ALL, ledger.position()
    while True:
        with ledger.transaction() as session:
            page = rows(session, RECEIVED, after=after, until=until, page=PAGE)
        if not page:
            return
        yield from page
        after = page[-1].id


def _part_of(order: Order, **arguments: Any) -> Order:
    """An order that is carried out as a part of another: its end is not that of the operation."""
    return replace(order, arguments=arguments, finish=lambda session, result: None)
