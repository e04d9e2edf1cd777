"""The end of a fiscal year by the command line, as two accountants go through it: three datasets, one with rejects.

The archive is in a bucket of our double of S3, where calls fail on the way; what is cold there is restored when the
test lets time pass. Meanwhile somebody reads the year after it, and what is read there never changes.
`LEDGER_TEST_FLIGHTS` is how many flights there are (8,400 by default; all of them are 336,776).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import pytest
from psycopg2 import sql
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from api.cli.client import ExitCode
from archive.held_rows import NO_ROWS, HeldRows, held_rows
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from tests.e2e.conftest import Running
from tests.e2e.reader import Reader
from tests.s3_servers import new_bucket, s3_environment_of
from tests.stack import Stack
from tests.strict_s3.faults import Fault
from tests.strict_s3.objects import COLD, Bucket
from tests.strict_s3.server import StrictS3
from tests.waiting import wait_until

FLIGHTS = int(os.environ.get("LEDGER_TEST_FLIGHTS", "8400"))
YEAR = "FY2012-13"
NEXT_YEAR = "time_hour >= '2013-04-01T00:00:00Z'"
NULL = "NA"
TEXTS = frozenset({"carrier", "tailnum", "origin", "dest"})
# OPERATION -> what meets one of its calls, and after how many. What is flipped in a lock ends an attempt of a worker.
ARCHIVING = {
    "PutObject": (Fault.LOST_ANSWER, 3),
    "HeadObject": (Fault.SLOW_DOWN, 5),
    "PutObjectRetention": (Fault.FLIPPED_REQUEST, 4),
}
DROPPING = {"HeadObject": (Fault.RESET, 2), "GetObject": (Fault.SLOW_DOWN, 1)}
RESTORING = {"RestoreObject": (Fault.LOST_ANSWER, 0), "GetObject": (Fault.CUT_ANSWER, 2)}
VERIFYING = {"GetObject": (Fault.SLOW_DOWN, 3), "HeadObject": (Fault.LOST_ANSWER, 3)}
RESTORED_IN = timedelta(hours=12)
PHASES = ("before", "close", "run", "verify", "drop", "restore", "copy", "release", "after")


@pytest.fixture(scope="module")
def s3() -> Iterator[StrictS3]:
    with StrictS3() as double, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment_of(double.url).items():
            patch.setenv(name, value)
        patch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
        yield double


@pytest.fixture(scope="module")
def bucket(s3: StrictS3) -> Bucket:
    return s3.operations.buckets[new_bucket()]


@pytest.fixture(scope="module")
def ledger(running: Running, s3: StrictS3, bucket: Bucket) -> Iterator[Stack]:
    [name] = s3.operations.buckets
    with running({**s3_environment_of(s3.url), "LEDGER_ARCHIVE_URL": f"s3://{name}/books"}) as stack:
        yield stack


@contextmanager
def failing(s3: StrictS3, faults: dict[str, tuple[Fault, int]]) -> Iterator[None]:
    """Let a fault meet a call of some operations, once so many have worked. Each has to have happened in the end."""
    for operation, (fault, after) in faults.items():
        s3.faults.arm(fault, operation, after=after)
    yield
    assert not s3.faults.is_armed


def contract(fields: list[tuple[str, str]]) -> dict[str, Any]:
    columns = [{"name": name, "type": kind, "nullable": name != "time_hour"} for name, kind in fields]
    return {"columns": columns, "null_token": NULL, "fiscal_date_column": "time_hour", "rejects_max": "50%"}


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def contracts(ledger: Stack, flights: Path) -> dict[str, Contract]:
    """The contract of each dataset, registered."""
    with flights.open() as file:
        names = file.readline().strip().split(",")
    values = {
        "flights": contract(
            [(name, "text" if name in TEXTS else "bigint") for name in names[:-1]] + [("time_hour", "timestamptz")]
        ),
        "delays": contract([("dep_delay", "bigint"), ("time_hour", "timestamptz")]),
        "bookings": contract([("number", "bigint"), ("time_hour", "timestamptz")]),
    }
    with ledger.http() as http:
        for name, each in values.items():
            answer = http.put(f"/api/v1/datasets/{name}", json=each)
            assert answer.is_success, answer.text
    return {name: Contract.from_dict(each) for name, each in values.items()}


@pytest.fixture(scope="module")
def tasks(
    ledger: Stack, contracts: dict[str, Contract], flights: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """Flights, their delays, and bookings of which some are wrong; each of two fiscal years."""
    folder = tmp_path_factory.mktemp("files")
    header, *records = flights.read_text().splitlines()
    sample = records[:: max(1, len(records) // FLIGHTS)]
    third = len(sample) // 3
    delays = [",".join((row.split(",")[5], row.split(",")[18])) for row in sample]
    bookings = [f"{number},{row.split(',')[18]}" for number, row in enumerate(sample[:third])]
    bookings[7] = f"seven,{sample[7].split(',')[18]}"
    files = {
        "flights": [
            write(folder / "flights-1.csv", [header, *sample[:third]]),
            write(folder / "flights-2.csv", [header, *sample[third:]]),
        ],
        "delays": [write(folder / "delays.csv", ["dep_delay,time_hour", *delays])],
        "bookings": [write(folder / "bookings.csv", ["number,time_hour", *bookings])],
    }
    return {name: ledger.json("load", *map(str, paths), "--dataset", name, "--wait") for name, paths in files.items()}


@pytest.fixture(scope="module")
def keys(ledger: Stack) -> list[str]:
    made = [ledger.json("keys", "create", name, "--role", "accountant") for name in ("Anna", "Bert")]
    return [each["key"] for each in made]


def run(ledger: Stack, key: str, *arguments: str) -> Any:
    """A command of `ledger archive`, as one of the accountants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ledger.environment, "LEDGER_API_KEY", key)
        return ledger.json("archive", *arguments)


