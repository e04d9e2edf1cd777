"""The words that every answer uses for where a job stands and what a sender may choose."""

from __future__ import annotations

from enum import StrEnum

REASON_CHARACTERS_MAX = 500  # of a reason that somebody gives for the record


class Status(StrEnum):
    """Where a job stands."""

    RECEIVED = "Received"
    QUEUED = "Queued"
    PROCESSING = "Processing"
    COMPLETED = "Completed"
    FAILED = "Failed"
    RETRIED = "Retried"
    CANCELLED = "Cancelled"
    ARCHIVED = "Archived"


class Stage(StrEnum):
    """The kinds of work: two that a job needs, and those that operators ask for."""

    PLAN = "plan"
    LOAD = "load"
    REBUILD = "rebuild"
    REPLAY = "replay"
    VERIFY = "verify"
    CLOSE_YEAR = "close_year"
    ARCHIVE_YEAR = "archive_year"
    RESTORE_YEAR = "restore_year"
    HOLD_YEAR = "hold_year"
    POST_ADJUSTMENT = "post_adjustment"


class OperationStatus(StrEnum):
    """Where an operation stands. That it is running is no event: only whoever holds its lease makes it so."""

    REQUESTED = "Requested"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"


class OnDuplicate(StrEnum):
    """What to do with bytes that the dataset has already received."""

    RETURN = "return"
    REJECT = "reject"
    ALLOW = "allow"


class ExportFormat(StrEnum):
    """What an export of the audit trail is written as."""

    NDJSON = "ndjson"
    CSV = "csv"


UNFINISHED = frozenset({Status.RECEIVED, Status.QUEUED, Status.PROCESSING, Status.RETRIED})
FINISHED = frozenset(Status) - UNFINISHED
OPERATIONS = frozenset(Stage) - {Stage.PLAN, Stage.LOAD}
ENDED_WELL = frozenset({Status.COMPLETED, Status.ARCHIVED})
