"""The rules of the record as the oracle sees them, each a function from what was read to what is wrong with it.

Rules:
1. What may follow what is told twice: by the domain's own table and classes, and by `NEXT`, which knows nothing of
   them. Both must agree with the log.
2. A job's rows are compared with its events, its events with its file's bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Mapper, StoredEvent

from ledger.domain.filejob import FileJob
from ledger.domain.filejob_states import ALLOWED, WAITING_ALLOWS
from tests.faults.record import Record, RowsOfJob, StoredRow, has_ended, since_last_plan
from tests.golden.examples import mapper

WAITING = {"failed to retry", "chunk_loaded while waiting"}
ENDS_EARLY = {"failed to retry", "failed for good", "cancelled"}

# STATE -> the states that may follow. A Failed event is one of two, as is a Retried one.
NEXT: dict[str | None, set[str]] = {
    None: {"received"},
    "received": {"queued"} | ENDS_EARLY,
    "queued": {"chunk_loaded"} | ENDS_EARLY,
    "chunk_loaded": {"chunk_loaded", "completed"} | ENDS_EARLY,
    "failed to retry": {"retried plan", "retried load", "chunk_loaded while waiting", "failed for good", "cancelled"},
    "chunk_loaded while waiting": {"retried load", "chunk_loaded while waiting", "failed for good", "cancelled"},
    "failed for good": {"retried plan", "cancelled"},
    "retried plan": {"queued"} | ENDS_EARLY,
    "retried load": {"chunk_loaded", "completed"} | ENDS_EARLY,
    "completed": {"archived"},
    "cancelled": set(),
    "archived": {"restored"},
    "restored": {"restored"},
}


def wrong_in_log(record: Record) -> Iterator[str]:
    """Streams without gaps, one job per arrival, and no story that could not have happened."""
    for stream, rows in record.streams.items():
        versions = [row.version for row in rows]
        if versions != list(range(1, len(rows) + 1)):
            yield f"I1: stream {stream} has the versions {versions}"
        positions = [row.position for row in rows]
        if positions != sorted(set(positions)):
            yield f"I1: stream {stream} has the positions {positions}"
    for job, rows in record.jobs.items():
        yield from _wrong_in_story(job, rows)
        yield from _wrong_in_replay(job, rows)
    yield from _wrong_in_arrivals(record)


def _wrong_in_story(job: UUID, rows: list[StoredRow]) -> Iterator[str]:
    before: str | None = None
    for row in rows:
        state = _state_of(row)
        if state == "chunk_loaded" and before in WAITING:
            state = "chunk_loaded while waiting"
        if state not in NEXT[before]:
            yield f"I3: job {job} was {before} and then {state}, at version {row.version}"
            return
        before = state


def _wrong_in_replay(job: UUID, rows: list[StoredRow]) -> Iterator[str]:
    replayed: Any = None
    for row in rows:
        event: Any = event_of(row)
        name = type(event).__name__
        if isinstance(replayed, FileJob) and not _allows(replayed, name):
            yield f"I3: the domain does not allow {name} of job {job} while it is {replayed.status}"
            return
        try:
            replayed = event.mutate(replayed)
        except Exception as error:  # whatever the domain refuses is a finding
            yield f"I3: the domain cannot replay version {row.version} of job {job}: {error!r}"
            return


def _allows(job: FileJob, name: str) -> bool:
    return job.status in ALLOWED[name] or (job.waiting and name in WAITING_ALLOWS)


def _wrong_in_arrivals(record: Record) -> Iterator[str]:
    received = {
        job: (row.position, row.state["dataset"], row.state["sha256"])
        for job, rows in record.jobs.items()
        for row in rows
        if row.topic == "filejob.received"
    }
    for job in received.keys() | record.arrivals.keys():
        if received.get(job) != record.arrivals.get(job):
            yield f"I4: job {job} is {received.get(job)} in the log and {record.arrivals.get(job)} in the arrivals"
    for job, rows in record.jobs.items():
        count = sum(row.topic == "filejob.received" for row in rows)
        if count != 1:
            yield f"I4: job {job} was received {count} times"


def wrong_in_rows(record: Record) -> Iterator[str]:
    """Each job's rows are what its events say, and there are no others."""
    jobs_of_table: dict[str, set[int]] = {}
    for job, rows in record.jobs.items():
        received = rows[0]
        if received.topic != "filejob.received":
            continue  # I3 and I4 tell of it, and its rows have no owner
        dataset = received.state["dataset"]
        jobs_of_table.setdefault(dataset, set()).add(received.position)
        if rows[-1].topic in ("filejob.archived", "filejob.restored"):
            continue  # where its rows are is the archive's to tell
        there = record.tables.get(dataset, {}).get(received.position, RowsOfJob(0, 0, 0, 0))
        yield from _wrong_in_rows_of(job, rows, there)
    for dataset, found in record.tables.items():
        for unknown in found.keys() - jobs_of_table.get(dataset, set()):
            yield f"I5: data.{dataset} has {found[unknown].rows} rows of a job {unknown} that it should not have"


