"""Clocks that are wrong: only PostgreSQL's decides about work, only versions about order, and a day has one zone.

A worker whose clock is off is a process of its own under libfaketime, which does what messages say as a child of
Celery does. Where the Debian package `faketime` is missing those tests are skipped; with
LEDGER_TEST_NOTHING_SKIPPED=1 they fail instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.base import Stamp
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.values import ColumnType
from ledger.domain.words import OnDuplicate, Stage, Status
from projections.status import fold_all
from tests.faults.faults import fault
from tests.golden.examples import MASTER_KEY
from tests.integration.place import ALL_ROWS, STAMP, Place, new_place
from workers.workshop import Workshop

HOUR_SECONDS = 3600
LEASE_SECONDS = 300.0
CHUNK_BYTES = 2048
LIBRARIES = Path("/usr/lib")
MISSING = "faketime is not installed on this machine; get it with: apt-get install faketime"
ZONE = "Asia/Kolkata"
UNDATED = Contract((Column("number", ColumnType.BIGINT),))
WORKER = """
import json, sys, time
from ledger import failpoints
from ledger.settings import Settings
from workers import tasks

settings = Settings()
failpoints.use(settings.failpoints)
tasks.enter(settings)
print(time.time(), flush=True)
for stage, job_id, chunk in json.loads(sys.argv[1]):
    getattr(tasks, stage)(job_id=job_id, chunk=chunk, published_at_seconds=time.time())
