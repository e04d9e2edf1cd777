"""A ledger on a RabbitMQ that can be hurt, with the network in front of it, and what its processes say meanwhile.

Rules:
1. All of the ledger's connections to RabbitMQ go through the proxy; the test's own do not.
2. The ledger notices soon that RabbitMQ is away, and gives a message up after few deliveries.
3. No attempt is the last: whoever dies or is cut off here does so more often than ten times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.faults.kit import FaultStack, running_fault_stack, wait_until
from tests.faults.proxy import LOOPBACK, FaultProxy

PUBLISH_SECONDS_MAX = 3
PUBLISHED_MAX = 10
DELIVERIES_MAX = 2
ENVIRONMENT = {
    "LEDGER_PUBLISH_SECONDS_MAX": str(PUBLISH_SECONDS_MAX),
    "LEDGER_PUBLISHED_MAX": str(PUBLISHED_MAX),
    "LEDGER_DELIVERIES_MAX": str(DELIVERIES_MAX),
    "LEDGER_PLAN_ATTEMPTS_MAX": "100",
    "LEDGER_LOAD_ATTEMPTS_MAX": "100",
}


class NewLines:
    """What a process writes into its log from now on."""

    def __init__(self, stack: FaultStack, name: str) -> None:
        self._name = name
        self._path = stack.home / "logs" / f"{name}.log"
        self._start = self._path.stat().st_size

    def count(self, words: str) -> int:
        """How often it has said so."""
        return self._path.read_bytes()[self._start :].count(words.encode())

    def wait(self, words: str, times: int = 1) -> None:
        """Wait until it has said so that often."""
        wait_until(lambda: self.count(words) >= times, f"{self._name} does not say {words!r} {times} times")


@contextmanager
def running_behind(proxy: FaultProxy, environment: Mapping[str, str] | None = None) -> Iterator[FaultStack]:
    """A ledger whose broker is the RabbitMQ behind a proxy."""
    url = f"amqp://guest:guest@{LOOPBACK}:{proxy.port}//"
    with running_fault_stack({"CELERY_BROKER_URL": url, **ENVIRONMENT, **(environment or {})}) as stack:
        log = stack.home / "logs" / "celery.log"
        wait_until(lambda: b" ready." in log.read_bytes(), "the workers do not become ready")
        yield stack


def pause_workers(stack: FaultStack) -> None:
    """Let the workers stand still, but not in the middle of a commit: the whole log would wait for them."""
    statement = "SELECT count(*) FROM pg_locks WHERE relation = 'ledger.stored_events'::regclass AND mode = %s"
    stack.pause("celery")
    while stack.sql(statement, "ExclusiveLock") != [(0,)]:
        stack.resume()
        stack.pause("celery")
