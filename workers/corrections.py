"""Corrections: files of rejects that came back, from the cut of their error columns to the settlement of the rejects.

Rules:
1. A file that says which job it corrects, and whose header is that of a correction, is loaded without its error
   columns: its transcript is what is left, and its places say which record each corrects.
2. Without that header a correction settles every open reject of the job, but only if it brings as many records.
3. Rejects are settled in the transaction that completes the correction: those whose records it has loaded. A record
   that is refused again leaves its reject open.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sqlalchemy.orm import Session

from ledger.blobs import BlobStore
from ledger.domain.filejob import FileJob
from projections.formats.blocks import read_exactly
from projections.formats.correction import UNKNOWN, cut_header, cut_records, is_correction
from projections.formats.dialect import Dialect
from projections.formats.records import find_records
from projections.formats.splitter import Plan
from projections.formats.transcript import PLACE_BYTES
from projections.plans import places_of, read_plan
from projections.rejects import records_rejected
from workers.workshop import Workshop


def cut_correction(blobs: BlobStore, text: str, dialect: Dialect, plan: Plan) -> tuple[str, str, int] | None:
    """The digests of a correction's transcript and of its places, and the transcript's size; None if it is none."""
    if not is_correction(plan.header):
        return None
    read = partial(blobs.read, text)
    writer, places, size = blobs.writer(), blobs.writer(), 0
    try:
        header = cut_header(read_exactly(read, 0, plan.data_start), dialect)
        writer.write(header)
        size += len(header)
        for chunk in plan.chunks:
            for record, number in cut_records(find_records(read_exactly(read, chunk.start, chunk.size), dialect)):
                writer.write(record)
                places.write(number.to_bytes(PLACE_BYTES // 2, "little") + bytes(PLACE_BYTES // 2))
                size += len(record)
        return writer.finish(), places.finish(), size
    except BaseException:
        writer.abort()
        places.abort()
        raise


def settle_corrected(workshop: Workshop, session: Session, job: FileJob) -> None:
    """Settle the rejects that a completed correction has corrected, in the session's transaction."""
    if job.corrects is None or job.plan is None:
        return
    rejected = set(records_rejected(session, job.corrects))
    refused_again = set(records_rejected(session, job.id))
    corrected = {
        number for record, number in _numbers(workshop, job, sorted(rejected)) if record not in refused_again
    } & rejected
    settlement = workshop.ledger.settle(session, job.corrects, workshop.stamp(job))
    if settlement.correct(workshop.stamp(job), by_job=job.id, records=corrected):
        workshop.ledger.save(settlement, session=session)


def _numbers(workshop: Workshop, job: FileJob, rejected: list[int]) -> Iterator[tuple[int, int]]:
    """Each record of a correction, and the number of the record that it corrects."""
    assert job.plan is not None
    plan = read_plan(workshop.blobs, job.plan)
    if plan.corrects:
        for chunk in plan.chunks:
            places = places_of(workshop.blobs, plan, chunk) or []
            yield from zip(chunk.record_numbers, (place.offset for place in places), strict=True)
    else:
        numbers = rejected if len(rejected) == plan.records else [UNKNOWN] * plan.records
        yield from zip(range(1, plan.records + 1), numbers, strict=True)
