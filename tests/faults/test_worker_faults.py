"""Workers that die, stand still, or are told the same thing many times."""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import kombu
import pytest

from tests.faults.faults import fault
from tests.faults.kit import FaultStack, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound
from tests.stack import children, is_alive

SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL)
ROUNDS = int(os.environ.get("LEDGER_TEST_ROUNDS", "6"))
LOAD_SECONDS_MAX = 3
MESSAGES_PAUSE_SECONDS = 0.1
ATTEMPTS_MAX = 3


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack({"LEDGER_LOAD_ATTEMPTS_MAX": str(ATTEMPTS_MAX)}) as stack:
        yield stack


@fault(
    7,
    "kill -9 of one child of the pool in the middle of COPY",
    protection="PostgreSQL is the queue: an unfinished piece is due again when its lease runs out",
    seen="with expired leases never due and nothing requeued: the job stayed Processing",
)
def test_work_is_not_lost_with_the_child_that_did_it(stack: FaultStack) -> None:
    file = payments_file()
    stack.arm("chunk_reading", "stop")
    task = stack.send(file)
    os.kill(stack.wait_hit("chunk_reading"), signal.SIGKILL)
    stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    10,
    "SIGSTOP of a worker before its commit, SIGCONT after another has finished its chunk",
    protection="the fence checks the epoch in the transaction that commits",
    seen="with a fence that lets everybody through: nobody said what became of the one that woke up",
)
@pytest.mark.parametrize("step", ["work_claimed", "chunk_reading", "chunk_copied", "plan_stored"])
def test_a_worker_that_stood_still_cannot_commit_when_it_wakes(stack: FaultStack, step: str) -> None:
    file = payments_file()
    log = stack.home / "logs" / "celery.log"
    start = log.stat().st_size
    stack.arm(step, "stop")
    task = stack.send(file)
    pid = stack.wait_hit(step)
    stack.check_loaded(task["task_id"], file)
    before = stack.topics(task["task_id"])
    assert is_alive(pid), "nobody is left to wake up"
    stack.resume(pid)

    def given_up() -> bool:
        news = log.read_text(errors="replace")[start:]
        return any(action in news for action in ("lease_lost", "work_discarded"))

    wait_until(given_up, "nobody says what became of the one that woke up")
    assert stack.topics(task["task_id"]) == before
    assert_ledger_sound(stack, stack.accepted)


@fault(
    10,
    "SIGSTOP of a worker that has copied a chunk with a refused record; nobody ever continues it",
    protection="whoever takes over ends the connection of whom it overtook, which holds keys of rejects",
    seen="without that: the next worker waited for the one that stood still, and the job stayed Queued",
)
def test_a_worker_that_stands_still_holds_nobody_up(stack: FaultStack) -> None:
    file = payments_file(records=100, last_line="1,2026-03-01,1.00,too many\n")
    stack.arm("chunk_copied", "stop")
    task = stack.send(file)
    pid = stack.wait_hit("chunk_copied")
    stack.check_loaded(task["task_id"], file)
    assert is_alive(pid), "it was not waited for, but its end"
    assert stack.wait(task["task_id"])["rows_rejected"] == 1
    stack.resume(pid)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    9,
    "SIGTERM, SIGQUIT and SIGKILL of workers at random moments of a load",
    protection="what was committed is read again from the record before anything is done",
    seen="with the rows committed before the event: other counts than the file has",
)
def test_signals_at_any_moment_change_no_count(stack: FaultStack) -> None:
    chance = random.Random(4711)
    for _ in range(ROUNDS):
        file = payments_file()
        task = stack.send(file)
        stack.wait_chunks(task["task_id"], chance.randrange(4))
        victim = stack.state()["pids"].get("celery")
        if victim is not None:
            with suppress(ProcessLookupError):
                os.kill(chance.choice([victim, *children(victim)]), chance.choice(SIGNALS))
        stack.wait(task["task_id"], "Completed")
        stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@contextmanager
def messages_again_and_again(stack: FaultStack) -> Iterator[list[int]]:
    """Sends a message for everything that is due or under way, in any order, as often as it can."""
    password = (stack.home / "secrets" / "valkey.password").read_text().strip()
    url = f"redis://:{password}@127.0.0.1:{stack.state()['ports']['valkey']}/0"
    over, sent = threading.Event(), [0]
    chance = random.Random(4711)

    def send() -> None:
        with kombu.Connection(url) as connection:
            producer = kombu.Producer(connection)
            while not over.is_set():
                found = stack.sql("SELECT job_id::text, stage, chunk, queue FROM work.items LIMIT 20")
                chance.shuffle(found)
                for job_id, stage, chunk, queue in found:
                    _publish(producer, queue, stage, {"job_id": job_id, "chunk": chunk, "published_at_seconds": 1.0})
                    sent[0] += 1
                over.wait(MESSAGES_PAUSE_SECONDS)  # workers who drown in messages would do nothing else

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield sent
    finally:
        over.set()
        sender.join()


