"""PostgreSQL stopped, cut off, or without room: doors say so, everybody comes back, nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psycopg2
import pytest

from api.embedded.environment import environment
from api.embedded.home import Home
from api.embedded.postgresql import PostgreSQL
from tests.disks import small_disk
from tests.faults.faults import fault
from tests.faults.kit import FaultStack, PaymentsFile, payments_file, running_fault_stack, serving, wait_until
from tests.faults.oracle import assert_ledger_sound
from tests.faults.proxy import FaultProxy
from tests.stack import children, open_folder

# Longer than the tests' leases, so that who is cut off is overtaken before it is given up.
LOCK_SECONDS_MAX = 8
LARGE_RECORDS = 20_000
SMALL_RECORDS = 100
STORM_SECONDS = 4.0
DISK_MEGABYTES = 160
NO_ROOM = "No space left on device"


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack({"LEDGER_LOCK_SECONDS_MAX": str(LOCK_SECONDS_MAX)}) as stack:
        yield stack


def check_refused_for_now(answer: httpx2.Response) -> None:
    """503, what to do, and when to come again."""
    assert answer.status_code == 503, (answer.status_code, answer.text)
    assert answer.json()["remedy"]
    assert int(answer.headers["Retry-After"]) > 0


def check_loaded_in_the_end(stack: FaultStack, task_id: str, file: PaymentsFile) -> None:
    """However often it failed before, and waited for its next attempt."""
    stack.wait(task_id, "Completed")
    stack.check_loaded(task_id, file)


@dataclass
class Sender:
    """Someone who sends small files one after the other, each twice, whatever the door answers."""

    stack: FaultStack
    dataset: str = field(default_factory=lambda: payments_file(1).dataset)
    sent: list[tuple[PaymentsFile, httpx2.Response]] = field(default_factory=list)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Send from a thread of its own."""
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.3):
                file = payments_file(SMALL_RECORDS, self.dataset)
                self.sent += [(file, self.stack.put(file)) for _ in range(2)]

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def check(self) -> None:
        """Each answer was acceptance or 503; sent once more, each file is one job, and is loaded once."""
        files = {file.sha256: file for file, _ in self.sent}
        assert files
        for file, answer in self.sent:
            if answer.status_code != 202:
                check_refused_for_now(answer)
                self.stack.send(file)
        arrived = self.stack.sql(
            "SELECT sha256, count(*) FROM ledger.arrivals WHERE dataset = %s GROUP BY 1", self.dataset
        )
        assert dict(arrived) == dict.fromkeys(files, 1)
        wait_until(lambda: self._rows() >= len(files) * SMALL_RECORDS, "not all files are loaded")
        assert self._rows() == len(files) * SMALL_RECORDS

    def _rows(self) -> int:
        [(rows,)] = self.stack.sql(f"SELECT count(*) FROM data.{self.dataset}")
        return int(rows)


@contextmanager
def without_postgresql(stack: FaultStack, number: signal.Signals) -> Iterator[None]:
    """End its first process by a signal. The supervisor stands still, so that nobody starts it again meanwhile."""
    supervisor = int((stack.home / "run" / "lock").read_text())
    postgresql = stack.state()["pids"]["postgresql"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        os.kill(postgresql, number)
        wait_until(lambda: not can_connect(stack), "PostgreSQL does not end")
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)
    stack.wait_replaced("postgresql", postgresql)
    stack.wait_ready()


