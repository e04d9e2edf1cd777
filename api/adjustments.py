"""Posting late records of a closed fiscal year in one that is open: what would be posted, and having it done."""

from __future__ import annotations

from datetime import date
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from api.operations import operation_answer
from api.state import CurrentState, Reason, id_of, stamp
from api.years import closing_of_request
from workers.adjustments import adjustment_of, plan, request_adjustment, today_of

router = APIRouter(prefix="/api/v1/archive/years", tags=["fiscal years"])

DAY = "The day on which they are posted, in a year that is open; by default today in the ledger's zone."


@router.get("/{label}/post")
def show_posting(
    label: str,
    request: Request,
    state: CurrentState,
    job: Annotated[str, Query(description="The job that they came with.")],
    posted_on: Annotated[date | None, Query(description=DAY)] = None,
) -> dict[str, Any]:
    """What posting the late records of a job and a year would post, and what they come to. It reads them."""
    by, calendar = stamp(request), closing_of_request(state).calendar
    day = posted_on or today_of(calendar, by)
    adjustment = adjustment_of(state.ledger, calendar, label, id_of(job), day, by)
    return plan(state.ledger, state.blobs, calendar, adjustment)


@router.post("/{label}/post", status_code=HTTPStatus.ACCEPTED)
def post(
    label: str,
    request: Request,
    state: CurrentState,
    job: Annotated[str, Body(description="The job that they came with.")],
    reason: Reason,
    posted_on: Annotated[date | None, Body(description=DAY)] = None,
) -> dict[str, Any]:
    """Ask for the late records of a job and a year to be posted as an adjustment: the operation."""
    by, calendar = stamp(request), closing_of_request(state).calendar
    day = posted_on or today_of(calendar, by)
    operation = request_adjustment(state.ledger, calendar, label, id_of(job), day, by, reason=reason)
    return operation_answer(operation, operation.status, None)
