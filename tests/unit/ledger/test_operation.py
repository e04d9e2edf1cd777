"""The life of an operation: requested by somebody, ended once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ledger.domain.base import Stamp
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage
from ledger.errors import ConflictError

START = datetime(2026, 4, 1, tzinfo=UTC)
ASKED = Stamp(START, "admin", "request-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
ENDED = Stamp(START + timedelta(seconds=3), "worker", "request-1")
RESULT = {"view": "status", "equal": True}
ERROR = {"code": "conflict", "message": "The view is being rebuilt already.", "remedy": "Wait."}


def requested() -> Operation:
    return Operation.request(UUID(int=1), ASKED, kind=Stage.REBUILD, arguments={"view": "status"})


def complete(operation: Operation) -> None:
    operation.complete(ENDED, result=RESULT)


def fail(operation: Operation) -> None:
    operation.fail(ENDED, error=ERROR)


def told(operation: Operation) -> tuple[Any, ...]:
    return operation.status, operation.result, operation.error, operation.finished_at, operation.is_open


def test_an_operation_tells_who_asked_for_what_and_when() -> None:
    operation = requested()
    assert (operation.kind, operation.arguments) == (Stage.REBUILD, {"view": "status"})
    assert (operation.requested_by, operation.created_on, operation.correlation) == ("admin", START, "request-1")
    assert told(operation) == (OperationStatus.REQUESTED, None, None, None, True)


def test_an_operation_that_is_done_tells_what_it_came_to() -> None:
    operation = requested()
    complete(operation)
    assert told(operation) == (OperationStatus.COMPLETED, RESULT, None, ENDED.at, False)


def test_an_operation_that_failed_tells_why() -> None:
    operation = requested()
    fail(operation)
    assert told(operation) == (OperationStatus.FAILED, None, ERROR, ENDED.at, False)


@pytest.mark.parametrize("first", [complete, fail])
@pytest.mark.parametrize("second", [complete, fail])
def test_an_operation_ends_once(first: Any, second: Any) -> None:
    operation = requested()
    first(operation)
    before = told(operation), operation.version
    with pytest.raises(ConflictError, match="has ended already"):
        second(operation)
    assert (told(operation), operation.version) == before


@pytest.mark.parametrize("kind", [Stage.PLAN, Stage.LOAD])
def test_what_a_job_needs_is_no_operation(kind: Stage) -> None:
    with pytest.raises(AssertionError, match="no work that an operator asks for"):
        Operation.request(UUID(int=1), ASKED, kind=kind, arguments={})


def test_an_operation_is_the_same_when_it_is_rebuilt_from_its_events() -> None:
    operation = requested()
    complete(operation)
    rebuilt: Any = None
    for event in operation.collect_events():
        rebuilt = event.mutate(rebuilt)  # type: ignore[union-attr]
    assert told(rebuilt) == told(operation)
    assert (rebuilt.requested_by, rebuilt.arguments) == ("admin", {"view": "status"})
