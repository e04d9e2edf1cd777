"""Every format that is read, through the whole ledger: the same records come to the same, and counts close."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.e2e.formats import COMPRESSORS, WRITERS, Record, as_csv, as_json_lines
from tests.stack import Stack

RECORDS = int(os.environ.get("LEDGER_TEST_FLIGHTS", "6000"))  # all of them are 336,776
SECONDS_MAX = 900  # for all of them as a workbook

TEXTS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})

Send = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def records(flights: Path) -> list[Record]:
    """The first flights, numbers as numbers."""
    with flights.open(newline="", encoding="utf-8") as file:
        return [
            {name: None if text == "NA" else text if name in TEXTS else int(text) for name, text in record.items()}
            for record in islice(csv.DictReader(file), RECORDS)
        ]


@pytest.fixture(scope="module")
def digest(stack: Stack, records: list[Record]) -> Iterator[str]:
    """What the flights come to as CSV."""
    with stack.http() as http:
        task = loaded(stack, http, "flights.csv", as_csv(records, null="NA"), "formats")
        yield reconciled(http, task, RECORDS)["row_set_digest"]


def loaded(stack: Stack, http: httpx2.Client, name: str, content: bytes, dataset: str) -> dict[str, Any]:
    """The task of a file that was sent, when it has ended well."""
    answer = http.put(f"/api/v1/files/{name}", content=content, params={"dataset": dataset})
    assert answer.status_code == httpx2.codes.ACCEPTED, answer.text
    task = stack.wait(answer.json()["tasks"][0]["task_id"], seconds_max=SECONDS_MAX)
    assert task["status"] == "Completed", task["error"]
    return task


def reconciled(http: httpx2.Client, task: dict[str, Any], records: int, rejected: int = 0) -> dict[str, Any]:
    """The reconciliation of a task whose numbers are these."""
    found: dict[str, Any] = http.get(f"/api/v1/jobs/{task['task_id']}/reconciliation").json()
    assert (found["records"], found["rows_loaded"], found["rows_rejected"]) == (records, records - rejected, rejected)
    assert found["closes"]
    assert found["bytes_covered"] == found["text_size"] - found["data_start"]
    return found


@pytest.mark.parametrize("extension", WRITERS)
def test_the_same_records_come_to_the_same_in_every_format(
    stack: Stack, http: httpx2.Client, records: list[Record], digest: str, extension: str
) -> None:
    task = loaded(stack, http, f"flights.{extension}", WRITERS[extension](records), "formats")
    assert reconciled(http, task, RECORDS)["row_set_digest"] == digest


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("written", ["csv", "ndjson"])
def test_compression_changes_nothing(
    stack: Stack, http: httpx2.Client, records: list[Record], digest: str, compression: str, written: str
) -> None:
    content = COMPRESSORS[compression](WRITERS[written](records))
    task = loaded(stack, http, f"flights.{written}.{compression}", content, "formats")
    assert reconciled(http, task, RECORDS)["row_set_digest"] == digest


def test_totals_are_those_of_the_file(stack: Stack, http: httpx2.Client, records: list[Record]) -> None:
    dataset = f"totals_{uuid4().hex[:8]}"
    totals = reconciled(http, loaded(stack, http, "t.csv", as_csv(records), dataset), RECORDS)["totals"]
    for name in ("distance", "air_time", "dep_delay"):
        values = [record[name] for record in records if record[name] is not None]
        assert totals[name] == {
            "count": len(values),
            "sum": str(sum(values)),
            "min": str(min(values)),
            "max": str(max(values)),
        }
    assert totals["time_hour"]["sum"] is None
    assert "carrier" not in totals


@pytest.mark.parametrize("extension", ["ndjson", "json", "xml"])
def test_a_row_leads_back_to_the_bytes_that_were_sent(
    stack: Stack, http: httpx2.Client, records: list[Record], extension: str
) -> None:
    dataset = f"origin_{uuid4().hex[:8]}"
    content = WRITERS[extension](records[:500])
    loaded(stack, http, f"o.{extension}", content, dataset)
    wanted = records[321]
    values = {name: str(wanted[name]) for name in ("carrier", "flight", "dep_time", "tailnum")}
    [found] = http.get(f"/api/v1/lineage/{dataset}", params=values).json()["rows"]
    origin = found["origin"]
    sent = content[origin["byte_offset"] : origin["byte_offset"] + origin["byte_length"]].decode()
    assert origin["record"] == 322
    assert all(value in sent for value in values.values())
    assert sent.lstrip().startswith("<record>" if extension == "xml" else "{")


def test_records_that_a_reader_cannot_read_are_rejects_with_what_was_sent(
    stack: Stack, http: httpx2.Client, records: list[Record]
) -> None:
    lines = as_json_lines(records[:100]).splitlines(keepends=True)
    lines[9] = b'{"year": 2013, "year": 2014}\n'
    lines[49] = b'{"year": 2013, broken\n'
    content = b"".join(lines)
    task = loaded(stack, http, "flawed.ndjson", content, f"flawed_{uuid4().hex[:8]}")
    reconciled(http, task, 100, rejected=2)
    first, second = stack.json("jobs", "rejects", task["task_id"])
    assert (first["record"], first["code"]) == (10, "name_twice")
    assert (second["record"], second["code"]) == (50, "json_invalid")
    for reject, line in ((first, lines[9]), (second, lines[49])):
        assert reject["raw"] == line.decode().rstrip("\n")
        assert content[reject["byte_offset"] :].startswith(line.rstrip(b"\n"))
