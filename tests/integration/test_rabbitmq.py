"""The ledger on RabbitMQ, the broker of production: quorum queues, and nothing lost or doubled whatever dies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import amqp
import pytest

from tests.faults.faults import fault
from tests.integration.rabbitmq import RabbitMQ, running_rabbitmq
from tests.stack import Stack, open_folder
from tests.waiting import wait_until

pytestmark = pytest.mark.rabbitmq

ROWS = 60_000
WAIT_SECONDS_MAX = 120.0
QUEUES = ("ledger.small", "ledger.large")


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
        "LEDGER_LOAD_ATTEMPTS_MAX": "100",
    }
    with open_folder() as folder:
        stack = Stack(folder / "home", environment)
        try:
            stack.start()
            yield stack
        finally:
            stack.discard()


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


def has_new_workers(stack: Stack, before: int) -> bool:
    return stack.state()["pids"].get("celery") not in (None, before)


def declare(rabbitmq: RabbitMQ, name: str, **arguments: Any) -> None:
    connection = rabbitmq.connect()
    try:
        given = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments=given)
    finally:
        connection.close()


def test_a_file_of_many_chunks_is_loaded_and_no_other_broker_runs(stack: Stack, tmp_path: Path) -> None:
    assert "valkey" not in stack.state()["pids"]
    Load(stack, tmp_path).check_end()


@pytest.mark.parametrize("queue", [*QUEUES, "ledger.operator"])
def test_a_work_queue_is_a_quorum_queue_with_a_limit_and_a_place_for_dead_letters(
    stack: Stack, rabbitmq: RabbitMQ, queue: str
) -> None:
    wanted = {
        "queue_type": "quorum",
        "delivery_limit": 20,
        "overflow": "reject-publish",
        "dead_letter_exchange": "ledger.dead",
        "dead_letter_strategy": "at-least-once",
    }
    declare(rabbitmq, queue, **wanted)
    for name, other in {"queue_type": "classic", "delivery_limit": 21, "dead_letter_exchange": "elsewhere"}.items():
        with pytest.raises(amqp.PreconditionFailed):
            declare(rabbitmq, queue, **{**wanted, name: other})


def publish(rabbitmq: RabbitMQ, queue: str, body: str, **properties: Any) -> None:
    connection = rabbitmq.connect()
    try:
        connection.channel().basic_publish(amqp.Message(body, **properties), "ledger", queue)
    finally:
        connection.close()


def dead_letters(stack: Stack) -> list[dict[str, Any]]:
    found = stack.sql("SELECT state FROM ledger.stored_events WHERE topic = 'deadletter.recorded' ORDER BY id")
    return [json.loads(bytes(state)) for (state,) in found]


def in_celerys_form(task: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    body = json.dumps([[], arguments, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers = {"task": task, "id": str(uuid4()), "lang": "py", "kwargsrepr": repr(arguments), "argsrepr": "()"}
    properties = {
        "application_headers": headers,
        "correlation_id": headers["id"],
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
    }
    return body, properties


def test_what_is_no_message_of_ours_is_written_down_once_and_stops_nobody(
    stack: Stack, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    before = len(dead_letters(stack))
    publish(rabbitmq, "ledger.small", "nonsense", content_type="text/plain")
    publish(rabbitmq, "ledger.small", "{", content_type="application/json", content_encoding="utf-8")
    job_id = str(uuid4())
    body, properties = in_celerys_form("ledger.unknown", job_id=job_id)
    publish(rabbitmq, "ledger.large", body, **properties)
    wait_until(lambda: any(letter["job_id"] == job_id for letter in dead_letters(stack)), "no dead letter")
    [letter] = [letter for letter in dead_letters(stack)[before:] if letter["job_id"] == job_id]
    assert (letter["queue"], letter["reason"], letter["task"]) == ("ledger.large", "rejected", "ledger.unknown")
    assert letter["body_sha256"] == hashlib.sha256(body.encode()).hexdigest()
    Load(stack, tmp_path).check_end()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"job_id": "none", "chunk": 0, "published_at_seconds": 1.0},
        {"job_id": str(uuid4()), "chunk": "0", "published_at_seconds": 1.0},
        {"job_id": str(uuid4()), "chunk": -1, "published_at_seconds": 1.0},
        {"job_id": str(uuid4()), "chunk": 2**40, "published_at_seconds": 1.0},
        {"job_id": str(uuid4()), "chunk": 0, "published_at_seconds": "yesterday"},
        {"job_id": str(uuid4()), "chunk": 0, "published_at_seconds": 1.0, "epoch": 7},
        {"job_id": str(uuid4()), "chunk": 0, "published_at_seconds": 1.0},
    ],
    ids=["empty", "no id", "text", "negative", "huge", "no time", "epoch of another", "unknown job"],
)
def test_a_message_of_wrong_fields_is_acknowledged_and_has_no_effect(
    stack: Stack, rabbitmq: RabbitMQ, arguments: dict[str, Any]
) -> None:
    position = stack.sql("SELECT max(id) FROM ledger.stored_events")
    log = stack.home / "logs" / "celery.log"
    start = log.stat().st_size
    body, properties = in_celerys_form("ledger.load", **arguments)
    publish(rabbitmq, "ledger.small", body, **properties)

    def told() -> bool:
        news = log.read_bytes()[start:]
        return b"message_refused" in news or b"work_not_due" in news

    wait_until(told, "nobody says what became of the message")
    wait_until(lambda: rabbitmq.waiting("ledger.small") == 0, "the message is still there")
    assert b"Traceback" not in log.read_bytes()[start:]
    assert stack.sql("SELECT max(id) FROM ledger.stored_events") == position


@fault(
    28,
    "the work queues lose their bindings, so that no message finds its queue",
    protection="the broker has to find a queue for a message; who is told otherwise connects and declares anew",
    seen="without `mandatory`: Received for ever",
)
def test_a_queue_that_lost_its_binding_is_found_again(stack: Stack, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    Load(stack, tmp_path).check_end()  # whoever sends has declared the queues, and would not do so again
    connection = rabbitmq.connect()
    for queue in QUEUES:
        for routing_key in (queue, f"#.{queue}"):  # the second is of Celery's delayed delivery, and would do as well
            connection.channel().queue_unbind(queue, "ledger", routing_key)
    connection.close()
    Load(stack, tmp_path).check_end()


def test_a_queue_that_was_deleted_is_made_again(stack: Stack, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    load = Load(stack, tmp_path)
    load.wait_for_chunks(1)
    connection = rabbitmq.connect()
    for queue in QUEUES:
        connection.channel().queue_delete(queue)
    connection.close()
    load.check_end()


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
        lost += sum(channel.queue_purge(queue) or 0 for queue in QUEUES)
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
