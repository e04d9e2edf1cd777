"""The plan of a file: make text of it, find its dialect, pin its contract, split it into chunks, write all that down.

One transaction makes the dataset and its table (if the file is the first of its dataset), appends Queued and
forgets the work. The chunks themselves are a blob, named by the digest that Queued pins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ledger import telemetry
from ledger.blobs import put
from ledger.database import lock, lock_job
from ledger.domain.contract import Contract
from ledger.domain.dataset import Dataset
from ledger.domain.evolution import misfit
from ledger.domain.filejob import FileJob
from ledger.domain.words import Status
from ledger.errors import FileRefusedError
from ledger.failpoints import failpoint
from projections.data_tables import DataTable, create
from projections.formats.blocks import Read
from projections.formats.dialect import Dialect
from projections.formats.header import column_names
from projections.formats.recognise import TEXT
from projections.formats.splitter import Plan
from projections.inference import infer
from projections.plans import read_plan
from projections.transcribe import Transcription
from workers.corrections import cut_correction
from workers.leases import Work, end_overtaken, fence, finish
from workers.texts import Text, cut, text_of
from workers.trailers import with_trailer
from workers.workshop import Workshop, discard

SAMPLE_BYTES_EACH = 256 << 10


@dataclass(frozen=True)
class Examined:
    """What was found out about a file."""

    transcription: Transcription
    dialect: Dialect
    plan: Plan
    contract: Contract
    trailer: dict[str, Any] = field(default_factory=dict)  # the control totals that its last record tells


def plan_file(workshop: Workshop, work: Work) -> None:
    """Plan a job's file.

    Raises:
        FileRefusedError: the file cannot be read, or does not fit its dataset's contract.
        LeaseLostError: another worker has taken over.
    """
    job = workshop.ledger.job(work.job_id)
    if job.plan is not None or job.status not in (Status.RECEIVED, Status.RETRIED):
        discard(workshop, work)
        return
    attributes = {telemetry.JOB_ID: str(job.id), telemetry.JOB_SIZE_BYTES: job.size, telemetry.ATTEMPT: work.attempt}
    with telemetry.span(telemetry.SPAN_PLAN, attributes) as span:
        dataset = workshop.ledger.dataset(job.dataset)
        examined = _examine(workshop, job, dataset)
        span.set_attribute(telemetry.CHUNK_COUNT, len(examined.plan.chunks))
        while not _write_down(workshop, work, examined, dataset):
            dataset = workshop.ledger.dataset(job.dataset)
            examined = _examine(workshop, job, dataset)


def text_to_load(workshop: Workshop, job: FileJob, contract: Contract | None) -> Text:
    """The text of a job's file that is loaded: of a correction, what is left without its error columns.

    Args:
        contract: that of its dataset, None if there is none yet.

    Raises:
        FileRefusedError: the file cannot be read.
        PartUnavailableError: the blob store cannot be reached.
    """
    settings, blobs = workshop.settings, workshop.blobs
    found = text_of(blobs, job.sha256, job.size, job.filename, settings, job.reading, contract)
    if job.corrects is None or found.made.format != TEXT:
        return found
    correction = cut_correction(blobs, found.sha256, found.dialect, found.plan)
    if correction is None:
        return found
    text, places, size = correction
    made = replace(found.made, layers=[*found.made.layers, "correction"], transcript=text, text_size=size)
    corrected = read_plan(blobs, str(workshop.ledger.job(job.corrects).plan))
    plan = replace(cut(blobs, text, size, found.dialect, settings), places=places, corrects=True)
    plan = replace(plan, own_null=corrected.own_null, writing=corrected.writing)
    return replace(found, made=made, sha256=text, size=size, plan=plan)


def _examine(workshop: Workshop, job: FileJob, dataset: Dataset | None) -> Examined:
    settings, blobs = workshop.settings, workshop.blobs
    found = text_to_load(workshop, job, None if dataset is None else dataset.contract)
    made, text, dialect, plan = found.made, found.sha256, found.dialect, found.plan
    if plan.records == 0:
        raise FileRefusedError(
            "no_records",
            f"{job.filename!r} has a header and no record after it.",
            "If nothing was to be delivered, there is nothing to do; else send the file again with its records.",
            line=1,
            byte_offset=plan.data_start,
        )
    if dataset is None:
        samples = _samples(partial(blobs.read, text), plan, settings.sample_bytes_max)
        return Examined(made, dialect, plan, infer(plan.header, samples, dialect, transcript=made.places is not None))
    _check_contract(dataset, plan)
    if job.corrects is None:
        found = with_trailer(blobs, found, dataset.contract)
        return Examined(made, dialect, found.plan, dataset.contract, dict(found.trailer))
    return Examined(made, dialect, plan, dataset.contract)


def _check_contract(dataset: Dataset, plan: Plan) -> None:
    if plan.header is None:
        return  # without names only the number of columns can be wrong, and COPY tells that with the record
    found = misfit(dataset.contract, column_names(plan.header))
    if found:
        raise FileRefusedError(
            "contract_differs",
            f"The header does not fit the contract of dataset {dataset.name!r} (version {dataset.contract_version}): "
            + " ".join(found),
            "Correct the header, or send the file into a dataset of its own.",
            line=1,
        )


def _samples(read: Read, plan: Plan, bytes_max: int) -> Iterator[bytes]:
    """Record-aligned pieces from the whole file: all of a small one, beginnings of chunks of a large one."""
    total = sum(chunk.end - chunk.start for chunk in plan.chunks)
    each = total if total <= bytes_max else max(SAMPLE_BYTES_EACH, bytes_max // len(plan.chunks))
    step = max(1, len(plan.chunks) * each // bytes_max) if total > bytes_max else 1
    for chunk in plan.chunks[::step]:
        size = min(each, chunk.end - chunk.start)
        piece = read(chunk.start, size)
        yield piece if size == chunk.end - chunk.start else piece[: piece.rfind(b"\n") + 1]


def _write_down(workshop: Workshop, work: Work, examined: Examined, dataset: Dataset | None) -> bool:
    """Commit the plan; False, and nothing is written, if the contract is another one than that it was made for."""
    ledger, made = workshop.ledger, examined.transcription
    plan_digest = put(workshop.blobs, examined.plan.to_json())
    failpoint("plan_stored")
    with ledger.transaction() as session:
        end_overtaken(session, work)
        job = ledger.job(work.job_id)
        lock(session, f"dataset {job.dataset}")
        current = ledger.dataset(job.dataset)
        if current is not None and (dataset is None or current.contract_version != dataset.contract_version):
            return False
        lock_job(session, job.id)
        fence(session, work)
        job = ledger.job(work.job_id)
        stamp = workshop.stamp(job)
        if current is None:
            current = Dataset.register(stamp, name=job.dataset, contract=examined.contract, inferred_from=str(job.id))
        create(session, DataTable(job.dataset, examined.contract))
        job.queue(
            stamp,
            format=made.format if made.format != TEXT else examined.dialect.format,
            dialect=examined.dialect.to_dict(),
            parser_version=made.parser_version,
            contract_version=current.contract_version,
            contract_digest=current.contract.digest(),
            plan=plan_digest,
            data_start=examined.plan.data_start,
            chunks_total=len(examined.plan.chunks),
            records=examined.plan.records,
            transcript=made.transcript,
            text_size=made.text_size,
            trailer=examined.trailer,
        )
        finish(session, work)
        with telemetry.span(telemetry.SPAN_APPEND):
            ledger.save(*_with_news(current, job), session=session)
        failpoint("plan_appended")
    failpoint("plan_committed")
    return True


def _with_news(*aggregates: Dataset | FileJob) -> list[Dataset | FileJob]:
    return [aggregate for aggregate in aggregates if aggregate.pending_events]
