"""Whatever happens to the views, uploads and loads go on, the log is believed, and the view ends up equal to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.faults import fault
from tests.faults.kit import FaultStack, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound

# Longer than any wait for MongoDB, shorter than what a person takes for an answer that never comes.
ANSWER_SECONDS_MAX = 60.0
RESTARTS = 2

Task = dict[str, Any]


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


@contextmanager
def killed_mongodb(stack: FaultStack) -> Iterator[None]:
    """Dead, and nobody starts it again: the supervisor stands still."""
    supervisor = int((stack.home / "run" / "lock").read_text())
    mongodb = stack.state()["pids"]["mongodb"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        stack.kill("mongodb")
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)
    stack.wait_replaced("mongodb", mongodb)


@contextmanager
def paused_mongodb(stack: FaultStack) -> Iterator[None]:
    """It accepts connections, as its kernel does, and never answers."""
    stopped = stack.pause("mongodb")
    try:
        yield
    finally:
        stack.resume(*stopped)


def is_completed(stack: FaultStack, task_id: str) -> bool:
    """By the log, whatever the view says."""
    return stack.topics(task_id)[-1] == "filejob.completed"


AWAY: dict[str, Callable[[FaultStack], Any]] = {"killed": killed_mongodb, "paused": paused_mongodb}


@fault(
    20,
    "the MongoDB server killed, or standing still, while files come in and are loaded",
    protection="no door and no worker needs a view; what one job is comes from the log when the view does not answer",
    seen="killed, without the answer from the log: /task was no task, it had no view",
)
@pytest.mark.parametrize("how", AWAY)
def test_uploads_and_loads_do_not_need_the_view_and_it_catches_up(stack: FaultStack, how: str) -> None:
    before, during = payments_file(), payments_file()
    first = stack.send(before)
    with AWAY[how](stack), stack.http() as http:
        http.timeout = ANSWER_SECONDS_MAX
        second = stack.send(during)
        for task in (first, second):
            wait_until(partial(is_completed, stack, task["task_id"]), "without the view, files are not loaded")
        told = http.get(f"/task/{second['task_id']}").json()
        assert (told["status"], told["view"]) == ("Completed", None)
        page = http.get("/api/v1/jobs")
        assert (page.status_code, page.json()["code"]) == (503, "part_unavailable"), page.text
        assert int(page.headers["Retry-After"]) > 0
        ready = http.get("/readyz")
        assert ready.status_code == 200, ready.text
        assert ready.json()["parts"]["mongodb"]["ok"] is False
    for task, file in ((first, before), (second, during)):
        stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    20,
    "the MongoDB server killed and started again between the documents of a batch and its position, twice",
    protection="the position is written after the documents; what the server did not confirm is written again",
    seen="with the position first: a story lacked its beginning, and the projector ended each time",
)
def test_a_view_whose_server_is_restarted_again_and_again_misses_nothing(stack: FaultStack) -> None:
    for _ in range(RESTARTS):
        mongodb, file = stack.state()["pids"]["mongodb"], payments_file()
        stack.arm("view_written", "stop")
        task = stack.send(file)
        projector = stack.wait_hit("view_written")
        stack.kill("mongodb")
        stack.wait_replaced("mongodb", mongodb)
        stack.resume(projector)
        stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    21,
    "kill -9 of the projector when a batch is written and its position is not, or just is",
    protection="the position is written after the documents, which are guarded by version",
    seen="view_written, without the fold's guard by version: the job stayed Received in the view",
)
@pytest.mark.parametrize("step", ["view_written", "view_positioned"])
def test_a_batch_that_is_applied_again_changes_nothing(stack: FaultStack, step: str) -> None:
    projector = stack.state()["pids"]["projector"]
    file = payments_file()
    stack.arm(step, "kill")
    task = stack.send(file)
    assert stack.wait_hit(step) == projector
    stack.wait_replaced("projector", projector)
    stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


UNKNOWN = ("filejob.teleported", b"{}")
UNREADABLE = ("filejob.received", b"no JSON")


def poison(stack: FaultStack, topic: str, state: bytes) -> int:
    """An event that nobody can make sense of, put into the log as only SQL can: its position."""
    [(position,)] = stack.sql(
        "INSERT INTO ledger.stored_events (originator_id, originator_version, topic, state)"
        " VALUES (%s, 1, %s, %s) RETURNING id",
        str(uuid4()),
        topic,
        state,
    )
    return int(position)


def cure(stack: FaultStack, position: int) -> None:
    """Take it out again, as only who owns the database can, without the guards of the log."""
    stack.sql_unguarded("DELETE FROM ledger.stored_events WHERE id = %s", position)
    stack.taken_out.add(position)  # which the seal goes on to tell


def wait_stopped(stack: FaultStack, name: str, position: int) -> None:
    """Wait until a process says where it cannot go on, ends, and another is started in its place."""
    pid = stack.state()["pids"].get(name)  # none while it waits to be started again
    log = stack.home / "logs" / f"{name}.log"
    told = f"event at position {position} of the log"
    wait_until(lambda: told in log.read_text(), f"{name} does not tell where it stops")
    wait_until(lambda: stack.state()["pids"].get(name) not in (None, pid), f"{name} is not started again")


def followed(stack: FaultStack) -> int:
    """How far the dispatcher has come."""
    [(position,)] = stack.sql("SELECT position FROM work.positions WHERE name = 'dispatcher'")
    return int(position)


@fault(
    23,
    "an event of an unknown kind and one without readable content, put into the log by SQL",
    protection="whoever follows the log goes up to what cannot be read, tells where it is, and ends",
    seen="with what cannot be read passed over: the projector never told where it stops",
)
def test_whoever_follows_the_log_stops_at_what_cannot_be_read_and_skips_nothing(stack: FaultStack) -> None:
    before, behind = payments_file(2_000), payments_file(2_000)
    known = stack.send(before)
    stack.check_loaded(known["task_id"], before)
    first = poison(stack, *UNKNOWN)
    second = poison(stack, *UNREADABLE)
    try:
        wait_stopped(stack, "projector", first)
        wait_stopped(stack, "dispatcher", first)
        waiting = stack.send(behind)  # a door only appends
        check_told(stack, known, waiting, first)
        cure(stack, first)
        wait_stopped(stack, "projector", second)
        check_told(stack, known, waiting, second)
    finally:
        cure(stack, first)
        cure(stack, second)
    stack.check_loaded(waiting["task_id"], behind)
    assert_ledger_sound(stack, stack.accepted)


def check_told(stack: FaultStack, known: Task, waiting: Task, position: int) -> None:
    """Every job is told, from before and behind the event; nobody has gone past it."""
    with stack.http() as http:
        told = http.get(f"/task/{known['task_id']}").json()
        assert told["status"] == "Completed"
        assert told["view"]["position"] < position
        assert told["view"]["lag"] == told["view"]["log_position"] - told["view"]["position"] > 0
        told = http.get(f"/task/{waiting['task_id']}").json()
        assert (told["status"], told["view"]) == ("Received", None)
    assert followed(stack) < position
