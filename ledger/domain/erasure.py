"""Erasure: the certificate that what the log says of a subject was erased, by destroying the subject's key.

Rules:
1. A subject has one erasure, whose id is made from it. Its events are appended in the transaction that destroys the
   key.
2. It says what was covered when it was carried out: which fields of which events, how often. It names nobody: a
   subject is a job's id or a pseudonym.
3. A key that was destroyed can come back from a backup. Destroying it again is on record, too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp

ERASURES = UUID("7c1d5f0a-93be-4a3b-8f55-2d0c6b7e9a14")

# EVENT → FIELD → how many times it was erased.
Covered = dict[str, dict[str, int]]


def erasure_id(subject: str) -> UUID:
    """The id of the erasure of a subject."""
    return uuid5(ERASURES, subject)


class Erasure(Aggregate):
    """The end of everything that the log says of one subject."""

    TOPIC = "erasure"

    class Event(Aggregate.Event):
        """Something that happened to an erasure."""

    class CarriedOut(CanInitAggregate[UUID], Event):
        """The key was destroyed, by the actor, for this reason. `streams` tells in how many streams fields stand."""

        TOPIC = "erasure.carried_out"
        originator_topic: str
        subject: str
        fields: dict[str, dict[str, int]]
        streams: int
        reason: str

    class Repeated(Event):
        """The key had come back, and was destroyed again."""

        TOPIC = "erasure.repeated"
        subject: str
        reason: str

        def apply(self, aggregate: Erasure) -> None:
            """Add the time; the rest of the certificate stays as it is."""
            aggregate.repeated_at.append(self.timestamp)

    def __init__(self, *, subject: str, fields: Covered, streams: int, reason: str, actor: str) -> None:
        self.subject = subject
        self.fields = fields
        self.streams = streams
        self.reason = reason
        self.carried_out_by = actor
        self.repeated_at: list[datetime] = []

    @classmethod
    def carry_out(cls, stamp: Stamp, *, subject: str, fields: Covered, streams: int, reason: str) -> Erasure:
        """Certify that the key of a subject was destroyed."""
        told: dict[str, Any] = {"subject": subject, "fields": fields, "streams": streams, "reason": reason}
        return cls._create(cls.CarriedOut, id=erasure_id(subject), **told, **stamp.fields())

    def repeat(self, stamp: Stamp, *, reason: str) -> None:
        """Note that the key was destroyed once more."""
        self.trigger_event(self.Repeated, subject=self.subject, reason=reason, **stamp.fields())
