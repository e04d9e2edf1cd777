"""The access record: refused attempts become events, and keys are noted as used, beside the way of the requests.

Rules:
1. The first attempt of a kind (who, which route, which dataset, why not) is written at once. Those that follow within
   `GATHER_SECONDS` are one event with their number.
2. No flood fills the memory or the log: what one actor tries beyond `ACTOR_KINDS_MAX` kinds at a time is one kind, and
   so is what comes beyond `KINDS_MAX` kinds of all. Every attempt is counted.
3. No request waits for this. While the database is away attempts are counted on, and written when it is back; how many
   could not be written before the process stopped is an error in the log.
4. An address is personal: it is told in the log line, and is no part of the event.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from ledger import telemetry
from ledger.application import Ledger
from ledger.domain.base import Stamp
from ledger.domain.denial import Denial
from ledger.keys import write_uses

log = logging.getLogger(__name__)

GATHER_SECONDS = 60.0
ACTOR_KINDS_MAX = 20
KINDS_MAX = 1_000
ADDRESSES_MAX = 16
RETRY_SECONDS = 5.0
VARIOUS = "various"
MORE = "more_kinds"


@dataclass(frozen=True)
class Attempt:
    """A kind of attempt that was refused. `route` is a template, None for a path that there is not."""

    actor: str
    method: str
    route: str | None
    permission: str | None
    dataset: str | None
    reason: str


@dataclass
class Tally:
    """How often a kind was tried since it was last written, from which addresses, and when it is due to be written."""

    due_seconds: float
    count: int = 0
    first_at: datetime | None = None
    addresses: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Gathered:
    """Attempts of one kind on their way into the log."""

    attempt: Attempt
    count: int
    first_at: datetime
    addresses: frozenset[str]


class Gathering:
    """The attempts that are not written yet. Times are of a monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self._tallies: dict[Attempt, Tally] = {}
        self._kinds: Counter[str] = Counter()

    def add(self, attempt: Attempt, address: str, at: datetime, now_seconds: float) -> None:
        """Count an attempt."""
        if attempt not in self._tallies:
            self._forget(now_seconds)
            attempt = self._bounded(attempt)
        tally = self._tally(attempt, now_seconds)
        tally.count += 1
        tally.first_at = tally.first_at or at
        if len(tally.addresses) < ADDRESSES_MAX:
            tally.addresses.add(address)

    def take(self, now_seconds: float, *, all_of_them: bool = False) -> list[Gathered]:
        """What is due, which the caller writes or gives back."""
        taken = []
        for attempt, tally in self._tallies.items():
            if tally.count and (all_of_them or tally.due_seconds <= now_seconds):
                assert tally.first_at is not None
                taken.append(Gathered(attempt, tally.count, tally.first_at, frozenset(tally.addresses)))
                self._tallies[attempt] = Tally(now_seconds + GATHER_SECONDS)
        return taken

    def give_back(self, gathered: Iterable[Gathered], now_seconds: float) -> None:
        """What could not be written is due again."""
        for each in gathered:
            tally = self._tally(each.attempt, now_seconds)
            tally.due_seconds = now_seconds
            tally.count += each.count
            tally.first_at = each.first_at
            tally.addresses = set(each.addresses) | set(list(tally.addresses)[: ADDRESSES_MAX - len(each.addresses)])

    def seconds_until_due(self, now_seconds: float) -> float | None:
        """How long nothing is due; None if nothing will be."""
        due = [tally.due_seconds for tally in self._tallies.values() if tally.count]
        return max(0.0, min(due) - now_seconds) if due else None

    def __len__(self) -> int:
        return len(self._tallies)

    def _tally(self, attempt: Attempt, now_seconds: float) -> Tally:
        if attempt not in self._tallies:
            self._tallies[attempt] = Tally(now_seconds)
            self._kinds[attempt.actor] += 1
        return self._tallies[attempt]

    def _bounded(self, attempt: Attempt) -> Attempt:
        if self._kinds[attempt.actor] >= ACTOR_KINDS_MAX:
            attempt = Attempt(attempt.actor, "*", None, None, None, MORE)
        if attempt not in self._tallies and len(self._tallies) >= KINDS_MAX:
            attempt = Attempt(VARIOUS, "*", None, None, None, MORE)
        return attempt

    def _forget(self, now_seconds: float) -> None:
        """Forget kinds that were written and have not come again."""
        quiet = [
            attempt for attempt, tally in self._tallies.items() if not tally.count and tally.due_seconds <= now_seconds
        ]
        for attempt in quiet:
            del self._tallies[attempt]
            self._kinds[attempt.actor] -= 1
        self._kinds += Counter()  # drops those at zero


