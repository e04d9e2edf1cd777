"""What operators ask for is an operation: on record from its request to its end, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg2
import pytest
from celery import Celery
from pymongo import MongoClient
from pymongo.collection import Collection

from ledger.database import lock_key
from tests.stack import Stack

WAIT_SECONDS_MAX = 120.0
RESULT_FIELDS = {
    "view",
    "switched",
    "generation",
    "position",
    "events",
    "digest",
    "digest_before",
    "equal",
    "differences",
    "differences_total",
}


@pytest.fixture(scope="module")
def failpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a file arms a failpoint."""
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="module")
def own(running: Callable[[dict[str, str]], AbstractContextManager[Stack]], failpoints: Path) -> Iterator[Stack]:
    """A ledger with failpoints and some jobs, which soon finds out that somebody died."""
    settings = {
        "LEDGER_FAILPOINTS": str(failpoints),
        "LEDGER_LEASE_SECONDS": "2",
        "LEDGER_RESEND_SECONDS": "2",
        "LEDGER_RETRY_SECONDS_MAX": "2",
        "LEDGER_OPERATOR_ATTEMPTS_MAX": "50",
    }
    with running(settings) as stack:
        for number in range(3):
            [task] = stack.json("load", "-", "--dataset", "some", "--wait", text=f"id,amount\n{number},2.50\n")
            assert task["status"] == "Completed"
        yield stack


@pytest.fixture
def door(own: Stack) -> Iterator[httpx2.Client]:
    """Its HTTP door."""
    with own.http() as client:
        yield client


@pytest.fixture
def results(own: Stack) -> Iterator[Collection[dict[str, Any]]]:
    """What Celery keeps in MongoDB."""
    client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", own.state()["ports"]["mongodb"])
    with client:
        yield client["celery"]["celery_taskmeta"]


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


def ask(door: httpx2.Client) -> dict[str, Any]:
    answer = door.post("/api/v1/views/status/rebuild")
    assert answer.status_code == 202, answer.text
    operation: dict[str, Any] = answer.json()
    return operation


def look(door: httpx2.Client, operation_id: str, **parameters: Any) -> dict[str, Any]:
    answer = door.get(f"/api/v1/operations/{operation_id}", params=parameters)
    assert answer.status_code == 200, answer.text
    operation: dict[str, Any] = answer.json()
    return operation


