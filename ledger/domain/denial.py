"""Denial: somebody asked for what was not theirs to ask for, and was refused.

The actor of the event is who asked, as far as that was proven; `anonymous` for who showed nothing, or a wrong key.
Neither what was shown nor the address that it came from is part of the record.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp


class Denial(Aggregate):
    """Attempts of one kind that were refused."""

    TOPIC = "access"

    class Event(Aggregate.Event):
        """Something that was refused."""

    class Denied(CanInitAggregate[UUID], Event):
        """So many attempts of one kind were refused, since `first_at`.

        `route` is the template of the route, null for a path that there is not; `permission` is the one that it
        needs, null if any caller may use it; `dataset` is null unless it was the reason.
        """

        TOPIC = "access.denied"
        originator_topic: str
        method: str
        route: str | None
        permission: str | None
        dataset: str | None
        reason: str
        count: int
        first_at: str

    def __init__(self, *, reason: str, count: int) -> None:
        self.reason = reason
        self.count = count

    @classmethod
    def deny(
        cls,
        denial_id: UUID,
        stamp: Stamp,
        *,
        method: str,
        route: str | None,
        permission: str | None,
        dataset: str | None,
        reason: str,
        count: int,
        first_at: datetime,
    ) -> Denial:
        """Write down that attempts were refused."""
        return cls._create(
            cls.Denied,
            id=denial_id,
            method=method,
            route=route,
            permission=permission,
            dataset=dataset,
            reason=reason,
            count=count,
            first_at=first_at.isoformat(),
            **stamp.fields(),
        )
