"""Asking about jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.answers import event_answer, job_events, task_answer, task_at, task_from_log, tasks_answer, wait_for_end
from api.state import POSITION_MAX, CurrentState, Reason, WaitSeconds, caller, id_of, stamp
from ledger.domain.words import Status
from workers.commands import cancel

router = APIRouter(tags=["jobs"])

PAGE_JOBS = 50
PAGE_JOBS_MAX = 500


@router.get("/task/{task_id}")
def show_task(
    task_id: str,
    state: CurrentState,
    wait: WaitSeconds = 0,
) -> dict[str, Any]:
    """Where a task stands: at once, or when it has ended."""
    job_id = id_of(task_id)
    if wait and wait_for_end(state.ledger, job_id, wait):
        return {**task_from_log(state.ledger, job_id), "view": None}
    return task_answer(state, job_id)


@router.get("/api/v1/jobs")
def list_jobs(
    request: Request,
    state: CurrentState,
    dataset: str | None = None,
    status: Status | None = None,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="Such as of one archive.")] = None,
    before: Annotated[int | None, Query(ge=0, le=POSITION_MAX, description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_JOBS_MAX)] = PAGE_JOBS,
) -> dict[str, Any]:
    """Jobs of the datasets that the caller sees, newest first."""
    seen = caller(request).datasets
    named = None if dataset is None else {dataset}
    datasets = seen if named is None else named if seen is None else seen & named
    wanted = None if status is None else status.value
    return tasks_answer(state, datasets=datasets, status=wanted, sha256=sha256, before=before, limit=limit)


@router.get("/api/v1/jobs/{job_id}")
def show_job(
    job_id: str,
    state: CurrentState,
    at: Annotated[str | None, Query(max_length=80, description="An instant, a day (its end), or a version.")] = None,
) -> dict[str, Any]:
    """Where a job stands, the same as its task; or where it stood, as its events told it then."""
    return task_answer(state, id_of(job_id)) if at is None else task_at(state, id_of(job_id), at)


@router.get("/api/v1/jobs/{job_id}/events")
def show_events(job_id: str, state: CurrentState) -> dict[str, Any]:
    """The whole story of a job, event by event."""
    return {"events": [event_answer(logged) for logged in job_events(state.ledger, id_of(job_id))]}


@router.post("/api/v1/jobs/{job_id}/retry")
def retry_job(job_id: str, request: Request, state: CurrentState, reason: Reason = "") -> dict[str, Any]:
    """Try a failed job again: what is missing of it if it waits for that anyway, else the whole file."""
    job = state.ledger.retry(id_of(job_id), stamp(request), reason=reason)
    return {**task_from_log(state.ledger, job.id), "view": None}


@router.post("/api/v1/jobs/{job_id}/cancel")
def cancel_job(job_id: str, request: Request, state: CurrentState, reason: Reason = "") -> dict[str, Any]:
    """End a job that has not completed, and take back the rows that it has loaded."""
    job = cancel(state.ledger, id_of(job_id), stamp(request), reason=reason)
    return {**task_from_log(state.ledger, job.id), "view": None}
