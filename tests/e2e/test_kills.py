"""Killed at any moment, the ledger ends up with every record once, and with a log that says so."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack

RECORDS = 112_000
CHUNK_BYTES = 96 << 10  # so that there are more than a hundred chunks
WAIT_SECONDS_MAX = 120.0
POLL_SECONDS = 0.2  # to ask what was loaded takes a part of the time that loading it needs
VICTIMS = ("celery", "dispatcher", "projector", "postgresql")


@pytest.fixture(scope="module")
def fragile(running: Callable[[dict[str, str]], AbstractContextManager[Stack]]) -> Iterator[Stack]:
    """A ledger of many small chunks, which soon finds out that somebody died."""
    settings = {
        "LEDGER_CHUNK_BYTES": str(CHUNK_BYTES),
        "LEDGER_LEASE_SECONDS": "2",
        "LEDGER_RESEND_SECONDS": "2",
        "LEDGER_RETRY_SECONDS_MAX": "2",
    }
    with running(settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def flights(flights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first third of them."""
    part = tmp_path_factory.mktemp("some") / flights.name
    with flights.open("rb") as whole:
        part.write_bytes(b"".join(islice(whole, RECORDS + 1)))
    return part


def test_a_load_survives_the_death_of_each_process_in_turn(fragile: Stack, flights: Path) -> None:
    [task] = fragile.json("load", str(flights), "--dataset", "killed_in_turn")
    killed = {}
    loaded = 0
    for victim in VICTIMS:
        loaded = _more_chunks_loaded(fragile, task["task_id"], loaded)
        killed[victim] = fragile.state()["pids"][victim]
        fragile.kill(victim)
    _check_accounted(fragile, task["task_id"], "killed_in_turn", flights)
    pids = fragile.state()["pids"]
    assert not [victim for victim in VICTIMS if pids[victim] == killed[victim]]


def test_a_load_goes_on_where_a_power_cut_ended_it(fragile: Stack, flights: Path) -> None:
    [task] = fragile.json("load", str(flights), "--dataset", "power_cut")
    loaded = _more_chunks_loaded(fragile, task["task_id"], 2)
    fragile.kill_everything()
    fragile.start()
    assert not _is_completed(fragile, task["task_id"]), "the file was loaded before the power was cut"
    assert _chunks_loaded(fragile, task["task_id"]) >= loaded
    _check_accounted(fragile, task["task_id"], "power_cut", flights)


def test_the_door_takes_a_file_again_that_a_power_cut_broke_off(fragile: Stack, flights: Path) -> None:
    """The sender dies as well; what was acknowledged before stays, what was not leaves nothing."""
    before = fragile.sql("SELECT count(*) FROM ledger.arrivals")
    sender = subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", "load", "-", "--dataset", "broken_off", "--json"],
        env=fragile.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert sender.stdin is not None
    content = flights.read_bytes()
    sender.stdin.write(content[: len(content) // 2])
    sender.stdin.flush()
    incoming = fragile.home / "blobs" / "incoming"
    _until(lambda: any(path.stat().st_size for path in incoming.iterdir()), "the first bytes at the door")
    fragile.kill_everything()
    sender.kill()
    sender.communicate()
    fragile.start()
    assert fragile.sql("SELECT count(*) FROM ledger.arrivals") == before
    [task] = fragile.json("load", str(flights), "--dataset", "broken_off", "--wait")
    assert (task["status"], task["duplicate"]) == ("Completed", False)
    _check_accounted(fragile, task["task_id"], "broken_off", flights)


def _check_accounted(stack: Stack, task_id: str, dataset: str, flights: Path) -> None:
    task = stack.wait(task_id)
    assert task["status"] == "Completed", task["error"]
    assert (task["records"], task["rows_loaded"], task["rows_rejected"]) == (RECORDS, RECORDS, 0)
    events = stack.json("jobs", "events", task_id)
    _check_story(events, flights.stat().st_size)
    [(job,)] = stack.sql("SELECT position FROM ledger.arrivals WHERE job_id = %s", task_id)
    [(rows, numbers, first, last, distance, air_time)] = stack.sql(
        "SELECT count(*), count(DISTINCT _record), min(_record), max(_record), sum(distance), sum(air_time) "
        f"FROM data.{dataset} WHERE _job = %s",
        job,
    )
    chunks = [event["data"] for event in events if event["type"] == "filejob.chunk_loaded"]
    assert rows == sum(chunk["rows_loaded"] for chunk in chunks) == RECORDS
    assert (numbers, first, last) == (RECORDS, 1, RECORDS)
    assert {"distance": distance, "air_time": air_time} == _sums(flights)
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(RECORDS,)]
    assert stack.json("rebuild", "status")["equal"] is not False


def _check_story(events: list[dict[str, Any]], size: int) -> None:
    """The log's own account of the file closes."""
    kinds = Counter(event["type"] for event in events)
    queued = next(event["data"] for event in events if event["type"] == "filejob.queued")
    assert kinds == {
        "filejob.received": 1,
        "filejob.queued": 1,
        "filejob.chunk_loaded": queued["chunks_total"],
        "filejob.completed": 1,
    }
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    positions = [event["position"] for event in events]
    assert positions == sorted(set(positions))
    assert events[0]["type"] == "filejob.received"
    assert events[-1]["type"] == "filejob.completed"
    chunks = sorted(
        (event["data"] for event in events if event["type"] == "filejob.chunk_loaded"), key=lambda chunk: chunk["chunk"]
    )
    assert [chunk["chunk"] for chunk in chunks] == list(range(queued["chunks_total"]))
    edges = [queued["data_start"], *(chunk["end"] for chunk in chunks)]
    assert [chunk["start"] for chunk in chunks] == edges[:-1]
    assert edges[-1] == size
    assert sum(chunk["records"] for chunk in chunks) == queued["records"] == RECORDS


def _sums(flights: Path) -> dict[str, int]:
    sums = {"distance": 0, "air_time": 0}
    with flights.open(newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            for name in sums:
                sums[name] += int(record[name]) if record[name] != "NA" else 0
    return sums


def _events(stack: Stack, task_id: str) -> list[dict[str, Any]]:
    """What the log holds now; while PostgreSQL is away the door says that it is, and is asked again."""
    with stack.http() as http:
        answer = http.get(f"/api/v1/jobs/{task_id}/events")
    assert answer.status_code in (200, 503), answer.text
    if answer.status_code == 503:
        assert json.loads(answer.text)["remedy"] is not None
        return []
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


def _more_chunks_loaded(stack: Stack, task_id: str, loaded: int) -> int:
    """Wait until more chunks than that are loaded; how many there are, which is not yet all."""
    _until(lambda: _chunks_loaded(stack, task_id) > loaded, f"more than {loaded} loaded chunks")
    assert not _is_completed(stack, task_id), "the file was loaded before anybody could be killed"
    return _chunks_loaded(stack, task_id)


def _chunks_loaded(stack: Stack, task_id: str) -> int:
    return sum(event["type"] == "filejob.chunk_loaded" for event in _events(stack, task_id))


def _is_completed(stack: Stack, task_id: str) -> bool:
    return any(event["type"] == "filejob.completed" for event in _events(stack, task_id))


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(POLL_SECONDS)
