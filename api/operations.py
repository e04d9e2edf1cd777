"""Views, and the operations that take their time.

An operation is told from the log, and from PostgreSQL whether somebody is at it. Only its progress comes from the
result backend: without MongoDB it is unknown, and everything else is told all the same.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from api.answers import wait_for_end
from api.state import CurrentState, State, WaitSeconds, id_of, stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage
from ledger.errors import InvalidRequestError, PartUnavailableError
from projections.rebuild import check_view, view_names, view_of
from projections.status import rfc3339, rfc3339_or_none
from projections.views import Parts, Standing
from workers.leases import is_leased

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/v1", tags=["operations"])


class Choices(BaseModel):
    """What to do instead of a rebuild that switches."""

    model_config = ConfigDict(extra="forbid")

    check: bool = Field(default=False, description="Build it beside and compare, without a switch.")
    roll_back: bool = Field(default=False, description="Switch back to what was live before the last rebuild.")


@router.get("/views")
def list_views(state: CurrentState) -> dict[str, Any]:
    """The views, each with the position of the log that it reflects, its lag in events, and its generation."""
    calendar = FiscalCalendar.parse(state.settings.fiscal_calendar, state.settings.time_zone)
    parts = Parts(state.ledger, state.blobs, state.views, calendar)
    found = [_standing(parts, name) for name in view_names(state.ledger)]
    log_position = state.ledger.position()
    return {
        "views": [
            {**asdict(each), "lag": None if each.position is None else max(0, log_position - each.position)}
            for each in found
        ],
        "log_position": log_position,
    }


@router.post("/views/{view}/rebuild", status_code=HTTPStatus.ACCEPTED)
def rebuild_view(view: str, request: Request, state: CurrentState, choices: Choices | None = None) -> dict[str, Any]:
    """Ask for a view to be built anew from the log, checked or rolled back: the operation, for a worker to do."""
    check_view(state.ledger, view)
    chosen = {} if choices is None else choices.model_dump(exclude_defaults=True)
    if len(chosen) > 1:
        raise InvalidRequestError("A view is checked or rolled back, not both.", "Ask for one of them.")
    operation = state.ledger.request(Stage.REBUILD, {"view": view, **chosen}, stamp(request))
    return operation_answer(operation, operation.status, None)


@router.post("/jobs/{job_id}/replay", status_code=HTTPStatus.ACCEPTED)
def replay_job(job_id: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Ask for a job's file to be read again and compared with what the log says: the operation."""
    job = state.ledger.job(id_of(job_id))
    operation = state.ledger.request(Stage.REPLAY, {"job_id": str(job.id)}, stamp(request))
    return operation_answer(operation, operation.status, None)


@router.get("/operations/{operation_id}")
def show_operation(operation_id: str, state: CurrentState, wait: WaitSeconds = 0) -> dict[str, Any]:
    """Where an operation stands: at once, or when it has ended."""
    operation = state.ledger.operation(id_of(operation_id, "operation"))
    if wait and operation.is_open and wait_for_end(state.ledger, operation.id, wait):
        operation = state.ledger.operation(operation.id)
    return operation_now(state, operation)


def operation_now(state: State, operation: Operation) -> dict[str, Any]:
    """An operation as JSON, with whether somebody is at it and how far it is."""
    if not operation.is_open:
        return operation_answer(operation, operation.status, None)
    with state.ledger.transaction() as session:
        status = OperationStatus.RUNNING if is_leased(session, operation.id) else operation.status
    return operation_answer(operation, status, state.results.progress(operation.id))


def _standing(parts: Parts, name: str) -> Standing:
    try:
        return view_of(parts, name).standing()
    except PartUnavailableError as error:
        log.warning("a view is away: %s", error, extra={"action": "view_unavailable"})
        return Standing(name, None, None)


def operation_answer(operation: Operation, status: OperationStatus, progress: dict[str, int] | None) -> dict[str, Any]:
    """An operation as JSON."""
    return {
        "operation_id": str(operation.id),
        "kind": operation.kind.value,
        "arguments": operation.arguments,
        "status": status.value,
        "progress": progress,
        "result": operation.result,
        "error": operation.error,
        "requested_at": rfc3339(operation.created_on),
        "requested_by": operation.requested_by,
        "finished_at": rfc3339_or_none(operation.finished_at),
    }
