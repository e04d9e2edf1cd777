"""Files through the HTTP door: many at once, raw, twice, into fiscal years; and what is told about them."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.stack import Stack

FILES = 200
PAGE_JOBS = 17
WAIT_SECONDS_MAX = 120.0
TASK_FIELDS = {
    "task_id",
    "filename",
    "dataset",
    "status",
    "size",
    "sha256",
    "records",
    "rows_loaded",
    "rows_rejected",
    "chunks_total",
    "chunks_loaded",
    "received_at",
    "finished_at",
    "error",
    "position",
}

Send = Callable[..., dict[str, Any]]


def test_two_hundred_files_in_one_form_all_complete(stack: Stack, http: httpx2.Client) -> None:
    contents = {f"orders_{number:03d}.csv": _orders(number) for number in range(FILES)}
    answer = http.post("/uploadfiles/", files=[("files", (name, data)) for name, data in contents.items()])
    assert answer.status_code == 202, answer.text
    tasks = answer.json()["tasks"]
    assert [task["filename"] for task in tasks] == list(contents)
    assert len({task["task_id"] for task in tasks}) == FILES
    for number, accepted in enumerate(tasks):
        task = stack.wait(accepted["task_id"])
        assert (task["status"], task["dataset"]) == ("Completed", f"orders_{number:03d}"), task
        assert task["rows_loaded"] == task["records"] == _rows_of(number)
        assert task["sha256"] == hashlib.sha256(contents[task["filename"]]).hexdigest()
    query = " UNION ALL ".join(
        f"SELECT {number}, item, amount FROM data.orders_{number:03d}" for number in range(FILES)
    )
    expected = [(number, row, number + row) for number in range(FILES) for row in range(_rows_of(number))]
    assert sorted(stack.sql(query)) == expected


def test_files_of_one_form_can_go_into_one_dataset(stack: Stack, http: httpx2.Client) -> None:
    files = [("files", (f"part_{number}.csv", _orders(number))) for number in range(5)]
    answer = http.post("/uploadfiles/", files=files, data={"dataset": "orders_together"})
    tasks = [stack.wait(task["task_id"]) for task in answer.json()["tasks"]]
    assert [(task["status"], task["dataset"]) for task in tasks] == [("Completed", "orders_together")] * 5
    found = stack.sql("SELECT count(*), count(DISTINCT _job) FROM data.orders_together")
    assert found == [(sum(map(_rows_of, range(5))), 5)]


def test_a_raw_body_becomes_rows(stack: Stack, http: httpx2.Client) -> None:
    answer = http.put("/api/v1/files/raw%20body.csv", content=_orders(4), params={"dataset": "raw_body"})
    assert answer.status_code == 202
    [task] = answer.json()["tasks"]
    assert task.keys() == TASK_FIELDS | {"duplicate"}
    assert (task["filename"], task["size"], task["duplicate"]) == ("raw body.csv", len(_orders(4)), False)
    assert http.get(answer.headers["location"]).json()["task_id"] == task["task_id"]
    assert stack.wait(task["task_id"])["status"] == "Completed"
    assert stack.sql("SELECT item, amount FROM data.raw_body ORDER BY _record") == [(n, 4 + n) for n in range(5)]


def test_the_same_bytes_twice_in_one_form_are_one_job(stack: Stack, http: httpx2.Client) -> None:
    files = [("files", (name, b"id,amount\n1,2\n3,4\n")) for name in ("one.csv", "other.csv")]
    answer = http.post("/uploadfiles/", files=files, data={"dataset": "twins"})
    first, second = answer.json()["tasks"]
    assert first["task_id"] == second["task_id"]
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert stack.wait(first["task_id"])["status"] == "Completed"
    assert stack.sql("SELECT count(*) FROM ledger.arrivals WHERE dataset = 'twins'") == [(1,)]
    assert stack.sql("SELECT count(*) FROM data.twins") == [(2,)]


def test_an_accepted_task_is_known_at_once(http: httpx2.Client, send: Send) -> None:
    for number in range(20):
        task = send("at_once.csv", f"id,amount\n1,{number}\n".encode(), "at_once")
        answer = http.get(f"/task/{task['task_id']}")
        assert answer.status_code == 200
        assert answer.json()["task_id"] == task["task_id"]
        assert answer.json().keys() == TASK_FIELDS | {"view"}


def test_an_accepted_task_is_known_while_the_view_stands_still(
    stack: Stack, http: httpx2.Client, send: Send, projector_stopped: Callable[[], None]
) -> None:
    known = http.get("/api/v1/jobs", params={"limit": 1}).json()["tasks"][0]
    projector_stopped()
    task = send("still.csv", b"id,amount\n1,2\n", "still")
    told = http.get(f"/task/{task['task_id']}").json()
    assert told["view"] is None  # from the log, which is never behind
    assert told["task_id"] == task["task_id"]
    assert stack.wait(task["task_id"])["status"] == "Completed"
    older = http.get(f"/task/{known['task_id']}").json()["view"]
    assert older["lag"] == older["log_position"] - older["position"] > 0
    page = http.get("/api/v1/jobs").json()
    assert page["view"]["lag"] > 0
    assert task["task_id"] not in [listed["task_id"] for listed in page["tasks"]]
    assert "behind the log" in stack.run("jobs", "list").stderr


def test_the_view_catches_up_when_it_may_go_on(stack: Stack, http: httpx2.Client, send: Send) -> None:
    task = send("catch_up.csv", b"id,amount\n1,2\n", "catch_up")
    stack.wait(task["task_id"])
    _wait_for_the_view(http)
    told = http.get(f"/task/{task['task_id']}").json()
    assert told["status"] == "Completed"
    assert told["view"]["lag"] == 0
    assert http.get("/api/v1/jobs", params={"limit": 1}).json()["tasks"][0]["task_id"] == task["task_id"]


def test_rows_go_into_the_partitions_of_their_fiscal_years(stack: Stack, http: httpx2.Client, send: Send) -> None:
    columns = [{"name": "id", "type": "bigint"}, {"name": "paid_on", "type": "date", "nullable": False}]
    contract = {"columns": columns, "fiscal_date_column": "paid_on"}
    answer = http.put("/api/v1/datasets/paid", json=contract)
    assert answer.status_code == 200, answer.text
    days = ["2024-03-31", "2024-04-01", "2025-03-31", "2025-04-01", "2024-12-31", "2025-01-01"]
    spanning = "id,paid_on\n" + "".join(f"{number},{day}\n" for number, day in enumerate(days, start=1))
    task = stack.wait(send("paid.csv", spanning.encode(), "paid")["task_id"])
    assert task["status"] == "Completed", task["error"]
    found = stack.sql("SELECT id, tableoid::regclass::text FROM data.paid ORDER BY id")
    assert [partition.replace("data.", "") for _, partition in found] == [
        "paid__fy2023_24",
        "paid__fy2024_25",
        "paid__fy2024_25",
        "paid__fy2025_26",
        "paid__fy2024_25",
        "paid__fy2024_25",
    ]
    completed = stack.json("jobs", "events", task["task_id"])[-1]["data"]
    assert completed["fiscal_years"] == ["FY2023-24", "FY2024-25", "FY2025-26"]
    partitions = stack.sql(
        "SELECT inhrelid::regclass::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits "
        "JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'data.paid'::regclass ORDER BY 1"
    )
    assert [bounds for _, bounds in partitions] == [
        f"FOR VALUES FROM ('{year}-04-01') TO ('{year + 1}-04-01')" for year in (2023, 2024, 2025)
    ]
    later = stack.wait(send("later.csv", b"id,paid_on\n7,2024-06-30\n", "paid")["task_id"])
    assert later["status"] == "Completed"
    assert stack.sql("SELECT count(*) FROM data.paid__fy2024_25") == [(5,)]


def test_columns_are_loaded_by_name_in_whatever_order_they_stand(stack: Stack, send: Send) -> None:
    for content in (b"id,name,day\n1,a,2025-01-01\n", b"day,id,name\n2025-01-02,2,b\n"):
        task = stack.wait(send("ordered.csv", content, "ordered")["task_id"])
        assert task["status"] == "Completed", task["error"]
    found = stack.sql("SELECT id, name, day::text FROM data.ordered ORDER BY id")
    assert found == [(1, "a", "2025-01-01"), (2, "b", "2025-01-02")]


def test_pages_of_jobs_show_every_job_once(stack: Stack, http: httpx2.Client) -> None:
    _wait_for_the_view(http)
    shown: list[str] = []
    before: int | None = None
    while True:
        parameters = {"limit": PAGE_JOBS} | ({} if before is None else {"before": before})
        page = http.get("/api/v1/jobs", params=parameters).json()
        assert len(page["tasks"]) <= PAGE_JOBS
        shown += [task["task_id"] for task in page["tasks"]]
        before = page["next"]
        if before is None:
            break
    newest_first = stack.sql("SELECT job_id::text FROM ledger.arrivals ORDER BY position DESC")
    assert shown == [job_id for (job_id,) in newest_first]
    assert len(shown) > FILES


def test_jobs_can_be_listed_by_dataset_and_status(http: httpx2.Client, send: Send, stack: Stack) -> None:
    good = send("listed.csv", b"id,amount\n1,2\n", "listed")
    assert stack.wait(good["task_id"])["status"] == "Completed"  # its contract is that of the next
    bad = send("listed.csv", b"id,amount\n1,x\n", "listed")
    assert stack.wait(bad["task_id"])["status"] == "Failed"
    _wait_for_the_view(http)
    for status, task in (("Completed", good), ("Failed", bad)):
        page = http.get("/api/v1/jobs", params={"dataset": "listed", "status": status}).json()
        assert [listed["task_id"] for listed in page["tasks"]] == [task["task_id"]]
    assert http.get("/api/v1/jobs", params={"status": "Lost"}).status_code == 422


@pytest.fixture
def projector_stopped(stack: Stack) -> Iterator[Callable[[], None]]:
    """Stops the projector when called; it goes on after the test."""
    pid = stack.state()["pids"]["projector"]
    yield lambda: os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)


def _rows_of(number: int) -> int:
    return 1 + number % 7


def _orders(number: int) -> bytes:
    rows = "".join(f"{row},{number + row}\n" for row in range(_rows_of(number)))
    return f"item,amount\n{rows}".encode()


def _wait_for_the_view(http: httpx2.Client) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while http.get("/api/v1/jobs", params={"limit": 1}).json()["view"]["lag"]:
        assert time.monotonic() < deadline, "the view does not catch up"
        time.sleep(0.05)
