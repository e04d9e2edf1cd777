"""Where a fiscal year stands, and what may happen there."""

from __future__ import annotations

from enum import StrEnum


class YearState(StrEnum):
    """Where a fiscal year stands."""

    OPEN = "open"
    SOFT_CLOSED = "soft_closed"
    CLOSED = "closed"
    EXPORTED = "exported"
    VERIFIED = "verified"
    DROPPED = "dropped"
    REOPENED = "reopened"


class CopyState(StrEnum):
    """Whether rows were brought back from cold storage, beside the archive."""

    NONE = "none"
    REQUESTED = "requested"
    RESTORED = "restored"


class Ground(StrEnum):
    """What allows that rows are dropped."""

    GRACE = "grace"
    APPROVAL = "approval"


ONCE_CLOSED = frozenset(YearState) - {YearState.OPEN}
TAKES_ADJUSTMENTS = frozenset({YearState.SOFT_CLOSED, YearState.REOPENED})
FENCED = ONCE_CLOSED - TAKES_ADJUSTMENTS
ARCHIVED = frozenset({YearState.EXPORTED, YearState.VERIFIED, YearState.DROPPED})

ALLOWED: dict[str, frozenset[YearState]] = {
    "Proposed": frozenset({YearState.OPEN, YearState.SOFT_CLOSED}),
    "SoftClosed": frozenset({YearState.OPEN}),
    "Closed": TAKES_ADJUSTMENTS | {YearState.OPEN},
    "Planned": frozenset({YearState.CLOSED}),
    "PartsStored": frozenset({YearState.CLOSED}),
    "Exported": frozenset({YearState.CLOSED}),
    "Verified": frozenset({YearState.EXPORTED}),
    "DropAuthorized": frozenset({YearState.VERIFIED}),
    "Dropped": frozenset({YearState.VERIFIED}),
    "RestoreRequested": ARCHIVED,
    "Restored": ARCHIVED,
    "Released": ONCE_CLOSED,
    "ReopenRequested": ONCE_CLOSED - {YearState.REOPENED},
    "Reopened": ONCE_CLOSED - {YearState.REOPENED},
    "HoldPlaced": frozenset(YearState),
    "HoldLifted": frozenset(YearState),
    "LateRecordsFound": ONCE_CLOSED,
    "AdjustmentPosted": ONCE_CLOSED,
}
# EVENT -> what whoever asks for it wants of the year. What follows from it, and is not asked for, needs no words.
WANTED = {
    "Proposed": "be proposed for closing",
    "SoftClosed": "be closed softly",
    "Closed": "be closed",
    "Planned": "be archived",
    "PartsStored": "be archived",
    "Exported": "be archived",
    "Verified": "be verified",
    "DropAuthorized": "be dropped",
    "Dropped": "be dropped",
    "RestoreRequested": "be brought back",
    "Restored": "be brought back",
    "Released": "have a copy",
    "ReopenRequested": "be reopened",
    "Reopened": "be reopened",
    "LateRecordsFound": "have late records",
    "AdjustmentPosted": "have adjustments",
}
# STATE -> what leads on from it, for whoever wants something else of the year.
NEXT = {
    YearState.OPEN: "Close it first: `ledger archive close {label}`.",
    YearState.SOFT_CLOSED: "Close it first: `ledger archive close {label}`.",
    YearState.CLOSED: "Archive it first: `ledger archive run {label}`.",
    YearState.EXPORTED: "Its archive has to be verified first: `ledger archive run {label}` goes on with that.",
    YearState.VERIFIED: "To change its rows, reopen it: `ledger archive reopen {label}`.",
    YearState.DROPPED: "Its rows are in cold storage. To change them, reopen it: `ledger archive reopen {label}`.",
    YearState.REOPENED: "Close it again first: `ledger archive close {label}`.",
}
