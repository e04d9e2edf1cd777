"""The audit trail as its users have it: who touched a file, what somebody did, and a file of it for others to check."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack

WAIT_SECONDS_MAX = 60.0
STORY = ["filejob.received", "filejob.queued", "filejob.chunk_loaded", "filejob.completed"]
CONTRACT = {
    "columns": [{"name": "id", "type": "bigint"}, {"name": "paid_on", "type": "date", "nullable": False}],
    "fiscal_date_column": "paid_on",
}


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def loaded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file that was loaded, in the trail to its end."""
    path = tmp_path_factory.mktemp("trail") / "trail-June.csv"
    path.write_text("id,paid_on\n1,2026-03-31\n2,2026-04-01\n")
    with stack.http() as http:
        assert http.put("/api/v1/datasets/trail_payments", json=CONTRACT).is_success
    [task] = stack.json("load", str(path), "--dataset", "trail_payments", "--wait")
    with stack.http() as http:
        until(lambda: topics(ask(http, job=task["task_id"])) == STORY[::-1], "the trail")
    return dict(task)


def ask(http: httpx2.Client, **asked: Any) -> dict[str, Any]:
    answer = http.get("/api/v1/audit", params=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def topics(answer: dict[str, Any]) -> list[str]:
    return [entry["topic"] for entry in answer["entries"]]


@pytest.mark.parametrize("by", ["task_id", "sha256", "filename"])
def test_who_touched_a_file_is_told_by_whatever_is_known_of_it(
    http: httpx2.Client, loaded: dict[str, Any], by: str
) -> None:
    answer = ask(http, **{"job" if by == "task_id" else by: loaded[by]})
    assert topics(answer) == STORY[::-1]
    assert [entry["actor"] for entry in answer["entries"]] == ["worker", "worker", "worker", "admin"]
    assert {entry["dataset"] for entry in answer["entries"]} == {"trail_payments"}
    assert answer["view"]["lag"] == answer["view"]["log_position"] - answer["view"]["position"] >= 0


def test_questions_can_be_put_together(http: httpx2.Client, loaded: dict[str, Any]) -> None:
    asked = {"dataset": "trail_payments", "fiscal_year": "FY2025-26", "topic": "filejob.completed"}
    [entry] = ask(http, **asked)["entries"]
    assert entry["fiscal_years"] == ["FY2025-26", "FY2026-27"]
    day = loaded["received_at"][:10]
    assert topics(ask(http, **asked, since=day, until=day, text="trail-JUNE")) == ["filejob.completed"]
    yesterday = (datetime.fromisoformat(day) - timedelta(days=1)).date().isoformat()
    assert ask(http, **asked, until=yesterday)["entries"] == []
    assert ask(http, **asked, actor="admin")["entries"] == []


def test_pages_go_both_ways(http: httpx2.Client, loaded: dict[str, Any]) -> None:
    walked: list[str] = []
    page = ask(http, job=loaded["task_id"], limit=3)
    walked += topics(page)
    assert page["next"] == page["entries"][-1]["position"]
    page = ask(http, job=loaded["task_id"], limit=3, before=page["next"])
    walked += topics(page)
    assert (walked, page["next"]) == (STORY[::-1], None)
    assert topics(ask(http, job=loaded["task_id"], after=0)) == STORY


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"since": "yesterday"}, "neither a day nor an instant"),
        ({"until": "2026-02-31"}, "neither a day nor an instant"),
        ({"actr": "admin"}, "Nothing is asked for by actr"),
        ({"text": "\0"}, "NUL"),
        ({"text": ""}, "empty"),
        ({"sha256": "x"}, "sha256"),
        ({"before": 1, "after": 1}, "Both before and after"),
        ({"before": -1}, "before"),
        ({"after": 1 << 63}, "after"),
        ({"limit": 0}, "limit"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused_with_the_reason(
    http: httpx2.Client, asked: dict[str, Any], what: str
) -> None:
    answer = http.get("/api/v1/audit", params=asked)
    assert answer.status_code == 422, answer.text
    assert what in answer.json()["detail"]


def test_an_event_is_told_with_all_that_it_says(stack: Stack, http: httpx2.Client, loaded: dict[str, Any]) -> None:
    [entry] = ask(http, job=loaded["task_id"], topic="filejob.received")["entries"]
    event: dict[str, Any] = {"leaf_index": None}
    while event["leaf_index"] is None:  # until it is sealed
        event = http.get(f"/api/v1/audit/{entry['position']}").json()
    assert event["data"]["sha256"] == loaded["sha256"]
    digest = "SELECT encode(sha256(state), 'hex') FROM ledger.stored_events WHERE id = %s"
    assert [(event["state_sha256"],)] == stack.sql(digest, entry["position"])
    assert stack.json("audit", "event", str(entry["position"])) == event
    for position in ("0", str(10**15), str(10**30)):
        assert http.get(f"/api/v1/audit/{position}").status_code == 404


def test_reading_is_on_record_and_a_walk_costs_two_events_a_minute(stack: Stack, http: httpx2.Client) -> None:
    marker = f"nobody-{uuid4().hex[:8]}"

    def reads() -> list[Any]:
        return stack.sql(
            "SELECT (state->>'reads')::int FROM (SELECT id, convert_from(state, 'UTF8')::jsonb AS state"
            " FROM ledger.stored_events WHERE topic = 'audit.read') AS read"
            " WHERE state->'asked'->>'actor' = %s ORDER BY id",
            marker,
        )

    assert reads() == []
    for position in range(10):
        ask(http, actor=marker, before=position, limit=position + 1)
    assert reads() == [(1,)]
    # A minute later:
    stack.sql("UPDATE audit.reads SET opened_at = opened_at - interval '1 minute'")
    until(lambda: reads() == [(1,), (9,)], "what was counted")
    found = ask(http, topic="audit.read", actor="admin", limit=1000)
    assert len(found["entries"]) >= 2


def test_the_command_line_tells_the_trail(stack: Stack, loaded: dict[str, Any]) -> None:
    answer = stack.json("audit", "trail", "--job", loaded["task_id"])
    assert topics(answer) == STORY[::-1]
    plain = stack.run("audit", "trail", "--job", loaded["task_id"], "--limit", "2")
    lines = [line.split("\t") for line in plain.stdout.splitlines()]
    assert [line[3] for line in lines[1:]] == STORY[:1:-1]
    assert f"--before {lines[-1][0]}" in plain.stderr
    refused = stack.run("audit", "trail", "--since", "yesterday")
    assert (refused.returncode, "neither a day nor an instant" in refused.stderr) == (6, True)


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_an_export_is_checked_without_the_ledger_and_refused_when_it_was_changed(
    stack: Stack, loaded: dict[str, Any], tmp_path: Path, form: str
) -> None:
    file, key = tmp_path / f"trail.{form}", tmp_path / "ledger.pub"
    key.write_text(stack.run("audit", "key").stdout)
    taken = stack.json("audit", "export", "--job", loaded["task_id"], "--format", form, "-o", str(file))
    assert taken["size"] == file.stat().st_size
    assert len(file.read_bytes().splitlines()) == len(STORY) + (form == "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([key.name, file.name, f"{file.name}.manifest"])
    checked = stack.json("audit", "check-export", str(file), "--key", str(key))
    assert (checked["entries"], checked["taken_by"], checked["asked"]) == (4, "admin", {"job": loaded["task_id"]})
    assert checked["topics"] == dict.fromkeys(sorted(STORY), 1)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"admin", b"nimda"))
    refused = stack.run("audit", "check-export", str(file), "--key", str(key))
    assert (refused.returncode, "was changed" in refused.stderr) == (9, True)
    file.write_bytes(data[:-1])
    refused = stack.run("audit", "check-export", str(file), "--key", str(key))
    assert (refused.returncode, "was cut" in refused.stderr) == (9, True)
    exported = stack.json("audit", "trail", "--topic", "audit.exported", "--limit", "1")["entries"][0]
    event = stack.json("audit", "event", str(exported["position"]))
    assert (event["data"]["sha256"], event["data"]["entries"]) == (checked["sha256"], 4)


