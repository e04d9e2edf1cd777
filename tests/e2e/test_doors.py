"""Who is let in, what the command line says, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack

OPEN = {"/livez", "/readyz"}
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
AMOUNT_TOLD_NOWHERE = "73019.46"


@pytest.fixture(scope="module")
def loaded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file that was loaded."""
    path = tmp_path_factory.mktemp("doors") / "doors.csv"
    path.write_text(f"id,amount\n1,2.50\n2,{AMOUNT_TOLD_NOWHERE}\n")
    [task] = stack.json("load", str(path), "--wait")
    assert task["status"] == "Completed"
    return dict(task)


@pytest.mark.parametrize("shown", [None, "Bearer", "Bearer wrong", "Bearer lk_" + "x" * 43])
def test_everything_but_health_wants_the_key(stack: Stack, shown: str | None) -> None:
    with stack.http() as http:
        paths = {re.sub(r"\{[^}]*\}", "some", path) for path in http.get("/api/v1/openapi.json").json()["paths"]}
    assert paths >= OPEN | {"/uploadfiles/", "/task/some"}
    paths |= {"/", "/api/v1/openapi.json", "/docs", "/no/such/path", "/livez/", "/readyz/../task/some"}
    headers = {} if shown is None else {"Authorization": shown}
    with httpx2.Client(base_url=stack.state()["url"], headers=headers, trust_env=False) as http:
        for path in OPEN:
            assert http.get(path).status_code == 200
        for path, method in product(sorted(paths - OPEN), METHODS):
            answer = http.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"
            if method != "HEAD":
                assert answer.json()["detail"]
                assert answer.json()["remedy"]


def test_the_key_opens_under_the_bearer_scheme_only(stack: Stack) -> None:
    with httpx2.Client(base_url=stack.state()["url"], trust_env=False) as http:
        assert http.get("/api/v1/jobs", headers={"Authorization": f"bearer {stack.key}"}).status_code == 200
        assert http.get("/api/v1/jobs", headers={"Authorization": f"Basic {stack.key}"}).status_code == 401
        assert http.get("/api/v1/jobs", headers={"Authorization": stack.key}).status_code == 401
        assert http.get("/api/v1/jobs", params={"key": stack.key}).status_code == 401


def test_readiness_names_the_parts(http: httpx2.Client) -> None:
    answer = http.get("/readyz").json()
    assert answer["status"] == "ready"
    assert {name: part["ok"] for name, part in answer["parts"].items()} == {
        "postgresql": True,
        "blobs": True,
        "mongodb": True,
        "seal": True,
    }


def test_jobs_list_shows_the_job(stack: Stack, loaded: dict[str, Any]) -> None:
    [listed] = stack.json("jobs", "list", "--dataset", "doors")
    assert listed["task_id"] == loaded["task_id"]
    plain = stack.run("jobs", "list", "--dataset", "doors", "--status", "Completed")
    header, line = plain.stdout.splitlines()
    assert header.split("\t")[:2] == ["TASK", "STATUS"]
    assert line.split("\t")[:7] == [loaded["task_id"], "Completed", "doors", "doors.csv", "2", "2", "0"]


def test_jobs_show_shows_the_job(stack: Stack, loaded: dict[str, Any]) -> None:
    shown = stack.json("jobs", "show", loaded["task_id"])
    assert {name: shown[name] for name in ("task_id", "status", "records")} == {
        "task_id": loaded["task_id"],
        "status": "Completed",
        "records": 2,
    }
    plain = stack.run("jobs", "show", loaded["task_id"])
    assert plain.returncode == 0
    assert "doors.csv: 2 of 2 records loaded into data.doors, 0 rejected." in plain.stderr
    assert f"sha256\t{loaded['sha256']}" in plain.stdout.splitlines()


def test_jobs_events_tells_the_story(stack: Stack, loaded: dict[str, Any]) -> None:
    events = stack.json("jobs", "events", loaded["task_id"])
    story = ["filejob.received", "filejob.queued", "filejob.chunk_loaded", "filejob.completed"]
    assert [event["type"] for event in events] == story
    assert [event["version"] for event in events] == [1, 2, 3, 4]
    assert [event["actor"] for event in events] == ["admin", "worker", "worker", "worker"]
    assert len({event["correlation"] for event in events}) == 1
    plain = stack.run("jobs", "events", loaded["task_id"])
    assert [line.split("\t")[4] for line in plain.stdout.splitlines()[1:]] == story


