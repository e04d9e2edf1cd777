"""Archives with several files and control totals beside files, through every door and the whole ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.e2e.formats import WRITERS, Record
from tests.stack import Stack
from tests.unit.projections.test_containers import a_zip

WAIT_SECONDS_MAX = 120.0

Send = Callable[..., dict[str, Any]]


@pytest.fixture
def dataset() -> str:
    return f"archive_{uuid4().hex[:10]}"


def payments(first: int, count: int) -> list[Record]:
    return [
        {"id": number, "amount": f"{number}.50", "note": f"Zahlung {number}"} for number in range(first, first + count)
    ]


def totals(records: list[Record]) -> dict[str, Any]:
    """What payments come to, in exact decimals."""
    cents = sum(record["id"] * 100 + 50 for record in records)
    return {"records": len(records), "columns": {"amount": {"sum": f"{cents // 100}.{cents % 100:02}"}}}


THREE = {"a.csv": payments(1, 30), "May/b.json": payments(31, 20), "c.parquet": payments(51, 10)}


def archive(**more: bytes) -> bytes:
    """Three files in three formats, and others."""
    files = {name: WRITERS[name.rpartition(".")[2]](records) for name, records in THREE.items()}
    return a_zip({**files, **more})


def put(http: httpx2.Client, name: str, content: bytes, **said: str) -> list[dict[str, Any]]:
    """The tasks of a file that the door accepts."""
    answer = http.put(f"/api/v1/files/{name}", content=content, params=said)
    assert answer.status_code == httpx2.codes.ACCEPTED, answer.text
    tasks: list[dict[str, Any]] = answer.json()["tasks"]
    return tasks


def ended(stack: Stack, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [stack.wait(task["task_id"]) for task in tasks]


def test_an_archive_with_three_files_becomes_three_linked_jobs(stack: Stack, http: httpx2.Client, dataset: str) -> None:
    content = archive()
    tasks = ended(stack, put(http, "june.zip", content, dataset=dataset))
    assert [(task["filename"], task["status"], task["rows_loaded"]) for task in tasks] == [
        (f"june.zip/{name}", "Completed", len(records)) for name, records in THREE.items()
    ]
    assert {(task["sha256"], task["size"]) for task in tasks} == {(tasks[0]["sha256"], len(content))}
    received = [stack.json("jobs", "events", task["task_id"])[0] for task in tasks]
    assert [event["data"]["reading"] for event in received] == [{"member": name} for name in THREE]
    assert len({event["correlation"] for event in received}) == 1
    assert stack.sql(f"SELECT count(*), sum(id) FROM data.{dataset}") == [(60, sum(range(1, 61)))]
    wait_for_the_view(http)
    shown = stack.json("jobs", "show", tasks[1]["task_id"])
    listed = stack.json("jobs", "list", "--sha256", shown["sha256"])
    assert [task["task_id"] for task in listed] == [task["task_id"] for task in reversed(tasks)]
    assert http.get("/api/v1/jobs", params={"sha256": "x"}).status_code == httpx2.codes.UNPROCESSABLE_CONTENT


def test_without_a_dataset_each_file_goes_where_its_own_name_says(stack: Stack, http: httpx2.Client) -> None:
    mark = uuid4().hex[:8]
    files = {f"May/one_{mark}.csv": b"id\n1\n", f"two_{mark}.csv": b"id\n2\n", f"June/one_{mark}.csv": b"id\n3\n"}
    tasks = ended(stack, put(http, "quarter.zip", a_zip(files)))
    assert [(task["status"], task["dataset"]) for task in tasks] == [
        ("Completed", name) for name in (f"one_{mark}", f"two_{mark}", f"one_{mark}")
    ]
    assert stack.sql(f"SELECT id FROM data.one_{mark} ORDER BY id") == [(1,), (3,)]


def test_the_same_archive_again_gives_the_same_tasks(stack: Stack, http: httpx2.Client, dataset: str) -> None:
    first = ended(stack, put(http, "june.zip", archive(), dataset=dataset))
    again = put(http, "renamed.zip", archive(), dataset=dataset)
    assert [task["task_id"] for task in again] == [task["task_id"] for task in first]
    assert [task["duplicate"] for task in again] == [True] * 3
    refused = http.put(
        "/api/v1/files/june.zip", content=archive(), params={"dataset": dataset, "on_duplicate": "reject"}
    )
    assert refused.status_code == httpx2.codes.CONFLICT
    assert "june.zip/a.csv" in refused.json()["detail"]
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(60,)]
    other = ended(stack, put(http, "june.zip", archive(), dataset=dataset, on_duplicate="allow"))
    assert {task["task_id"] for task in other}.isdisjoint(task["task_id"] for task in first)
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(120,)]


def test_a_chosen_member_is_one_job_and_known_when_the_archive_comes_whole(
    stack: Stack, http: httpx2.Client, dataset: str
) -> None:
    [chosen] = ended(stack, put(http, "june.zip", archive(), dataset=dataset, member="May/b.json"))
    assert (chosen["filename"], chosen["status"], chosen["rows_loaded"]) == ("june.zip", "Completed", 20)
    [other] = ended(stack, put(http, "june.zip", archive(), dataset=dataset, member="a.csv"))
    assert (other["status"], other["rows_loaded"]) == ("Completed", 30)
    whole = put(http, "june.zip", archive(), dataset=dataset)
    assert [task["duplicate"] for task in whole] == [True, True, False]
    assert [whole[0]["task_id"], whole[1]["task_id"]] == [other["task_id"], chosen["task_id"]]
    ended(stack, whole)
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(60,)]


def test_a_row_from_an_archive_leads_back_to_its_bytes(stack: Stack, http: httpx2.Client, dataset: str) -> None:
    content = archive()
    tasks = ended(stack, put(http, "june.zip", content, dataset=dataset))
    for task, name, wanted in ((tasks[0], "a.csv", 7), (tasks[1], "May/b.json", 44)):
        [found] = http.get(f"/api/v1/lineage/{dataset}", params={"id": str(wanted)}).json()["rows"]
        origin, plain = found["origin"], WRITERS[name.rpartition(".")[2]](THREE[name])
        sent = plain[origin["byte_offset"] : origin["byte_offset"] + origin["byte_length"]].decode()
        assert f"Zahlung {wanted}" in sent
        assert sent.count("Zahlung") == 1
        [row] = stack.json("jobs", "row", dataset, "--where", f"id={wanted}")
        assert (row["origin"], found["row"]) == (origin, row["row"])
        assert task["task_id"] in json.dumps(row)


def test_the_command_line_lists_and_waits_for_every_task_of_an_archive(
    stack: Stack, dataset: str, tmp_path: Path
) -> None:
    file = tmp_path / "june.zip"
    file.write_bytes(archive(**{"broken.parquet": b"PAR1 broken PAR1"}))
    told = stack.run("load", str(file), "--dataset", dataset, "--wait", "--json")
    assert told.returncode == 7, told.stderr
    tasks = json.loads(told.stdout)
    assert [task["status"] for task in tasks] == ["Completed", "Completed", "Completed", "Failed"]
    assert tasks[3]["filename"] == "june.zip/broken.parquet"
    shown = stack.run("load", str(file), "--dataset", dataset)
    assert shown.returncode == 0
    assert [line.split(":")[0] for line in shown.stderr.splitlines()] == ["Known already"] * 3 + [
        "june.zip/broken.parquet"
    ]


def test_one_form_takes_archives_and_files_and_their_control_totals(
    stack: Stack, http: httpx2.Client, dataset: str
) -> None:
    records = payments(100, 5)
    files = [
        ("plain.csv.totals.json", json.dumps(totals(records)).encode()),
        ("june.zip", archive(**{"c.parquet.totals.json": json.dumps(totals(THREE["c.parquet"])).encode()})),
        ("plain.csv", WRITERS["csv"](records)),
    ]
    answer = http.post("/uploadfiles/", files=[("files", file) for file in files], data={"dataset": dataset})
    assert answer.status_code == httpx2.codes.ACCEPTED, answer.text
    tasks = ended(stack, answer.json()["tasks"])
    assert [task["filename"] for task in tasks] == [*(f"june.zip/{name}" for name in THREE), "plain.csv"]
    assert {task["status"] for task in tasks} == {"Completed"}
    said = [stack.json("jobs", "events", task["task_id"])[0]["data"]["control_totals"] for task in tasks]
    assert said == [{}, {}, totals(THREE["c.parquet"]), totals(records)]


def test_a_file_that_does_not_come_to_the_totals_beside_it_fails(
    stack: Stack, http: httpx2.Client, dataset: str, tmp_path: Path
) -> None:
    wrong = json.dumps({"records": 31}).encode()
    tasks = ended(stack, put(http, "june.zip", archive(**{"a.csv.totals.json": wrong}), dataset=dataset))
    assert [task["status"] for task in tasks] == ["Failed", "Completed", "Completed"]
    assert tasks[0]["error"]["code"] == "control_totals_differ"
    (tmp_path / "may.csv").write_bytes(WRITERS["csv"](payments(200, 30)))
    (tmp_path / "may.csv.totals.json").write_bytes(wrong)
    told = stack.run("load", str(tmp_path), "--dataset", dataset, "--wait", "--json")
    [task] = json.loads(told.stdout)
    assert (told.returncode, task["filename"], task["error"]["code"]) == (7, "may.csv", "control_totals_differ")
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(30,)]


def test_unclear_control_totals_are_refused_and_nothing_is_taken(
    stack: Stack, http: httpx2.Client, dataset: str, tmp_path: Path
) -> None:
    good = ("good.csv", b"id\n1\n")
    for sidecar, said, words in (
        (("good.csv.totals.json", b"{"), {}, "'good.csv.totals.json' is no JSON"),
        (("other.csv.totals.json", b'{"records": 1}'), {}, "did not come with it"),
        (("good.csv.totals.json", b'{"records": 1}'), {"control_totals": '{"records": 1}'}, "given twice"),
    ):
        files = [("files", good), ("files", sidecar)]
        answer = http.post("/uploadfiles/", files=files, data={"dataset": dataset, **said})
        assert answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT, answer.text
        assert words in answer.json()["detail"]
        assert answer.json()["remedy"]
        folder = tmp_path / uuid4().hex
        folder.mkdir()
        for name, content in (good, sidecar):
            (folder / name).write_bytes(content)
        option = ["--control-totals", said["control_totals"]] if said else []
        told = stack.run("load", str(folder), "--dataset", dataset, *option)
        assert told.returncode == 6, told.stderr
        assert words in told.stderr
    assert stack.sql("SELECT count(*) FROM ledger.arrivals WHERE dataset = %s", dataset) == [(0,)]


def test_an_archive_that_is_refused_is_one_job_with_the_reason_of_its_reader(
    stack: Stack, http: httpx2.Client, dataset: str
) -> None:
    whole = archive()
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    cases = {
        "archive_invalid": whole[:-40],
        "archive_encrypted": bytes(locked),
        "archive_too_many_members": a_zip({f"{number}.csv": b"" for number in range(1_001)}),
        "control_totals_invalid": archive(**{"a.csv.totals.json": b"{"}),
    }
    for code, content in cases.items():
        [task] = ended(stack, put(http, "june.zip", content, dataset=dataset))
        assert (task["status"], task["filename"], task["error"]["code"]) == ("Failed", "june.zip", code)
        assert task["error"]["remedy"]


def test_the_preview_of_an_archive_with_several_files_asks_for_one_by_name(
    stack: Stack, http: httpx2.Client, tmp_path: Path
) -> None:
    file = tmp_path / "june.zip"
    file.write_bytes(archive())
    told = stack.run("load", str(file), "--dry-run")
    assert told.returncode == 6
    assert all(repr(name) in told.stderr for name in THREE)
    [preview] = stack.json("load", str(file), "--dry-run", "--member", "May/b.json")
    assert (preview["records"], preview["layers"]) == (20, ["zip"])


def wait_for_the_view(http: httpx2.Client) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while http.get("/api/v1/jobs", params={"limit": 1}).json()["view"]["lag"]:
        assert time.monotonic() < deadline, "the view does not catch up"
        time.sleep(0.05)