"""

Message = tuple[Stage, UUID, int]
RunWorker = Callable[..., float]


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return new_place(ledger, tmp_path, chunk_bytes=CHUNK_BYTES, lease_seconds=LEASE_SECONDS)


@pytest.fixture
def run_worker(ledger: Ledger, tmp_path: Path) -> RunWorker:
    """Does what messages say in a process that believes in another time; the time when it began, by its clock."""
    library = next(LIBRARIES.glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        if os.environ.get("LEDGER_TEST_NOTHING_SKIPPED") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)

    def run(clock: str, *messages: Message, dies: bool = False) -> float:
        environment = {
            "PATH": os.defpath,
            "TZ": "UTC",
            "LD_PRELOAD": str(library),
            "FAKETIME": clock,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "LEDGER_DATABASE_URL": ledger.engine.url.render_as_string(hide_password=False),
            "LEDGER_SUBJECT_KEY": MASTER_KEY,
            "LEDGER_BLOBS_URL": (tmp_path / "blobs").as_uri(),
            "LEDGER_CHUNK_BYTES": str(CHUNK_BYTES),
            "LEDGER_LEASE_SECONDS": str(LEASE_SECONDS),
            "LEDGER_TIME_ZONE": ZONE,
            "LEDGER_FAILPOINTS": str(tmp_path),
        }
        told = json.dumps([(stage.value, str(job_id), chunk) for stage, job_id, chunk in messages])
        result = subprocess.run(
            [sys.executable, "-c", WORKER, told], env=environment, capture_output=True, text=True, check=False
        )
        assert (result.returncode == 0) != dies, result.stderr
        return float(result.stdout)

    return run


def received_at(place: Place, at: datetime) -> UUID:
    """A file of one record without a date of its own, received at that time and loaded later."""
    place.ledger.register_dataset(place.dataset, UNDATED, STAMP)
    data = b"number\n1\n"
    arrival = Arrival(uuid4(), put(place.workshop.blobs, data), len(data), "sums.csv", "text/csv", place.dataset)
    stamp = Stamp(at, "admin", "request-1")
    place.ledger.receive([arrival], stamp, door="http", on_duplicate=OnDuplicate.ALLOW)
    place.follow()
    return arrival.job_id


def years_of_rows(place: Place) -> list[tuple[Any, ...]]:
    """Of each row the partition that it stands in, and the day it was received."""
    return place.query(f"SELECT tableoid::regclass::text, _received::text FROM data.{place.dataset}")


@fault(
    30,
    "the clock of a worker is an hour early or late when it asks what is due",
    protection="what is due is decided by PostgreSQL's clock",
    seen="with the process's clock: an hour late, it found nothing due",
)
@pytest.mark.parametrize("offset_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
def test_a_worker_whose_clock_is_off_takes_what_is_due_and_nothing_else(
    place: Place, run_worker: RunWorker, offset_seconds: int
) -> None:
    job_id = place.plan()
    assert place.claim(job_id, Stage.LOAD, 0, lease_seconds=LEASE_SECONDS) is not None
    place.query(
        "UPDATE work.items SET due_at = clock_timestamp() + interval '10 minutes'"
        " WHERE job_id = :job_id AND chunk = 1 RETURNING 1",
        job_id=job_id,
    )
    before = place.work(job_id)
    began = run_worker(f"{offset_seconds:+}", *[(Stage.LOAD, job_id, chunk) for chunk in range(3)])
    assert abs(began - time.time() - offset_seconds) < HOUR_SECONDS / 2, "its clock was not off"
    assert set(place.ledger.job(job_id).chunks) == {2}
    assert place.work(job_id) == [row for row in before if row[1] != 2]


@fault(
    30,
    "the clock of a worker is an hour early or late when it takes a lease",
    protection="a lease is counted by PostgreSQL's clock",
    seen="with the process's clock: the lease had ended before it began, and another took the work",
)
@pytest.mark.parametrize("offset_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
def test_the_lease_of_a_worker_whose_clock_is_off_lasts_as_long_as_any(
    place: Place, run_worker: RunWorker, tmp_path: Path, offset_seconds: int
) -> None:
    job_id = place.plan()
    (tmp_path / "work_claimed").write_text("kill")
    run_worker(f"{offset_seconds:+}", (Stage.LOAD, job_id, 0), dies=True)
    assert place.claim(job_id, Stage.LOAD, 0, lease_seconds=LEASE_SECONDS) is None
    [(left_seconds,)] = place.query(
        "SELECT extract(epoch FROM leased_until - clock_timestamp())::float FROM work.items"
        " WHERE job_id = :job_id AND chunk = 0",
        job_id=job_id,
    )
    assert 0 < left_seconds <= LEASE_SECONDS


@fault(
    30,
    "the clock goes back between two events of a job",
    protection="versions alone give the order of events",
    seen="with a view that skips events of an earlier time: it stayed Processing",
)
def test_what_happened_last_is_told_by_versions_and_not_by_clocks(place: Place, run_worker: RunWorker) -> None:
    job_id = place.plan()
    chunks = place.ledger.job(job_id).chunks_total
    run_worker(f"+{HOUR_SECONDS}", *[(Stage.LOAD, job_id, chunk) for chunk in range(chunks - 1)])
    place.perform(job_id, Stage.LOAD, chunks - 1)
    events = place.ledger.events_of(job_id)
    times = [logged.event.timestamp for logged in events]
    assert times != sorted(times), "no clock was off"
    assert place.events(job_id) == ["received", "queued", *["chunk_loaded"] * chunks, "completed"]
    document = fold_all(events)
    assert document is not None
    assert document["status"] == Status.COMPLETED
    assert place.ledger.job(job_id).status is Status.COMPLETED
    assert place.rows() == ALL_ROWS


@fault(
    31,
    "a file is received at the edge of two fiscal years",
    protection="the fiscal year of a file is taken from its day in the ledger's zone",
    seen="with UTC instead of the zone: the year before",
)
@pytest.mark.parametrize(
    ("at", "zone", "year", "day"),
    [
        (datetime(2026, 3, 31, 18, 29, 59, tzinfo=UTC), ZONE, "fy2025_26", "2026-03-31"),
        (datetime(2026, 3, 31, 18, 30, tzinfo=UTC), ZONE, "fy2026_27", "2026-04-01"),
        (datetime(2026, 3, 31, 23, 59, 59, 999999, tzinfo=UTC), "UTC", "fy2025_26", "2026-03-31"),
        (datetime(2026, 4, 1, tzinfo=UTC), "UTC", "fy2026_27", "2026-04-01"),
        # Clocks in New York were put forward three weeks before: its day ends four hours after that of UTC.
        (datetime(2026, 4, 1, 3, 59, 59, tzinfo=UTC), "America/New_York", "fy2025_26", "2026-03-31"),
        (datetime(2026, 4, 1, 4, 0, tzinfo=UTC), "America/New_York", "fy2026_27", "2026-04-01"),
    ],
)
def test_a_file_belongs_to_the_fiscal_year_in_which_it_was_received_by_the_zone_of_the_ledger(
    place: Place, at: datetime, zone: str, year: str, day: str
) -> None:
    there = Place(
        Workshop(place.ledger, place.workshop.blobs, place.workshop.settings, FiscalCalendar.parse("04-01", zone)),
        place.dataset,
    )
    job_id = received_at(there, at)
    there.perform(job_id, Stage.PLAN)
    there.follow()
    there.perform(job_id, Stage.LOAD)
    assert years_of_rows(there) == [(f"data.{there.dataset}__{year}", day)]
    loaded: Any = there.ledger.events_of(job_id)[-1].event
    assert loaded.fiscal_years == [year.upper().replace("_", "-")]


@fault(
    31,
    "a file is received in the last second of a fiscal year and loaded in the next",
    protection="the day is the day of receipt, which is in the event",
    seen="with the day of the load: the next year",
)
def test_a_file_of_the_last_second_of_a_year_stays_there_though_it_is_loaded_in_the_next(
    place: Place, run_worker: RunWorker
) -> None:
    job_id = received_at(place, datetime(2026, 3, 31, 18, 29, 59, tzinfo=UTC))
    began = run_worker("@2026-03-31 19:30:00", (Stage.PLAN, job_id, 0))
    assert datetime.fromtimestamp(began, UTC).isoformat().startswith("2026-03-31T19:")
    place.follow()
    run_worker("@2026-03-31 19:30:00", (Stage.LOAD, job_id, 0))
    assert place.ledger.job(job_id).status is Status.COMPLETED
    assert years_of_rows(place) == [(f"data.{place.dataset}__fy2025_26", "2026-03-31")]
