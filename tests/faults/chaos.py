"""`make chaos`: files come in all the time while everything that can break is broken at random.

    python -m tests.faults.chaos [--minutes 10] [--seed N] [--workers 2]

Rules:
1. The seed decides what is done to whom and in which order; it is printed, so that a run can be tried again. When
   things happen is up to the machine.
2. One fault at a time, and each is taken back: the point is that the ledger comes back by itself from each, not that
   it works without its parts.
3. A sender who gets no good answer sends the same file again. Every file that was accepted must end as it deserves:
   good ones completed with every record once, bad ones failed without rows. Then the oracle has its say.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import httpx2
import psycopg2

from tests.faults.kit import FaultStack, PaymentsFile, payments_file, running_fault_stack
from tests.faults.oracle import assert_ledger_sound
from tests.faults.proxy import FaultProxy
from tests.integration.rabbitmq import RabbitMQ, running_rabbitmq

PROCESSES = ("celery", "dispatcher", "projector", "sealer", "api", "postgresql", "mongodb")
SETTINGS = {
    # Nothing that was sent well may fail here, however often its workers are killed.
    "LEDGER_PLAN_ATTEMPTS_MAX": "10000",
    "LEDGER_LOAD_ATTEMPTS_MAX": "10000",
}
SENDERS = 2
RECORDS_MAX = 5_000
SEND_PAUSE_SECONDS_MAX = 2.0
REFUSED_SHARE = 0.1
HURT_SECONDS_MAX = 4.0
REST_SECONDS_MAX = 3.0
RECOVERY_SECONDS_MAX = 120.0
RESEND_SECONDS = 0.5
LOADED = "SELECT coalesce(max(id), 0) FROM ledger.stored_events WHERE topic = 'filejob.chunk_loaded'"


@dataclass
class Sent:
    """What was sent and accepted: the task of each file, and whether it is a good one."""

    tasks: list[tuple[str, PaymentsFile, bool]] = field(default_factory=list)
    tries: int = 0

    def send_until(self, stack: FaultStack, over: threading.Event, chance: random.Random) -> None:
        """Send one file after the other, each until it is accepted."""
        while not over.is_set():
            good = chance.random() >= REFUSED_SHARE
            records = chance.randrange(100, RECORDS_MAX)
            spoilt = "" if good else "1,2026-03-01,1.00,too many\n" * (records // 8 + 1)
            file = payments_file(records, last_line=spoilt)
            while (task_id := self._accepted(stack, file)) is None:
                time.sleep(RESEND_SECONDS)
            self.tasks.append((task_id, file, good))
            time.sleep(chance.uniform(0, SEND_PAUSE_SECONDS_MAX))

    def _accepted(self, stack: FaultStack, file: PaymentsFile) -> str | None:
        self.tries += 1
        try:
            answer = stack.put(file)
        except (httpx2.HTTPError, KeyError, OSError):
            return None
        return str(answer.json()["tasks"][0]["task_id"]) if answer.is_success else None


class Chaos:
    """Breaks one thing after the other, and waits after each until the log grows again."""

    def __init__(self, stack: FaultStack, rabbitmq: RabbitMQ, proxy: FaultProxy, seed: int) -> None:
        self._stack = stack
        self._rabbitmq = rabbitmq
        self._proxy = proxy
        self._chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.recovery_seconds: dict[str, float] = {}

    def run(self, seconds: float) -> None:
        """Break things for so long."""
        faults = self._faults()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = self._chance.choice(sorted(faults))
            started = time.monotonic()
            faults[name]()
            self.done[name] += 1
            self._wait_for_progress(name)
            took = time.monotonic() - started
            self.recovery_seconds[name] = max(took, self.recovery_seconds.get(name, 0.0))
            time.sleep(self._chance.uniform(0, REST_SECONDS_MAX))

    def _wait_for_progress(self, name: str) -> None:
        """Wait until a chunk is loaded that was not loaded when the fault was over."""
        loaded = -1
        deadline = time.monotonic() + RECOVERY_SECONDS_MAX
        while True:
            with suppress(psycopg2.Error, KeyError, OSError):
                [(now,)] = self._stack.sql(LOADED)
                if now > loaded >= 0:
                    return
                loaded = now
            assert time.monotonic() < deadline, f"nothing goes on after: {name}"
            time.sleep(0.05)

    def _faults(self) -> dict[str, Callable[[], None]]:
        """FAULT -> what does it, and takes it back."""
        faults: dict[str, Callable[[], None]] = {
            "kill a child of celery": self._kill_child,
            "terminate all connections to postgresql": self._terminate_connections,
            "cut the connections to rabbitmq": lambda: self._with_network(self._proxy.cut),
            "reset the connections to rabbitmq": self._proxy.reset,
            "swallow what goes to rabbitmq": lambda: self._with_network(self._proxy.blackhole),
            "delay what goes to rabbitmq": lambda: self._with_network(lambda: self._proxy.delay(0.2)),
            "kill rabbitmq": self._kill_rabbitmq,
            "pause rabbitmq": self._pause_rabbitmq,
        }
        for name in PROCESSES:
            faults[f"kill {name}"] = lambda name=name: self._kill(name)
            faults[f"pause {name}"] = lambda name=name: self._pause(name)
        return faults

    def _kill(self, name: str) -> None:
        with suppress(KeyError):  # it is on its way back from the last time
            self._stack.kill(name)

    def _kill_child(self) -> None:
        with suppress(KeyError):
            self._stack.kill_child("celery")

    def _pause(self, name: str) -> None:
        with suppress(KeyError):
            pids = self._stack.pause(name)
            self._hurt()
            self._stack.resume(*pids)

    def _terminate_connections(self) -> None:
        with suppress(psycopg2.Error):
            self._stack.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def _with_network(self, break_it: Callable[[], None]) -> None:
        break_it()
        self._hurt()
        self._proxy.heal()

    def _kill_rabbitmq(self) -> None:
        self._rabbitmq.kill()
        self._rabbitmq.start()

    def _pause_rabbitmq(self) -> None:
        self._rabbitmq.pause()
        self._hurt()
        self._rabbitmq.resume()

    def _hurt(self) -> None:
        time.sleep(self._chance.uniform(0.2, HURT_SECONDS_MAX))


@contextmanager
def _senders(stack: FaultStack, sent: Sent, seed: int) -> Iterator[None]:
    over = threading.Event()
    threads = [
        threading.Thread(target=sent.send_until, args=(stack, over, random.Random(seed + number)))
        for number in range(1, SENDERS + 1)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def run(seconds: float, seed: int, *, workers: int = 2) -> list[str]:
    """One run on a ledger of its own; the figures, a line each."""
    sent = Sent()
    with ExitStack() as place:
        rabbitmq = place.enter_context(running_rabbitmq())
        proxy = place.enter_context(FaultProxy(rabbitmq.port))
        broker = rabbitmq.url.replace(f":{rabbitmq.port}", f":{proxy.port}")
        stack = place.enter_context(running_fault_stack({**SETTINGS, "CELERY_BROKER_URL": broker}, workers=workers))
        chaos = Chaos(stack, rabbitmq, proxy, seed)
        with _senders(stack, sent, seed):
            chaos.run(seconds)
        assert_ledger_sound(stack, stack.accepted, settle_seconds_max=RECOVERY_SECONDS_MAX * 3)
        for task_id, file, good in sent.tasks:
            if good:
                stack.check_loaded(task_id, file)
            else:
                assert stack.wait(task_id)["error"]["code"] == "rejects_too_many"
        return _figures(sent, chaos)


def _figures(sent: Sent, chaos: Chaos) -> list[str]:
    good = [file for _, file, is_good in sent.tasks if is_good]
    longest = max(chaos.recovery_seconds, key=lambda name: chaos.recovery_seconds[name])
    return [
        f"files      {len(sent.tasks)} accepted in {sent.tries} tries; {len(good)} completed with "
        f"{sum(file.records for file in good):,} records, {len(sent.tasks) - len(good)} refused",
        f"faults     {sum(chaos.done.values())}: "
        + ", ".join(f"{name} {count}" for name, count in sorted(chaos.done.items())),
        f"recovery   longest {chaos.recovery_seconds[longest]:.1f} s, after: {longest}",
        "oracle     the ledger is sound",
    ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    sys.stdout.write(f"seed       {options.seed}\n")
    sys.stdout.flush()
    sys.stdout.write("\n".join(run(options.minutes * 60, options.seed, workers=options.workers)) + "\n")


if __name__ == "__main__":
    main()