def wait(door: httpx2.Client, operation_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        operation = look(door, operation_id, wait=10)
        return operation if operation["status"] in ("Completed", "Failed") else None

    found: dict[str, Any] = until(ended, f"the end of operation {operation_id}")
    return found


def story(stack: Stack, operation_id: str) -> list[tuple[str, str]]:
    """The operation's events in the log: what, and by whom."""
    found = stack.sql(
        "SELECT topic, convert_from(state, 'UTF8') FROM ledger.stored_events WHERE originator_id = %s"
        " ORDER BY originator_version",
        operation_id,
    )
    return [(topic, json.loads(state)["actor"]) for topic, state in found]


COMPLETED = [("operation.requested", "admin"), ("operation.completed", "worker")]


def arm(folder: Path, name: str, action: str) -> None:
    (folder / f"{name}.hit").unlink(missing_ok=True)
    (folder / name).write_text(action)


def hit(folder: Path, name: str) -> int:
    """Wait until somebody came to an armed failpoint; the id of the process."""
    path = folder / f"{name}.hit"
    return int(until(lambda: path.exists() and path.read_text(), f"somebody at {name}"))


def check_done(stack: Stack, door: httpx2.Client, operation_id: str) -> None:
    """It completed, once; and the view is whole and says what the log says."""
    operation = wait(door, operation_id)
    assert operation["status"] == "Completed", operation["error"]
    assert operation["result"]["equal"] is not False
    assert story(stack, operation_id) == COMPLETED
    assert stack.json("rebuild", "status")["equal"] is True
    assert len(stack.json("jobs", "list", "--dataset", "some")) == 3


def test_a_rebuild_is_asked_for_and_told_by_its_id(
    own: Stack, door: httpx2.Client, results: Collection[dict[str, Any]]
) -> None:
    asked = ask(door)
    assert {name: asked[name] for name in ("kind", "arguments", "status", "requested_by", "finished_at")} == {
        "kind": "rebuild",
        "arguments": {"view": "status"},
        "status": "Requested",
        "requested_by": "admin",
        "finished_at": None,
    }
    operation = wait(door, asked["operation_id"])
    assert operation["status"] == "Completed"
    assert set(operation) == set(asked)
    assert operation["result"]["equal"] is True
    assert operation["requested_at"] == asked["requested_at"] < operation["finished_at"]
    assert (operation["error"], operation["progress"]) == (None, None)
    assert story(own, asked["operation_id"]) == COMPLETED
    kept = until(lambda: results.find_one({"_id": asked["operation_id"], "status": "SUCCESS"}), "the result in MongoDB")
    assert json.loads(kept["result"]) == operation["result"]


def test_the_command_waits_and_prints_what_a_rebuild_came_to(own: Stack, door: httpx2.Client) -> None:
    rebuilt = own.json("rebuild", "status")
    assert set(rebuilt) == RESULT_FIELDS
    assert rebuilt["digest"] == rebuilt["digest_before"]
    plain = own.run("rebuild", "status")
    assert plain.returncode == 0
    assert "View status rebuilt from" in plain.stderr
    assert "equals the old one's" in plain.stderr
    asked = own.json("rebuild", "status", "--no-wait")
    assert asked["status"] == "Requested"
    assert wait(door, asked["operation_id"])["status"] == "Completed"
    shown = own.run("operations", "show", asked["operation_id"])
    assert "View status rebuilt from" in shown.stderr


def test_what_does_not_exist_is_not_found_and_not_asked_for(own: Stack, door: httpx2.Client) -> None:
    before = own.sql("SELECT max(id) FROM ledger.stored_events")
    refused = door.post("/api/v1/views/nothing/rebuild")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert own.run("rebuild", "nothing").returncode == 6
    [job] = own.json("jobs", "list", "--limit", "1")
    for unknown in (str(uuid4()), "no-id", job["task_id"]):
        answer = door.get(f"/api/v1/operations/{unknown}", params={"wait": 30})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert answer.json()["remedy"]
    assert own.run("operations", "show", str(uuid4())).returncode == 3
    assert own.sql("SELECT max(id) FROM ledger.stored_events") == before


def test_a_server_that_is_not_there_ends_a_rebuild_with_10(own: Stack) -> None:
    nobody = Stack(own.home, {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_API_KEY": own.key})
    assert nobody.run("rebuild", "status").returncode == 10


def test_a_rebuild_that_meets_another_fails_and_says_so(own: Stack, door: httpx2.Client) -> None:
    """The test holds the lock that a rebuild holds, in a transaction of its own."""
    holder = psycopg2.connect(own.database_url())
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key("rebuild status"),))
        result = own.run("rebuild", "status")
    finally:
        holder.close()
    assert result.returncode == 1
    assert "being rebuilt already" in result.stderr
    assert "Wait until that is done" in result.stderr
    assert "Traceback" not in result.stderr


def test_loading_files_writes_nothing_into_the_result_backend(
    own: Stack, results: Collection[dict[str, Any]], tmp_path: Path
) -> None:
    before = sorted(str(kept["_id"]) for kept in results.find())
    refused = tmp_path / "refused.csv"
    refused.write_text("id,amount\n")
    for path, status in ((refused, "Failed"), (tmp_path / "load.csv", "Completed")):
        if status == "Completed":
            path.write_text("id,amount\n" + "".join(f"{number},1.25\n" for number in range(1_000)))
        [task] = json.loads(own.run("load", str(path), "--dataset", "unwatched", "--wait", "--json").stdout)
        assert task["status"] == status
    # What follows on the same workers shows that Celery is done with the loads, and that something would be seen.
    own.json("rebuild", "status")
    until(lambda: results.count_documents({}) > len(before), "the result of the rebuild")
    after = [kept for kept in results.find() if str(kept["_id"]) not in before]
    assert len(after) == 1
    assert "generation" in after[0]["result"]


def test_results_are_thrown_away_when_they_are_old(
    own: Stack, door: httpx2.Client, results: Collection[dict[str, Any]]
) -> None:
    for days in (6, 8):
        results.insert_one({"_id": f"{days} days", "date_done": datetime.now(UTC) - timedelta(days=days)})
    operation_id = ask(door)["operation_id"]
    until(lambda: results.find_one({"_id": operation_id, "status": "SUCCESS"}), "the result in MongoDB")
    assert results.find_one({"_id": "6 days"}) is not None
    assert results.find_one({"_id": "8 days"}) is None
    results.delete_one({"_id": "6 days"})


def test_a_duplicate_message_changes_neither_the_log_nor_what_is_told(
    own: Stack, door: httpx2.Client, results: Collection[dict[str, Any]]
) -> None:
    operation_id = ask(door)["operation_id"]
    wait(door, operation_id)
    until(lambda: results.find_one_and_delete({"_id": operation_id, "status": "SUCCESS"}), "the result in MongoDB")
    password = (own.home / "secrets" / "valkey.password").read_text().strip()
    broker = f"redis://:{password}@127.0.0.1:{own.state()['ports']['valkey']}/0"
    sender = Celery("duplicates", broker=broker, set_as_current=False)
    sender.send_task(
        "ledger.rebuild",
        kwargs={"job_id": operation_id, "chunk": 0, "published_at_seconds": time.time()},
        task_id=operation_id,
        queue="ledger.operator",
        ignore_result=False,
    )
    log = own.home / "logs" / "celery.log"
    until(
        lambda: any(operation_id in line and "work_not_due" in line for line in log.read_text().splitlines()),
        "the duplicate to be looked at",
    )
    own.json("rebuild", "status")
    assert results.find_one({"_id": operation_id}) is None, "the duplicate left a result"
    assert story(own, operation_id) == COMPLETED


@pytest.mark.parametrize("failpoint", ["rebuild_compared", "rebuild_switched", "operation_end_appended"])
def test_a_rebuild_whose_worker_is_killed_is_done_by_another(
    own: Stack, door: httpx2.Client, failpoints: Path, failpoint: str
) -> None:
    arm(failpoints, failpoint, "kill")
    operation_id = ask(door)["operation_id"]
    hit(failpoints, failpoint)
    check_done(own, door, operation_id)


def test_a_rebuild_that_was_done_stays_done_when_its_worker_is_killed(
    own: Stack, door: httpx2.Client, failpoints: Path
) -> None:
    arm(failpoints, "operation_end_committed", "kill")
    operation_id = ask(door)["operation_id"]
    hit(failpoints, "operation_end_committed")
    check_done(own, door, operation_id)


def test_a_paused_worker_that_comes_back_does_not_end_the_rebuild_twice(
    own: Stack, door: httpx2.Client, failpoints: Path
) -> None:
    arm(failpoints, "rebuild_compared", "stop")
    operation_id = ask(door)["operation_id"]
    paused = hit(failpoints, "rebuild_compared")
    try:
        progress = until(lambda: look(door, operation_id)["progress"], "its progress")
        assert progress["events"] > 0
        assert progress["position"] <= progress["log_position"]
        waits = "SELECT 1 FROM work.items WHERE job_id = %s AND last_error LIKE '%%being rebuilt already%%'"
        until(lambda: own.sql(waits, operation_id), "another worker to find the view being rebuilt")
        assert look(door, operation_id)["status"] in ("Requested", "Running")
    finally:
        os.kill(paused, signal.SIGCONT)
    check_done(own, door, operation_id)


def test_a_rebuild_waits_for_mongodb_and_is_told_without_it(
    own: Stack, door: httpx2.Client, results: Collection[dict[str, Any]]
) -> None:
    os.kill(own.state()["pids"]["mongodb"], signal.SIGSTOP)  # nobody starts again what is not dead
    try:
        operation_id = ask(door)["operation_id"]
        waits = "SELECT 1 FROM work.items WHERE job_id = %s AND last_error LIKE '%%MongoDB%%'"
        until(lambda: own.sql(waits, operation_id), "an attempt that finds MongoDB away")
        operation = look(door, operation_id)
        assert (operation["status"] in ("Requested", "Running"), operation["progress"]) == (True, None)
    finally:
        own.kill("mongodb")
    check_done(own, door, operation_id)
    until(lambda: results.find_one({"_id": operation_id, "status": "SUCCESS"}), "the result in MongoDB")


def test_a_rebuild_goes_on_when_mongodb_was_killed_in_its_middle(
    own: Stack, door: httpx2.Client, failpoints: Path
) -> None:
    arm(failpoints, "rebuild_compared", "stop")
    operation_id = ask(door)["operation_id"]
    paused = hit(failpoints, "rebuild_compared")
    killed = own.state()["pids"]["mongodb"]
    own.kill("mongodb")
    os.kill(paused, signal.SIGCONT)
    check_done(own, door, operation_id)
    assert own.state()["pids"]["mongodb"] != killed


def test_a_person_at_a_terminal_sees_how_far_a_rebuild_is(own: Stack, failpoints: Path) -> None:
    arm(failpoints, "rebuild_compared", "stop")
    ours, theirs = pty.openpty()
    environment = {**own.environment, "TERM": "xterm", "COLUMNS": "200"}
    command = [sys.executable, "-m", "api.cli.main", "rebuild", "status"]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    paused = hit(failpoints, "rebuild_compared")
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # how Linux says that nobody holds the other end any more
            break
        if b"events" in shown and b"0/?" not in shown.rpartition(b"rebuilding")[2]:
            os.kill(paused, signal.SIGCONT)
    os.close(ours)
    assert process.wait() == 0
    assert b"rebuilding status" in shown
    assert b"View status rebuilt from" in shown


def test_a_result_backend_that_is_away_costs_only_the_news(
    running: Callable[[dict[str, str]], AbstractContextManager[Stack]],
) -> None:
    with running({"CELERY_RESULT_BACKEND": "mongodb://127.0.0.1:1/celery"}) as stack, stack.http() as door:
        operation_id = ask(door)["operation_id"]
        assert wait(door, operation_id)["result"]["equal"] is True
        assert story(stack, operation_id) == COMPLETED
        log = stack.home / "logs" / "celery.log"

        def lines() -> list[str]:
            return [line for line in log.read_text().splitlines() if operation_id in line]

        until(
            lambda: sum(f"ledger.rebuild[{operation_id}]" in line for line in lines()) > 1,
            "Celery to say more of the task than that it was received",
        )
        assert [line for line in lines() if '"ERROR"' in line or '"CRITICAL"' in line] == []
        assert len([line for line in lines() if "result_backend_away" in line]) == 1
