"""Whoever dies while a data table is built anew costs time: no read fails, and the switch happens once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from tests.faults.faults import fault
from tests.faults.kit import FaultStack, PaymentsFile, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound

STEPS = (
    "rebuild_chunk_loaded",
    "rebuild_chunk_committed",
    "rebuild_compared",
    "rebuild_exchanged",
    "operation_end_appended",
    "operation_end_committed",
)
TOPICS = ["operation.requested", "operation.completed"]


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


def ask(stack: FaultStack, dataset: str, **choices: bool) -> str:
    """Ask for a rebuild: the operation's id."""
    with stack.http() as http:
        answer = http.post(f"/api/v1/views/data.{dataset}/rebuild", json=choices)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["operation_id"])


def wait_ended(stack: FaultStack, operation_id: str) -> dict[str, Any]:
    """Wait for the end of an operation."""
    with stack.http() as http:

        def look() -> dict[str, Any]:
            operation: dict[str, Any] = http.get(f"/api/v1/operations/{operation_id}").json()
            return operation

        wait_until(lambda: look()["status"] in ("Completed", "Failed"), f"operation {operation_id} does not end")
        return look()


@contextmanager
def reading(stack: FaultStack, dataset: str) -> Iterator[list[int]]:
    """Somebody who reads a table again and again meanwhile: the counts that he sees. No read may fail."""
    counts: list[int] = []
    stop = threading.Event()

    def read() -> None:
        connection = psycopg2.connect(stack.database_url())
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not stop.is_set() or not counts:
                cursor.execute(f"SELECT count(*) FROM data.{dataset}")
                [(count,)] = cursor.fetchall()
                counts.append(count)
        connection.close()

    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(read)
        try:
            yield counts
        finally:
            stop.set()
        reader.result()


def send_and_check(stack: FaultStack, file: PaymentsFile) -> None:
    stack.check_loaded(stack.send(file)["task_id"], file)


@fault(
    6,
    "kill -9 of the worker that builds a data table anew, at each of its steps, while files come in and readers read",
    protection="each chunk is committed with its position; the switch and the end of the operation are one transaction",
    seen="operation_end_appended, with the end in a transaction of its own: the table was switched a second time",
)
@pytest.mark.parametrize("step", STEPS)
def test_a_rebuild_whose_worker_is_killed_goes_on_and_switches_once(stack: FaultStack, step: str) -> None:
    first = payments_file()
    dataset = first.dataset
    send_and_check(stack, first)
    stack.arm(step, "kill")
    with reading(stack, dataset) as counts:
        operation_id = ask(stack, dataset)
        stack.wait_hit(step)
        [built] = stack.sql("SELECT count(*), coalesce(max(chunks), 0) FROM views.builds WHERE dataset = %s", dataset)
        send_and_check(stack, payments_file(dataset=dataset))
        operation = wait_ended(stack, operation_id)
    assert operation["status"] == "Completed", operation["error"]
    assert operation["result"]["equal"] is True
    assert stack.topics(operation_id) == TOPICS
    assert operation["result"]["generation"] == 2
    assert counts == sorted(counts)
    assert counts[0] == first.records
    if step == "rebuild_chunk_committed":
        assert built[1] >= 1
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(2 * first.records,)]
    checked = wait_ended(stack, ask(stack, dataset, check=True))
    assert checked["result"]["equal"] is True
    assert_ledger_sound(stack, stack.accepted)
