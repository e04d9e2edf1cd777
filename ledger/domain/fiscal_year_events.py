"""The events of a fiscal year, in the order in which they come. `ledger.domain.fiscal_year` has the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, adding
from ledger.domain.year_states import CopyState, YearState

if TYPE_CHECKING:
    from ledger.domain.fiscal_year import FiscalYear


class Event(Aggregate.Event):
    """Something that happened to a fiscal year, which each event names."""

    label: str


class Opened(CanInitAggregate[UUID], Event):
    """Something is to happen to the year. Its days are pinned: from `start` up to, and without, `end`."""

    TOPIC = "fiscal_year.opened"
    originator_topic: str
    start: str
    end: str
    calendar: str
    zone: str


class Proposed(Event):
    """The year ended so many days ago: somebody should close it, or it is about to be closed by itself."""

    TOPIC = "fiscal_year.proposed"
    grace_days: int
    closes_by_itself: bool

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember it."""
        aggregate.is_proposed = True


class SoftClosed(Event):
    """From here on only those who may adjust add rows."""

    TOPIC = "fiscal_year.soft_closed"

    def apply(self, aggregate: FiscalYear) -> None:
        """Change the state."""
        aggregate.state = YearState.SOFT_CLOSED


class Closed(Event):
    """Nobody changes rows any more. `position` is the last of the log before; `tables` tells what there is."""

    TOPIC = "fiscal_year.closed"
    generation: int
    position: int
    tables: list[dict[str, Any]]
    requested_by: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Begin a generation."""
        aggregate.state = YearState.CLOSED
        aggregate.generation = self.generation
        aggregate.closed_at_position = self.position
        aggregate.closed_by = self.requested_by
        aggregate.tables = self.tables


class Planned(Event):
    """Which parts the export has, each with a `name`, and what it depends on that settings could change (`pinned`)."""

    TOPIC = "fiscal_year.planned"
    parts: list[dict[str, Any]]
    pinned: dict[str, Any]

    class_version = 2

    # Version 1 pinned nothing besides.
    upcast_v1_v2 = adding(pinned={})

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember them."""
        aggregate.parts = {part["name"]: part for part in self.parts}
        aggregate.pinned = self.pinned


class PartsStored(Event):
    """Objects are in cold storage, each with the `name` of the part that it holds."""

    TOPIC = "fiscal_year.parts_stored"
    objects: list[dict[str, Any]]

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember them."""
        aggregate.stored.update((each["name"], each) for each in self.objects)


class Exported(Event):
    """Everything of the year is in cold storage, under a signed manifest."""

    TOPIC = "fiscal_year.exported"
    generation: int
    manifest_sha256: str
    manifest_key: str
    manifest_version: str
    objects: int
    size_bytes: int
    supersedes: str | None
    previous_manifest_sha256: str | None

    def apply(self, aggregate: FiscalYear) -> None:
        """Change the state."""
        aggregate.state = YearState.EXPORTED
        aggregate.manifest_sha256 = self.manifest_sha256


class Verified(Event):
    """Somebody independent found in cold storage what the manifest says."""

    TOPIC = "fiscal_year.verified"
    evidence: dict[str, Any]

    def apply(self, aggregate: FiscalYear) -> None:
        """Change the state."""
        aggregate.state = YearState.VERIFIED


class DropAuthorized(Event):
    """The rows may be dropped: time has passed, or a second person said so (`ground`)."""

    TOPIC = "fiscal_year.drop_authorized"
    ground: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember it."""
        aggregate.is_drop_authorized = True
        aggregate.drop_authorized_by = self.actor


class Dropped(Event):
    """The rows are gone from PostgreSQL, in the transaction of this event."""

    TOPIC = "fiscal_year.dropped"
    tables: list[dict[str, Any]]

    def apply(self, aggregate: FiscalYear) -> None:
        """Change the state."""
        aggregate.state = YearState.DROPPED


class RestoreRequested(Event):
    """Somebody wants a copy of the rows back, for some days."""

    TOPIC = "fiscal_year.restore_requested"
    tier: str
    days: int
    reason: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember it."""
        aggregate.copy = CopyState.REQUESTED


class Restored(Event):
    """The copy is there, and was shown equal to what was closed."""

    TOPIC = "fiscal_year.restored"
    proof: dict[str, Any]

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember it."""
        aggregate.copy = CopyState.RESTORED


class Released(Event):
    """The copy is not needed any more, and is gone."""

    TOPIC = "fiscal_year.released"

    def apply(self, aggregate: FiscalYear) -> None:
        """Forget it."""
        aggregate.copy = CopyState.NONE


class ReopenRequested(Event):
    """Somebody wants to change rows of the year; another person has to approve."""

    TOPIC = "fiscal_year.reopen_requested"
    reason: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember who asked."""
        aggregate.reopen_requested_by = self.actor


class Reopened(Event):
    """Adjustments are taken again, until the year is closed as its next generation."""

    TOPIC = "fiscal_year.reopened"
    requested_by: str
    approved_by: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Forget what was on its way to cold storage; what is there stays."""
        aggregate.state = YearState.REOPENED
        aggregate.reopen_requested_by = None
        aggregate.is_drop_authorized = False
        aggregate.drop_authorized_by = None
        aggregate.parts, aggregate.stored, aggregate.pinned, aggregate.tables = {}, {}, {}, []


class HoldPlaced(Event):
    """Nothing of the year may be destroyed, for a legal case."""

    TOPIC = "fiscal_year.hold_placed"
    case: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Remember who placed it."""
        aggregate.holds[self.case] = self.actor


class HoldLifted(Event):
    """A legal case needs the year no more, as two persons say."""

    TOPIC = "fiscal_year.hold_lifted"
    case: str
    placed_by: str
    reason: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Forget it."""
        del aggregate.holds[self.case]


class LateRecordsFound(Event):
    """Records of a file came for the year when it was closed; they are among the rejects of its job."""

    TOPIC = "fiscal_year.late_records_found"
    job: str
    dataset: str
    records: int

    def apply(self, aggregate: FiscalYear) -> None:
        """Count them."""
        aggregate.late[self.job] += self.records


class AdjustmentPosted(Event):
    """Late records of a job were posted in a year that is open, by the file of another job."""

    TOPIC = "fiscal_year.adjustment_posted"
    job: str
    dataset: str
    records: int
    posted_in: str
    by_job: str
    reason: str

    def apply(self, aggregate: FiscalYear) -> None:
        """Count them as settled."""
        aggregate.late[self.job] -= self.records
        told = ("job", "records", "posted_in", "by_job", "reason")
        aggregate.adjustments.append({name: getattr(self, name) for name in told})
