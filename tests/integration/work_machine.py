"""Files, messages, workers and dispatchers of one ledger, moved in any order: what `test_work_machine` plays with.

Rules:
1. A worker is a thread that calls `perform`, as a message makes it. It can be told to stand still at a named step,
   or to die there, which to PostgreSQL is what kill -9 is. Only one thread moves at a time.
2. Time passes only when it is told to: every instant that the work's table keeps moves into the past, and the
   clock that a pause is compared with is put forward. Nothing here sleeps or waits for a clock.
3. What the dispatchers send is kept in a list, from which it is delivered late, twice, in any order, or never.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from ledger import database
from ledger.application import Arrival
from ledger.blobs import put
from ledger.domain.words import OnDuplicate, Stage
from ledger.errors import PartUnavailableError
from tests.integration.place import CONTRACT, STAMP, WAIT_SECONDS_MAX, Place
from workers import dispatcher as dispatcher_module
from workers import load as load_module
from workers import plan as plan_module
from workers import workshop as workshop_module
from workers.dispatcher import Dispatcher

# Where a worker stands still or dies: before it has begun, with work done that is not committed, with a transaction
# that lacks only its end, and with one that has it.
EARLY = ("work_claimed",)
LATE = ("plan_stored", "chunk_copied", "retry_committed")
UNCOMMITTED = ("plan_appended", "chunk_appended", "failure_appended", "pause_appended")
COMMITTED = ("plan_committed", "chunk_committed", "failure_committed", "pause_committed")
DISPATCHERS_STEPS = ("work_written", "work_committed", "message_marked", "message_sent")


class DiedError(BaseException):
    """The process was killed at a named step. No edge of a task catches it."""


@dataclass
class File:
    """A file that was received, with what must come of it."""

    job_id: UUID
    sha256: str
    position: int
    numbers: list[int]
    refused: bool


@dataclass(frozen=True)
class Message:
    """What the broker would carry."""

    job_id: UUID
    stage: Stage
    chunk: int


@dataclass
class Fate:
    """What becomes of whoever gets to a named step. `passed`: those that it got to."""

    stands_at: tuple[str, ...] = ()
    dies_at: tuple[str, ...] = ()
    passed: list[str] = field(default_factory=list)
    stands: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def arrive(self, name: str) -> None:
        self.passed.append(name)
        if name in self.dies_at:
            raise DiedError
        if name in self.stands_at:
            self.stands_at = ()
            self.stands.set()
            assert self.goes_on.wait(WAIT_SECONDS_MAX), "nobody lets a worker go on"


class Steps:
    """The failpoints of every module at work, each of which asks the thread that gets there for its fate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fates: dict[int, Fate] = {}
        for module in (workshop_module, load_module, plan_module, dispatcher_module):
            monkeypatch.setattr(module, "failpoint", self._arrive)

    def follow(self, fate: Fate) -> None:
        """This thread has that fate from now on."""
        self._fates[threading.get_ident()] = fate

    def _arrive(self, name: str) -> None:
        fate = self._fates.get(threading.get_ident())
        if fate is not None:
            fate.arrive(name)


class Clock:
    """PostgreSQL's clock as work sees it: put forward, never waited for."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        self._place = place
        self._passed = timedelta()
        monkeypatch.setattr(workshop_module, "now", self._now)

    def pass_seconds(self, seconds: float) -> None:
        """So much later."""
        self._passed += timedelta(seconds=seconds)
        self._place.query(
            "WITH moved AS (UPDATE work.items SET due_at = due_at - :passed, published_at = published_at - :passed,"
            " leased_until = leased_until - :passed RETURNING 1) SELECT count(*) FROM moved",
            passed=timedelta(seconds=seconds),
        )

    def _now(self, session: Session) -> datetime:
        return database.now(session) + self._passed


class Worker:
    """A thread that does what one message says, up to where it stands still or to its end."""

    def __init__(self, place: Place, steps: Steps, message: Message, fate: Fate) -> None:
        self.message = message
        self._fate = fate
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(place, steps), daemon=True)
        self._thread.start()
        self._hand_over()

    @property
    def stands(self) -> bool:
        """Whether it stands at a step and can go on."""
        return self._thread.is_alive()

    @property
    def claimed(self) -> bool:
        """Whether it got the work."""
        return "work_claimed" in self._fate.passed

    def go_on(self) -> None:
        """Let it run to its end."""
        self._fate.stands.clear()
        self._fate.goes_on.set()
        self._hand_over()

    def _hand_over(self) -> None:
        while self._thread.is_alive() and not self._fate.stands.is_set():
            self._thread.join(0.001)
        if not self._thread.is_alive() and self._errors:
            raise self._errors[0]

    def _run(self, place: Place, steps: Steps) -> None:
        steps.follow(self._fate)
        try:
            place.perform(self.message.job_id, self.message.stage, self.message.chunk)
        except DiedError:
            pass
        except BaseException as error:  # told to the thread that waits
            self._errors.append(error)
        finally:
            steps.follow(Fate())


class Broker:
    """Keeps what is sent. Used in place of a dispatcher's publisher."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.takes: int | None = None

    def send(self, task: Any, item: Any) -> None:
        if self.takes == 0:
            raise PartUnavailableError("The broker is away.", "Bring it back.")
        if self.takes is not None:
            self.takes -= 1
        stage = Stage(item.stage)
        assert task is dispatcher_module.TASK_OF[stage.value]
        self.messages.append(Message(item.job_id, stage, item.chunk))

    def depth(self, queue: Any) -> int:
        """Nothing is known to wait, so what nobody answered is sent again."""
        return 0

    def close(self) -> None:
        """There is nothing to close."""


