"""FileJob: the life of one arrival of one file into one dataset.

Rules:
1. The states and what may happen in each are one table, `ALLOWED`; anything else is a `ConflictError`. A job that
   failed but will be retried is waiting: chunks that were under way may still end, as `WAITING_ALLOWS` says.
2. A chunk is loaded once. Its numbers must close by themselves: records = loaded + rejected + skipped.
3. A job completes only when its chunks cover the file's data from the first byte after the header to the last
   with no gap or overlap, and their records add up to the plan's (`CountsDoNotCloseError` otherwise).
4. A failure or cancellation for good withdraws the rows of the job, so that nobody sums half a file; a retry
   then starts again from the plan. A failure that will be retried (`retry_at`) keeps what was loaded, and the
   retry goes on with what is missing.
5. Events hold counts, digests and references: never a row of the file. What names the file, or a part of it, and what
   may quote that, is personal; it can be erased once the job has ended, and the job is then never read again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from ledger.domain import filejob_events as events
from ledger.domain.base import Aggregate, Stamp
from ledger.domain.filejob_events import CHUNK_FIELDS
from ledger.domain.filejob_states import ALLOWED, WAITING_ALLOWS
from ledger.domain.reconciliation import LoadedChunk, check_chunk, late_records, reconcile
from ledger.domain.words import UNFINISHED, Stage, Status
from ledger.errors import ConflictError


class FileJob(Aggregate):
    """The life of one arrival of one file into one dataset."""

    TOPIC = "filejob"

    Event: TypeAlias = events.Event
    Received: TypeAlias = events.Received
    Queued: TypeAlias = events.Queued
    ChunkLoaded: TypeAlias = events.ChunkLoaded
    Completed: TypeAlias = events.Completed
    Failed: TypeAlias = events.Failed
    Retried: TypeAlias = events.Retried
    Cancelled: TypeAlias = events.Cancelled
    Archived: TypeAlias = events.Archived
    Restored: TypeAlias = events.Restored
    NameErased: TypeAlias = events.NameErased

    def __init__(
        self,
        *,
        sha256: str,
        size: int,
        filename: str,
        door: str,
        dataset: str,
        reading: dict[str, str],
        corrects: str | None,
        control_totals: dict[str, Any],
        may_adjust: bool,
        adjustment: dict[str, str],
        correlation: str,
    ) -> None:
        self.sha256 = sha256
        self.size = size
        self.filename = filename
        self.door = door
        self.dataset = dataset
        self.reading = reading
        self.corrects = None if corrects is None else UUID(corrects)
        self.control_totals = control_totals
        self.may_adjust = may_adjust
        self.adjustment = adjustment
        self.correlation = correlation
        self.status = Status.RECEIVED
        self.name_erased = False
        self.retry_at: datetime | None = None
        self.attempt = 1
        self.plan: str | None = None
        self.trailer: dict[str, Any] = {}
        self.dialect: dict[str, Any] = {}
        self.contract_version = 0
        self.transcript: str | None = None
        self.text_size = size
        self.data_start = 0
        self.chunks_total = 0
        self.records = 0
        self.chunks: dict[int, LoadedChunk] = {}
        self.years_archived: set[str] = set()

    @classmethod
    def receive(
        cls,
        job_id: UUID,
        stamp: Stamp,
        *,
        sha256: str,
        size: int,
        filename: str,
        content_type: str,
        door: str,
        dataset: str,
        reading: dict[str, str] | None = None,
        corrects: UUID | None = None,
        control_totals: dict[str, Any] | None = None,
        may_adjust: bool = False,
        adjustment: dict[str, str] | None = None,
    ) -> FileJob:
        """Open the job of a file whose bytes are already kept.

        Args:
            reading: what the sender says of how it is read: see `projections.formats.rows.Reader`.
            corrects: the job whose rejects the file brings again.
            control_totals: what it has to come to: see `reconciliation.check_control_totals`.
            may_adjust: whether its sender had the permission to add rows to a year that is closed softly.
            adjustment: of a file that posts late records (`ledger.domain.adjustment`), the `fiscal_year` that they are
                about, and the `reason`.
        """
        return cls._create(
            cls.Received,
            id=job_id,
            sha256=sha256,
            size=size,
            filename=filename,
            content_type=content_type,
            door=door,
            dataset=dataset,
            reading=reading or {},
            corrects=None if corrects is None else str(corrects),
            control_totals=control_totals or {},
            may_adjust=may_adjust,
            adjustment=adjustment or {},
            **stamp.fields(),
        )

    def queue(
        self,
        stamp: Stamp,
        *,
        format: str,
        dialect: dict[str, Any],
        parser_version: str,
        contract_version: int,
        contract_digest: str,
        plan: str,
        data_start: int,
        chunks_total: int,
        records: int,
        transcript: str | None = None,
        text_size: int | None = None,
        trailer: dict[str, Any] | None = None,
    ) -> None:
        """Pin how the file is read.

        Args:
            plan: the digest of the plan of its chunks.
            transcript: the digest of the text that the chunks are ranges of, if that is not the file itself.
            text_size: of that text, in bytes.
            trailer: the control totals that its last record tells, if the contract has a trailer.
        """
        self._check_allowed("Queued")
        if self.plan is not None:
            raise ConflictError(f"Job {self.id} has a plan already.")
        self.trigger_event(
            self.Queued,
            format=format,
            dialect=dialect,
            encoding=dialect["encoding"],
            parser_version=parser_version,
            contract_version=contract_version,
            contract_digest=contract_digest,
            plan=plan,
            data_start=data_start,
            chunks_total=chunks_total,
            records=records,
            transcript=transcript,
            text_size=text_size,
            trailer=trailer or {},
            **stamp.fields(),
        )

    def load_chunk(self, stamp: Stamp, chunk: LoadedChunk, *, attempt: int) -> None:
        """Count in a chunk whose rows stand in the same transaction.

        Raises:
            ConflictError: the chunk is loaded already, or the job does not wait for it.
            CountsDoNotCloseError: the chunk's own numbers do not add up.
        """
        self._check_allowed("ChunkLoaded")
        if chunk.number in self.chunks:
            raise ConflictError(f"Chunk {chunk.number} of job {self.id} is loaded already.")
        if self.plan is None or not 0 <= chunk.number < self.chunks_total:
            raise ConflictError(f"Job {self.id} has {self.chunks_total} chunks and does not wait for {chunk.number}.")
        check_chunk(chunk)
        self.trigger_event(
            self.ChunkLoaded,
            chunk=chunk.number,
            attempt=attempt,
            **{name: getattr(chunk, name) for name in CHUNK_FIELDS},
            **stamp.fields(),
        )

    @property
    def waiting(self) -> bool:
        """Whether the job failed and will be retried at `retry_at`."""
        return self.retry_at is not None

    @property
    def is_open(self) -> bool:
        """Whether the job still wants work: it has not ended, and a failure will be retried."""
        return self.status in UNFINISHED or self.waiting

    @property
    def late(self) -> dict[str, int]:
        """How many records were refused because their fiscal year is closed, by its label."""
        return late_records(self.chunks.values())

    @property
    def all_chunks_loaded(self) -> bool:
        """Whether nothing is left to load."""
        return self.plan is not None and len(self.chunks) == self.chunks_total

    def complete(self, stamp: Stamp) -> None:
        """Reconcile the file and end its job.

        Raises:
            CountsDoNotCloseError: a byte or a record of the file is not accounted for, or is twice.
        """
        self._check_allowed("Completed")
        self.trigger_event(self.Completed, **self.came_to(), **stamp.fields())

    def came_to(self) -> dict[str, Any]:
        """What the file came to, when all its chunks are loaded: see `reconcile`."""
        return reconcile(
            [self.chunks[number] for number in sorted(self.chunks)],
            filename=self.filename,
            data_start=self.data_start,
            size=self.text_size,
            chunks_total=self.chunks_total,
            records=self.records,
        )

    def fail(
        self,
        stamp: Stamp,
        *,
        stage: Stage,
        chunk: int | None,
        attempt: int,
        error: dict[str, Any],
        retry_at: datetime | None = None,
        rows_withdrawn: int = 0,
    ) -> None:
        """Stop the job, for good unless `retry_at` is given."""
        self._check_allowed("Failed")
        assert retry_at is None or rows_withdrawn == 0, "a job that will be retried keeps its rows"
        self.trigger_event(
            self.Failed,
            stage=stage.value,
            chunk=chunk,
            attempt=attempt,
            error=error,
            retry_at=None if retry_at is None else retry_at.isoformat(),
            rows_withdrawn=rows_withdrawn,
            **stamp.fields(),
        )

    def retry(self, stamp: Stamp, *, reason: str) -> None:
        """Open the next attempt: from the plan, or from the missing chunks if the others were kept."""
        self._check_allowed("Retried")
        if self.name_erased:
            raise ConflictError(f"The name of the file of job {self.id} was erased.", "Send the file again.")
        stage = Stage.PLAN if self.plan is None else Stage.LOAD
        self.trigger_event(self.Retried, attempt=self.attempt + 1, stage=stage.value, reason=reason, **stamp.fields())

    def cancel(self, stamp: Stamp, *, reason: str, rows_withdrawn: int) -> None:
        """End the job without its rows."""
        self._check_allowed("Cancelled")
        self.trigger_event(self.Cancelled, reason=reason, rows_withdrawn=rows_withdrawn, **stamp.fields())

    def archive(
        self,
        stamp: Stamp,
        *,
        fiscal_year: str,
        manifest: str,
        rows: int,
        row_set_digest: str,
        totals: dict[str, dict[str, Any]],
    ) -> None:
        """Note that the rows of a year stand verified in cold storage under `manifest` (its SHA-256), and nowhere else.

        Raises:
            ConflictError: that was noted before, or the job has not completed.
        """
        self._check_allowed("Archived")
        if fiscal_year in self.years_archived:
            raise ConflictError(f"The rows of job {self.id} in {fiscal_year} are archived already.")
        touched = {label for chunk in self.chunks.values() for label in chunk.fiscal_years}
        told = {"manifest": manifest, "rows": rows, "row_set_digest": row_set_digest, "totals": totals}
        self.trigger_event(
            self.Archived,
            fiscal_years=[fiscal_year],
            years_left=sorted(touched - self.years_archived - {fiscal_year}),
            **told,
            **stamp.fields(),
        )

    def restore(self, stamp: Stamp, *, fiscal_years: list[str], manifest: str, is_put_back: bool = False) -> None:
        """Note that rows of years were brought back: to be read, or to where they were (`is_put_back`).

        Raises:
            ConflictError: some are not archived.
        """
        self._check_allowed("Restored")
        if here := set(fiscal_years) - self.years_archived:
            raise ConflictError(f"Rows of job {self.id} in {', '.join(sorted(here))} are not in cold storage.")
        told = {"fiscal_years": fiscal_years, "manifest": manifest, "is_put_back": is_put_back}
        self.trigger_event(self.Restored, **told, **stamp.fields())

    def erase_name(self, stamp: Stamp, *, erasure: UUID) -> None:
        """Note that what names the file was erased: the key, by which it could be read, is destroyed.

        Raises:
            ConflictError: the job may have to read its file again, or its name was erased before.
        """
        self._check_allowed("NameErased")
        if self.waiting or self.name_erased:
            what = "waits for its next attempt" if self.waiting else "has no file name left to erase"
            raise ConflictError(f"Job {self.id} {what}.", "Cancel it, or wait until it has ended." * self.waiting)
        self.trigger_event(self.NameErased, erasure=str(erasure), **stamp.fields())

    def _check_allowed(self, event: str) -> None:
        if self.waiting and event in WAITING_ALLOWS:
            return
        if self.status not in ALLOWED[event]:
            allowed = ", ".join(sorted(ALLOWED[event]))
            raise ConflictError(f"Job {self.id} is {self.status}; {event} is possible only from {allowed}.")
