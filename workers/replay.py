"""Replaying a job: reading its file again as it was read, and comparing all that comes of it with what the log says.

Rules:
1. Nothing is written but into a folder that is thrown away: neither rows, nor rejects, nor blobs. A damaged blob stays
   as it is, for it is evidence.
2. The plan and the contract are those that the job's last Queued pins, and the chunks those that were loaded by it, of
   a job that was cancelled or has failed since as well. Where a chunk ends is told by the size that chunks had, not by
   the settings of today.
3. What differs is told, each with what the log says and what was found, and the rest is compared all the same: as far
   as there is something to compare. Places that are not whole are told once, and the rejects that stand at them are
   only counted.
4. A reader that is another version now than then is told, and is no difference by itself.
5. The result goes into the log and names no file: a refusal is told by its code, for its message can quote a name. The
   file of an erased name was read by that name, so neither text nor plan is made of it again: those that were kept are
   compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from ledger.blobs import BlobStore, FolderBlobStore, sha256_of
from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.domain.reconciliation import LoadedChunk, add_digests
from ledger.errors import ConflictError, FileRefusedError, NotFoundError
from projections.chunk import ChunkContent
from projections.data_tables import CopiedRows
from projections.formats.splitter import Chunk, Plan
from projections.loading import checked_content, loaded_chunk
from projections.plans import PLAN_BYTES_MAX, BlobDamagedError, places_of
from projections.rejects import RAW_BYTES_MAX, Reject, rejects_of
from projections.replaying import Story, differences, loaded_file, story_of, take_out_what_the_ledger_refused
from projections.views import Order
from workers.beside_store import BesideStore, copy_blob
from workers.plan import text_to_load
from workers.texts import Text
from workers.trailers import with_trailer
from workers.transcription import is_read_as_it_is
from workers.workshop import Workshop

READ_BYTES = 1 << 20
DIFFERENCES_TOLD_MAX = 100
# Which partitions took the rows, only the table knows.
BUT = frozenset({"fiscal_years"})


class NeverPlannedError(ConflictError):
    """Nothing was made of a job's file."""


@dataclass
class Findings:
    """What differs: what it is, of which chunk if of one, what the log says, and what was found."""

    differences: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0

    def compare(self, what: str, expected: Any, got: Any, chunk: int | None = None) -> bool:
        """Note it if something differs; whether it is equal."""
        if expected == got:
            return True
        self.total += 1
        if len(self.differences) < DIFFERENCES_TOLD_MAX:
            self.differences.append({"what": what, "chunk": chunk, "expected": expected, "got": got})
        return False