def test_events_hold_no_row_of_the_file(stack: Stack, loaded: dict[str, Any]) -> None:
    """The totals of numbers and dates, which are what a file comes to, are all that events know of its values."""
    told = stack.json("jobs", "events", loaded["task_id"])
    for event in told:
        event["data"].pop("totals", None)
    assert AMOUNT_TOLD_NOWHERE not in json.dumps(told)
    assert stack.sql("SELECT count(*) FROM data.doors WHERE amount = %s", Decimal(AMOUNT_TOLD_NOWHERE)) == [(1,)]
    held = (
        "SELECT count(*) FROM ledger.stored_events"
        " WHERE position(%s IN (convert_from(state, 'UTF8')::jsonb - 'totals')::text) > 0"
    )
    assert stack.sql(held, AMOUNT_TOLD_NOWHERE) == [(0,)]
    assert stack.sql(held, "doors.csv") == [(0,)], "names of files are sealed"
    assert stack.sql(held, '"dataset": "doors"') == [(1,)], "what is not sealed is found"


def test_doctor_finds_nothing_wrong(stack: Stack) -> None:
    findings = stack.json("doctor")
    assert {finding["check"] for finding in findings} >= {"python", "home", "disk", "server", "postgresql", "mongodb"}
    assert all(finding["ok"] for finding in findings)
    plain = stack.run("doctor")
    assert plain.returncode == 0
    assert "PROBLEM" not in plain.stdout


def test_a_rebuilt_view_equals_the_old_one(stack: Stack, http: httpx2.Client, loaded: dict[str, Any]) -> None:
    rebuilt = stack.json("rebuild", "status")
    assert rebuilt["equal"] is True
    assert rebuilt["digest"] == rebuilt["digest_before"]
    completed = "SELECT max(id) FROM ledger.stored_events WHERE topic = 'operation.completed'"
    assert stack.sql(completed) == [(rebuilt["position"] + 1,)], "all that was in the log before it ended"
    assert http.get(f"/task/{loaded['task_id']}").json()["view"]["position"] >= rebuilt["position"]
    assert "equals the old one" in stack.run("rebuild", "status").stderr


def test_standard_input_is_loaded(stack: Stack) -> None:
    [task] = stack.json("load", "-", "--dataset", "piped", "--wait", text="id,amount\n1,2\n")
    assert (task["filename"], task["status"], task["rows_loaded"]) == ("standard-input", "Completed", 1)


def test_a_folder_is_loaded_file_by_file(stack: Stack, tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", ".hidden.csv"):
        (tmp_path / name).write_text(f"id,name\n1,{name}\n")
    tasks = stack.json("load", str(tmp_path), "--dataset", "folder", "--wait")
    assert [(task["filename"], task["status"]) for task in tasks] == [("a.csv", "Completed"), ("b.csv", "Completed")]


def test_an_unknown_job_ends_with_3(stack: Stack) -> None:
    for verb in ("show", "events"):
        result = stack.run("jobs", verb, str(uuid4()))
        _check_explained(result, 3, "There is no job")


def test_a_wrong_key_ends_with_4(stack: Stack) -> None:
    _check_explained(Stack(stack.home, {"LEDGER_API_KEY": "wrong"}).run("jobs", "list"), 4, "valid API key")


def test_a_server_that_is_not_there_ends_with_10(stack: Stack, tmp_path: Path) -> None:
    nobody = Stack(stack.home, {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_API_KEY": stack.key})
    _check_explained(nobody.run("jobs", "list"), 10, "does not answer")
    _check_explained(Stack(tmp_path / "empty").run("jobs", "list"), 10, "ledger up")


def test_waiting_for_a_job_that_fails_ends_with_7(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "header_only.csv"
    path.write_text("id,amount\n")
    result = stack.run("load", str(path), "--wait")
    _check_explained(result, 7, "no record")
    assert stack.run("load", str(path)).returncode == 0  # without waiting, to have sent it is all


def test_a_file_that_is_not_there_ends_with_2(stack: Stack, tmp_path: Path) -> None:
    _check_explained(stack.run("load", str(tmp_path / "missing.csv")), 2, "cannot be read")


def test_what_the_server_refuses_ends_with_6(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()
    _check_explained(stack.run("load", str(path)), 6, "is empty")


def _check_explained(result: Any, exit_code: int, reason: str) -> None:
    assert result.returncode == exit_code, result.stderr
    assert reason in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_person_at_a_terminal_sees_bars_and_a_machine_does_not(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "watched.csv"
    path.write_text("id,memo\n" + "".join(f"{number},{'x' * 90}\n" for number in range(50_000)))
    piped = stack.run("load", str(path), "--dataset", "watched_piped", "--wait")
    assert piped.returncode == 0
    assert "sending" not in piped.stderr
    shown, exit_code = _at_a_terminal(stack, "load", str(path), "--dataset", "watched_shown", "--wait")
    assert exit_code == 0
    assert "sending watched.csv" in shown
    assert "loading watched.csv" in shown
    assert "50,000 of 50,000 records loaded" in shown


def _at_a_terminal(stack: Stack, *arguments: str) -> tuple[str, int]:
    ours, theirs = pty.openpty()
    environment = {**stack.environment, "TERM": "xterm", "COLUMNS": "200"}
    command = [sys.executable, "-m", "api.cli.main", *arguments]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that nobody holds the other end any more
            break
        if not block:
            break
        shown += block
    os.close(ours)
    return shown.decode(), process.wait()