class Content(NamedTuple):
    """What a table comes to: by PostgreSQL, and by the rules by which the log tells of rows."""

    rows: int
    sums: dict[str, Any]  # of each column of numbers
    fingerprint: int
    held: HeldRows  # with the digest of the set of rows, and the control totals of each column


def content(ledger: Stack, schema: str, table: str, contract: Contract) -> Content:
    numbers = [column.name for column in contract.columns if column.type.value == "bigint"]
    names = [*(column.name for column in contract.columns), "_job", "_record"]
    [(rows, fingerprint, *sums)] = ledger.sql(
        f"SELECT count(*), sum(hashtextextended(ROW({', '.join(names)})::text, 0)),"
        f" {', '.join(f'sum({name})' for name in numbers)} FROM {schema}.{table}"
    )
    engine, found = create_engine(ledger.database_url()), [NO_ROWS]
    with Session(engine) as session:
        name = sql.Identifier(schema, table)
        held_rows(session, name, lambda job: contract.columns, lambda job, held: found.append(held))
    engine.dispose()
    return Content(rows, dict(zip(numbers, sums, strict=True)), fingerprint, sum(found, NO_ROWS))


def partition(name: str) -> str:
    return f"{name}__{YEAR.lower().replace('-', '_')}"


def check_manifest(ledger: Stack, bucket: Bucket, folder: Path, before: dict[str, Content]) -> None:
    """The manifest tells of these rows, and the auditor's script finds everything as it was signed."""
    kept = bucket.all("books/v1/")
    assert len(kept) == len({each.key for each in kept})
    for each in kept:
        path = folder / each.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.data)
    [path] = folder.glob(f"books/v1/*/{YEAR}/g0001/MANIFEST.json")
    manifest = json.loads(path.read_bytes())
    assert {each["dataset"]: each["rows"] for each in manifest["tables"]} == {
        name: each.rows for name, each in before.items()
    }
    key = ledger.run("audit", "key").stdout.strip()
    verifying = ["sh", str(path.parent / "verify.sh"), key, str(path.parent)]
    told = subprocess.run(verifying, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def check_drop_needs_the_name_of_the_year(ledger: Stack, key: str) -> None:
    """By the command line and by HTTP, a drop that is confirmed with another year drops nothing."""
    before = run(ledger, key, "status", YEAR)
    assert before["state"] == "verified"
    assert ledger.run("archive", "drop", YEAR, "--yes", "FY2011-12").returncode == ExitCode.USAGE
    with ledger.http(key=key) as http:
        answer = http.post(f"/api/v1/archive/years/{YEAR}/drop", json={"confirm": "FY2011-12"})
    assert (answer.status_code, answer.json()["code"]) == (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request")
    assert run(ledger, key, "status", YEAR) == before


def restore(ledger: Stack, key: str, s3: StrictS3, bucket: Bucket) -> str:
    """Bring the year back; the schema of the copy. Twelve hours pass as soon as all is asked for."""
    asked = run(ledger, key, "restore", YEAR, "--days", "2", "--reason", "an audit")
    parts = [each for each in bucket.all("books/v1/") if "/data/" in each.key]
    wait_until(lambda: all(map(bucket.is_being_restored, parts)), "not all is asked for")
    s3.clock.advance(RESTORED_IN)

    def is_restored() -> bool:
        """Nobody looks again by himself so soon."""
        ledger.sql("UPDATE work.items SET due_at = clock_timestamp() WHERE job_id = %s", asked["operation_id"])
        return bool(run(ledger, key, "status", YEAR)["copy"] == "restored")

    wait_until(is_restored, "it is not restored")
    return str(run(ledger, key, "status", YEAR)["copy_schema"])


def restore_by_hand(s3: StrictS3, bucket: Bucket) -> None:
    """What an auditor does who wants every object to be read."""
    for each in bucket.all("books/v1/"):
        if each.storage_class in COLD:
            bucket.restore(each, 2, "Standard")
    s3.clock.advance(RESTORED_IN)


def files_are_told(ledger: Stack, tasks: dict[str, list[dict[str, Any]]], topic: str) -> bool:
    events = [ledger.json("jobs", "events", task["task_id"]) for each in tasks.values() for task in each]
    return all(topic in [event["type"] for event in told] for told in events)


def test_a_year_goes_into_cold_storage_and_comes_back_the_same_while_others_read_the_next(
    ledger: Stack,
    s3: StrictS3,
    bucket: Bucket,
    contracts: dict[str, Contract],
    tasks: dict[str, list[dict[str, Any]]],
    keys: list[str],
    tmp_path: Path,
) -> None:
    anna, bert = keys
    assert {task["status"] for each in tasks.values() for task in each} == {"Completed"}
    assert [sum(task["rows_rejected"] for task in each) for each in tasks.values()] == [0, 0, 1]
    before = {name: content(ledger, "data", partition(name), each) for name, each in contracts.items()}
    assert all(each.rows for each in before.values())
    with Reader(ledger, "data.flights", NEXT_YEAR, tasks["flights"][1]["task_id"]) as reader:
        with reader.during("before"):
            planned = run(ledger, anna, "close", YEAR, "--dry-run")
            assert planned["in_the_way"] == []
        with reader.during("close"):
            closed = run(ledger, anna, "close", YEAR, "--yes", YEAR)
            assert closed["rows"] == planned["rows"] == sum(each.rows for each in before.values())
        with reader.during("run"), failing(s3, ARCHIVING):
            estimate = run(ledger, anna, "run", YEAR, "--dry-run")
            assert (estimate["rows"], estimate["files"]) == (closed["rows"], sum(map(len, tasks.values())))
            assert run(ledger, anna, "run", YEAR)["state"] == "verified"
        with reader.during("verify"):
            assert {name: content(ledger, "data", partition(name), contracts[name]) for name in before} == before
            check_manifest(ledger, bucket, tmp_path, before)
            check_drop_needs_the_name_of_the_year(ledger, bert)
        with reader.during("drop"), failing(s3, DROPPING):
            assert run(ledger, bert, "drop", YEAR, "--yes", YEAR)["state"] == "dropped"
            assert {content(ledger, "data", partition(name), contracts[name]).rows for name in before} == {0}
            assert files_are_told(ledger, tasks, "filejob.archived")
        with reader.during("restore"), failing(s3, RESTORING):
            schema = restore(ledger, anna, s3, bucket)
        with reader.during("copy"):
            copies = {name: content(ledger, schema, name, each) for name, each in contracts.items()}
            assert copies == before
            wait_until(lambda: files_are_told(ledger, tasks, "filejob.restored"), "not all files are told")
        with reader.during("release"):
            assert run(ledger, anna, "release", YEAR)["copy"] == "none"
            assert ledger.sql("SELECT to_regnamespace(%s)", schema) == [(None,)]
        with reader.during("after"), failing(s3, VERIFYING):
            restore_by_hand(s3, bucket)
            assert ledger.json("archive", "verify", YEAR, "--content")["holds"] is True
            verified = ledger.json("audit", "verify", "--level", "archives", "--sample", "3")
            assert (verified["holds"], len(verified["archives"][0]["sample"])) == (True, 3), verified
    assert list(reader.reads) == list(PHASES)
    assert all(reader.reads.values()), reader.reads


def test_a_year_whose_grace_is_over_is_proposed_by_itself_and_said_to_be_in_its_status(
    ledger: Stack, tasks: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    calendar = FiscalCalendar.parse("04-01", "UTC")
    then = calendar.of_day(datetime.now(UTC).date() - timedelta(days=30))
    ended = calendar.of_day(then.start - timedelta(days=1))
    file = write(tmp_path / "more.csv", ["number,time_hour", f"1,{ended.start}T12:00:00Z"])
    ledger.json("load", str(file), "--dataset", "bookings", "--wait")
    assert ledger.json("archive", "status", ended.label)["is_proposed"] is False
    ledger.sql("DELETE FROM work.schedule WHERE name = 'close_year'")  # as if nobody had looked for an hour
    wait_until(lambda: ledger.json("archive", "status", ended.label)["is_proposed"], "nobody proposes it")
    assert f"ledger archive close {ended.label} --dry-run" in ledger.run("archive", "status", ended.label).stderr
