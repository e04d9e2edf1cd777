"""A file with bad records: each is told with its place and reason, comes back corrected, and the books are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack
from tests.waiting import wait_until

RECORDS = 3_000
HEADER = "payment,paid_on,amount,settled,at,note\n"
# What is wrong -> the record, the column it is about, and its code. `{n}` is the payment's number.
BAD: dict[str, tuple[str, str | None, str]] = {
    "too few fields": ("{n},2026-04-01,1.50,true\n", None, "record_malformed"),
    "too many fields": ("{n},2026-04-01,1.50,true,2026-04-01T10:00:00Z,x,y\n", None, "record_malformed"),
    "a quote inside a field": ('{n},2026-04-01,1.50,true,2026-04-01T10:00:00Z,say "so"\n', None, "quote_misplaced"),
    "leading zeros": ("0{n},2026-04-01,1.50,true,2026-04-01T10:00:00Z,x\n", "payment", "value_invalid"),
    "a number with underscores": ("1_{n},2026-04-01,1.50,true,2026-04-01T10:00:00Z,x\n", "payment", "value_invalid"),
    "a day that does not exist": ("{n},2026-02-30,1.50,true,2026-04-01T10:00:00Z,x\n", "paid_on", "date_invalid"),
    "a day in words": ("{n},today,1.50,true,2026-04-01T10:00:00Z,x\n", "paid_on", "date_invalid"),
    "an exponent": ("{n},2026-04-01,15e-1,true,2026-04-01T10:00:00Z,x\n", "amount", "value_invalid"),
    "a letter for true": ("{n},2026-04-01,1.50,t,2026-04-01T10:00:00Z,x\n", "settled", "value_invalid"),
    "infinity": ("{n},2026-04-01,1.50,true,infinity,x\n", "at", "date_invalid"),
    "beyond bigint": (
        "99999999999999999999,2026-04-01,1.50,true,2026-04-01T10:00:00Z,x\n",
        "payment",
        "value_out_of_range",
    ),
}
EVERY = 100  # a bad record in so many


def good(number: int) -> str:
    """A payment as it should be; some notes have two lines, so that lines and records differ."""
    note = f'"note {number},\nin two lines"' if number % 7 == 0 else f"note {number}"
    return f"{number},2026-04-{number % 28 + 1:02},{number}.{number % 90 + 10},true,2026-04-01T10:00:00Z,{note}\n"


def dirty() -> tuple[str, list[dict[str, Any]]]:
    """A file of which one record in a hundred is bad, and what has to be told of each."""
    text, line, expected = HEADER, 2, []
    kinds = list(BAD)
    for number in range(1, RECORDS + 1):
        record = good(number)
        if number % EVERY == 50:
            record, column, code = BAD[kinds[number // EVERY % len(kinds)]]
            record = record.format(n=number)
            expected.append({"record": number, "line": line, "column": column, "code": code, "raw": record})
        text += record
        line += record.count("\n")
    return text, expected


@pytest.fixture(scope="module")
def dataset(stack: Stack) -> str:
    """A dataset that knows its columns from a clean file."""
    name = f"payments_{uuid4().hex[:8]}"
    with stack.http() as http:
        sent(stack, http, name, "first.csv", HEADER + "".join(map(good, range(900_001, 900_101))))
    return name


@pytest.fixture(scope="module")
def refused(stack: Stack, dataset: str) -> dict[str, Any]:
    """The task of the dirty file."""
    with stack.http() as http:
        return sent(stack, http, dataset, "dirty.csv", dirty()[0])


def sent(
    stack: Stack, http: httpx2.Client, dataset: str, name: str, text: str, status: str = "Completed", **said: str
) -> dict[str, Any]:
    """The task of a file when it has ended."""
    answer = http.put(f"/api/v1/files/{name}", content=text.encode(), params={"dataset": dataset, **said})
    assert answer.status_code == httpx2.codes.ACCEPTED, answer.text
    task = stack.wait(answer.json()["tasks"][0]["task_id"])
    assert task["status"] == status, task["error"]
    return task


def totals(stack: Stack, dataset: str, *tasks: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the rows of some jobs come to, in all but the order."""
    return stack.sql(
        "SELECT count(*), sum(payment), sum(amount), min(paid_on), max(paid_on), count(DISTINCT note),"
        f" md5(string_agg(data::text, '' ORDER BY payment)) FROM (SELECT payment, paid_on, amount, settled, at, note"
        f" FROM data.{dataset} JOIN ledger.arrivals ON position = _job WHERE job_id = ANY(%s::uuid[])) AS data",
        [task["task_id"] for task in tasks],
    )