def replay_job(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Replay a job; what it came to.

    Raises:
        NotFoundError: there is no such job.
        NeverPlannedError: it was never planned, so that there is nothing to replay.
        PartUnavailableError: the blob store or PostgreSQL cannot be reached.
        LedgerError: the process that reads the file was killed.
    """
    job = workshop.ledger.job(UUID(order.arguments["job_id"]))
    return _Replay(workshop, job, order).result()


class _Replay:
    def __init__(self, workshop: Workshop, job: FileJob, order: Order) -> None:
        events = workshop.ledger.events_of(job.id)
        self._workshop, self._job, self._order = workshop, job, order
        self._story: Story = story_of(events)
        if not self._story.plans:
            raise NeverPlannedError(f"Job {job.id} was never planned.", "There is nothing to replay before it is.")
        self._queued = self._story.plans[-1]
        version = self._queued.originator_version
        later: list[Any] = [logged.event for logged in events if logged.event.originator_version > version]
        self._chunks = [event for event in later if isinstance(event, FileJob.ChunkLoaded)]
        self._completed = next((event for event in later if isinstance(event, FileJob.Completed)), None)
        self._position = events[-1].position
        self._found = Findings()

    def result(self) -> dict[str, Any]:
        """Compare everything."""
        queued, blobs = self._queued, self._workshop.blobs
        contract = self._contract()
        whole = self._is_whole("file", self._story.received.sha256)
        for what, sha256 in (("plan", queued.plan), ("transcript", queued.transcript)):
            if sha256 is not None:
                self._is_whole(what, sha256)
        kept = _plan_in(blobs, queued.plan)
        made = self._made_again(contract, kept) if whole and not self._job.name_erased else None
        plan = kept or (None if made is None else made.plan)
        got = [] if plan is None else self._chunks_again(contract, plan)
        if self._completed is not None:
            self._compare_completed(self._completed, got)
        return {
            "job_id": str(self._job.id),
            "equal": self._found.total == 0,
            "differences": self._found.differences,
            "differences_total": self._found.total,
            "chunks": len(self._chunks),
            "records": sum(event.records for event in self._chunks),
            "rows_loaded": sum(event.rows_loaded for event in self._chunks),
            "parser_version": queued.parser_version,
            "parser_version_now": None if made is None else made.made.parser_version,
            "name_erased": self._job.name_erased,
            "position": self._position,
        }

    def _contract(self) -> Contract:
        dataset = self._workshop.ledger.dataset(self._story.received.dataset)
        assert dataset is not None, "a job with a plan has a dataset"
        contract = dataset.contracts[self._queued.contract_version - 1]
        self._found.compare("contract", self._queued.contract_digest, contract.digest())
        return contract

    def _is_whole(self, what: str, sha256: str) -> bool:
        return self._found.compare(what, sha256, sha256_of(self._workshop.blobs, sha256))

    def _made_again(self, contract: Contract, kept: Plan | None) -> Text | None:
        """The text and the plan, made of the file again; None if that cannot be done."""
        queued, found = self._queued, self._found
        with self._beside(kept) as workshop:
            try:
                made = text_to_load(workshop, self._job, contract)
                if self._job.corrects is None:
                    made = with_trailer(workshop.blobs, made, contract)
            except (FileRefusedError, BlobDamagedError, NotFoundError) as error:
                found.compare("reading", "as it was read", error.code)
                return None
        found.compare("transcript made again", queued.transcript, made.made.transcript)
        found.compare("dialect", queued.dialect, made.dialect.to_dict())
        found.compare("trailer", queued.trailer, dict(made.trailer))
        found.compare("plan made again", queued.plan, made.plan.digest())
        return made

    @contextmanager
    def _beside(self, kept: Plan | None) -> Iterator[Workshop]:
        """A workshop that writes into a folder of its own, and cuts chunks as large as they were."""
        workshop, received = self._workshop, self._story.received
        with TemporaryDirectory(prefix="ledger-replay-", dir=workshop.settings.scratch_folder) as folder:
            blobs = Path(folder) / "blobs"
            beside = FolderBlobStore(blobs)
            if self._queued.transcript is not None or not is_read_as_it_is(
                workshop.blobs, received.sha256, received.reading
            ):
                copy_blob(workshop.blobs, received.sha256, received.size, beside)  # a reader finds it only there
            settings = workshop.settings.model_copy(
                update={"blobs_url": blobs.as_uri(), "chunk_bytes": self._chunk_bytes(kept)}
            )
            yield replace(workshop, blobs=BesideStore(workshop.blobs, beside), settings=settings)

    def _chunk_bytes(self, kept: Plan | None) -> int:
        """What a chunk aimed to be: all but the last one are that long or longer, by less than a record."""
        cut = [(event.chunk, event.end - event.start) for event in self._chunks]
        if kept is not None:
            cut = [(chunk.number, chunk.size) for chunk in kept.chunks]
        whole = [size for number, size in cut if number < self._queued.chunks_total - 1]
        alone = max((size for _, size in cut), default=1)
        return min(whole) if whole else max(alone, self._workshop.settings.chunk_bytes)

    def _chunks_again(self, contract: Contract, plan: Plan) -> list[LoadedChunk | None]:
        """What the chunks come to now; None for one whose bytes are others."""
        whole = plan.places is None or self._is_whole("places", plan.places)
        are_placed = whole or plan.corrects  # the places of a correction say what it corrects, not where it stands
        return [self._chunk(event, contract, plan, are_placed) for event in self._chunks]

    def _chunk(
        self, event: FileJob.ChunkLoaded, contract: Contract, plan: Plan, are_placed: bool
    ) -> LoadedChunk | None:
        found, chunk = self._found, plan.chunks[event.chunk] if event.chunk < len(plan.chunks) else None
        file = loaded_file(self._story, self._queued, plan, self._workshop.calendar)
        data = _range(self._workshop.blobs, file.text, event.start, event.end)
        equal = found.compare("sha256", event.sha256, hashlib.sha256(data).hexdigest(), event.chunk)
        place = None if chunk is None else [chunk.start, chunk.end]
        if not found.compare("range", [event.start, event.end], place, event.chunk) or chunk is None or not equal:
            return None
        content = checked_content(file, contract, chunk, data)
        with self._workshop.ledger.transaction() as session:
            take_out_what_the_ledger_refused(session, file, content)
        got = loaded_chunk(file, content, data, CopiedRows(len(content.good), []))
        for name, expected, is_now in differences(event, got, but=BUT):
            found.compare(name, expected, is_now, event.chunk)
        kept = self._rejects_kept(chunk)
        found.compare("rejects that are kept", event.rows_rejected, len(kept), event.chunk)
        if are_placed:
            self._compare_rejects(kept, content, plan)
        self._order.tell({"events": event.chunk + 1, "position": event.end, "log_position": self._job.text_size})
        return got

    def _rejects_kept(self, chunk: Chunk) -> dict[int, Reject]:
        """The rejects that are kept of a chunk, by record."""
        numbers = chunk.record_numbers
        with self._workshop.ledger.transaction() as session:
            kept = rejects_of(
                session, self._job.id, after_record=numbers.start - 1, before_record=numbers.stop, limit=len(numbers)
            )
        return {reject.record: reject for reject in kept}

    def _compare_rejects(self, kept: dict[int, Reject], content: ChunkContent, plan: Plan) -> None:
        """Compare each reject that is kept with the record as the file has it; never say what stands there."""
        chunk, told_apart = content.chunk, content.flaws and not plan.corrects
        made = content.rejects(places_of(self._workshop.blobs, plan, chunk) if told_apart else None)
        for reject in made:
            there = kept.get(reject.record)
            equal = there is not None and _as_sent(there) == _as_sent(reject)
            says = "as it was sent" if equal else "otherwise"
            self._found.compare(f"the reject of record {reject.record}", "as it was sent", says, chunk.number)

    def _compare_completed(self, completed: FileJob.Completed, got: list[LoadedChunk | None]) -> None:
        """Compare what the chunks add up to with the end of the job."""
        chunks = [chunk for chunk in got if chunk is not None]
        if len(chunks) < len(got) or not got:
            return  # that is told of the chunks already
        found = self._found
        for name in ("records", "rows_loaded", "rows_rejected", "rows_skipped"):
            found.compare(f"{name} of the file", getattr(completed, name), sum(getattr(each, name) for each in chunks))
        if completed.row_set_digest is not None:
            digest = add_digests(str(chunk.row_set_digest) for chunk in chunks)
            found.compare("row_set_digest of the file", completed.row_set_digest, digest)


def _as_sent(reject: Reject) -> tuple[Any, ...]:
    """What of a reject follows from the file alone; why it was refused is told in the words of then."""
    return reject.line, reject.byte_offset, reject.byte_length, reject.raw[:RAW_BYTES_MAX], reject.code


def _range(blobs: BlobStore, sha256: str, start: int, end: int) -> bytes:
    """The bytes of a range of a blob, those that there are."""
    data = b""
    try:
        while start + len(data) < end and (more := blobs.read(sha256, start + len(data), end - start - len(data))):
            data += more
    except NotFoundError:
        pass  # which was told of the blob
    return data


def _plan_in(blobs: BlobStore, sha256: str) -> Plan | None:
    """The plan of that digest, if that is what is kept under it."""
    try:
        data = blobs.read(sha256, 0, PLAN_BYTES_MAX)
    except NotFoundError:
        return None
    return Plan.from_json(data) if hashlib.sha256(data).hexdigest() == sha256 else None