def _wrong_in_rows_of(job: UUID, rows: list[StoredRow], there: RowsOfJob) -> Iterator[str]:
    chunks = [row.state for row in since_last_plan(rows) if row.topic == "filejob.chunk_loaded"]
    withdrawn = _state_of(rows[-1]) in ("failed for good", "cancelled") or not _keeps_chunks(rows)
    expected = 0 if withdrawn else sum(chunk["rows_loaded"] for chunk in chunks)
    if there.rows != expected:
        yield f"I5: job {job} has {there.rows} rows, its events say {expected} (it is {_state_of(rows[-1])})"
    records = sum(chunk["records"] for chunk in chunks)
    if there.distinct_records != there.rows:
        yield f"I5: job {job} has {there.rows} rows of {there.distinct_records} records"
    complete = rows[-1].topic == "filejob.completed"
    if there.rows and (there.first_record < 1 or (complete and there.last_record > records)):
        yield f"I5: job {job} has records {there.first_record} to {there.last_record} of {records}"
    if complete:
        yield from _wrong_in_completed(job, rows)


def _keeps_chunks(rows: list[StoredRow]) -> bool:
    """Whether the chunks since the last plan still count: no failure for good came after them."""
    return not any(_state_of(row) == "failed for good" for row in since_last_plan(rows))


def _wrong_in_completed(job: UUID, rows: list[StoredRow]) -> Iterator[str]:
    planned = since_last_plan(rows)
    if not planned:
        yield f"I5: job {job} completed without a plan"
        return
    queued, end = planned[0].state, rows[-1].state
    chunks = [row.state for row in planned if row.topic == "filejob.chunk_loaded"]
    chunks.sort(key=lambda chunk: int(chunk["chunk"]))
    numbers = [chunk["chunk"] for chunk in chunks]
    if numbers != list(range(queued["chunks_total"])):
        yield f"I5: job {job} completed with the chunks {numbers} of {queued['chunks_total']}"
    edges = [queued["data_start"], *(chunk["end"] for chunk in chunks)]
    if [chunk["start"] for chunk in chunks] != edges[:-1] or edges[-1] != rows[0].state["size"]:
        yield f"I5: the chunks of job {job} do not cover its bytes: {[(c['start'], c['end']) for c in chunks]}"
    first_record = 1
    for chunk in chunks:
        if chunk["first_record"] != first_record:
            yield f"I5: chunk {chunk['chunk']} of job {job} begins at {chunk['first_record']}, not {first_record}"
        first_record += chunk["records"]
        if chunk["records"] != chunk["rows_loaded"] + chunk["rows_rejected"] + chunk["rows_skipped"]:
            yield f"I5: the counts of chunk {chunk['chunk']} of job {job} do not close"
    sums = {name: sum(chunk[name] for chunk in chunks) for name in ("records", "rows_loaded", "rows_rejected")}
    if any(end[name] != total for name, total in sums.items()) or queued["records"] != sums["records"]:
        yield f"I5: job {job} completed with {end}, its chunks add up to {sums}, its plan says {queued['records']}"


def wrong_in_work(record: Record) -> Iterator[str]:
    """Whoever has not ended has work, whoever has ended has none."""
    for job, rows in record.jobs.items():
        if has_ended(rows) and job in record.items:
            yield f"I6: job {job} has ended ({rows[-1].topic}) and still has the work {record.items[job]}"
        if not has_ended(rows) and job not in record.items:
            yield f"I6: job {job} ({rows[-1].topic}) is stuck: it has no work"
        if not has_ended(rows):
            for item in record.items.get(job, []):
                if not item.is_leased and item.due_in_seconds is None:
                    yield f"I6: job {job} is stuck: {item} is never due"
    for job in record.items.keys() - record.streams.keys():  # an operation has work, too
        yield f"I6: there is work for a job {job} that nobody sent"


def wrong_in_blobs(record: Record, folder: Path) -> Iterator[str]:
    """Every blob that the log names is there, is what its name says, and its chunks are what was loaded."""
    for job, rows in record.jobs.items():
        names = {row.state[name] for row in rows for name in ("sha256", "plan") if name in _blob_fields(row)}
        for name in names:
            path = folder / name[:2] / name
            if not path.is_file():
                yield f"blob {name} of job {job} is lost"
            elif hashlib.sha256(path.read_bytes()).hexdigest() != name:
                yield f"blob {name} of job {job} has changed"
            elif name == rows[0].state.get("sha256"):
                yield from _wrong_in_chunk_digests(job, rows, path.read_bytes())


def _wrong_in_chunk_digests(job: UUID, rows: list[StoredRow], data: bytes) -> Iterator[str]:
    for row in rows:
        if row.topic == "filejob.chunk_loaded":
            state = row.state
            if hashlib.sha256(data[state["start"] : state["end"]]).hexdigest() != state["sha256"]:
                yield f"I5: chunk {state['chunk']} of job {job} is not those bytes of its file"


def event_of(row: StoredRow) -> Any:
    """The domain's own event behind a stored one."""
    return _mapper().to_domain_event(StoredEvent(row.stream, row.version, row.topic, row.raw))


def _blob_fields(row: StoredRow) -> tuple[str, ...]:
    return {"filejob.received": ("sha256",), "filejob.queued": ("plan",)}.get(row.topic, ())


def _state_of(row: StoredRow) -> str:
    name = row.topic.removeprefix("filejob.")
    if name == "failed":
        return "failed for good" if row.state["retry_at"] is None else "failed to retry"
    return f"retried {row.state['stage']}" if name == "retried" else name


@cache
def _mapper() -> Mapper[UUID]:
    return mapper()