def test_every_bad_record_is_told_with_its_place_and_its_reason(stack: Stack, refused: dict[str, Any]) -> None:
    expected = dirty()[1]
    rejects = stack.json("jobs", "rejects", refused["task_id"])
    assert [{name: reject[name] for name in expected[0]} for reject in rejects] == expected
    assert {reject["code"] for reject in rejects} == {code for _, _, code in BAD.values()}
    assert (refused["rows_loaded"], refused["rows_rejected"]) == (RECORDS - len(expected), len(expected))
    text = dirty()[0].encode()
    for reject in rejects:
        assert text[reject["byte_offset"] :][: reject["byte_length"]].decode() == reject["raw"]
        assert reject["state"] == "open"


def test_corrected_records_close_their_rejects_and_the_books_are_those_of_the_clean_file(
    stack: Stack, http: httpx2.Client, dataset: str, refused: dict[str, Any], tmp_path: Path
) -> None:
    download = stack.run("jobs", "rejects", refused["task_id"], "--csv")
    assert download.returncode == 0, download.stderr
    header, *lines = download.stdout.splitlines(keepends=True)
    assert header == HEADER.rstrip("\n") + ",_record,_line,_column,_code,_reason\n"
    expected = dirty()[1]
    assert len(lines) == len(expected)
    corrected = header
    for line, reject in zip(lines, expected, strict=True):
        sent_before = reject["raw"].rstrip("\n")
        assert line.startswith(sent_before + f",{reject['record']},")
        corrected += good(reject["record"]).rstrip("\n") + line[len(sent_before) :]
    file = tmp_path / "corrections.csv"
    file.write_text(corrected)
    told = stack.run("load", str(file), "--dataset", dataset, "--corrects", refused["task_id"], "--wait", "--json")
    assert told.returncode == 0, told.stderr + told.stdout
    [correction] = json.loads(told.stdout)
    assert (correction["rows_loaded"], correction["rows_rejected"]) == (len(expected), 0)
    for reject in stack.json("jobs", "rejects", refused["task_id"]):
        assert (reject["state"], reject["settled_by_job"]) == ("corrected", correction["task_id"])
    clean_dataset = f"clean_{uuid4().hex[:8]}"
    clean = sent(stack, http, clean_dataset, "clean.csv", HEADER + "".join(map(good, range(1, RECORDS + 1))))
    assert totals(stack, dataset, refused, correction) == totals(stack, clean_dataset, clean)


def test_a_record_that_is_refused_again_leaves_its_reject_open(stack: Stack, http: httpx2.Client, dataset: str) -> None:
    records = [good(number) for number in range(1, 41)]
    records[4] = "5,never,1.50,true,2026-04-01T10:00:00Z,x\n"
    records[9] = "10,never,1.50,true,2026-04-01T10:00:00Z,x\n"
    first = sent(stack, http, dataset, "twice.csv", HEADER + "".join(records))
    header, *lines = stack.run("jobs", "rejects", first["task_id"], "--csv").stdout.splitlines(keepends=True)
    enough = "".join(good(number).rstrip("\n") + ",,,,,\n" for number in range(50_000, 50_020) if number % 7)
    text = header + lines[0].replace("never", "2026-04-09") + lines[1] + enough
    sent(stack, http, dataset, "again.csv", text, corrects=first["task_id"])
    states = [(reject["record"], reject["state"]) for reject in stack.json("jobs", "rejects", first["task_id"])]
    assert states == [(5, "corrected"), (10, "open")]


def test_rejects_that_are_not_wanted_are_waived_with_a_reason(stack: Stack, http: httpx2.Client, dataset: str) -> None:
    records = [good(number) for number in range(1, 41)]
    records[4] = records[9] = "x,2026-04-01,1.50,true,2026-04-01T10:00:00Z,x\n"
    task_id = sent(stack, http, dataset, "waived.csv", HEADER + "".join(records))["task_id"]
    path = f"/api/v1/jobs/{task_id}/rejects/waive"
    assert http.post(path, json={"reason": " "}).status_code == httpx2.codes.UNPROCESSABLE_CONTENT
    assert http.post(path, json={"reason": "x", "records": [6]}).status_code == httpx2.codes.NOT_FOUND
    told = stack.run("jobs", "waive", task_id, "--record", "5", "--reason", "a test payment")
    assert "1 rejects are waived" in told.stderr
    five, ten = stack.json("jobs", "rejects", task_id)
    assert (five["state"], five["settled_because"], ten["state"]) == ("waived", "a test payment", "open")
    assert http.post(path, json={"reason": "all"}).json()["waived"] == [10]
    assert http.post(path, json={"reason": "all"}).status_code == httpx2.codes.CONFLICT