class AccessRecord:
    """Writes the access record of one process, from a thread of its own."""

    def __init__(self, ledger: Ledger, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._ledger = ledger
        self._retry_seconds = retry_seconds
        self._gathering = Gathering()
        self._uses: set[str] = set()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="access-record", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what there is, and end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def denied(self, attempt: Attempt, address: str) -> None:
        """Remember that an attempt was refused."""
        telemetry.ACCESS_DENIED.add(1, {telemetry.REASON: attempt.reason})
        with self._changed:
            self._gathering.add(attempt, address, datetime.now(UTC), time.monotonic())
            self._changed.notify()

    def used(self, key_id: str) -> None:
        """Remember that a key was used."""
        with self._changed:
            self._uses.add(key_id)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not self._is_due():
                    self._changed.wait(self._gathering.seconds_until_due(time.monotonic()))
                stopped = self._stopped
                denied = self._gathering.take(time.monotonic(), all_of_them=stopped)
                used, self._uses = self._uses, set()
            written = self._write(denied, used)
            if stopped:
                return
            if not written:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, self._retry_seconds)

    def _is_due(self) -> bool:
        return bool(self._uses) or self._gathering.seconds_until_due(time.monotonic()) == 0

    def _write(self, denied: list[Gathered], used: set[str]) -> bool:
        if not denied and not used:
            return True
        try:
            with self._ledger.transaction() as session:
                if used:
                    write_uses(session, used)
                if denied:
                    self._ledger.save(*map(_event_of, denied), session=session)
        except Exception as error:  # the edge of a thread: whatever went wrong, what was refused is still to be written
            self._keep(denied, used, error)
            return False
        for each in denied:
            _tell("access denied", each)
        return True

    def _keep(self, denied: list[Gathered], used: set[str], error: Exception) -> None:
        log.warning(
            "cannot write down %d denied attempts yet: %s",
            sum(each.count for each in denied),
            error,
            extra={"action": "access_record_waits"},
        )
        with self._changed:
            if self._stopped:
                for each in denied:
                    _tell("access denied, and not on record", each, logging.ERROR)
            self._gathering.give_back(denied, time.monotonic())
            self._uses |= used


def _event_of(gathered: Gathered) -> Denial:
    attempt = gathered.attempt
    return Denial.deny(
        uuid4(),
        Stamp(datetime.now(UTC), attempt.actor, str(uuid4())),
        method=attempt.method,
        route=attempt.route,
        permission=attempt.permission,
        dataset=attempt.dataset,
        reason=attempt.reason,
        count=gathered.count,
        first_at=gathered.first_at,
    )


def _tell(what: str, gathered: Gathered, level: int = logging.WARNING) -> None:
    attempt = gathered.attempt
    log.log(
        level,
        "%s: %s, %d times by %s",
        what,
        attempt.reason,
        gathered.count,
        attempt.actor,
        extra={
            "action": "access_denied",
            "method": attempt.method,
            "route": attempt.route,
            "dataset": attempt.dataset,
            "remote_addresses": sorted(gathered.addresses),
        },
    )