def can_connect(stack: FaultStack) -> bool:
    """Whether PostgreSQL lets somebody in."""
    try:
        psycopg2.connect(stack.database_url(), connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


@fault(
    14,
    "SIGQUIT (stop -m immediate) and kill -9 of PostgreSQL, several times during a load and uploads",
    protection="an absent PostgreSQL is an answer at the door, and a wait or another attempt everywhere else",
    seen="with every error taken for our own mistake: the door answered 500 internal_error",
)
def test_nothing_is_lost_or_doubled_when_postgresql_stops_again_and_again(stack: FaultStack) -> None:
    sender, file = Sender(stack), payments_file(LARGE_RECORDS)
    task = stack.send(file)
    with sender.at_work():
        for number, chunks in ((signal.SIGQUIT, 1), (signal.SIGKILL, 4), (signal.SIGQUIT, 7)):
            stack.wait_chunks(task["task_id"], chunks)
            with without_postgresql(stack, number):
                check_refused_for_now(stack.put(payments_file(SMALL_RECORDS)))
    check_loaded_in_the_end(stack, task["task_id"], file)
    sender.check()
    assert_ledger_sound(stack, stack.accepted)


@fault(
    14,
    "PostgreSQL away while a child of the pool starts",
    protection="a child that could not set up its workshop does so with the next piece of work",
    seen="with the workshop set up at the fork alone: the job stayed Received for 120 s",
)
def test_workers_that_start_without_postgresql_work_when_it_is_there(stack: FaultStack) -> None:
    celery = stack.state()["pids"]["celery"]
    with without_postgresql(stack, signal.SIGQUIT):
        before = children(celery)
        for child in before:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: len(set(children(celery)) - set(before)) == len(before), "no children come after them")
        log = stack.home / "logs" / "celery.log"
        wait_until(lambda: "worker_not_ready" in log.read_text(), "nobody misses PostgreSQL")
    file = payments_file()
    stack.check_loaded(stack.send(file)["task_id"], file)
    assert stack.state()["pids"]["celery"] == celery
    assert_ledger_sound(stack, stack.accepted)


@fault(
    15,
    "every connection to PostgreSQL terminated, every 100 ms for some seconds, during loads and uploads",
    protection="a broken connection is replaced before it is used, and work that one broke is tried again",
    seen="with every error taken for our own mistake: the door answered 500 internal_error",
)
def test_nothing_is_lost_or_doubled_in_a_storm_of_terminated_connections(stack: FaultStack) -> None:
    sender, files = Sender(stack), [payments_file(LARGE_RECORDS) for _ in range(2)]
    tasks = [stack.send(file) for file in files]
    stack.wait_chunks(tasks[0]["task_id"], 1)
    with sender.at_work():
        assert terminated_in_storm(stack) > 20
    for task, file in zip(tasks, files, strict=True):
        check_loaded_in_the_end(stack, task["task_id"], file)
    sender.check()
    assert_ledger_sound(stack, stack.accepted)


def terminated_in_storm(stack: FaultStack) -> int:
    """Terminate everybody else again and again; how many connections that were."""
    terminated = 0
    connection = psycopg2.connect(stack.database_url())
    connection.autocommit = True
    with connection.cursor() as cursor:
        end = time.monotonic() + STORM_SECONDS
        while time.monotonic() < end:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            terminated += cursor.fetchone()[0]
            time.sleep(0.1)
    connection.close()
    return terminated


