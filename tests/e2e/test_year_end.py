"""The end of a fiscal year by the command line, as two accountants go through it: three datasets, one with rejects."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running
from tests.stack import Stack

YEAR = "FY2012-13"
NULL = "NA"


@pytest.fixture(scope="module")
def ledger(running: Running) -> Iterator[Stack]:
    with running({}) as stack:
        yield stack


def contract(fields: list[tuple[str, str]]) -> dict[str, Any]:
    columns = [{"name": name, "type": kind, "nullable": name != "time_hour"} for name, kind in fields]
    return {"columns": columns, "null_token": NULL, "fiscal_date_column": "time_hour", "rejects_max": "50%"}


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tasks(ledger: Stack, flights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Flights, their delays, and bookings of which some are wrong; each of two fiscal years."""
    folder = tmp_path_factory.mktemp("files")
    header, *records = flights.read_text().splitlines()
    sample = records[::40]
    delays = [",".join((row.split(",")[5], row.split(",")[18])) for row in sample]
    bookings = [f"{number},{row.split(',')[18]}" for number, row in enumerate(sample[:500])]
    bookings[7] = f"seven,{sample[7].split(',')[18]}"
    files = {
        "flights": [
            write(folder / "flights-1.csv", [header, *sample[:3000]]),
            write(folder / "flights-2.csv", [header, *sample[3000:]]),
        ],
        "delays": [write(folder / "delays.csv", ["dep_delay,time_hour", *delays])],
        "bookings": [write(folder / "bookings.csv", ["number,time_hour", *bookings])],
    }
    texts = {"carrier", "tailnum", "origin", "dest"}
    kinds = [(name, "text" if name in texts else "bigint") for name in header.split(",")[:-1]]
    contracts = {
        "flights": contract([*kinds, ("time_hour", "timestamptz")]),
        "delays": contract([("dep_delay", "bigint"), ("time_hour", "timestamptz")]),
        "bookings": contract([("number", "bigint"), ("time_hour", "timestamptz")]),
    }
    loaded: dict[str, list[dict[str, Any]]] = {}
    with ledger.http() as http:
        for name, values in contracts.items():
            answer = http.put(f"/api/v1/datasets/{name}", json=values)
            assert answer.is_success, answer.text
    for name, paths in files.items():
        loaded[name] = ledger.json("load", *map(str, paths), "--dataset", name, "--wait")
    return loaded


@pytest.fixture(scope="module")
def keys(ledger: Stack) -> list[str]:
    made = [ledger.json("keys", "create", name, "--role", "accountant") for name in ("Anna", "Bert")]
    return [each["key"] for each in made]


def run(ledger: Stack, key: str, *arguments: str) -> Any:
    """A command of `ledger archive`, as one of the accountants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ledger.environment, "LEDGER_API_KEY", key)
        return ledger.json("archive", *arguments)


def count(ledger: Stack) -> dict[str, int]:
    where = "time_hour < '2013-04-01T00:00:00Z'"
    return {
        name: ledger.sql(f"SELECT count(*) FROM data.{name} WHERE {where}")[0][0]
        for name in ("flights", "delays", "bookings")
    }


def test_a_year_is_closed_archived_verified_and_dropped(
    ledger: Stack, tasks: dict[str, list[dict[str, Any]]], keys: list[str]
) -> None:
    anna, bert = keys
    assert {task["status"] for each in tasks.values() for task in each} == {"Completed"}
    assert sum(task["rows_rejected"] for task in tasks["bookings"]) == 1
    before = count(ledger)
    assert all(before.values())
    closed = run(ledger, anna, "close", YEAR, "--yes", YEAR)
    assert closed["rows"] == sum(before.values())
    estimate = run(ledger, anna, "run", YEAR, "--dry-run")
    assert (estimate["rows"], estimate["files"]) == (closed["rows"], len([t for each in tasks.values() for t in each]))
    archived = run(ledger, anna, "run", YEAR)
    assert (archived["state"], count(ledger)) == ("verified", before)
    folder = ledger.home / "archive"
    [manifest_path] = folder.glob(f"v1/*/{YEAR}/g0001/MANIFEST.json")
    manifest = json.loads(manifest_path.read_bytes())
    assert {each["dataset"]: each["rows"] for each in manifest["tables"]} == before
    key = ledger.run("audit", "key").stdout.strip()
    verifying = ["sh", str(manifest_path.parent / "verify.sh"), key, str(manifest_path.parent)]
    told = subprocess.run(verifying, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    refused = ledger.run("archive", "drop", YEAR, "--yes", "FY2011-12")
    assert refused.returncode != 0
    dropped = run(ledger, bert, "drop", YEAR, "--yes", YEAR)
    assert (dropped["state"], count(ledger)) == ("dropped", dict.fromkeys(before, 0))
    for task in (task for each in tasks.values() for task in each):
        events = ledger.json("jobs", "events", task["task_id"])
        assert "filejob.archived" in json.dumps(events) or "Archived" in json.dumps(events)
    verified = ledger.json("audit", "verify", "--level", "views")
    assert verified["holds"] is True, verified
