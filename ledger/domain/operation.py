"""Operation: something that an operator asked for and that takes its time, such as building a view anew.

Rules:
1. The request is the first event, so who asked, when, and for what stays known, however it ends.
2. An operation ends once, as Completed or as Failed. How often it was tried in between is not part of the record:
   each attempt starts anew, and none leaves anything behind that counts.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp
from ledger.domain.words import OPERATIONS, OperationStatus, Stage
from ledger.errors import ConflictError


class Operation(Aggregate):
    """Something that an operator asked for."""

    TOPIC = "operation"

    class Event(Aggregate.Event):
        """Something that happened to an operation."""

    class Requested(CanInitAggregate[UUID], Event):
        """Somebody asked for it: the actor."""

        TOPIC = "operation.requested"
        originator_topic: str
        kind: str
        arguments: dict[str, Any]

    class Completed(Event):
        """It was done, and this is what it came to."""

        TOPIC = "operation.completed"
        result: dict[str, Any]

        def apply(self, aggregate: Operation) -> None:
            """End the operation well."""
            aggregate.status = OperationStatus.COMPLETED
            aggregate.result = self.result
            aggregate.finished_at = self.timestamp

    class Failed(Event):
        """It was not done, for this reason, and is not tried again."""

        TOPIC = "operation.failed"
        error: dict[str, Any]

        def apply(self, aggregate: Operation) -> None:
            """End the operation badly."""
            aggregate.status = OperationStatus.FAILED
            aggregate.error = self.error
            aggregate.finished_at = self.timestamp

    def __init__(self, *, kind: str, arguments: dict[str, Any], actor: str, correlation: str) -> None:
        self.kind = Stage(kind)
        self.arguments = arguments
        self.requested_by = actor
        self.correlation = correlation
        self.status = OperationStatus.REQUESTED
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.finished_at: datetime | None = None

    @classmethod
    def request(cls, operation_id: UUID, stamp: Stamp, *, kind: Stage, arguments: dict[str, Any]) -> Operation:
        """Ask for an operation. Its arguments are plain JSON values."""
        assert kind in OPERATIONS, f"{kind} is no work that an operator asks for"
        return cls._create(cls.Requested, id=operation_id, kind=kind.value, arguments=arguments, **stamp.fields())

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status is OperationStatus.REQUESTED

    def complete(self, stamp: Stamp, *, result: dict[str, Any]) -> None:
        """End it with what it came to.

        Raises:
            ConflictError: it has ended already.
        """
        self._check_open()
        self.trigger_event(self.Completed, result=result, **stamp.fields())

    def fail(self, stamp: Stamp, *, error: dict[str, Any]) -> None:
        """End it without its work done.

        Raises:
            ConflictError: it has ended already.
        """
        self._check_open()
        self.trigger_event(self.Failed, error=error, **stamp.fields())

    def _check_open(self) -> None:
        if not self.is_open:
            raise ConflictError(f"Operation {self.id} has ended already; it is {self.status}.")
