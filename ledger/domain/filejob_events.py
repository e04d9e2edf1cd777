"""The events of a job, in the order in which they come. `ledger.domain.filejob` has the rules."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, adding
from ledger.domain.personal import ERASED, Personal, of_its_job, plain_before
from ledger.domain.reconciliation import LoadedChunk
from ledger.domain.words import Status

if TYPE_CHECKING:
    from ledger.domain.filejob import FileJob

# What ChunkLoaded says of a chunk besides its number.
CHUNK_FIELDS = tuple(field.name for field in fields(LoadedChunk) if field.name != "number")


class Event(Aggregate.Event):
    """Something that happened to a file."""


class Received(CanInitAggregate[UUID], Event):
    """The file's bytes are kept, and somebody answers for them."""

    TOPIC = "filejob.received"
    PERSONAL: ClassVar[Personal] = dict.fromkeys(("filename", "reading.member", "reading.sheet"), of_its_job)
    originator_topic: str
    sha256: str
    size: int
    filename: str
    content_type: str
    door: str
    dataset: str
    reading: dict[str, str]
    corrects: str | None
    control_totals: dict[str, Any]
    may_adjust: bool
    adjustment: dict[str, str]

    class_version = 5

    # Version 1 knew nothing that a sender says of a file but its name and its dataset.
    upcast_v1_v2 = adding(reading={}, corrects=None, control_totals={})

    upcast_v2_v3 = staticmethod(plain_before)

    # Version 3 knew no years that are closed for some senders.
    upcast_v3_v4 = adding(may_adjust=False)

    # Version 4 knew no late records that are posted.
    upcast_v4_v5 = adding(adjustment={})


class Queued(Event):
    """The file was examined: how it is read, into which contract, and in how many chunks."""

    TOPIC = "filejob.queued"
    format: str
    dialect: dict[str, Any]
    encoding: str
    parser_version: str
    contract_version: int
    contract_digest: str
    plan: str
    data_start: int
    chunks_total: int
    records: int
    transcript: str | None
    text_size: int | None
    trailer: dict[str, Any]

    class_version = 2

    # Version 1 knew only files whose own bytes are loaded.
    upcast_v1_v2 = adding(transcript=None, text_size=None, trailer={})

    def apply(self, aggregate: FileJob) -> None:
        """Remember what the chunks have to add up to."""
        aggregate.transcript = self.transcript
        aggregate.text_size = aggregate.size if self.text_size is None else self.text_size
        aggregate.status = Status.QUEUED
        aggregate.plan = self.plan
        aggregate.trailer = self.trailer
        aggregate.dialect = self.dialect
        aggregate.contract_version = self.contract_version
        aggregate.data_start = self.data_start
        aggregate.chunks_total = self.chunks_total
        aggregate.records = self.records


class ChunkLoaded(Event):
    """One chunk's rows and rejects are committed, with this event, in one transaction."""

    TOPIC = "filejob.chunk_loaded"
    chunk: int
    start: int
    end: int
    sha256: str
    first_record: int
    records: int
    rows_loaded: int
    rows_rejected: int
    rows_skipped: int
    fiscal_years: list[str]
    attempt: int
    totals: dict[str, dict[str, Any]]
    row_set_digest: str | None
    late: dict[str, int]

    class_version = 3

    # Version 1 knew neither totals nor a digest of the rows.
    upcast_v1_v2 = adding(totals={}, row_set_digest=None)

    # Version 2 knew no years that are closed.
    upcast_v2_v3 = adding(late={})

    def apply(self, aggregate: FileJob) -> None:
        """Count the chunk in."""
        if not aggregate.waiting:
            aggregate.status = Status.PROCESSING
        told = {name: getattr(self, name) for name in CHUNK_FIELDS}
        aggregate.chunks[self.chunk] = LoadedChunk(self.chunk, **told)