class Yard:
    """One dataset with its files, its broker and everybody who works on them."""

    def __init__(self, place: Place, blobs: Path, steps: Steps, clock: Clock) -> None:
        self.place, self.clock, self.broker = place, clock, Broker()
        self.files: list[File] = []
        self.standing: list[Worker] = []
        self._blobs, self._steps = blobs, steps
        self._records = 100_000  # so that all lines are as long, and no number starts with a zero
        place.ledger.register_dataset(place.dataset, CONTRACT, STAMP)
        self._dispatchers = [Dispatcher(place.ledger, place.workshop.settings) for _ in range(2)]
        for dispatcher in self._dispatchers:
            dispatcher._publisher = self.broker  # type: ignore[assignment]
        place.follow()  # past all that an example before this one has left behind
        place.query("WITH gone AS (DELETE FROM work.items RETURNING 1) SELECT count(*) FROM gone")

    def receive(self, records: int, *, refused: bool) -> File:
        """A file of so many records; the last one is refused, or none."""
        numbers = list(range(self._records, self._records + records))
        self._records += records
        lines = [f"{number},2026-04-01\n" for number in numbers]
        data = ("number,paid_on\n" + "".join(lines) + ("refused,2026-04-01\n" if refused else "")).encode()
        sha256 = put(self.place.workshop.blobs, data)
        arrival = Arrival(uuid4(), sha256, len(data), "payments.csv", "text/csv", self.place.dataset)
        self.place.ledger.receive([arrival], STAMP, door="http", on_duplicate=OnDuplicate.REJECT)
        self.files.append(File(arrival.job_id, sha256, self.place.ledger.position(), numbers, refused))
        return self.files[-1]

    def message_of(self, file: File) -> Message:
        """The first message about a file, once a dispatcher has heard of it."""
        self.follow(0)
        return Message(file.job_id, Stage.PLAN, 0)

    def due(self) -> list[Message]:
        """What the work's table says that can be claimed now."""
        found = self.place.query(
            "SELECT job_id, stage, chunk FROM work.items WHERE due_at <= clock_timestamp()"
            " AND (leased_until IS NULL OR leased_until < clock_timestamp()) ORDER BY due_at, chunk"
        )
        return [Message(job_id, Stage(stage), chunk) for job_id, stage, chunk in found]

    def follow(self, number: int, *, dies_at: tuple[str, ...] = ()) -> None:
        """One of the dispatchers follows the log."""
        self._dispatch(self._dispatchers[number].follow, dies_at)

    def publish(self, number: int, *, takes: int | None = None, dies_at: tuple[str, ...] = ()) -> None:
        """One of the dispatchers sends what is due; the broker takes so many messages and is then away."""
        self.broker.takes = takes
        self._dispatch(self._dispatchers[number].publish, dies_at)
        self.broker.takes = None

    def deliver(self, message: Message, *, stands_at: tuple[str, ...] = (), dies_at: tuple[str, ...] = ()) -> Worker:
        """A worker takes a message."""
        worker = Worker(self.place, self._steps, message, Fate(stands_at, dies_at))
        if worker.stands:
            self.standing.append(worker)
        return worker

    def go_on(self, worker: Worker) -> None:
        """A worker that stood still goes on to its end."""
        self.standing.remove(worker)
        worker.go_on()

    def blob_path(self, file: File) -> Path:
        """Where a file's bytes are kept."""
        return self._blobs / file.sha256[:2] / file.sha256

    def lose_blob(self, file: File) -> None:
        """The file's bytes cannot be found for a while."""
        path = self.blob_path(file)
        if path.exists():
            path.rename(path.with_suffix(".lost"))

    def bring_blobs_back(self) -> None:
        """Every file's bytes are where they were."""
        for file in self.files:
            lost = self.blob_path(file).with_suffix(".lost")
            if lost.exists():
                lost.rename(self.blob_path(file))

    def _dispatch(self, act: Callable[[], object], dies_at: tuple[str, ...]) -> None:
        self._steps.follow(Fate(dies_at=dies_at))
        try:
            act()
        except (DiedError, PartUnavailableError):
            pass
        finally:
            self._steps.follow(Fate())
