"""What every aggregate and event of the ledger shares.

Rules:
1. Every event has an explicit, frozen topic (`filejob.received`): classes may move, stored bytes never change.
2. Every event says who caused it (actor), what it belongs to (correlation) and the trace it is part of
   (traceparent), through the `Stamp` that each command takes. The clock is the caller's.
3. Event fields are plain JSON values: text, whole numbers, booleans, lists and dictionaries of these.
4. An event that says something of somebody declares which fields do, and of whom: see `ledger.domain.personal`.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from eventsourcing.domain import BaseAggregate, CanMutateAggregate, MetaDomainEvent

from ledger.domain.personal import Personal


@dataclass(frozen=True)
class Stamp:
    """When something was decided, by whom, and as part of what."""

    at: datetime
    actor: str
    correlation: str
    traceparent: str | None = None

    def fields(self) -> dict[str, Any]:
        """The values as every event stores them."""
        return {
            "timestamp": self.at,
            "actor": self.actor,
            "correlation": self.correlation,
            "traceparent": self.traceparent,
        }


@dataclass(frozen=True)
class LedgerEvent(metaclass=MetaDomainEvent):
    """The fields that every stored event has."""

    PERSONAL: ClassVar[Personal] = {}

    originator_id: UUID
    originator_version: int
    timestamp: datetime
    actor: str
    correlation: str
    traceparent: str | None


class Aggregate(BaseAggregate[UUID]):
    """An aggregate whose id is a UUID given by its caller."""

    class Event(CanMutateAggregate[UUID], LedgerEvent):
        """Something that happened to the aggregate."""


def adding(**values: Any) -> Any:
    """The upcast of a version that lacked some fields: what its events are read with there."""

    def upcast(state: dict[str, Any]) -> None:
        state.update(deepcopy(values))

    return staticmethod(upcast)
