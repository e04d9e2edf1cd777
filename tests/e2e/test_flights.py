"""A real file, sent with the command line: every value of it stands in PostgreSQL, once."""

from __future__ import annotations

import csv
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack

RECORDS = 336_776
SAMPLED = (1, 2, 3, 838, 100_000, 168_388, 200_001, 336_775, 336_776)
NULL_TOKEN = "NA"


@pytest.fixture(scope="module")
def task(stack: Stack, flights: Path) -> dict[str, Any]:
    """The flights, loaded as a user loads them."""
    result = stack.run("load", str(flights), "--dataset", "flights", "--wait", "--json")
    assert result.returncode == 0, result.stderr
    tasks = json.loads(result.stdout)
    assert len(tasks) == 1
    return dict(tasks[0])


@pytest.fixture(scope="module")
def records(flights: Path) -> list[dict[str, str]]:
    """The flights as the csv module reads them."""
    with flights.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def job(stack: Stack, task: dict[str, Any]) -> int:
    """What the rows of the job carry as `_job`."""
    [(job,)] = stack.sql("SELECT position FROM ledger.arrivals WHERE job_id = %s", task["task_id"])
    return int(job)


def test_every_record_of_the_flights_is_loaded_and_none_rejected(task: dict[str, Any], flights: Path) -> None:
    assert task["status"] == "Completed"
    assert task["filename"] == "flights.csv"
    assert task["dataset"] == "flights"
    assert task["size"] == flights.stat().st_size
    assert (task["records"], task["rows_loaded"], task["rows_rejected"]) == (RECORDS, RECORDS, 0)
    assert task["chunks_loaded"] == task["chunks_total"] > 1
    assert task["duplicate"] is False
    assert task["error"] is None


@pytest.mark.parametrize("column", ["distance", "air_time"])
def test_sums_in_the_table_equal_sums_over_the_file(
    stack: Stack, job: int, records: list[dict[str, str]], column: str
) -> None:
    expected = sum((Decimal(record[column]) for record in records if record[column] != NULL_TOKEN), Decimal(0))
    [(found,)] = stack.sql(f"SELECT sum({column}) FROM data.flights WHERE _job = %s", job)
    assert found == expected != 0


def test_each_column_has_as_many_nulls_as_the_file_has_missing_values(
    stack: Stack, job: int, records: list[dict[str, str]]
) -> None:
    missing = Counter(name for record in records for name, value in record.items() if value == NULL_TOKEN)
    counts = ", ".join(f"count(*) FILTER (WHERE {name} IS NULL)" for name in records[0])
    [found] = stack.sql(f"SELECT {counts} FROM data.flights WHERE _job = %s", job)
    assert dict(zip(records[0], found, strict=True)) == {name: missing[name] for name in records[0]}
    assert missing.total() > 0


def test_each_record_number_stands_once(stack: Stack, job: int) -> None:
    [found] = stack.sql(
        "SELECT count(*), count(DISTINCT _record), min(_record), max(_record) FROM data.flights WHERE _job = %s", job
    )
    assert found == (RECORDS, RECORDS, 1, RECORDS)


def test_the_row_of_a_record_equals_its_line_of_the_file(stack: Stack, job: int, records: list[dict[str, str]]) -> None:
    names = list(records[0])
    found = stack.sql(
        f"SELECT _record, {', '.join(names)} FROM data.flights WHERE _job = %s AND _record = ANY(%s) ORDER BY _record",
        job,
        list(SAMPLED),
    )
    assert [row[0] for row in found] == list(SAMPLED)
    for number, *values in found:
        record = records[number - 1]  # record 1 is line 2: the header is line 1
        for name, value in zip(names, values, strict=True):
            assert _written(value, record[name]) == record[name], (number, name)


def test_the_same_file_again_is_the_same_task(stack: Stack, task: dict[str, Any], flights: Path) -> None:
    before = stack.sql("SELECT count(*) FROM data.flights")
    again = stack.json("load", str(flights), "--dataset", "flights", "--wait")
    assert [(one["task_id"], one["duplicate"]) for one in again] == [(task["task_id"], True)]
    assert stack.sql("SELECT count(*) FROM data.flights") == before


def test_the_same_file_again_is_refused_when_the_sender_wants_that(
    stack: Stack, task: dict[str, Any], flights: Path
) -> None:
    result = stack.run("load", str(flights), "--dataset", "flights", "--on-duplicate", "reject", "--json")
    assert result.returncode == 5
    assert task["task_id"] in result.stderr
    assert "allow" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_file_again_is_a_second_job_when_the_sender_wants_that(
    stack: Stack, task: dict[str, Any], flights: Path
) -> None:
    [again] = stack.json("load", str(flights), "--dataset", "flights", "--wait", "--on-duplicate", "allow")
    assert again["task_id"] != task["task_id"]
    assert (again["status"], again["duplicate"]) == ("Completed", False)
    found = stack.sql("SELECT _job, count(*), count(DISTINCT _record), max(_record) FROM data.flights GROUP BY _job")
    assert [row[1:] for row in found] == [(RECORDS, RECORDS, RECORDS)] * 2


def _written(value: Any, example: str) -> str:
    """A value of the table as the file writes it."""
    if value is None:
        return NULL_TOKEN
    if hasattr(value, "isoformat"):
        text = str(value.isoformat(sep="T" if "T" in example else " "))
        return text.replace("+00:00", "Z") if example.endswith("Z") else text
    return str(value)