def _publish(producer: kombu.Producer, queue: str, stage: str, message: dict[str, Any]) -> None:
    name = f"again-{secrets.token_hex(8)}"
    headers = {"task": f"ledger.{stage}", "id": name, "lang": "py"}
    body: list[Any] = [[], message, {}]
    producer.publish(body, routing_key=queue, exchange="", headers=headers, serializer="json", correlation_id=name)


@fault(
    11,
    "one piece of work is handed to all workers at once",
    protection="a claim succeeds only while nobody holds the work",
    seen="with a claim that asks for no lease: the job stayed Processing",
)
@fault(
    12,
    "every message comes many times",
    protection="lease and fence let one load a chunk, and a chunk that is loaded is not loaded again",
    seen="without lease and fence: the job had failed in between, or for good",
)
@fault(
    13,
    "messages come in any order",
    protection="a plan is made once; chunks may end in any order",
    seen="with chunks that may end in their own order only: the job failed",
)
def test_messages_may_come_any_number_of_times_in_any_order(stack: FaultStack) -> None:
    files = [payments_file() for _ in range(3)]
    with messages_again_and_again(stack) as sent:
        tasks = [stack.send(file) for file in files]
        for task, file in zip(tasks, files, strict=True):
            stack.check_loaded(task["task_id"], file)
            assert stack.topics(task["task_id"]).count("filejob.failed") == 0
    assert sent[0] > len(files) * 20, "nothing was sent twice"
    assert_ledger_sound(stack, stack.accepted)


@fault(
    8,
    "kill -9 of a worker after its commit and before its message is acknowledged",
    protection="the work is gone with the commit, so the message that comes again finds nothing due",
    seen="with the work left standing and no loaded chunk recognised: 30,000 rows of 10,000 records",
)
def test_a_message_that_comes_again_after_the_commit_has_no_effect(stack: FaultStack) -> None:
    file = payments_file()
    stack.arm("chunk_committed", "kill")
    task = stack.send(file)
    stack.wait_hit("chunk_committed")
    stack.check_loaded(task["task_id"], file)
    topics = stack.topics(task["task_id"])
    assert topics.count("filejob.chunk_loaded") == stack.wait(task["task_id"])["chunks_total"]
    assert_ledger_sound(stack, stack.accepted)


@fault(
    29,
    "a chunk that takes longer than it may",
    protection="the limit of time kills the child; its lease runs out",
    seen="without the limit: the child that stands still is not killed",
)
def test_a_child_that_takes_too_long_is_killed_and_its_work_done_by_another() -> None:
    with running_fault_stack({"LEDGER_LOAD_SECONDS_MAX": str(LOAD_SECONDS_MAX)}) as stack:
        file = payments_file()
        stack.arm("chunk_copied", "stop")
        task = stack.send(file)
        pid = stack.wait_hit("chunk_copied")
        wait_until(lambda: not is_alive(pid), "the child that stands still is not killed")
        stack.check_loaded(task["task_id"], file)
        assert_ledger_sound(stack, stack.accepted)


@fault(
    39,
    "a file that kills every worker that touches it",
    protection="the attempt is counted before the work",
    seen="with attempts that are not counted: it never failed, and was loaded when nothing killed any more",
)
def test_a_file_that_kills_its_workers_fails_for_good_and_harms_no_other(stack: FaultStack) -> None:
    poison = payments_file(records=100)
    stack.arm("chunk_reading", "kill")
    task = stack.send(poison)
    for _ in range(1, ATTEMPTS_MAX):
        stack.wait_hit("chunk_reading")
        stack.arm("chunk_reading", "kill")
    stack.wait_hit("chunk_reading")
    ended = stack.wait(task["task_id"], "Failed")
    assert (ended["error"]["code"], ended["error"]["retry_at"]) == ("attempts_exhausted", None)
    assert "died" in ended["error"]["message"]
    other = payments_file()
    stack.check_loaded(stack.send(other)["task_id"], other)
    [told] = stack.json("jobs", "retry", task["task_id"], "--wait")
    assert told["status"] == "Completed"
    stack.check_loaded(task["task_id"], poison)
    assert_ledger_sound(stack, stack.accepted)
