"""Whatever becomes of a message, or of whoever sends it or gets it, the work is done, and done once."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import amqp
import psycopg2
import pytest

from tests.faults.broker import DELIVERIES_MAX, PUBLISHED_MAX, NewLines, pause_workers, running_behind
from tests.faults.faults import fault
from tests.faults.kit import FAST, FaultStack, payments_file, wait_until
from tests.faults.oracle import assert_ledger_sound
from tests.faults.proxy import FaultProxy
from tests.integration.rabbitmq import RabbitMQ, running_rabbitmq
from tests.stack import children

pytestmark = pytest.mark.rabbitmq

JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
KILLS_MAX = 4 * DELIVERIES_MAX
RESEND_SECONDS = float(FAST["LEDGER_RESEND_SECONDS"])
# More than a hundred chunks.
HUGE_RECORDS = 100_000
# Far less than a huge file has, and enough for what workers had in hand and what they do beside a small file.
CHUNKS_MEANWHILE_MAX = 20


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQ]:
    with running_rabbitmq() as node:
        yield node


@pytest.fixture(scope="module")
def stack(node: RabbitMQ) -> Iterator[FaultStack]:
    with FaultProxy(node.port) as proxy, running_behind(proxy) as stack:
        yield stack


@pytest.fixture
def no_workers(stack: FaultStack) -> Iterator[None]:
    """Nobody takes a message until the test resumes the workers."""
    pause_workers(stack)
    yield
    stack.resume()


def send_to_a_dispatcher_that_dies(stack: FaultStack, failpoint: str) -> str:
    """Accept a file while the dispatcher stands still, which then dies on its behalf; the id of the job."""
    dispatcher = stack.state()["pids"]["dispatcher"]
    paused = stack.pause("dispatcher")
    file = payments_file()
    stack.arm(failpoint, "kill")
    task_id: str = stack.send(file)["task_id"]
    assert stack.topics(task_id) == ["filejob.received"]
    stack.resume(*paused)
    assert stack.wait_hit(failpoint) == dispatcher
    stack.wait_replaced("dispatcher", dispatcher)
    return task_id


@fault(
    4,
    "kill -9 of the dispatcher when it knows of the work, or has marked it as published, and has sent no message",
    protection="what is due is looked for by time, not by events; a message without an answer is sent again",
    seen="when only an event makes it look, and when nothing is sent twice: Received for ever",
)
@pytest.mark.parametrize("failpoint", ["work_committed", "message_marked"])
def test_work_of_a_dispatcher_that_died_before_it_sent_anything_is_sent_by_the_next(
    stack: FaultStack, failpoint: str
) -> None:
    task_id = send_to_a_dispatcher_that_dies(stack, failpoint)
    assert stack.wait(task_id)["status"] == "Completed"
    assert_ledger_sound(stack, stack.accepted)


@fault(
    5,
    "kill -9 of the dispatcher when it has sent a message and nobody has answered",
    protection="a message is a hint: work is claimed once, and a message with nothing due behind it has no effect",
    seen="with a claim that asks for no lease and no due time: nobody found that nothing was due",
)
@pytest.mark.usefixtures("no_workers")
def test_a_message_that_is_sent_again_by_the_next_dispatcher_has_no_effect(stack: FaultStack) -> None:
    workers = NewLines(stack, "celery")
    task_id = send_to_a_dispatcher_that_dies(stack, "message_sent")
    published = "SELECT published_at FROM work.items WHERE job_id = %s"
    before = stack.sql(published, task_id)
    wait_until(lambda: stack.sql(published, task_id) != before, "the message is not sent again")
    stack.resume()
    assert stack.wait(task_id)["status"] == "Completed"
    workers.wait("work_not_due")
    assert stack.topics(task_id).count("filejob.queued") == 1
    assert_ledger_sound(stack, stack.accepted)


@fault(
    55,
    "a small file comes while a huge one has hundreds of chunks to load",
    protection="files of one chunk have a queue of their own",
    seen="with one queue for all: 143 chunks of the huge file came first",
)
def test_a_small_file_does_not_wait_for_a_huge_one(stack: FaultStack) -> None:
    huge = stack.send(payments_file(HUGE_RECORDS))
    stack.wait_chunks(huge["task_id"], 1)
    small = stack.send(payments_file(100))
    assert stack.wait(small["task_id"])["status"] == "Completed"
    assert stack.wait(huge["task_id"])["chunks_total"] > 5 * CHUNKS_MEANWHILE_MAX
    [(meanwhile,)] = stack.sql(
        "SELECT count(*) FROM ledger.stored_events WHERE originator_id = %s AND topic = 'filejob.chunk_loaded'"
        " AND id BETWEEN (SELECT min(id) FROM ledger.stored_events WHERE originator_id = %s)"
        " AND (SELECT max(id) FROM ledger.stored_events WHERE originator_id = %s)",
        huge["task_id"],
        small["task_id"],
        small["task_id"],
    )
    assert meanwhile <= CHUNKS_MEANWHILE_MAX, f"{meanwhile} chunks of the huge file came first"
    assert_ledger_sound(stack, stack.accepted)


@fault(
    56,
    "workers are away while hundreds of messages are due, for longer than a message may go unanswered",
    protection="so many messages wait in a queue at most; none is sent again while they wait",
    seen="without a look at how many wait: 19 and 167 messages where 10 may be",
)
def test_a_long_log_and_workers_that_are_away_do_not_flood_the_broker(stack: FaultStack, node: RabbitMQ) -> None:
    huge = stack.send(payments_file(HUGE_RECORDS))
    stack.wait_chunks(huge["task_id"], 1)
    pause_workers(stack)
    others = [stack.send(payments_file(10)) for _ in range(2 * PUBLISHED_MAX)]
    queues = ("ledger.small", "ledger.large")
    for queue in queues:
        wait_until(
            lambda queue=queue: is_long_unanswered(stack, queue) or node.waiting(queue) > PUBLISHED_MAX,
            "no message goes unanswered",
        )
    depths = [node.waiting(queue) for queue in queues]
    stack.resume()
    assert all(0 < depth <= PUBLISHED_MAX for depth in depths), depths
    for task in (*others, huge):
        assert stack.wait(task["task_id"])["status"] == "Completed"
    assert_ledger_sound(stack, stack.accepted)


def is_long_unanswered(stack: FaultStack, queue: str) -> bool:
    """Whether a message has waited for so long that it would have been sent again."""
    statement = "SELECT EXISTS (SELECT FROM work.items WHERE queue = %s AND published_at < clock_timestamp() - %s)"
    return stack.sql(statement, queue, timedelta(seconds=2 * RESEND_SECONDS)) == [(True,)]


def dead_letters(stack: FaultStack, field: str, value: str) -> list[dict[str, Any]]:
    """The dead letters on record in which a field says so."""
    found = stack.sql("SELECT state FROM ledger.stored_events WHERE topic = 'deadletter.recorded' ORDER BY id")
    letters = [json.loads(bytes(state)) for (state,) in found]
    return [letter for letter in letters if letter[field] == value]


@contextmanager
def held_work(stack: FaultStack, task_id: str) -> Iterator[None]:
    """Nobody can claim the work of a job meanwhile, nor send a message about it."""
    connection = psycopg2.connect(stack.database_url())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT FROM work.items WHERE job_id = %s FOR UPDATE", [task_id])
            yield
    finally:
        connection.close()


def is_claimed_by_somebody(stack: FaultStack) -> bool:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    return stack.sql(statement, "UPDATE work.items SET epoch%") != [(0,)]


@fault(
    7,
    "kill -9 of every worker that a message is delivered to, until RabbitMQ gives the message up",
    protection="a limit of deliveries, a queue for dead letters that is written down, and work that stays due",
    seen="without a limit of deliveries: still delivered after 8 kills",
)
@pytest.mark.usefixtures("no_workers")
def test_a_message_that_kills_its_workers_becomes_one_dead_letter_and_its_job_is_loaded(
    stack: FaultStack, node: RabbitMQ
) -> None:
    file = payments_file()
    task_id = stack.send(file)["task_id"]
    published = "SELECT count(*) FROM work.items WHERE job_id = %s AND published_at IS NOT NULL"
    wait_until(lambda: stack.sql(published, task_id) == [(1,)], "there is no message")
    kills = 0
    with held_work(stack, task_id):
        stack.resume()
        while not dead_letters(stack, "job_id", task_id):
            assert kills < KILLS_MAX, "the message is never given up"
            wait_until(
                lambda: is_claimed_by_somebody(stack) or dead_letters(stack, "job_id", task_id),
                "the message is neither delivered again nor given up",
            )
            if is_claimed_by_somebody(stack):
                kill_pool(stack)
                kills += 1
    assert kills > DELIVERIES_MAX
    [letter] = dead_letters(stack, "job_id", task_id)
    assert (letter["queue"], letter["reason"]) == ("ledger.small", "delivery_limit")
    stack.check_loaded(task_id, file)
    assert_ledger_sound(stack, stack.accepted)


def kill_pool(stack: FaultStack) -> None:
    """kill -9 all children of the workers' process, and wait until they have let go of the database."""
    for child in children(stack.state()["pids"]["celery"]):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    end_claims = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    )
    stack.sql(end_claims, "UPDATE work.items SET epoch%")
    wait_until(lambda: not is_claimed_by_somebody(stack), "who was killed still waits for the lock")


@fault(
    8,
    "kill -9 of the dispatcher when a dead letter is on record and still in its queue",
    protection="a dead letter's event has an id that is made from the message",
    seen="with an id made from the time: it was never known from before",
)
def test_a_dead_letter_whose_recorder_died_is_recorded_once(stack: FaultStack, node: RabbitMQ) -> None:
    body = json.dumps([[], {"token": secrets.token_hex(8)}, {}])
    dispatcher = stack.state()["pids"]["dispatcher"]
    lines = NewLines(stack, "dispatcher")
    stack.arm("dead_letter_recorded", "kill")
    connection = node.connect()
    unknown = amqp.Message(body, application_headers={"task": "ledger.unknown", "id": body}, **JSON)
    connection.channel().basic_publish(unknown, "ledger", "ledger.small")
    connection.close()
    assert stack.wait_hit("dead_letter_recorded") == dispatcher
    stack.wait_replaced("dispatcher", dispatcher)
    lines.wait("dead_letter_known")
    wait_until(lambda: node.waiting("ledger.dead") == 0, "the dead letter stays in its queue")
    assert len(dead_letters(stack, "body_sha256", hashlib.sha256(body.encode()).hexdigest())) == 1
    assert_ledger_sound(stack, stack.accepted)