def test_a_file_that_comes_to_something_else_than_its_sender_says_does_not_complete(
    stack: Stack, http: httpx2.Client, dataset: str
) -> None:
    text = HEADER + "".join(map(good, range(70_000, 70_100)))
    amount = sum(round((number + (number % 90 + 10) / 100) * 100) for number in range(70_000, 70_100))
    right = {"records": 100, "columns": {"amount": {"sum": f"{amount / 100:.2f}", "count": 100}}}
    sent(stack, http, dataset, "right.csv", text, control_totals=json.dumps(right))
    wrong = {"records": 101, "columns": {"amount": {"sum": "1.00"}, "nothing": {"count": 1}}}
    task = sent(stack, http, dataset, "wrong.csv", text + good(80_000), "Failed", control_totals=json.dumps(wrong))
    assert task["error"]["code"] == "control_totals_differ"
    assert "its sender says 1.00" in task["error"]["message"]
    assert "'nothing' is None" in task["error"]["message"]
    assert totals(stack, dataset, task)[0][0] == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"control_totals": "x"}, "no JSON"),
        ({"control_totals": "[]"}, "neither records nor columns"),
        ({"control_totals": '{"records": -1}'}, "no whole number"),
        ({"control_totals": '{"columns": {"a": {"mean": 1}}}'}, "mean"),
        ({"control_totals": '{"columns": {"a": {"sum": "x"}}}'}, "no number"),
        ({"corrects": "x"}, "no job"),
        ({"corrects": str(uuid4())}, "no job"),
        ({"sheet": "x" * 256}, "256 characters"),
        ({"member": "a\0.csv"}, "NUL"),
        ({"control_totals": '{"columns":' * 2_000}, "no JSON"),
    ],
)
def test_what_a_sender_says_is_checked_at_the_door(
    http: httpx2.Client, dataset: str, said: dict[str, str], words: str
) -> None:
    answer = http.put("/api/v1/files/a.csv", content=good(1), params={"dataset": dataset, **said})
    assert answer.status_code in (httpx2.codes.UNPROCESSABLE_CONTENT, httpx2.codes.NOT_FOUND), answer.text
    assert words in answer.json()["detail"]


def test_a_correction_goes_into_the_dataset_of_what_it_corrects(
    http: httpx2.Client, dataset: str, refused: dict[str, Any]
) -> None:
    said = {"dataset": "somewhere_else", "corrects": refused["task_id"]}
    answer = http.put("/api/v1/files/a.csv", content=good(1), params=said)
    assert answer.status_code == httpx2.codes.CONFLICT
    assert dataset in answer.json()["detail"]


def test_late_records_are_posted_by_the_command_line_and_the_year_and_the_trail_tell_it(
    stack: Stack, http: httpx2.Client
) -> None:
    year, dataset = "FY1998-99", f"late_{uuid4().hex[:8]}"
    columns = [{"name": "amount", "type": "numeric"}, {"name": "paid_on", "type": "date", "nullable": False}]
    contract = {"columns": columns, "fiscal_date_column": "paid_on"}
    assert http.put(f"/api/v1/datasets/{dataset}", json=contract).status_code == httpx2.codes.OK
    stack.json("archive", "close", year, "--yes", year)
    text = "amount,paid_on\n1.50,1998-05-01\n2.25,1998-06-01\n4,1999-05-01\n"
    late = sent(stack, http, dataset, "late.csv", text)["task_id"]
    command = ("archive", "post", year, "--job", late)
    planned = stack.json(*command, "--dry-run", "--date", "1999-05-02")
    assert (planned["records"], planned["columns"]["amount"]["sum"]) == (2, "3.75")
    unsaid = stack.run(*command)
    assert (unsaid.returncode, "Nothing says why" in unsaid.stderr) == (6, True)
    done = stack.json(*command, "--date", "1999-05-02", "--reason", "as agreed")
    assert (done["posted_in"], done["task"]["status"], done["task"]["rows_loaded"]) == ("FY1999-00", "Completed", 2)
    assert stack.sql(f"SELECT fiscal_year, sum(amount)::text FROM data.{dataset}_adjustments GROUP BY 1") == [
        (year, "3.75")
    ]
    shown = stack.json("archive", "status", year)
    assert (shown["late_records"], [each["by_job"] for each in shown["adjustments"]]) == ([], [done["by_job"]])
    assert "as agreed" in stack.run("archive", "status", year).stderr
    again = stack.run(*command, "--reason", "as agreed")
    assert (again.returncode, "no late records" in again.stderr) == (5, True)

    def topics() -> set[str]:
        told = stack.json("audit", "trail", "--fiscal-year", year, "--text", "as agreed")
        return {entry["topic"] for entry in told["entries"]}

    wait_until(lambda: topics() == {"filejob.received", "fiscal_year.adjustment_posted"}, "the trail does not tell it")
