"""Asking what became of a job's records: its rejects, its reconciliation, and where a row comes from."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import StreamingResponse

from api.state import CurrentState, Reason, State, id_of, stamp
from ledger.domain.filejob import FileJob
from ledger.domain.settlement import settled_as, settlement_id
from ledger.errors import ConflictError, InvalidRequestError, NotFoundError, no_such_dataset
from projections.formats.correction import ERROR_COLUMNS
from projections.formats.dialect import Dialect
from projections.lineage import Origin, origin_of, rows_where
from projections.plans import read_plan
from projections.rejects import Reject, records_rejected, rejects_of

router = APIRouter(tags=["records"])

PAGE_REJECTS = 100
PAGE_REJECTS_MAX = 1_000
ROWS_MAX = 100
OPEN = {"state": "open", "settled_by": None, "settled_at": None, "settled_by_job": None, "settled_because": None}
NOT_WHERE = frozenset({"limit"})


@router.get("/api/v1/jobs/{job_id}/rejects")
def list_rejects(
    job_id: str,
    state: CurrentState,
    after: Annotated[int, Query(ge=0, description="The `next` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_REJECTS_MAX)] = PAGE_REJECTS,
) -> dict[str, Any]:
    """The records of a job that its contract refused, in the order of the file."""
    job = state.ledger.job(id_of(job_id))
    found = _rejects(state, job.id, after, limit)
    settled = settled_as(logged.event for logged in state.ledger.events_of(settlement_id(job.id)))
    return {
        "rejects": [{**_reject_answer(reject), **settled.get(reject.record, OPEN)} for reject in found],
        "next": found[-1].record if len(found) == limit else None,
    }


@router.post("/api/v1/jobs/{job_id}/rejects/waive")
def waive_rejects(
    job_id: str,
    request: Request,
    state: CurrentState,
    reason: Reason,
    records: Annotated[list[int] | None, Body(description="Their numbers; by default all that are open.")] = None,
) -> dict[str, Any]:
    """Decide that rejects are not wanted: they are no longer open."""
    job = state.ledger.job(id_of(job_id))
    with state.ledger.transaction() as session:
        rejected = set(records_rejected(session, job.id))
        unknown = sorted(set(records or ()) - rejected)
        if unknown:
            raise NotFoundError(f"Job {job.id} has no reject of record {unknown[0]}.", "See `ledger jobs rejects`.")
        settlement = state.ledger.settle(session, job.id, stamp(request))
        waived = settlement.waive(stamp(request), reason=reason, records=rejected if records is None else records)
        state.ledger.save(settlement, session=session)
    return {"task_id": str(job.id), "waived": waived}


@router.get("/api/v1/jobs/{job_id}/rejects.csv")
def download_rejects(job_id: str, state: CurrentState) -> StreamingResponse:
    """The refused records as they were sent, under the file's own header, each with what is wrong behind it."""
    job = state.ledger.job(id_of(job_id))
    headers = {"Content-Disposition": f'attachment; filename="rejects-{job.id}.csv"'}
    return StreamingResponse(_rejects_csv(state, job), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/api/v1/jobs/{job_id}/reconciliation")
def show_reconciliation(job_id: str, state: CurrentState) -> dict[str, Any]:
    """What a completed file came to: bytes, records, control totals and row-set digest, as a whole and by chunk."""
    job = state.ledger.job(id_of(job_id))
    events = state.ledger.events_of(job.id)
    completed = next((e.event for e in reversed(events) if isinstance(e.event, FileJob.Completed)), None)
    if completed is None:
        raise ConflictError(
            f"Job {job_id} has not completed, so nothing is reconciled.", f"See where it stands: /task/{job_id}."
        )
    whole = {name: getattr(completed, name) for name in _RECONCILED}
    chunks = [
        {
            "chunk": chunk.number,
            "start": chunk.start,
            "end": chunk.end,
            "sha256": chunk.sha256,
            **{name: getattr(chunk, name) for name in _RECONCILED if name != "bytes_covered"},
        }
        for _, chunk in sorted(job.chunks.items())
    ]
    return {
        "task_id": str(job.id),
        "sha256": job.sha256,
        "size": job.size,
        "data_start": job.data_start,
        "text_size": job.text_size,
        **whole,
        "closes": completed.records == completed.rows_loaded + completed.rows_rejected + completed.rows_skipped,
        "chunks": chunks,
    }


_RECONCILED = (
    "records",
    "rows_loaded",
    "rows_rejected",
    "rows_skipped",
    "bytes_covered",
    "fiscal_years",
    "totals",
    "row_set_digest",
)


@router.get("/api/v1/jobs/{job_id}/records/{record}")
def show_record(job_id: str, record: int, state: CurrentState) -> dict[str, Any]:
    """A record of a job as it was sent, and where it stands in its file."""
    job = state.ledger.job(id_of(job_id))
    return _origin_answer(job, origin_of(state.blobs, job, record))


@router.get("/api/v1/lineage/{dataset}")
def find_rows(
    dataset: str, request: Request, state: CurrentState, limit: Annotated[int, Query(ge=1, le=ROWS_MAX)] = 10
) -> dict[str, Any]:
    """Rows of a dataset by the values of their columns (`?carrier=UA&flight=1545`), each with where it comes from."""
    known = state.ledger.dataset(dataset)
    if known is None:
        raise no_such_dataset(dataset)
    where = {name: value for name, value in request.query_params.items() if name not in NOT_WHERE}
    if not where:
        raise InvalidRequestError("Nothing says which rows.", "Name columns and values, such as ?flight=1545.")
    with state.ledger.transaction() as session:
        found = rows_where(session, dataset, known.contract, where, limit)
    jobs = {job_id: state.ledger.job(job_id) for job_id, _, _ in found}
    return {
        "rows": [
            {"row": row, "origin": _origin_answer(jobs[job_id], origin_of(state.blobs, jobs[job_id], record))}
            for job_id, record, row in found
        ]
    }


def _rejects(state: State, job_id: UUID, after: int, limit: int) -> list[Reject]:
    with state.ledger.transaction() as session:
        return rejects_of(session, job_id, after_record=after, limit=limit)


def _reject_answer(reject: Reject) -> dict[str, Any]:
    return {
        "record": reject.record,
        "line": reject.line,
        "byte_offset": reject.byte_offset,
        "byte_length": reject.byte_length,
        "column": reject.column,
        "code": reject.code,
        "reason": reject.reason,
        "raw": reject.raw.decode("utf-8", "replace"),
        "raw_base64": base64.b64encode(reject.raw).decode("ascii"),
    }


def _origin_answer(job: FileJob, origin: Origin) -> dict[str, Any]:
    return {
        "task_id": str(job.id),
        "filename": job.filename,
        "sha256": job.sha256,
        "chunk": origin.chunk,
        "record": origin.record,
        "line": origin.line,
        "byte_offset": origin.byte_offset,
        "byte_length": origin.byte_length,
        "text": origin.text.decode("utf-8", "replace"),
        "text_base64": base64.b64encode(origin.text).decode("ascii"),
    }


def _rejects_csv(state: State, job: FileJob) -> Iterator[bytes]:
    # Of a job that failed the plan is forgotten; the event that named it is not.
    events = (logged.event for logged in reversed(state.ledger.events_of(job.id)))
    queued = next((event for event in events if isinstance(event, FileJob.Queued)), None)
    if queued is None:
        return
    dialect, header = Dialect.from_dict(queued.dialect), read_plan(state.blobs, queued.plan).header
    delimiter = dialect.delimiter if dialect.quoting else ","
    if header is not None:
        yield _line([*header, *ERROR_COLUMNS], delimiter)
    after = 0
    while found := _rejects(state, job.id, after, PAGE_REJECTS_MAX):
        for reject in found:
            told = [reject.record, reject.line, reject.column, reject.code, reject.reason]
            yield reject.raw.rstrip(b"\r\n") + delimiter.encode() + _line(told, delimiter)
        after = found[-1].record


def _line(fields: list[Any], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()
