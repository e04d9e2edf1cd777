"""Whatever happens at the door, a file was taken whole or not at all, and the sender's next attempt sets it right."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import httpx2
import pytest

from ledger.blobs import ABANDONED_SECONDS
from tests.faults.faults import fault
from tests.faults.kit import FaultStack, PaymentsFile, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound

# A good deal more than one block of the door (1 MiB), so that it writes while more comes in.
LARGE_RECORDS = 60_000


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


def send_to_a_door_that_dies(stack: FaultStack, failpoint: str, file: PaymentsFile) -> None:
    """Send a file; the door is killed at the failpoint, and is back when this returns."""
    door = stack.state()["pids"]["api"]
    stack.arm(failpoint, "kill")
    with pytest.raises(httpx2.TransportError):
        stack.put(file)
    assert stack.wait_hit(failpoint) == door
    stack.wait_replaced("api", door)
    stack.wait_ready()


def check_next_attempt(stack: FaultStack, file: PaymentsFile) -> None:
    """The file is new to the ledger, and is loaded."""
    task = stack.send(file)
    assert not task["duplicate"]
    stack.check_loaded(task["task_id"], file)


@fault(
    1,
    "kill -9 of the door while a body streams in",
    protection="Received is appended after the last byte only; half a file never has a blob's name; a sweep at start",
    seen="without the sweep at start: the half file is never swept away",
)
def test_a_door_that_dies_while_a_body_streams_leaves_half_a_file_that_is_swept_later(stack: FaultStack) -> None:
    before = stack.position()
    file = payments_file(LARGE_RECORDS)
    send_to_a_door_that_dies(stack, "blob_growing", file)
    [left] = stack.incoming()
    assert 0 < left.stat().st_size < len(file.content)
    assert stack.position() == before
    assert not stack.blob(file).exists()
    check_next_attempt(stack, file)
    long_ago = time.time() - ABANDONED_SECONDS - 60
    os.utime(left, (long_ago, long_ago))
    door = stack.state()["pids"]["api"]
    stack.kill("api")
    stack.wait_replaced("api", door)
    wait_until(lambda: not stack.incoming(), "the half file is never swept away")
    assert_ledger_sound(stack, stack.accepted)


@fault(
    2,
    "kill -9 of the door when the blob is on disk and has not its name",
    protection="a blob takes its name in one step, after it is whole",
    seen="with the name given first: the blob stood under its name",
)
def test_a_door_that_dies_before_the_blob_has_its_name_has_taken_nothing(stack: FaultStack) -> None:
    before = stack.position()
    file = payments_file()
    left_before = len(stack.incoming())
    send_to_a_door_that_dies(stack, "blob_synced", file)
    assert stack.position() == before
    assert not stack.blob(file).exists()
    assert len(stack.incoming()) == left_before + 1
    check_next_attempt(stack, file)
    assert stack.blob(file).read_bytes() == file.content
    assert_ledger_sound(stack, stack.accepted)


@fault(
    2,
    "kill -9 of the door when the blob is durable and no job answers for it",
    protection="blobs are named by their content, so that writing one again is harmless",
    seen="with a link instead of a replacement: 503, File exists",
)
def test_a_blob_without_a_job_is_adopted_by_the_next_attempt(stack: FaultStack) -> None:
    before = stack.position()
    file = payments_file()
    send_to_a_door_that_dies(stack, "blob_durable", file)
    assert stack.position() == before
    assert stack.blob(file).read_bytes() == file.content
    check_next_attempt(stack, file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    2,
    "kill -9 of the door when Received is appended and not committed",
    protection="the event and its arrival are one transaction",
    seen="with the event in a transaction of its own: one event in the log, no arrival",
)
def test_a_door_that_dies_before_the_commit_has_taken_nothing(stack: FaultStack) -> None:
    before = stack.position()
    file = payments_file()
    send_to_a_door_that_dies(stack, "received_appended", file)
    assert stack.position() == before
    check_next_attempt(stack, file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    3,
    "kill -9 of the door when Received is committed and the sender knows nothing",
    protection="the same bytes into the same dataset are one job",
    seen="without looking for a twin: another job, not a duplicate",
)
def test_a_sender_who_got_no_answer_is_told_the_same_job_the_second_time(stack: FaultStack) -> None:
    file = payments_file()
    send_to_a_door_that_dies(stack, "received_committed", file)
    [(job_id,)] = stack.sql("SELECT job_id::text FROM ledger.arrivals WHERE sha256 = %s", file.sha256)
    task = stack.send(file)
    assert (task["task_id"], task["duplicate"]) == (job_id, True)
    stack.check_loaded(job_id, file)
    assert stack.topics(job_id).count("filejob.received") == 1
    assert stack.sql("SELECT count(*) FROM ledger.arrivals WHERE sha256 = %s", file.sha256) == [(1,)]
    assert_ledger_sound(stack, stack.accepted)