class Completed(Event):
    """Every byte and every record of the file is accounted for."""

    TOPIC = "filejob.completed"
    records: int
    rows_loaded: int
    rows_rejected: int
    rows_skipped: int
    bytes_covered: int
    fiscal_years: list[str]
    totals: dict[str, dict[str, Any]]
    row_set_digest: str | None

    class_version = 2

    # Version 1 knew neither totals nor a digest of the rows.
    upcast_v1_v2 = adding(totals={}, row_set_digest=None)

    def apply(self, aggregate: FileJob) -> None:
        """End the job well."""
        aggregate.status = Status.COMPLETED


class Failed(Event):
    """The job stopped. With `retry_at` it will be tried again; without, it failed for good."""

    TOPIC = "filejob.failed"
    PERSONAL: ClassVar[Personal] = dict.fromkeys(("error.message", "error.remedy"), of_its_job)
    stage: str
    chunk: int | None
    attempt: int
    error: dict[str, Any]
    retry_at: str | None
    rows_withdrawn: int

    class_version = 2
    upcast_v1_v2 = staticmethod(plain_before)

    def apply(self, aggregate: FileJob) -> None:
        """Keep what was loaded only if the job will go on from there."""
        aggregate.status = Status.FAILED
        aggregate.retry_at = None if self.retry_at is None else datetime.fromisoformat(self.retry_at)
        if self.retry_at is None:
            aggregate.chunks = {}
            aggregate.plan = None


class Retried(Event):
    """The next attempt is open, from the given stage."""

    TOPIC = "filejob.retried"
    attempt: int
    stage: str
    reason: str

    def apply(self, aggregate: FileJob) -> None:
        """Open the attempt."""
        aggregate.status = Status.RETRIED
        aggregate.retry_at = None
        aggregate.attempt = self.attempt


class Cancelled(Event):
    """Somebody decided that the file shall not be loaded."""

    TOPIC = "filejob.cancelled"
    reason: str
    rows_withdrawn: int

    def apply(self, aggregate: FileJob) -> None:
        """Forget the chunks: their rows are withdrawn."""
        aggregate.status = Status.CANCELLED
        aggregate.retry_at = None
        aggregate.chunks = {}
        aggregate.plan = None


class Archived(Event):
    """The file's rows of some fiscal years stand in cold storage, verified, and no longer here.

    `rows`, `row_set_digest` and `totals` are what these come to; `years_left` are those whose rows are still here.
    """

    TOPIC = "filejob.archived"
    fiscal_years: list[str]
    manifest: str
    rows: int | None
    row_set_digest: str | None
    totals: dict[str, dict[str, Any]]
    years_left: list[str]

    class_version = 2

    # Version 1 told of all years at once, and not what their rows came to.
    upcast_v1_v2 = adding(rows=None, row_set_digest=None, totals={}, years_left=[])

    def apply(self, aggregate: FileJob) -> None:
        """Mark the job as archived when nothing of it is left."""
        aggregate.years_archived.update(self.fiscal_years)
        if not self.years_left:
            aggregate.status = Status.ARCHIVED


class Restored(Event):
    """The archived rows were brought back: beside the archive, to be read, or to where they were (`is_put_back`).

    They are put back when their year is reopened. The archive stays in either case.
    """

    TOPIC = "filejob.restored"
    fiscal_years: list[str]
    manifest: str
    is_put_back: bool

    class_version = 2

    # Version 1 told of copies, and nothing of years that were reopened.
    upcast_v1_v2 = adding(is_put_back=False)

    def apply(self, aggregate: FileJob) -> None:
        """Of a copy nothing changes in the job itself: the archive stays the place of record."""
        if self.is_put_back:
            aggregate.years_archived.difference_update(self.fiscal_years)
            aggregate.status = Status.COMPLETED


class NameErased(Event):
    """What names the file cannot be read any more, anywhere in the log. `erasure` is the id of the Erasure."""

    TOPIC = "filejob.name_erased"
    erasure: str

    def apply(self, aggregate: FileJob) -> None:
        """Forget the name."""
        aggregate.name_erased = True
        aggregate.filename = ERASED
