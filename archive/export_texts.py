"""Texts of an export: the books, the definitions, the log, and the snapshots. Each is lines of canonical JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.orm import Session

from archive.books import VERIFY, Balanced, Books, BooksDoNotBalanceError
from archive.closing import closed_partitions
from archive.definitions import definitions_of
from archive.export_run import Archiving, Part, Run, step
from archive.held_rows import NO_ROWS, HeldRows
from archive.log_lines import LogRange, log_lines
from archive.manifest import TextEntry, canonical
from archive.partitions import other_partitions
from archive.snapshots import snapshot_line
from archive.stores import StorageClass
from archive.text_files import TextWriter, check_text
from archive.year_jobs import YearJob, jobs_of
from archive.year_story import YearStory
from ledger import telemetry
from ledger.database import rows
from ledger.domain.dataset import dataset_id
from ledger.domain.fiscal_year import fiscal_year_id
from ledger.domain.reconciliation import add_totals, digest_text
from ledger.errors import ConflictError
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.failpoints import failpoint
from ledger.fiscal_years import dropped_years

EVENTS_IN_PART = 100_000
JOBS_IN_PART = 20_000
# The years that were dropped, of whose files some have rows in another one and do not know it yet.
UNTOLD = f"""
SELECT label FROM ledger.fiscal_years WHERE state = 'dropped' AND EXISTS (
    SELECT FROM {EVENTS_TABLE} completed
    CROSS JOIN LATERAL (SELECT convert_from(completed.state, 'UTF8')::jsonb -> 'fiscal_years' AS years) told
    WHERE completed.topic = 'filejob.completed' AND years ? label AND years ? :label
        AND NOT EXISTS (SELECT FROM {EVENTS_TABLE} archived
            WHERE archived.originator_id = completed.originator_id AND archived.topic = 'filejob.archived'
            AND convert_from(archived.state, 'UTF8')::jsonb -> 'fiscal_years' ? label))
