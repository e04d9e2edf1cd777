"""FiscalYear: the life of the rows of one fiscal year, from its closing to cold storage and back.

Rules:
1. What may happen in which state is one table, `ALLOWED`; anything else is a `ConflictError` that says what to do. A
   year is open until somebody closes it: until then there are no events of it.
2. A year that was closed is never open again. Reopened it takes adjustments, as one that is closed softly, until it is
   closed as its next generation, whose manifest supersedes the one before.
3. Rows are dropped only after their export was verified, when a time of grace or a second person allowed it, and while
   no legal hold stands.
4. Two persons reopen a year, and two lift a hold: who asks and who approves are different actors.
5. What is restored is a copy beside the archive. It changes nothing of the state, but a year whose rows were dropped is
   reopened from it.
6. Records that came too late are counted by job, until they are posted as adjustments.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Any
from uuid import UUID, uuid5

from ledger.domain import fiscal_year_events as events
from ledger.domain.base import Aggregate, Stamp
from ledger.domain.counted import counted
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.domain.year_states import ALLOWED, NEXT, WANTED, CopyState, Ground, YearState
from ledger.errors import ConflictError, InvalidRequestError

FISCAL_YEARS = UUID("c1a3be57-0d2e-4f86-9b7a-5e1f60c2d948")

Table = dict[str, Any]


def fiscal_year_id(label: str) -> UUID:
    """The id of the fiscal year of that name: a name is one year for ever."""
    return uuid5(FISCAL_YEARS, label)


class FiscalYear(Aggregate):
    """The life of the rows of one fiscal year."""

    TOPIC = "fiscal_year"
    Event = events.Event
    Opened = events.Opened
    Proposed = events.Proposed
    SoftClosed = events.SoftClosed
    Closed = events.Closed
    Planned = events.Planned
    PartsStored = events.PartsStored
    Exported = events.Exported
    Verified = events.Verified
    DropAuthorized = events.DropAuthorized
    Dropped = events.Dropped
    RestoreRequested = events.RestoreRequested
    Restored = events.Restored
    Released = events.Released
    ReopenRequested = events.ReopenRequested
    Reopened = events.Reopened
    HoldPlaced = events.HoldPlaced
    HoldLifted = events.HoldLifted
    LateRecordsFound = events.LateRecordsFound
    AdjustmentPosted = events.AdjustmentPosted

    def __init__(self, *, label: str, start: str, end: str, calendar: str, zone: str) -> None:
        self.label = label
        self.start = date.fromisoformat(start)
        self.end = date.fromisoformat(end)
        self.calendar = calendar
        self.zone = zone
        self.state = YearState.OPEN
        self.copy = CopyState.NONE
        self.is_proposed = False
        self.generation = 0
        self.closed_at_position: int | None = None
        self.closed_by: str | None = None
        self.tables: list[Table] = []
        self.parts: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, dict[str, Any]] = {}
        self.pinned: dict[str, Any] = {}
        self.manifest_sha256: str | None = None
        self.is_drop_authorized = False
        self.drop_authorized_by: str | None = None
        self.reopen_requested_by: str | None = None
        self.holds: dict[str, str] = {}
        self.late: Counter[str] = Counter()
        self.adjustments: list[dict[str, Any]] = []

    @classmethod
    def open(cls, stamp: Stamp, *, year: Year, calendar: FiscalCalendar) -> FiscalYear:
        """Begin the story of a year, and pin its days."""
        return cls._create(
            cls.Opened,
            id=fiscal_year_id(year.label),
            label=year.label,
            start=year.start.isoformat(),
            end=year.end.isoformat(),
            calendar=str(calendar),
            zone=calendar.zone.key,
            **stamp.fields(),
        )

    @property
    def missing_parts(self) -> list[str]:
        """The names of the parts that are planned, and not in cold storage yet."""
        return [name for name in self.parts if name not in self.stored]

    def propose(self, stamp: Stamp, *, grace_days: int, closes_by_itself: bool) -> None:
        """Propose that it is closed. Raises ConflictError: that was proposed."""
        self._check_allowed("Proposed")
        if self.is_proposed:
            raise self._refused("was proposed for closing already", NEXT[self.state])
        self._trigger(self.Proposed, stamp, grace_days=grace_days, closes_by_itself=closes_by_itself)

    def soft_close(self, stamp: Stamp) -> None:
        """Take adjustments only."""
        self._trigger(self.SoftClosed, stamp)

    def close(self, stamp: Stamp, *, position: int, tables: list[Table], requested_by: str) -> None:
        """Take nothing more, as the next generation. The rows are fenced in the same transaction.

        Args:
            position: that of the last event of the log.
            tables: for each dataset its `dataset`, `schema`, `name`, `rows` and `fingerprint`.
        """
        told = {"position": position, "tables": tables, "requested_by": requested_by}
        self._trigger(self.Closed, stamp, generation=self.generation + 1, **told)

    def plan(self, stamp: Stamp, *, parts: list[dict[str, Any]], pinned: dict[str, Any]) -> None:
        """Pin the parts of the export, and what else it depends on. Raises ConflictError: they are pinned."""
        self._check_allowed("Planned")
        if self.parts:
            raise self._refused("is planned", "Go on with its parts.")
        self._trigger(self.Planned, stamp, parts=parts, pinned=pinned)

    def store_parts(self, stamp: Stamp, *, objects: list[dict[str, Any]]) -> None:
        """Note that parts are in cold storage. Raises ConflictError: one is not planned, or stored already."""
        self._check_allowed("PartsStored")
        missing = set(self.missing_parts)
        unasked = [each["name"] for each in objects if each["name"] not in missing]
        if unasked:
            raise self._refused(f"does not wait for {', '.join(unasked)}", "Go on with the parts that are missing.")
        self._trigger(self.PartsStored, stamp, objects=objects)

    def export(
        self,
        stamp: Stamp,
        *,
        manifest_sha256: str,
        manifest_key: str,
        manifest_version: str,
        objects: int,
        size_bytes: int,
        previous_manifest_sha256: str | None,
    ) -> None:
        """Seal the export. Raises ConflictError: it has no plan, or parts are missing."""
        self._check_allowed("Exported")
        if not self.parts or self.missing_parts:
            missing = counted(len(self.missing_parts), "part") if self.missing_parts else "all parts"
            raise self._refused(f"lacks {missing} of its export", "Export them first.")
        self._trigger(
            self.Exported,
            stamp,
            generation=self.generation,
            manifest_sha256=manifest_sha256,
            manifest_key=manifest_key,
            manifest_version=manifest_version,
            objects=objects,
            size_bytes=size_bytes,
            supersedes=self.manifest_sha256,
            previous_manifest_sha256=previous_manifest_sha256,
        )

    def verify(self, stamp: Stamp, *, evidence: dict[str, Any]) -> None:
        """Note that the export was found as its manifest says."""
        self._trigger(self.Verified, stamp, evidence=evidence)

    def authorize_drop(self, stamp: Stamp, *, ground: Ground) -> None:
        """Allow that the rows are dropped. Raises ConflictError: a hold stands, or nobody second approves."""
        self._check_allowed("DropAuthorized")
        self._check_no_hold()
        if self.is_drop_authorized:
            raise self._refused("may be dropped already", "There is nothing more to approve.")
        if ground is Ground.APPROVAL:
            self._check_second(stamp, self.closed_by, "asked for its closing")
        self._trigger(self.DropAuthorized, stamp, ground=ground.value)

    def drop(self, stamp: Stamp, *, tables: list[Table]) -> None:
        """Note that the rows are gone. Raises ConflictError: a hold stands, or nobody allowed it."""
        self._check_allowed("Dropped")
        self._check_no_hold()
        if not self.is_drop_authorized:
            raise self._refused("may not be dropped yet", "Wait for the end of its grace, or have it approved.")
        self._trigger(self.Dropped, stamp, tables=tables)

    def request_restore(self, stamp: Stamp, *, tier: str, days: int, reason: str) -> None:
        """Ask for a copy. Raises ConflictError: there is one, or was asked for; InvalidRequestError: no reason."""
        self._check_allowed("RestoreRequested")
        self._check_copy(CopyState.NONE, "Release that copy first.")
        self._trigger(self.RestoreRequested, stamp, tier=tier, days=days, reason=_reason(reason))

    def restore(self, stamp: Stamp, *, proof: dict[str, Any]) -> None:
        """Note that the copy is there. Raises ConflictError: nobody asked for it."""
        self._check_allowed("Restored")
        self._check_copy(CopyState.REQUESTED, "Ask for a copy first.")
        self._trigger(self.Restored, stamp, proof=proof)

    def release(self, stamp: Stamp) -> None:
        """Note that the copy is gone, or not wanted any more. Raises ConflictError: there is none."""
        self._check_allowed("Released")
        if self.copy is CopyState.NONE:
            raise self._refused("has no copy", "There is nothing to release.")
        self._trigger(self.Released, stamp)

    def request_reopen(self, stamp: Stamp, *, reason: str) -> None:
        """Ask that adjustments are taken again. Raises ConflictError: somebody has; InvalidRequestError: no reason."""
        self._check_allowed("ReopenRequested")
        if self.reopen_requested_by is not None:
            raise self._refused(
                "is asked to be reopened already", f"Approve it: `ledger archive approve {self.label}`."
            )
        self._trigger(self.ReopenRequested, stamp, reason=_reason(reason))

    def reopen(self, stamp: Stamp) -> None:
        """Approve that, as a second person. Raises ConflictError: nobody asked, or its rows are away."""
        self._check_allowed("Reopened")
        if self.reopen_requested_by is None:
            ask = f"Ask first: `ledger archive reopen {self.label} --reason ...`."
            raise self._refused("is not asked to be reopened", ask)
        self._check_second(stamp, self.reopen_requested_by, "asked for it")
        if self.state is YearState.DROPPED and self.copy is not CopyState.RESTORED:
            raise self._refused(
                "has its rows in cold storage", f"Restore it first: `ledger archive restore {self.label}`."
            )
        self._trigger(self.Reopened, stamp, requested_by=self.reopen_requested_by, approved_by=stamp.actor)

    def place_hold(self, stamp: Stamp, *, case: str) -> None:
        """Forbid to destroy anything of it. Raises ConflictError: it is held for it; InvalidRequestError: no case."""
        if not case.strip():
            raise InvalidRequestError("Nothing says which case the hold is for.", "Name the case, for the record.")
        if case in self.holds:
            raise self._refused(f"is held for case {case!r} already", "There is nothing to place.")
        self._trigger(self.HoldPlaced, stamp, case=case)

    def lift_hold(self, stamp: Stamp, *, case: str, reason: str) -> None:
        """Lift a hold, as a second person. Raises ConflictError: there is none of that case."""
        if case not in self.holds:
            held = ", ".join(map(repr, self.holds)) or "no case"
            raise self._refused(f"is not held for case {case!r}", f"It is held for {held}.")
        self._check_second(stamp, self.holds[case], "placed the hold")
        self._trigger(self.HoldLifted, stamp, case=case, placed_by=self.holds[case], reason=_reason(reason))

    def find_late(self, stamp: Stamp, *, job: UUID, dataset: str, records: int) -> None:
        """Count records of a completed job that came too late."""
        self._trigger(self.LateRecordsFound, stamp, job=str(job), dataset=dataset, records=records)

    def post_adjustment(
        self, stamp: Stamp, *, job: UUID, dataset: str, records: int, posted_in: str, by_job: UUID, reason: str
    ) -> None:
        """Note where late records of a job were posted instead. Raises ConflictError: it has not so many left."""
        self._check_allowed("AdjustmentPosted")
        left = self.late[str(job)]
        if records > left:
            raise self._refused(
                f"has {counted(left, 'late record')} of job {job} to settle, not {records:,}", "Post no more."
            )
        told = {"records": records, "posted_in": posted_in, "by_job": str(by_job), "reason": _reason(reason)}
        self._trigger(self.AdjustmentPosted, stamp, job=str(job), dataset=dataset, **told)

    def _trigger(self, event: type[events.Event], stamp: Stamp, **fields: Any) -> None:
        self._check_allowed(event.__name__)
        self.trigger_event(event, label=self.label, **fields, **stamp.fields())

    def _check_allowed(self, event: str) -> None:
        if self.state not in ALLOWED[event]:
            state = self.state.value.replace("_", "-")
            raise self._refused(f"is {state}, and so cannot {WANTED[event]}", NEXT[self.state])

    def _check_no_hold(self) -> None:
        if self.holds:
            cases = ", ".join(map(repr, self.holds))
            raise self._refused(f"is held for {cases}", "Nothing of it is dropped until two persons lift that.")

    def _check_second(self, stamp: Stamp, first: str | None, did: str) -> None:
        if stamp.actor == first:
            raise self._refused(
                f"needs a second person: {first} {did}", "Have somebody else do it, with a key of theirs."
            )

    def _check_copy(self, wanted: CopyState, remedy: str) -> None:
        if self.copy is not wanted:
            raise self._refused(f"has this copy: {self.copy.value}", remedy)

    def _refused(self, why: str, remedy: str) -> ConflictError:
        return ConflictError(f"Fiscal year {self.label} {why}.", remedy.format(label=self.label))


def _reason(text: str) -> str:
    if not text.strip():
        raise InvalidRequestError("Nothing says why.", "Give a reason, for the record.")
    return text
