"""The kit does to a running ledger what it says, and its files are what they claim to be."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit import FaultStack, failpoint_names, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound
from tests.stack import children


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


def state_of(pid: int) -> str:
    """The kernel's letter for what a process does: proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_file_is_what_it_claims_and_unlike_every_other() -> None:
    first, second = payments_file(500), payments_file(500)
    assert (first.content, first.filename, first.dataset) != (second.content, second.filename, second.dataset)
    for file in (first, second):
        records = list(csv.DictReader(io.StringIO(file.content.decode())))
        assert len(records) == file.records == 500
        assert sum(int(record["number"]) for record in records) == file.numbers_sum
    assert payments_file(1, "shared").dataset == payments_file(1, "shared").dataset == "shared"


def test_every_failpoint_is_found_and_no_other_can_be_armed(stack: FaultStack) -> None:
    known = {"blob_growing", "blob_synced", "blob_durable", "received_committed", "chunk_copied", "view_written"}
    assert known <= failpoint_names()
    with pytest.raises(AssertionError, match="no failpoint"):
        stack.arm("blob_shrinking", "kill")


def test_a_process_that_stops_at_a_failpoint_stays_there_until_it_is_resumed(stack: FaultStack) -> None:
    stack.arm("chunk_copied", "stop")
    file = payments_file()
    task = stack.send(file)
    pid = stack.wait_hit("chunk_copied")
    wait_until(lambda: state_of(pid) == "T", "it does not stop")
    assert pid in children(stack.state()["pids"]["celery"])
    stack.resume(pid)
    stack.check_loaded(task["task_id"], file)
    assert state_of(pid) != "T"
    assert 12 <= task_chunks(stack, task["task_id"]) <= 20
    assert_ledger_sound(stack, stack.accepted)


def test_paused_workers_do_nothing_until_they_are_resumed(stack: FaultStack) -> None:
    stopped = stack.pause("celery")
    assert len(stopped) >= 3
    wait_until(lambda: all(state_of(pid) == "T" for pid in stopped), "they do not stop")
    file = payments_file()
    task = stack.send(file)
    wait_until(lambda: stack.sql("SELECT published_at FROM work.items") != [(None,)], "nothing is published")
    assert stack.topics(task["task_id"]) == ["filejob.received"]
    stack.resume()
    stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


def test_a_killed_child_is_replaced_and_its_parent_lives_on(stack: FaultStack) -> None:
    parent = stack.state()["pids"]["celery"]
    child = stack.kill_child()
    wait_until(lambda: child not in children(parent) and len(children(parent)) >= 2, "the child is not replaced")
    assert stack.state()["pids"]["celery"] == parent
    file = payments_file()
    stack.check_loaded(stack.send(file)["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


def task_chunks(stack: FaultStack, task_id: str) -> int:
    return stack.topics(task_id).count("filejob.chunk_loaded")