ORDER BY label LIMIT 1
"""


def plan_events(session: Session, log: LogRange) -> list[Part]:
    """The log as parts, each of so many events at most."""
    found = rows(
        session,
        "SELECT min(id) AS first, max(id) AS last FROM"
        " (SELECT id, (row_number() OVER (ORDER BY id) - 1) / :most AS part"
        f" FROM {EVENTS_TABLE} WHERE id BETWEEN :first AND :last) numbered GROUP BY part ORDER BY part",
        most=EVENTS_IN_PART,
        first=log.first,
        last=log.last,
    )
    return [
        {"name": f"events/{number:05}", "kind": "events", "first": row.first, "last": row.last}
        for number, row in enumerate(found, 1)
    ]


def plan_snapshots(jobs: Iterable[YearJob]) -> list[Part]:
    """The aggregates of the year as parts: the datasets and the year in the first one, and jobs in all."""
    parts: list[Part] = []
    count = 0
    for count, job in enumerate(jobs):
        if count % JOBS_IN_PART == 0:
            parts.append({"kind": "snapshots", "first": job.job, "last": job.job})
        parts[-1]["last"] = job.job
    parts = parts or [{"kind": "snapshots", "first": 0, "last": 0}]
    return [{"name": f"snapshots/{number:05}", **part} for number, part in enumerate(parts, 1)]


def make_reconciliation(run: Run, parts: list[Part]) -> None:
    """Compare the rows of the year with the log, and keep a line for each job. Raises BooksDoNotBalanceError."""
    totals: dict[str, list[dict[str, Any]]] = {}
    balanced: dict[int, Balanced] = {}
    with run.ledger.transaction() as session:
        _check_told(session, run.year.label)
        books = Books(run.ledger, run.year.label, run.story.position, _archived(session))
        for closed in closed_partitions(run.year):
            partition = closed.partition
            with step(telemetry.SPAN_ARCHIVE_BALANCE, run.year.label) as span:
                others = other_partitions(session, partition)
                found = books.balance(session, partition.dataset, partition.table, others)
                rows_held = sum(each.held.rows for each in found)
                span.set_attributes({telemetry.TABLE: partition.dataset, telemetry.TABLE_ROWS: rows_held})
            balanced.update((each.job.job, each) for each in found)
            names = [column.name for column in partition.columns]
            totals[partition.dataset] = _totals(add_totals([each.held.totals for each in found]), names)
        lines = (
            _line(job, _balanced(run.year.label, job, balanced))
            for job in jobs_of(session, run.archiving.calendar, run.story)
        )
        _keep_text(run, parts[0], lines, StorageClass.STANDARD, totals=totals)


def _check_told(session: Session, label: str) -> None:
    """Raise ConflictError if files of the year have rows in one that was dropped, and were not told so yet."""
    for row in rows(session, UNTOLD, label=label):
        raise ConflictError(
            f"Files of {label} have rows in {row.label}, which was dropped, and not all of them were told.",
            f"Go on with that first: `ledger archive run {row.label}`.",
        )


def _balanced(label: str, job: YearJob, balanced: Mapping[int, Balanced]) -> Balanced | None:
    """What the rows of a job come to; None for one without rows of the year."""
    if job.job not in balanced and job.is_completed and label in job.fiscal_years:
        raise BooksDoNotBalanceError(
            f"Job {job.job_id} has rows of {label}, its events say, and dataset {job.dataset!r} has no table of that"
            " year.",
            VERIFY,
        )
    return balanced.get(job.job)


def make_definitions(run: Run, parts: list[Part]) -> None:
    """Keep what is needed to make the tables again, and to understand what stands in them."""
    datasets = [table["dataset"] for table in run.year.tables]
    contracts = {dataset: contract_versions(run.archiving, run.story, dataset) for dataset in datasets}
    text = definitions_of(run.year, contracts)
    _keep_text(run, parts[0], [text], StorageClass.STANDARD, ending="json.zst")


def make_events(run: Run, parts: list[Part]) -> None:
    """Keep the log."""
    for part in filter(run.is_missing, parts):
        with run.ledger.transaction() as session:
            lines = (line for _, line in log_lines(session, LogRange(part["first"], part["last"])))
            _keep_text(run, part, lines, run.storage_class)


def make_snapshots(run: Run, parts: list[Part]) -> None:
    """Keep where the datasets, the year and its jobs stood when it was closed."""
    until = run.story.position
    for part in filter(run.is_missing, parts):
        with run.ledger.transaction() as session:
            ids = [each.job_id for each in jobs_of(session, run.archiving.calendar, run.story)
                   if part["first"] <= each.job <= part["last"]]  # fmt: skip
            if part is parts[0]:
                datasets = [dataset_id(table["dataset"]) for table in run.year.tables]
                ids = [*datasets, fiscal_year_id(run.year.label), *ids]
            lines = (snapshot_line(run.ledger, session, each, until) for each in ids)
            _keep_text(run, part, lines, run.storage_class)


def contract_versions(archiving: Archiving, story: YearStory, dataset: str) -> list[dict[str, Any]]:
    """The contracts that a dataset had when the year was closed, the first of them first."""
    logged = archiving.ledger.events_of(dataset_id(dataset))
    events: list[Any] = [each.event for each in logged if each.position <= story.position]
    return [event.contract for event in events]


def _keep_text(
    run: Run,
    part: Part,
    lines: Iterable[bytes],
    storage_class: StorageClass,
    ending: str = "jsonl.zst",
    **facts: Any,
) -> None:
    path = run.spool / part["name"].replace("/", "-")
    with step(telemetry.SPAN_ARCHIVE_WRITE, run.year.label, part) as span:
        with TextWriter(path) as text:
            for line in lines:
                text.write(line)
        written = text.facts()
        check_text(path, written)
        span.set_attributes({telemetry.PART_BYTES: written.bytes, telemetry.PART_TEXT_BYTES: written.raw_bytes})
    failpoint("part_written")
    with step(telemetry.SPAN_ARCHIVE_PUT, run.year.label, part) as span:
        entry = run.volume.keep_text(part["name"], ending, path, written, storage_class, TextEntry)
        span.set_attribute(telemetry.PART_BYTES, entry.bytes)
    path.unlink()
    run.keep(part, entry, **facts)


def _line(job: YearJob, balanced: Balanced | None) -> bytes:
    held = NO_ROWS if balanced is None else balanced.held
    values = {
        "job": job.job,
        "job_id": str(job.job_id),
        "dataset": job.dataset,
        "sha256": job.sha256,
        "size": job.size_bytes,
        "is_completed": job.is_completed,
        "rows_loaded": 0 if balanced is None else balanced.job.rows_loaded,
        "fiscal_years": list(job.fiscal_years),
        "rows": held.rows,
        "row_set_digest": digest_text(held.digest),
        "totals": _totals(held.totals, sorted(held.totals)),
    }
    return canonical(values) + b"\n"


def _totals(totals: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    return [{"column": name, **totals[name]} for name in names if name in totals]


def _archived(session: Session) -> Any:
    """Tells what the rows of a job, by the position of its Received event, came to in years that are not here.

    A year that was reopened is here again, whatever was said of its rows when they went; and of one that went more
    than once the last time counts.
    """
    away = set(dropped_years(session))

    def told(job: int) -> HeldRows:
        latest = {tuple(each["fiscal_years"]): each for each in _archivings(session, job)}
        return sum((_held(each) for years, each in latest.items() if away.issuperset(years)), NO_ROWS)

    return told


def _archivings(session: Session, job: int) -> Iterator[dict[str, Any]]:
    for row in rows(
        session,
        f"SELECT e.state FROM {EVENTS_TABLE} e JOIN ledger.arrivals ON e.originator_id = job_id"
        " WHERE position = :job AND topic = 'filejob.archived' ORDER BY e.id",
        job=job,
    ):
        content = content_of(bytes(row.state))
        assert content is not None, "the log was verified before"
        if content.get("rows") is not None:
            yield content


def _held(content: dict[str, Any]) -> HeldRows:
    return HeldRows(content["rows"], int(content["row_set_digest"], 16), content["totals"])
