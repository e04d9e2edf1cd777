"""Each durable step of a load, from the dispatcher to the view, is where its process dies once.

The steps are found in the code, so a new one is tested from its first day.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.faults import fault
from tests.faults.kit import FaultStack, failpoint_names, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound

# Steps that an upload does not come to by itself, or that other tests of this folder stage. STEP -> where.
ELSEWHERE = {
    "blob_growing": "test_upload_faults",
    "blob_synced": "test_upload_faults",
    "blob_durable": "test_upload_faults",
    "received_appended": "test_upload_faults",
    "received_committed": "test_upload_faults",
    "mail_sent": "test_mail",
    "dead_letter_recorded": "test_broker_faults",
    "rebuild_compared": "test_operations",
    "rebuild_switched": "test_operations",
    "rebuild_chunk_loaded": "test_rebuild_faults",
    "rebuild_chunk_committed": "test_rebuild_faults",
    "rebuild_exchanged": "test_rebuild_faults",
    "erasure_key_destroyed": "test_erasure",
    "erasure_appended": "test_erasure",
    "erasure_committed": "test_erasure",
    "adjustment_written": "test_adjustments",
    "operation_end_appended": "test_operations",
    "operation_end_committed": "test_operations",
}
AFTER_A_FAILURE = {"pause_appended", "pause_committed", "retry_committed"}
AFTER_A_REFUSAL = {"failure_appended", "failure_committed"}
TOO_MANY = 1_300  # of about 11,300 records
LOADING = ("ledger", "projections", "workers")  # those of `archive` are killed at where years are archived
STEPS = sorted(failpoint_names(*LOADING) - ELSEWHERE.keys() - AFTER_A_FAILURE - AFTER_A_REFUSAL)


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


@fault(
    6,
    "kill -9 of whoever comes to a durable step of a load, at each of them",
    protection="rows and event in one transaction; the lease runs out; positions are stored with what they count",
    seen="with the rows committed before the event: a kill in between left rows twice",
)
@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_dies_at_a_step_costs_time_only(stack: FaultStack, step: str) -> None:
    file = payments_file()
    stack.arm(step, "kill")
    task = stack.send(file)
    stack.wait_hit(step)
    stack.check_loaded(task["task_id"], file)
    assert stack.topics(task["task_id"]).count("filejob.failed") == 0
    assert_ledger_sound(stack, stack.accepted)


@fault(
    6,
    "kill -9 of a worker while it writes down that an attempt failed, or opens the next one",
    protection="the pause, the release of the work and Failed are one transaction",
    seen="without Retried: the job stayed Failed, its last chunk refused",
)
@pytest.mark.parametrize("step", sorted(AFTER_A_FAILURE))
def test_a_worker_that_dies_while_it_tells_of_a_failure_loses_nothing(stack: FaultStack, step: str) -> None:
    file = payments_file()
    stack.arm(step, "kill")
    stack.arm("chunk_copied", "raise")
    task = stack.send(file)
    stack.wait_hit(step)
    stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    6,
    "kill -9 of a worker while it ends a job for good",
    protection="Failed, the withdrawal of the rows and the end of the work are one transaction",
    seen="without the withdrawal: 9,698 rows of a job that failed for good",
)
@pytest.mark.parametrize("step", sorted(AFTER_A_REFUSAL))
def test_a_worker_that_dies_while_it_ends_a_job_leaves_no_rows(stack: FaultStack, step: str) -> None:
    file = payments_file(last_line="1,2026-03-01,1.00,too many\n" * TOO_MANY)
    stack.arm(step, "kill")
    task = stack.send(file)
    stack.wait_hit(step)
    wait_until(lambda: stack.topics(task["task_id"])[-1] == "filejob.failed", "the job does not end")
    ended = stack.wait(task["task_id"], "Failed")
    assert (ended["error"]["code"], ended["error"]["retry_at"]) == ("rejects_too_many", None)
    assert_ledger_sound(stack, stack.accepted)


def test_no_step_is_forgotten() -> None:
    known = {*STEPS, *ELSEWHERE, *AFTER_A_FAILURE, *AFTER_A_REFUSAL}
    assert known == failpoint_names(*LOADING)
