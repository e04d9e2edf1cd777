"""Settlement: what became of the records of a file that were refused.

Rules:
1. A job with rejects has one settlement, whose id is made from the job's. Every reject is open at first.
2. A reject is settled once: corrected, by the job whose file brought the record again, or waived, by somebody who says
   why it is not wanted. What is settled already stays as it is.
3. Records are told as ranges of their numbers in the refused file, first and last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid5

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp
from ledger.errors import ConflictError, InvalidRequestError

SETTLEMENTS = UUID("2b0f3f64-9d1c-4a57-8f0e-7f2f5b0f6c21")

Ranges = list[list[int]]


def settlement_id(job_id: UUID) -> UUID:
    """The id of the settlement of a job's rejects."""
    return uuid5(SETTLEMENTS, str(job_id))


class Settlement(Aggregate):
    """What became of the rejects of one job."""

    TOPIC = "settlement"

    class Event(Aggregate.Event):
        """Something that happened to rejects."""

    class Opened(CanInitAggregate[UUID], Event):
        """The first of a job's rejects is being settled."""

        TOPIC = "settlement.opened"
        originator_topic: str
        job_id: str

    class Corrected(Event):
        """A correction brought these records again, and they are loaded."""

        TOPIC = "settlement.corrected"
        by_job: str
        records: list[list[int]]

        def apply(self, aggregate: Settlement) -> None:
            """Settle them."""
            aggregate.settled |= set(numbers_in(self.records))

    class Waived(Event):
        """Somebody decided that these records are not wanted."""

        TOPIC = "settlement.waived"
        reason: str
        records: list[list[int]]

        def apply(self, aggregate: Settlement) -> None:
            """Settle them."""
            aggregate.settled |= set(numbers_in(self.records))

    def __init__(self, *, job_id: str) -> None:
        self.job_id = job_id
        self.settled: set[int] = set()

    @classmethod
    def open(cls, job_id: UUID, stamp: Stamp) -> Settlement:
        """Begin to settle the rejects of a job."""
        return cls._create(cls.Opened, id=settlement_id(job_id), job_id=str(job_id), **stamp.fields())

    def correct(self, stamp: Stamp, *, by_job: UUID, records: Iterable[int]) -> list[int]:
        """Note that a job has loaded what these records should have been; those of them that were open."""
        open_records = sorted(set(records) - self.settled)
        if open_records:
            self.trigger_event(self.Corrected, by_job=str(by_job), records=ranges_of(open_records), **stamp.fields())
        return open_records

    def waive(self, stamp: Stamp, *, reason: str, records: Iterable[int]) -> list[int]:
        """Note that these records are not wanted.

        Raises:
            InvalidRequestError: nothing says why.
            ConflictError: none of them is open.
        """
        if not reason.strip():
            raise InvalidRequestError("Nothing says why the rejects are not wanted.", "Give a reason, for the record.")
        open_records = sorted(set(records) - self.settled)
        if not open_records:
            raise ConflictError(f"No reject of job {self.job_id} is open.", "There is nothing left to waive.")
        self.trigger_event(self.Waived, reason=reason, records=ranges_of(open_records), **stamp.fields())
        return open_records


def ranges_of(numbers: Iterable[int]) -> Ranges:
    """Sorted numbers as ranges: `[1, 2, 3, 7]` as `[[1, 3], [7, 7]]`."""
    ranges: Ranges = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def numbers_in(ranges: Ranges) -> Iterable[int]:
    """The numbers that ranges hold."""
    return (number for first, last in ranges for number in range(first, last + 1))


def settled_as(events: Iterable[Any]) -> dict[int, dict[str, Any]]:
    """What became of each record that was settled, by its number: its state, by whom, when and why."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, Settlement.Corrected | Settlement.Waived):
            corrected = isinstance(event, Settlement.Corrected)
            told = {
                "state": "corrected" if corrected else "waived",
                "settled_by": event.actor,
                "settled_at": event.timestamp.isoformat(),
                "settled_by_job": event.by_job if isinstance(event, Settlement.Corrected) else None,
                "settled_because": None if isinstance(event, Settlement.Corrected) else event.reason,
            }
            found.update(dict.fromkeys(numbers_in(event.records), told))
    return found
