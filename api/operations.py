"""Views, and the operations that take their time.

An operation is told from the log, and from PostgreSQL whether somebody is at it. Only its progress comes from the
result backend: without MongoDB it is unknown, and everything else is told all the same.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request

from api.answers import wait_for_end
from api.state import CurrentState, WaitSeconds, id_of, stamp
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage
from projections.rebuild import check_view
from projections.status import rfc3339
from workers.leases import is_leased

router = APIRouter(prefix="/api/v1", tags=["operations"])


@router.post("/views/{view}/rebuild", status_code=HTTPStatus.ACCEPTED)
def rebuild_view(view: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Ask for a view to be built anew from the log: the operation, which a worker carries through."""
    check_view(view)
    operation = state.ledger.request(Stage.REBUILD, {"view": view}, stamp(request))
    return operation_answer(operation, operation.status, None)


@router.get("/operations/{operation_id}")
def show_operation(operation_id: str, state: CurrentState, wait: WaitSeconds = 0) -> dict[str, Any]:
    """Where an operation stands: at once, or when it has ended."""
    operation = state.ledger.operation(id_of(operation_id, "operation"))
    if wait and operation.is_open and wait_for_end(state.ledger, operation.id, wait):
        operation = state.ledger.operation(operation.id)
    if not operation.is_open:
        return operation_answer(operation, operation.status, None)
    with state.ledger.transaction() as session:
        status = OperationStatus.RUNNING if is_leased(session, operation.id) else operation.status
    return operation_answer(operation, status, state.results.progress(operation.id))


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
        "finished_at": None if operation.finished_at is None else rfc3339(operation.finished_at),
    }
