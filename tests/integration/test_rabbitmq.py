"""The ledger on RabbitMQ, the broker of production: quorum queues, and nothing lost or doubled whatever dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import amqp
import pytest

from tests.integration.rabbitmq import RabbitMQ, running_rabbitmq
from tests.stack import Stack, open_folder

pytestmark = pytest.mark.rabbitmq

ROWS = 60_000
WAIT_SECONDS_MAX = 120.0
QUEUE = "ledger.work"


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A node of the tests' own."""
    with running_rabbitmq() as node:
        yield node


@pytest.fixture(scope="module")
def stack(rabbitmq: RabbitMQ) -> Iterator[Stack]:
    """A ledger whose work is in small pieces and whose patience is short."""
    environment = {
        "CELERY_BROKER_URL": rabbitmq.url,
        "LEDGER_CHUNK_BYTES": "20000",
        "LEDGER_LEASE_SECONDS": "2",
        "LEDGER_RESEND_SECONDS": "2",
        "LEDGER_ATTEMPTS_MAX": "100",
    }
    with open_folder() as folder:
        stack = Stack(folder / "home", environment)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


class Load:
    """A file on its way into a dataset of its own."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.dataset = f"payments_{uuid4().hex[:8]}"
        self.path = folder / "payments.csv"
        lines = (f"{number},2026-04-{1 + number % 30:02},text {number}\n" for number in range(ROWS))
        self.path.write_text("number,paid_on,text\n" + "".join(lines))
        [task] = stack.json("load", str(self.path), "--dataset", self.dataset)
        self.task_id: str = task["task_id"]

    def wait_for_chunks(self, number: int) -> None:
        """Wait until so many chunks are loaded, and see that the load is still going on."""
        wait_until(lambda: self._events().count("filejob.chunk_loaded") >= number, "chunks are not loaded")
        assert "filejob.completed" not in self._events(), "the file is too small for this test"

    def check_end(self) -> None:
        """Wait for the end; every row is there once, and every chunk is on record once."""
        task = self.stack.wait(self.task_id)
        assert (task["status"], task["rows_loaded"], task["records"]) == ("Completed", ROWS, ROWS), task
        found = self.stack.sql(
            "SELECT count(*), count(DISTINCT _record), sum(number), min(_record), max(_record)"
            f" FROM data.{self.dataset}"
        )
        assert found == [(ROWS, ROWS, sum(range(ROWS)), 1, ROWS)]
        events = self._events()
        assert events.count("filejob.chunk_loaded") == task["chunks_total"] > 10
        assert events[-1] == "filejob.completed"
        assert self.stack.sql("SELECT count(*) FROM work.items WHERE job_id = %s", self.task_id) == [(0,)]

    def _events(self) -> list[str]:
        statement = "SELECT topic FROM ledger.stored_events WHERE originator_id = %s ORDER BY originator_version"
        return [topic for (topic,) in self.stack.sql(statement, self.task_id)]


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def has_new_workers(stack: Stack, before: int) -> bool:
    return stack.state()["pids"].get("celery") not in (None, before)


def declare(rabbitmq: RabbitMQ, kind: str) -> None:
    connection = rabbitmq.connect()
    try:
        connection.channel().queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": kind})
    finally:
        connection.close()


def test_a_file_of_many_chunks_is_loaded_and_no_other_broker_runs(stack: Stack, tmp_path: Path) -> None:
    assert "valkey" not in stack.state()["pids"]
    Load(stack, tmp_path).check_end()


def test_the_queue_is_a_quorum_queue(stack: Stack, rabbitmq: RabbitMQ) -> None:
    declare(rabbitmq, "quorum")
    with pytest.raises(amqp.PreconditionFailed, match="quorum"):
        declare(rabbitmq, "classic")


def test_workers_that_are_killed_again_and_again_change_no_count_and_no_sum(stack: Stack, tmp_path: Path) -> None:
    load = Load(stack, tmp_path)
    for chunks in (1, 4, 8):
        load.wait_for_chunks(chunks)
        before = stack.state()["pids"]["celery"]
        stack.kill("celery")
        wait_until(partial(has_new_workers, stack, before), "no new workers")
    load.check_end()


def test_losing_every_message_costs_time_only(stack: Stack, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    load = Load(stack, tmp_path)
    load.wait_for_chunks(1)
    stack.kill("celery")
    connection = rabbitmq.connect()
    channel = connection.channel()
    lost = 0

    def purged() -> bool:
        nonlocal lost
        lost += channel.queue_purge(QUEUE) or 0
        return lost > 0

    wait_until(purged, "there was no message to lose")
    connection.close()
    load.check_end()


def test_a_broker_that_goes_away_and_comes_back_changes_no_count_and_no_sum(
    stack: Stack, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    load = Load(stack, tmp_path)
    load.wait_for_chunks(1)
    rabbitmq.stop()
    rabbitmq.start()
    load.check_end()
