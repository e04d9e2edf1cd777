"""Trying again and giving up: by itself after a pause, or because an operator says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack, open_folder
from tests.waiting import wait_until

ROWS = 2_000
CHUNK_BYTES = 8_000
LONG_PAUSE_SECONDS = 600


class Place:
    """A ledger, and the folder that arms its failpoints."""

    def __init__(self, stack: Stack, failpoints: Path) -> None:
        self.stack = stack
        self._failpoints = failpoints

    def arm(self, name: str) -> None:
        """Let whoever gets to a failpoint next fail there: the next file's work, once nobody is at another's."""
        wait_until(
            lambda: not self.stack.sql("SELECT 1 FROM work.items WHERE leased_until IS NOT NULL"), "it does not rest"
        )
        (self._failpoints / name).write_text("raise")

    def send(self, folder: Path, *, last_line: str = "") -> dict[str, Any]:
        """A file of several chunks, into a dataset of its own."""
        path = folder / "payments.csv"
        lines = "".join(f"{number},2026-04-{1 + number % 30:02}\n" for number in range(ROWS))
        path.write_text("number,paid_on\n" + lines + last_line)
        [task] = self.stack.json("load", str(path), "--dataset", f"retried_{uuid4().hex[:8]}")
        return dict(task)

    def events(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self.stack.json("jobs", "events", task["task_id"]))

    def kinds(self, task: dict[str, Any]) -> list[str]:
        return [event["type"].removeprefix("filejob.") for event in self.events(task)]

    def rows(self, task: dict[str, Any]) -> list[tuple[Any, ...]]:
        return self.stack.sql(f"SELECT count(*), count(DISTINCT _record), sum(number) FROM data.{task['dataset']}")

    def work(self, task: dict[str, Any]) -> int:
        [(count,)] = self.stack.sql("SELECT count(*) FROM work.items WHERE job_id = %s", task["task_id"])
        return int(count)


ALL_ROWS = [(ROWS, ROWS, sum(range(ROWS)))]
NO_ROWS = [(0, 0, None)]

Running = Callable[[dict[str, str]], AbstractContextManager[Stack]]


@pytest.fixture(scope="module")
def failpoints() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def running_place(running: Running, folder: Path, pause_seconds: float) -> Iterator[Place]:
    settings = {
        "LEDGER_FAILPOINTS": str(folder),
        "LEDGER_CHUNK_BYTES": str(CHUNK_BYTES),
        "LEDGER_RETRY_SECONDS_MIN": str(pause_seconds),
        "LEDGER_RETRY_SECONDS_MAX": str(pause_seconds),
        "LEDGER_PLAN_ATTEMPTS_MAX": "2",
        "LEDGER_LOAD_ATTEMPTS_MAX": "3",
    }
    with running(settings) as stack:
        yield Place(stack, folder)


@pytest.fixture(scope="module")
def place(running: Running, failpoints: Path) -> Iterator[Place]:
    """A ledger whose pauses are brief."""
    yield from running_place(running, failpoints, 0.2)


@pytest.fixture(scope="module")
def patient(running: Running) -> Iterator[Place]:
    """A ledger whose pauses outlast every test."""
    with open_folder() as folder:
        yield from running_place(running, folder, LONG_PAUSE_SECONDS)


@pytest.mark.parametrize("step", ["plan_stored", "plan_appended", "chunk_reading", "chunk_copied", "chunk_appended"])
def test_a_failure_of_the_world_is_told_and_tried_again(place: Place, tmp_path: Path, step: str) -> None:
    place.arm(step)
    task = place.send(tmp_path)
    ended = place.stack.wait(task["task_id"], "Completed")
    kinds = place.kinds(task)
    assert (kinds.count("failed"), kinds.count("retried")) == (1, 1)
    assert kinds.index("failed") < kinds.index("retried")
    failed = next(event["data"] for event in place.events(task) if event["type"] == "filejob.failed")
    assert failed["retry_at"] is not None
    assert failed["stage"] == ("plan" if step.startswith("plan") else "load")
    assert failed["error"]["code"] == "internal_error"
    assert (ended["error"], place.rows(task), place.work(task)) == (None, ALL_ROWS, 0)
    assert kinds.count("chunk_loaded") == ended["chunks_total"]


def test_a_job_that_waits_goes_on_at_once_when_an_operator_says_so(patient: Place, tmp_path: Path) -> None:
    patient.arm("chunk_copied")
    task = patient.send(tmp_path)
    waiting = patient.stack.wait(task["task_id"], "Failed")
    assert waiting["error"]["retry_at"] is not None
    [told] = patient.stack.json("jobs", "retry", task["task_id"], "--reason", "it has room again", "--wait")
    assert told["status"] == "Completed"
    assert patient.rows(task) == ALL_ROWS
    events = {event["type"]: event for event in patient.events(task)}
    retried = events["filejob.retried"]
    assert (retried["actor"], retried["data"]["reason"], retried["data"]["stage"]) == (
        "admin",
        "it has room again",
        "load",
    )
    assert datetime.fromisoformat(retried["at"]) < datetime.fromisoformat(waiting["error"]["retry_at"])


def test_what_else_of_a_waiting_job_is_due_waits_with_it(patient: Place, tmp_path: Path) -> None:
    patient.arm("chunk_reading")
    task = patient.send(tmp_path)
    waiting = patient.stack.wait(task["task_id"], "Failed")
    left = patient.stack.sql(
        "SELECT count(*), count(*) FILTER (WHERE due_at >= %s OR leased_until IS NOT NULL) FROM work.items"
        " WHERE job_id = %s",
        waiting["error"]["retry_at"],
        task["task_id"],
    )
    [(every, held_back)] = left
    assert every == held_back > 1


def test_a_cancelled_job_leaves_no_rows_and_no_work(patient: Place, tmp_path: Path) -> None:
    patient.arm("chunk_appended")
    task = patient.send(tmp_path)
    patient.stack.wait(task["task_id"], "Failed")
    [told] = patient.stack.json("jobs", "cancel", task["task_id"], "--reason", "the wrong month")
    assert (told["status"], told["rows_loaded"]) == ("Cancelled", 0)
    cancelled = patient.events(task)[-1]
    loaded = sum(event["data"].get("rows_loaded", 0) for event in patient.events(task))
    assert cancelled["data"] == {"reason": "the wrong month", "rows_withdrawn": loaded}
    assert cancelled["actor"] == "admin"
    assert (patient.rows(task), patient.work(task)) == (NO_ROWS, 0)
    assert patient.stack.run("jobs", "retry", task["task_id"]).returncode == 5
    assert patient.stack.run("jobs", "cancel", task["task_id"]).returncode == 5


def test_a_cancelled_file_may_come_again(patient: Place, tmp_path: Path) -> None:
    patient.arm("plan_stored")
    task = patient.send(tmp_path)
    patient.stack.wait(task["task_id"], "Failed")
    patient.stack.json("jobs", "cancel", task["task_id"])
    [again] = patient.stack.json("load", str(tmp_path / "payments.csv"), "--dataset", task["dataset"], "--wait")
    assert (again["duplicate"], again["status"]) == (False, "Completed")
    assert patient.rows(task) == ALL_ROWS


def without_its_blob(place: Place, folder: Path) -> tuple[dict[str, Any], Path, Path]:
    """A job that failed for good because the blob store had lost its file."""
    place.arm("plan_stored")
    task = place.send(folder)
    blob = place.stack.home / "blobs" / task["sha256"][:2] / task["sha256"]
    hidden = blob.rename(blob.with_suffix(".hidden"))
    ended = _failed_for_good(place, task)
    assert ended["error"]["code"] == "attempts_exhausted"
    return task, blob, hidden


def test_a_job_that_failed_for_good_starts_again_from_the_plan(place: Place, tmp_path: Path) -> None:
    task, blob, hidden = without_its_blob(place, tmp_path)
    assert place.work(task) == 0
    hidden.rename(blob)
    [told] = place.stack.json("jobs", "retry", task["task_id"], "--wait")
    assert (told["status"], told["error"]) == ("Completed", None)
    assert (place.rows(task), place.kinds(task).count("queued")) == (ALL_ROWS, 1)


def test_a_retry_does_not_load_what_has_come_in_again_meanwhile(place: Place, tmp_path: Path) -> None:
    task, _, hidden = without_its_blob(place, tmp_path)
    [again] = place.stack.json("load", str(tmp_path / "payments.csv"), "--dataset", task["dataset"], "--wait")
    assert (again["duplicate"], again["status"]) == (False, "Completed")
    refused = place.stack.run("jobs", "retry", task["task_id"])
    assert refused.returncode == 5
    assert again["task_id"] in refused.stderr
    assert place.rows(task) == ALL_ROWS
    hidden.unlink()


def test_a_file_with_a_fault_of_its_own_is_not_tried_again(place: Place, tmp_path: Path) -> None:
    task = place.send(tmp_path, last_line="1,2026-04-01,too many\n" * (ROWS // 8))
    ended = place.stack.wait(task["task_id"], "Failed")
    assert (ended["error"]["code"], ended["error"]["retry_at"]) == ("rejects_too_many", None)
    assert "retried" not in place.kinds(task)
    [told] = place.stack.json("jobs", "retry", task["task_id"])
    assert told["status"] == "Retried"
    ended = _failed_for_good(place, task)
    assert (ended["error"]["code"], place.rows(task)) == ("rejects_too_many", NO_ROWS)


@pytest.mark.parametrize("order", ["retry", "cancel"])
def test_an_order_that_cannot_be_carried_out_says_why(place: Place, tmp_path: Path, order: str) -> None:
    task = place.send(tmp_path)
    place.stack.wait(task["task_id"], "Completed")
    with place.stack.http() as http:
        refused = http.post(f"/api/v1/jobs/{task['task_id']}/{order}")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert "Completed" in refused.json()["detail"]
        assert http.post(f"/api/v1/jobs/{uuid4()}/{order}").status_code == 404
        too_long = http.post(f"/api/v1/jobs/{task['task_id']}/{order}", json={"reason": "x" * 501})
        assert too_long.status_code == 422
    assert place.rows(task) == ALL_ROWS


def test_jobs_can_be_watched_to_their_end(place: Place, tmp_path: Path) -> None:
    task = place.send(tmp_path)
    [told] = place.stack.json("jobs", "watch", task["task_id"])
    assert told["status"] == "Completed"


def _failed_for_good(place: Place, task: dict[str, Any]) -> dict[str, Any]:
    with place.stack.http() as http:
        while True:
            found = _waited(http, task["task_id"])
            if found["status"] == "Failed" and found["error"]["retry_at"] is None:
                return found


def _waited(http: httpx2.Client, task_id: str) -> dict[str, Any]:
    return dict(http.get(f"/task/{task_id}", params={"wait": 30}).json())
