"""What the oracle reads: one snapshot of everything that PostgreSQL holds, by plain SQL, and the blobs' folder.

Nothing here goes through the code under test, so that a mistake of that code cannot hide itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import psycopg2
from psycopg2 import extensions, sql

from tests.stack import Stack

ENDED = {"filejob.completed", "filejob.cancelled", "filejob.archived", "filejob.restored"}


@dataclass(frozen=True)
class StoredRow:
    """An event as it stands in the log."""

    position: int
    stream: UUID
    version: int
    topic: str
    raw: bytes

    @property
    def state(self) -> dict[str, Any]:
        """The event's own fields."""
        fields: dict[str, Any] = json.loads(self.raw)
        return fields


@dataclass(frozen=True)
class Item:
    """A piece of work that is due, leased, or waits for its time."""

    job: UUID
    stage: str
    chunk: int
    is_leased: bool
    due_in_seconds: float | None  # None: never


@dataclass(frozen=True)
class RowsOfJob:
    """What a data table holds of one job."""

    rows: int
    distinct_records: int
    first_record: int
    last_record: int


@dataclass(frozen=True)
class Record:
    """Everything at one moment."""

    streams: dict[UUID, list[StoredRow]]
    arrivals: dict[UUID, tuple[int, str, str]]  # position, dataset, sha256
    items: dict[UUID, list[Item]]
    tables: dict[str, dict[int, RowsOfJob]]  # by dataset and `_job`
    followed: int  # how far the dispatcher has followed the log
    last_position: int
    jobs: dict[UUID, list[StoredRow]] = field(init=False)

    def __post_init__(self) -> None:
        jobs = {id: rows for id, rows in self.streams.items() if rows[0].topic.startswith("filejob.")}
        object.__setattr__(self, "jobs", jobs)


def has_ended(rows: list[StoredRow]) -> bool:
    """Whether nothing more happens to a job by itself: it came to an end, or failed for good."""
    last = rows[-1]
    return last.topic in ENDED or (last.topic == "filejob.failed" and last.state["retry_at"] is None)


def since_last_plan(rows: list[StoredRow]) -> list[StoredRow]:
    """The last Queued event of a job and what came after it; nothing if there is none."""
    plans = [place for place, row in enumerate(rows) if row.topic == "filejob.queued"]
    return rows[plans[-1] :] if plans else []


def read_record(stack: Stack) -> Record:
    """Read everything in one snapshot."""
    connection = psycopg2.connect(stack.database_url())
    connection.set_session(isolation_level=extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
    try:
        with connection, connection.cursor() as cursor:
            streams = _streams(cursor)
            cursor.execute("SELECT job_id, position, dataset, sha256 FROM ledger.arrivals")
            arrivals = {UUID(job): (position, dataset, sha256) for job, position, dataset, sha256 in cursor}
            cursor.execute("SELECT coalesce(max(position), 0) FROM work.positions WHERE name = 'dispatcher'")
            [(followed,)] = cursor.fetchall()
            last = max((row.position for rows in streams.values() for row in rows), default=0)
            return Record(streams, arrivals, _items(cursor), _tables(cursor), followed, last)
    finally:
        connection.close()


def blob_folder(stack: Stack) -> Path | None:
    """Where the blobs are; None if they are in a bucket."""
    url = stack.environment.get("LEDGER_BLOBS_URL")
    if url is None:
        return stack.home / "blobs"
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _streams(cursor: Any) -> dict[UUID, list[StoredRow]]:
    cursor.execute(
        "SELECT id, originator_id, originator_version, topic, state FROM ledger.stored_events "
        "ORDER BY originator_id, originator_version"
    )
    streams: dict[UUID, list[StoredRow]] = defaultdict(list)
    for position, stream, version, topic, state in cursor:
        streams[UUID(stream)].append(StoredRow(position, UUID(stream), version, topic, bytes(state)))
    return dict(streams)


def _items(cursor: Any) -> dict[UUID, list[Item]]:
    cursor.execute(
        "SELECT job_id, stage, chunk, coalesce(leased_until > clock_timestamp(), false), "
        "CASE WHEN isfinite(due_at) THEN extract(epoch FROM due_at - clock_timestamp())::float END FROM work.items"
    )
    items: dict[UUID, list[Item]] = defaultdict(list)
    for job, *rest in cursor:
        items[UUID(job)].append(Item(UUID(job), *rest))
    return dict(items)


def _tables(cursor: Any) -> dict[str, dict[int, RowsOfJob]]:
    cursor.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'data' AND c.relkind = 'p'"
    )
    tables = {}
    for (name,) in cursor.fetchall():
        cursor.execute(
            sql.SQL(
                "SELECT _job, count(*), count(DISTINCT _record), min(_record), max(_record) FROM data.{} GROUP BY _job"
            ).format(sql.Identifier(name))
        )
        tables[name] = {job: RowsOfJob(*counts) for job, *counts in cursor}
    return tables
