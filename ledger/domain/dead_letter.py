"""DeadLetter: a message that the broker gave up on. The work behind it is not lost, for PostgreSQL is the queue."""

from __future__ import annotations

from uuid import UUID, uuid5

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp

DEAD_LETTERS = UUID("b1f0c9de-7f0c-4f6e-8a54-6f7f3f2a9c11")


class DeadLetter(Aggregate):
    """A message that the broker gave up on."""

    TOPIC = "deadletter"

    class Event(Aggregate.Event):
        """Something that happened to a dead letter."""

    class Recorded(CanInitAggregate[UUID], Event):
        """Somebody knows now that the message was given up. `body_sha256` names it; its text is nobody's business."""

        TOPIC = "deadletter.recorded"
        originator_topic: str
        queue: str
        reason: str
        task: str | None
        job_id: str | None
        body_sha256: str

    def __init__(self, *, queue: str, reason: str) -> None:
        self.queue = queue
        self.reason = reason

    @classmethod
    def record(
        cls, stamp: Stamp, *, message: str, queue: str, reason: str, task: str | None, job_id: str | None, sha256: str
    ) -> DeadLetter:
        """Write down a dead letter. The same `message` (whatever names it for ever) is one aggregate."""
        return cls._create(
            cls.Recorded,
            id=uuid5(DEAD_LETTERS, message),
            queue=queue,
            reason=reason,
            task=task,
            job_id=job_id,
            body_sha256=sha256,
            **stamp.fields(),
        )
