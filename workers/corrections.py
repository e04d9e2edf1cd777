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
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from ledger.blobs import BlobStore
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.settlement import Settlement
from ledger.errors import FileRefusedError
from ledger.year_records import year_to_decide_about
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


@dataclass(frozen=True)
class Correction:
    """What a correction comes to: the records that it has loaded, by their numbers in the job that it corrects."""

    records: set[int]
    settlement: Settlement


def correction_of(workshop: Workshop, session: Session, job: FileJob) -> Correction | None:
    """What a job of which every chunk is loaded corrects, None if nothing.

    Until the session's transaction ends, nobody else settles rejects of the corrected job.
    """
    if job.corrects is None or job.plan is None or not job.all_chunks_loaded:
        return None
    settlement = workshop.ledger.settle(session, job.corrects, workshop.stamp(job))
    rejected = set(records_rejected(session, job.corrects))
    refused_again = set(records_rejected(session, job.id))
    loaded = {number for record, number in _numbers(workshop, job, sorted(rejected)) if record not in refused_again}
    return Correction(loaded & rejected, settlement)


def brought_twice(job: FileJob, correction: Correction) -> FileRefusedError | None:
    """What fails a correction with records that are settled already (rule 4)."""
    twice = sorted(correction.records & correction.settlement.settled)
    if not twice:
        return None
    return FileRefusedError(
        "records_settled",
        f"{job.filename!r} brings {len(twice):,} records that are settled already. The first: record {twice[0]:,} of"
        f" job {job.corrects}.",
        f"See what became of them: `ledger jobs rejects {job.corrects}`. Send the others. Nothing of this file stays"
        " loaded.",
    )


def settle_corrected(workshop: Workshop, session: Session, job: FileJob, correction: Correction) -> None:
    """Settle the rejects that a completed correction has corrected, in the session's transaction."""
    if correction.settlement.correct(workshop.stamp(job), by_job=job.id, records=correction.records):
        workshop.ledger.save(correction.settlement, session=session)


def adjusted_year(workshop: Workshop, session: Session, job: FileJob) -> FiscalYear:
    """The year whose late records a completed adjustment has posted, with the news of it, which is not saved yet."""
    stamp, corrected = workshop.stamp(job), job.corrects
    assert corrected is not None, "an adjustment corrects a job"
    [posted_in] = job.came_to()["fiscal_years"]
    year = year_to_decide_about(workshop.ledger, session, job.adjustment["fiscal_year"], stamp, workshop.calendar)
    year.post_adjustment(
        stamp,
        job=corrected,
        dataset=workshop.ledger.job(corrected).dataset,
        records=job.records,
        posted_in=posted_in,
        by_job=job.id,
        reason=job.adjustment["reason"],
    )
    return year


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
