"""A name is erased from a running ledger, whose processes have all read it before."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack

NAME = "leave-of-Ada-Lovelace.csv"
ERASED = "(erased)"


@pytest.fixture
def task(stack: Stack, http: httpx2.Client) -> dict[str, Any]:
    """A job that failed, so that a message quotes its file; its view has been read."""
    dataset = f"leave_{uuid4().hex[:8]}"
    answer = http.put(f"/api/v1/files/{NAME}", content=b"id,days\n", params={"dataset": dataset})
    found = stack.wait(answer.json()["tasks"][0]["task_id"])
    assert (found["filename"], NAME in found["error"]["message"]) == (NAME, True)
    return found


def erase(http: httpx2.Client, **body: Any) -> httpx2.Response:
    return http.post("/api/v1/erasures", json={"reason": "she asked for it", **body})


def settled(http: httpx2.Client, task_id: str) -> dict[str, Any]:
    """The job as the view has it, once that has caught up."""
    while True:
        found: dict[str, Any] = http.get(f"/task/{task_id}").json()
        if found["view"] is not None and found["view"]["lag"] == 0:
            return found


def test_an_erased_name_is_told_by_no_door_and_by_no_view(
    stack: Stack, http: httpx2.Client, task: dict[str, Any]
) -> None:
    settled(http, task["task_id"])
    answer = erase(http, job_id=task["task_id"])
    assert answer.status_code == 200, answer.text
    certificate = answer.json()
    assert (certificate["subject"], certificate["erased_by"]) == (f"job:{task['task_id']}", "admin")
    assert set(certificate["fields"]) == {"filejob.received", "filejob.failed"}
    assert any("blob store" in sentence for sentence in certificate["not_erased"])
    assert http.get(f"/api/v1/erasures/{certificate['erasure_id']}").json() == certificate
    assert NAME not in http.get(f"/api/v1/jobs/{task['task_id']}/events").text  # from the log, so at once
    found = settled(http, task["task_id"])
    assert (found["filename"], found["error"]["message"], found["error"]["code"]) == (ERASED, ERASED, "no_records")
    listed = http.get("/api/v1/jobs", params={"dataset": task["dataset"]}).json()["tasks"]
    assert [each["filename"] for each in listed] == [ERASED]
    rebuilt = stack.json("rebuild", "status")
    assert rebuilt["equal"] is True
    assert settled(http, task["task_id"])["filename"] == ERASED


def test_the_same_again_gives_the_same_certificate(http: httpx2.Client, task: dict[str, Any]) -> None:
    first = erase(http, job_id=task["task_id"]).json()
    assert erase(http, job_id=task["task_id"], reason="once more").json() == first


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"job_id": str(uuid4()), "actor_id": "user:1"}, 422),
        ({"job_id": "no id"}, 404),
        ({"job_id": str(uuid4()), "reason": " "}, 422),
        ({"job_id": str(uuid4())}, 404),
        ({"actor_id": "user:1"}, 404),
    ],
)
def test_what_cannot_be_erased_is_refused(http: httpx2.Client, body: dict[str, str], status: int) -> None:
    answer = erase(http, **body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_there_is_no_certificate_of_what_was_not_erased(http: httpx2.Client) -> None:
    assert http.get(f"/api/v1/erasures/{uuid4()}").status_code == 404


def test_an_erased_job_is_not_retried(http: httpx2.Client, task: dict[str, Any]) -> None:
    erase(http, job_id=task["task_id"])
    answer = http.post(f"/api/v1/jobs/{task['task_id']}/retry")
    assert (answer.status_code, answer.json()["remedy"]) == (409, "Send the file again.")


def test_a_script_confirms_by_an_option_and_nothing_is_erased_without(stack: Stack, task: dict[str, Any]) -> None:
    command = ["erase", task["task_id"], "--reason", "she asked for it"]
    for refused in (command, [*command, "--confirm", "yes"]):
        result = stack.run(*refused)
        assert (result.returncode, "Nothing was erased" in result.stderr) == (2, True)
    assert stack.json("jobs", "show", task["task_id"])["filename"] == NAME
    certificate = stack.json(*command, "--confirm", "erase")
    assert certificate["subject"] == f"job:{task['task_id']}"
    told = stack.run(*command, "--confirm", "erase")
    assert (told.returncode, "Not erased:" in told.stderr) == (0, True)


def test_who_asks_for_both_or_for_neither_is_shown_how(stack: Stack) -> None:
    for arguments in ((), (str(uuid4()), "--actor", "user:1")):
        assert stack.run("erase", *arguments, "--reason", "why").returncode == 2
    for job_id in (str(uuid4()), "no-id"):
        assert stack.run("erase", job_id, "--reason", "why", "--confirm", "erase").returncode == 3
    assert stack.run("erase", "--actor", "user:1", "--reason", "why", "--confirm", "erase").returncode == 3


@pytest.mark.parametrize(("typed", "exit_code"), [("erase", 0), ("yes", 2), ("", 2)])
def test_on_a_terminal_a_word_has_to_be_typed(stack: Stack, task: dict[str, Any], typed: str, exit_code: int) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "api.cli.main", "erase", task["task_id"], "--reason", "she asked"]
    with subprocess.Popen(command, env=stack.environment, stdin=end, stdout=end, stderr=end) as process:
        os.close(end)
        os.write(terminal, f"{typed}\n".encode())
        assert process.wait(120) == exit_code
    os.close(terminal)
    shown = stack.json("jobs", "events", task["task_id"])[0]["data"]["filename"]
    assert shown == (ERASED if exit_code == 0 else NAME)


def test_the_master_key_is_a_secret_of_the_home(stack: Stack) -> None:
    assert len((stack.home / "secrets" / "subjects.key").read_text()) >= 32
    assert (stack.home / "secrets" / "subjects.key").stat().st_mode & 0o777 == 0o600
