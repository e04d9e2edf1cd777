"""Whatever becomes of RabbitMQ, or of the network in front of it, costs time only; no door waits for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.broker import NewLines, pause_workers, running_behind
from tests.faults.faults import fault
from tests.faults.kit import FaultStack, payments_file, wait_until
from tests.faults.oracle import assert_ledger_sound
from tests.faults.proxy import FaultProxy
from tests.integration.rabbitmq import RabbitMQ, running_rabbitmq

pytestmark = pytest.mark.rabbitmq

# A silent connection is given up after a few seconds.
HEARTBEAT = {"LEDGER_BROKER_HEARTBEAT_SECONDS": "3"}
# So many chunks that the load is not over before the fault is there.
LARGE_RECORDS = 40_000


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQ]:
    with running_rabbitmq() as node:
        yield node


@pytest.fixture(scope="module")
def proxy(node: RabbitMQ) -> Iterator[FaultProxy]:
    with FaultProxy(node.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def stack(proxy: FaultProxy) -> Iterator[FaultStack]:
    with running_behind(proxy, HEARTBEAT) as stack:
        yield stack


class Away:
    """Ways of a broker to be away."""

    def __init__(self, node: RabbitMQ, proxy: FaultProxy) -> None:
        self._node = node
        self._proxy = proxy

    def begin(self, how: str) -> None:
        match how:
            case "stopped":
                self._node.control("stop_app")
            case "killed":
                self._node.kill()
            case "paused":
                self._node.pause()
            case "unreachable":
                self._proxy.cut()
            case "silent":
                self._proxy.blackhole()

    def end(self, how: str) -> None:
        match how:
            case "stopped":
                self._node.control("start_app")
            case "killed":
                self._node.start()
            case "paused":
                self._node.resume()
            case "unreachable" | "silent":
                self._proxy.heal()


@fault(
    24,
    "RabbitMQ is away in the middle of a load: stopped, killed, paused, unreachable or silent",
    protection="doors do not publish; a message that was not confirmed is due again; everybody connects anew",
    seen=(
        "without a limit on what a declaration may take, node paused: the dispatcher never said that it "
        "waits; with a broken connection kept, unreachable: 10 of 29 chunks, for ever"
    ),
)
@pytest.mark.parametrize("how", ["stopped", "killed", "paused", "unreachable", "silent"])
def test_a_broker_that_is_away_in_the_middle_of_a_load_costs_time_only(
    stack: FaultStack, node: RabbitMQ, proxy: FaultProxy, how: str
) -> None:
    large, small = payments_file(LARGE_RECORDS), payments_file(100)
    task = stack.send(large)
    stack.wait_chunks(task["task_id"], 1)
    dispatcher = NewLines(stack, "dispatcher")
    Away(node, proxy).begin(how)
    try:
        meanwhile = stack.send(small)
        dispatcher.wait("dispatcher_waits", times=2)
        assert stack.topics(meanwhile["task_id"]) == ["filejob.received"]
    finally:
        Away(node, proxy).end(how)
    stack.check_loaded(task["task_id"], large)
    stack.check_loaded(meanwhile["task_id"], small)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    24,
    "RabbitMQ cannot be reached when the ledger starts",
    protection="doors do not publish; workers and dispatcher try again without end",
    seen="with workers that do not wait for their broker, and nobody who starts them again: Received for ever",
)
def test_a_ledger_that_starts_without_its_broker_takes_files_and_loads_them_later(
    stack: FaultStack, proxy: FaultProxy
) -> None:
    stack.stop()
    proxy.cut()
    try:
        stack.start()
        dispatcher = NewLines(stack, "dispatcher")
        file = payments_file()
        task = stack.send(file)
        dispatcher.wait("dispatcher_waits", times=2)
        assert stack.topics(task["task_id"]) == ["filejob.received"]
    finally:
        proxy.heal()
    stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    25,
    "RabbitMQ has an alarm for its memory and blocks whoever publishes",
    protection="a limit of time for each message; work is marked in a transaction of its own before it is sent",
    seen=(
        "with confirms for the workers' own events: the queue was not emptied while the alarm lasted; "
        "without limits of time, or with rows locked while sending: no message was ever on its way without "
        "a lock"
    ),
)
def test_a_broker_that_blocks_its_publishers_stops_no_door_and_no_worker_and_holds_no_lock(
    stack: FaultStack, node: RabbitMQ
) -> None:
    large, small = payments_file(LARGE_RECORDS), payments_file(100)
    task = stack.send(large)
    stack.wait_chunks(task["task_id"], 1)
    pause_workers(stack)
    wait_until(lambda: node.waiting("ledger.large") > 0, "there is nothing that workers could take")
    dispatcher = NewLines(stack, "dispatcher")
    node.control("set_vm_memory_high_watermark", "0.0001")
    try:
        stack.resume()
        wait_until(lambda: node.waiting("ledger.large") == 0, "the workers do not take what they could")
        meanwhile = stack.send(small)
        wait_until(
            lambda: is_sent_without_a_lock(stack, meanwhile["task_id"]),
            "a message never waits for the broker without a lock",
        )
        dispatcher.wait("dispatcher_waits", times=2)
        assert stack.topics(meanwhile["task_id"]) == ["filejob.received"]
    finally:
        node.control("set_vm_memory_high_watermark", "0.6")
    stack.check_loaded(task["task_id"], large)
    stack.check_loaded(meanwhile["task_id"], small)
    assert_ledger_sound(stack, stack.accepted)


def is_sent_without_a_lock(stack: FaultStack, task_id: str) -> bool:
    """Whether the message of a plan is on its way, and nobody has a transaction open or holds a lock on work."""
    [(sent, busy, locks)] = stack.sql(
        "SELECT EXISTS (SELECT FROM work.items WHERE job_id = %s AND published_at IS NOT NULL),"
        " (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ledger' AND state <> 'idle'),"
        " (SELECT count(*) FROM pg_locks WHERE relation = 'work.items'::regclass AND pid <> pg_backend_pid())",
        task_id,
    )
    return bool(sent) and busy == locks == 0


@fault(
    26,
    "RabbitMQ loses every queue, exchange and binding in the middle of a load",
    protection="queues are declared by whoever needs them; work without an answer is sent again",
    seen="with nothing sent twice: 22 of 29 chunks, for ever",
)
def test_a_broker_that_forgot_everything_is_told_again(stack: FaultStack, node: RabbitMQ) -> None:
    file = payments_file(LARGE_RECORDS)
    task = stack.send(file)
    stack.wait_chunks(task["task_id"], 1)
    for command in ("stop_app", "reset", "start_app"):
        node.control(command)
    stack.check_loaded(task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


@fault(
    27,
    "the connections to RabbitMQ stay open and silent for longer than heartbeat and lease, and a worker stands still",
    protection="heartbeats end a silent connection; the lease ends; whoever was overtaken is fenced off",
    seen=(
        "without heartbeats: nobody noticed that the connection is lost; with a fence that lets everybody "
        "through: no lease was lost"
    ),
)
def test_a_worker_that_was_overtaken_behind_a_silent_connection_changes_nothing(
    stack: FaultStack, proxy: FaultProxy
) -> None:
    file = payments_file(LARGE_RECORDS)
    workers = NewLines(stack, "celery")
    stack.arm("chunk_copied", "stop")
    task = stack.send(file)
    overtaken = stack.wait_hit("chunk_copied")
    stack.wait_chunks(task["task_id"], 1)
    proxy.blackhole()
    try:
        workers.wait("Connection to broker lost")
    finally:
        proxy.heal()
    stack.check_loaded(task["task_id"], file)
    stack.resume(overtaken)
    workers.wait("lease_lost")
    assert_ledger_sound(stack, stack.accepted)