def test_a_job_is_shown_as_it_was(stack: Stack, http: httpx2.Client, loaded: dict[str, Any]) -> None:
    path = f"/api/v1/jobs/{loaded['task_id']}"
    events = http.get(f"{path}/events").json()["events"]
    for number, event in enumerate(events, 1):
        by_version, by_time = (http.get(path, params={"at": at}).json() for at in (str(number), event["at"]))
        assert by_version["position"] == event["position"]
        assert by_version["status"] == ["Received", "Queued", "Processing", "Completed"][number - 1]
        assert by_time["version"] >= number
    before = datetime.fromisoformat(events[0]["at"]) - timedelta(microseconds=1)
    for at in (before.isoformat(), "2020-01-01", "0", "5"):
        answer = http.get(path, params={"at": at})
        assert answer.status_code == 404, answer.text
    assert "it was received at" in http.get(path, params={"at": "2020-01-01"}).json()["detail"]
    today = stack.json("jobs", "show", loaded["task_id"], "--at", loaded["received_at"][:10])
    assert {**today, "view": None} == {**http.get(path).json(), "view": None} | {
        name: today[name] for name in ("at", "version", "versions")
    }
    assert stack.run("jobs", "show", loaded["task_id"], "--at", "soon").returncode == 6
    assert json.dumps(today)