@contextmanager
def distant_worker(stack: FaultStack) -> Iterator[tuple[FaultProxy, list[int]]]:
    """One more worker, of one child, that reaches PostgreSQL over a network that can fail.

    The others, whose ids come with its network, stand still until they are resumed.
    """
    home, ports = Home(stack.home), stack.state()["ports"]
    parts = {name: ports[name] for name in ("postgresql", "mongodb", "valkey")}
    with FaultProxy(ports["postgresql"]) as proxy, open(stack.home / "logs" / "distant.log", "ab") as log:
        variables = environment(home, parts, stack.environment)
        variables["LEDGER_DATABASE_URL"] = PostgreSQL(home, proxy.port).url
        command = [sys.executable, "-m", "celery", "--app", "workers.app", "worker", "--concurrency", "1"]
        command += ["--without-gossip", "--without-mingle", "--hostname", "distant@%h"]
        others = stack.pause("celery")
        worker = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
        try:
            yield proxy, others
        finally:
            for pid in (worker.pid, *children(worker.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            worker.wait()
            stack.resume(*others)


def given_up(stack: FaultStack, since_bytes: int) -> bool:
    """Whether the distant worker has said since then that its work was another's, or that it could not do it."""
    news = (stack.home / "logs" / "distant.log").read_bytes()[since_bytes:]
    return any(action in news for action in (b"lease_lost", b"work_abandoned", b"work_discarded"))


@fault(
    14,
    "RST on every connection of a worker to PostgreSQL in the middle of a COPY",
    protection="the broken COPY is rolled back, and tried again over a new connection",
    seen="with no second attempt: the job was Failed and never Completed",
)
def test_a_worker_whose_connections_are_reset_tries_again(stack: FaultStack) -> None:
    file = payments_file()
    with distant_worker(stack) as (proxy, _):
        stack.arm("chunk_reading", "stop")
        task = stack.send(file)
        child = stack.wait_hit("chunk_reading")
        proxy.reset()
        stack.resume(child)
        check_loaded_in_the_end(stack, task["task_id"], file)
    assert "filejob.failed" in stack.topics(task["task_id"])
    assert_ledger_sound(stack, stack.accepted)


@fault(
    14,
    "a worker's connections to PostgreSQL fall silent for longer than its lease, before its COPY or before its commit",
    protection="the lease runs out; PostgreSQL ends the transaction of who holds the log's lock and is silent",
    seen="chunk_appended, without the limit on silence: the next upload was answered 500",
)
@pytest.mark.parametrize("step", ["chunk_reading", "chunk_appended"])
def test_a_worker_that_is_cut_off_holds_nobody_up_and_changes_nothing_later(stack: FaultStack, step: str) -> None:
    file, other = payments_file(), payments_file()
    with distant_worker(stack) as (proxy, others):
        stack.arm(step, "stop")
        task = stack.send(file)
        child = stack.wait_hit(step)
        proxy.blackhole()
        stack.resume(child)
        stack.resume(*others)
        check_loaded_in_the_end(stack, stack.send(other)["task_id"], other)
        check_loaded_in_the_end(stack, task["task_id"], file)
        before = stack.topics(task["task_id"])
        said_bytes = (stack.home / "logs" / "distant.log").stat().st_size
        proxy.heal()
        wait_until(lambda: given_up(stack, said_bytes), "the worker does not notice that it was overtaken")
        assert stack.topics(task["task_id"]) == before
    assert_ledger_sound(stack, stack.accepted)


@pytest.fixture
def disk_and_stack() -> Iterator[tuple[Path, FaultStack]]:
    """A ledger whose PostgreSQL has a small disk of its own."""
    with open_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o711)
        with small_disk(home / "postgresql", DISK_MEGABYTES) as disk, serving(FaultStack(home)) as stack:
            yield disk, stack


def fill(disk: Path) -> Path:
    """Leave no room on a disk; the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def use_up_log(stack: FaultStack) -> None:
    """Let PostgreSQL come to the end of its last file of write-ahead log, beyond which there is no room."""
    with suppress(psycopg2.OperationalError):
        while True:
            stack.sql("SELECT pg_logical_emit_message(true, 'fault', 'x')")
            stack.sql("SELECT pg_switch_wal()")


def noticed(stack: FaultStack, task_id: str) -> bool:
    """Whether a worker met the full disk: it wrote that down, or could not even do that, and then its log says so."""
    [(reason,)] = stack.sql("SELECT max(last_error) FROM work.items WHERE job_id = %s", task_id)
    told = (stack.home / "logs" / "celery.log").read_text(errors="replace")
    return NO_ROOM in (reason or "") or any("work_abandoned" in line and NO_ROOM in line for line in told.splitlines())


@fault(
    17,
    "PostgreSQL's disk full in the middle of a load: no room for rows, then none for its log, which ends it",
    protection="what PostgreSQL has no room for is tried again; the supervisor starts it until it can recover",
    seen="with no second attempt: the job had failed for good, and no work was left of it",
)
def test_everything_goes_on_when_a_full_disk_has_room_again(disk_and_stack: tuple[Path, FaultStack]) -> None:
    disk, stack = disk_and_stack
    file = payments_file(LARGE_RECORDS)
    task = stack.send(file)
    stack.wait_chunks(task["task_id"], 1)
    filler = fill(disk)
    wait_until(lambda: noticed(stack, task["task_id"]), "nobody notices that the disk is full")
    use_up_log(stack)
    refused = payments_file(SMALL_RECORDS)
    check_refused_for_now(stack.put(refused))
    log = stack.home / "logs" / "postgresql.log"
    wait_until(lambda: "PANIC" in log.read_text(), "PostgreSQL does not end")
    filler.unlink()
    stack.wait_ready()
    check_loaded_in_the_end(stack, stack.send(refused)["task_id"], refused)
    check_loaded_in_the_end(stack, task["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)
