"""Views checked, built anew and rolled back, and jobs replayed, as an operator does it from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack

DIFFERS = 9
RECORDS = 30_000


@pytest.fixture(scope="module")
def own(running: Callable[[dict[str, str]], AbstractContextManager[Stack]], flights: Path) -> Iterator[Stack]:
    """A ledger of its own with some of the flights, and a small dataset with a job that failed."""
    lines = flights.read_text().splitlines(keepends=True)[: RECORDS + 1]
    with running({"LEDGER_CHUNK_BYTES": "400000"}) as stack:
        tasks = stack.json("load", "-", "--dataset", "flights", "--wait", text="".join(lines))
        assert [task["status"] for task in tasks] == ["Completed"]
        for number in range(2):
            stack.json("load", "-", "--dataset", "some", "--wait", text=f"id,amount\n{number},2.50\n")
        stack.run("load", "-", "--dataset", "some", "--wait", text="id,amount\nx,2.50\n")
        yield stack


@pytest.fixture
def job_id(own: Stack) -> str:
    """The job of the flights."""
    [task] = own.json("jobs", "list", "--dataset", "flights")
    return str(task["task_id"])


def fingerprint(stack: Stack) -> list[tuple[Any, ...]]:
    return stack.sql("SELECT count(*), sum(_record), sum(hashtextextended(f::text, 0)) FROM data.flights AS f")


def run(stack: Stack, *arguments: str) -> tuple[int, Any]:
    result = stack.run(*arguments, "--json")
    return result.returncode, json.loads(result.stdout) if result.stdout else result.stderr


def test_every_view_is_listed_with_its_position_lag_and_generation(own: Stack) -> None:
    views = {view["view"]: view for view in own.json("views")}
    assert set(views) == {"status", "trail", "data.flights", "data.some"}
    assert set(views["status"]) == {"view", "position", "generation", "lag"}
    [(position,)] = own.sql("SELECT max(id) FROM ledger.stored_events")
    assert (views["data.flights"]["position"], views["data.flights"]["lag"]) == (position, 0)
    assert "data.flights" in own.run("views").stdout


def test_flights_are_rebuilt_to_the_same_and_rolled_back(own: Stack) -> None:
    before = fingerprint(own)
    result = own.run("rebuild", "data.flights")
    assert result.returncode == 0, result.stderr
    assert "Its content equals the old one's." in result.stderr
    assert fingerprint(own) == before
    code, rolled_back = run(own, "rebuild", "data.flights", "--roll-back")
    assert (code, rolled_back["generation"]) == (0, 1)
    assert fingerprint(own) == before
    assert "what it was before" in own.run("rebuild", "data.flights", "--roll-back").stderr


def test_a_check_of_all_views_finds_what_was_changed_by_hand_and_a_rebuild_heals_it(own: Stack, job_id: str) -> None:
    code, checked = run(own, "rebuild", "--all", "--check")
    assert (code, [(each["view"], each["equal"]) for each in checked]) == (
        0,
        [("status", True), ("trail", True), ("data.flights", True), ("data.some", True)],
    )
    before = fingerprint(own)
    own.sql("UPDATE data.flights SET dest = 'ORD' WHERE _record = 4711")
    code, checked = run(own, "rebuild", "--all", "--check")
    assert (code, [each["equal"] for each in checked]) == (DIFFERS, [True, True, False, True])
    assert (checked[2]["differences"][0]["job_id"], checked[2]["differences"][0]["records_changed"]) == (job_id, [4711])
    plain = own.run("rebuild", "data.flights", "--check")
    assert plain.returncode == DIFFERS
    assert f"job {job_id}" in plain.stderr
    assert "records changed 4711" in plain.stderr
    assert fingerprint(own) != before
    healed = own.run("rebuild", "data.flights")
    assert (healed.returncode, "the new one is right" in healed.stderr) == (0, True)
    assert fingerprint(own) == before


def test_a_roll_back_is_refused_when_rows_came_in_since(own: Stack) -> None:
    own.json("rebuild", "data.some")
    own.json("load", "-", "--dataset", "some", "--wait", text="id,amount\n77,2.50\n")
    result = own.run("rebuild", "data.some", "--roll-back")
    assert result.returncode == 1
    assert "have changed since the switch" in result.stderr
    assert own.sql("SELECT count(*) FROM data.some WHERE id = 77") == [(1,)]


def test_the_status_view_is_rolled_back_and_tells_all_the_same(own: Stack) -> None:
    before = own.json("jobs", "list")
    generation = own.json("rebuild", "status")["generation"]
    code, rolled_back = run(own, "rebuild", "status", "--roll-back")
    assert (code, rolled_back["generation"] < generation) == (0, True)
    after = own.json("jobs", "list")
    assert after == before


def test_what_cannot_be_meant_is_refused(own: Stack) -> None:
    assert own.run("rebuild").returncode == 2
    assert own.run("rebuild", "status", "--all").returncode == 2
    assert own.run("rebuild", "status", "--check", "--roll-back").returncode == 6
    assert own.run("rebuild", "data.nothing").returncode == 6
    assert own.run("replay", "0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51").returncode == 3


def test_a_job_is_replayed_and_a_damaged_file_is_told(own: Stack, job_id: str) -> None:
    code, result = run(own, "replay", job_id)
    assert (code, result["equal"], result["records"]) == (0, True, RECORDS)
    plain = own.run("replay", job_id)
    assert "30,000 records in" in plain.stderr
    assert "All is as the log says." in plain.stderr
    asked = own.json("replay", job_id, "--no-wait")
    assert (asked["kind"], asked["arguments"]) == ("replay", {"job_id": job_id})
    [task] = own.json("jobs", "list", "--dataset", "flights")
    blob = own.home / "blobs" / task["sha256"][:2] / task["sha256"]
    data = blob.read_bytes()
    blob.chmod(0o640)
    try:
        with blob.open("r+b") as file:
            file.seek(1_000_000)
            file.write(bytes([data[1_000_000] ^ 1]))
        code, result = run(own, "replay", job_id)
        assert (code, [found["what"] for found in result["differences"]]) == (DIFFERS, ["file", "sha256"])
        stopped = own.run("rebuild", "data.flights")
        assert stopped.returncode == 1
        assert "cannot be replayed" in stopped.stderr
    finally:
        blob.write_bytes(data)
    assert run(own, "replay", job_id)[0] == 0
