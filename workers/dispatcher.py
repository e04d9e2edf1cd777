"""The dispatcher: `python -m workers.dispatcher` follows the log and tells the workers what is due.

Rules:
1. `WORK_OF` is the one table from an event to the work that it asks for. The work and the position in the log are
   written in one transaction, so no event is passed over and none is followed twice.
2. The broker is a hint. Whatever is due and not leased is published, and published again after `resend_seconds`
   without an answer; delivery twice, late or out of order does no harm (see `workers.leases`). While messages wait
   in a queue, one that nobody answered is most likely among them: then it takes `PATIENCE` times as long, or every
   backlog would grow by itself.
3. Work is marked as published first and sent then, so that no lock is held while the broker is waited for. What
   could not be sent is due again at once.
4. Only as many messages are sent as leave no more than `published_max` in the queue, so a long log cannot flood
   the broker.
5. Two dispatchers at once are safe: row locks keep them apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from celery import Task
from kombu import Queue
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import failpoints, telemetry
from ledger.application import Ledger
from ledger.audit_reads import keep_gathering
from ledger.database import LogListener, rows
from ledger.domain.base import LedgerEvent
from ledger.domain.filejob import FileJob
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.errors import PartUnavailableError
from ledger.failpoints import failpoint
from ledger.settings import Settings
from ledger.signals import set_on_signals
from workers.dead_letters import DeadLetters
from workers.leases import hurry
from workers.mail import Mailer
from workers.publisher import Publisher
from workers.queues import LARGE, OPERATOR, SMALL, is_rabbitmq, queue_of, work_queues
from workers.tasks import (
    archive_year,
    close_year,
    hold_year,
    load,
    plan,
    post_adjustment,
    prepare_all,
    rebuild,
    replay,
    restore_year,
    verify,
)
from workers.verification import request_if_due
from workers.years import look_after_years

log = logging.getLogger(__name__)

NAME = "dispatcher"
BATCH_EVENTS = 500
BATCH_MESSAGES = 100
IDLE_SECONDS_MAX = 0.5
# How often it is asked whether something is to be done by itself, each time by a write.
ASK_SECONDS = 5.0
PAUSE_SECONDS = 1.0
PATIENCE = 16
DUE = (
    "queue = :queue AND due_at <= clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp())"
    " AND (published_at IS NULL OR published_at < clock_timestamp() - :resend * interval '1 second')"
)
# Killed in the middle of a mail, a mailer sends it twice: the same as what a crash does.
REACTOR_STOP_SECONDS_MAX = 10.0
# What is planned within a second or so, however small its chunks will be.
SMALL_BYTES_MAX = 64 << 20


class Wanted(NamedTuple):
    """The work that an event asks for: so many pieces of a stage, sent to a queue."""

    stage: Stage
    pieces: int
    queue: str


# EVENT -> TASK: which work an event asks for. A retry of chunks finds them in the table: they were never done.
WORK_OF: dict[type[LedgerEvent], Callable[[Any], Wanted]] = {
    FileJob.Received: lambda event: Wanted(Stage.PLAN, 1, SMALL if event.size <= SMALL_BYTES_MAX else LARGE),
    FileJob.Queued: lambda event: Wanted(Stage.LOAD, event.chunks_total, queue_of(event.chunks_total)),
    FileJob.Retried: lambda event: Wanted(Stage.PLAN, 1 if event.stage == Stage.PLAN else 0, LARGE),
    Operation.Requested: lambda event: Wanted(Stage(event.kind), 1, OPERATOR),
}
TASK_OF: dict[str, Task[Any, Any]] = {
    Stage.PLAN.value: plan,
    Stage.LOAD.value: load,
    Stage.REBUILD.value: rebuild,
    Stage.REPLAY.value: replay,
    Stage.VERIFY.value: verify,
    Stage.CLOSE_YEAR.value: close_year,
    Stage.ARCHIVE_YEAR.value: archive_year,
    Stage.RESTORE_YEAR.value: restore_year,
    Stage.HOLD_YEAR.value: hold_year,
    Stage.POST_ADJUSTMENT.value: post_adjustment,
}


class Followed(NamedTuple):
    """How many events were followed, and how many pieces of work they asked for."""

    events: int
    pieces: int


class Dispatcher:
    """Turns events into due work, and due work into messages."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        self._publisher = Publisher(settings)
        self._queues = work_queues(settings)

    def follow(self) -> Followed:
        """Write down the work of the next events in the log."""
        with self._ledger.transaction() as session:
            position = self._locked_position(session)
            events = self._ledger.events_after(position, BATCH_EVENTS)
            pieces = sum(self._add_work(session, logged.event) for logged in events)
            if events:
                session.execute(
                    text("UPDATE work.positions SET position = :position WHERE name = :name"),
                    {"name": NAME, "position": events[-1].position},
                )
                failpoint("work_written")
        if events:
            failpoint("work_committed")
        return Followed(len(events), pieces)

    def publish(self) -> int:
        """Send messages for work that is due; how many were sent.

        Raises:
            PartUnavailableError: the broker or the database cannot be reached; the work stays due.
        """
        return sum(self._publish(queue) for queue in self._queues)

    def _publish(self, queue: Queue) -> int:
        if not self._has_due(queue.name):
            return 0
        due = self._mark_published(queue.name, self._publisher.depth(queue))
        if due:
            failpoint("message_marked")
        for number, item in enumerate(due):
            try:
                self._publisher.send(TASK_OF[item.stage], item)
            except PartUnavailableError:
                self._unmark(due[number:])
                raise
            failpoint("message_sent")
        return len(due)

    def run(self, stop: threading.Event) -> None:
        """Follow and publish until told to stop."""
        listener = LogListener(self._ledger.engine)
        publish_at_seconds = ask_at_seconds = 0.0
        try:
            while not stop.is_set():
                try:
                    followed = self.follow()
                    # Most events ask for no work, and what is due by time alone is looked for twice a second.
                    if followed.pieces or time.monotonic() >= publish_at_seconds:
                        while self.publish() >= BATCH_MESSAGES:
                            pass
                        publish_at_seconds = time.monotonic() + IDLE_SECONDS_MAX
                    if time.monotonic() >= ask_at_seconds:
                        request_if_due(self._ledger, self._settings)
                        look_after_years(self._ledger, self._settings)
                        ask_at_seconds = time.monotonic() + ASK_SECONDS
                    if followed.events < BATCH_EVENTS:
                        listener.wait(IDLE_SECONDS_MAX)
                except PartUnavailableError as error:
                    log.warning("the dispatcher waits: %s", error, extra={"action": "dispatcher_waits"})
                    stop.wait(PAUSE_SECONDS)
        finally:
            listener.close()
            self._publisher.close()

    def _locked_position(self, session: Session) -> int:
        session.execute(
            text("INSERT INTO work.positions (name, position) VALUES (:name, 0) ON CONFLICT DO NOTHING"),
            {"name": NAME},
        )
        found = session.execute(
            text("SELECT position FROM work.positions WHERE name = :name FOR UPDATE"), {"name": NAME}
        ).scalar_one()
        return int(found)

    def _add_work(self, session: Session, event: LedgerEvent) -> int:
        if type(event) not in WORK_OF:
            return 0
        wanted = WORK_OF[type(event)](event)
        session.execute(
            text(
                "INSERT INTO work.items (job_id, stage, chunk, queue, traceparent)"
                " SELECT :job_id, :stage, chunk, :queue, :traceparent FROM generate_series(0, :pieces - 1) AS chunk"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "job_id": event.originator_id,
                "stage": wanted.stage.value,
                "queue": wanted.queue,
                "traceparent": event.traceparent,
                "pieces": wanted.pieces,
            },
        )
        if isinstance(event, FileJob.Retried):
            hurry(session, event.originator_id)
        return wanted.pieces or 1

    def _has_due(self, queue: str) -> bool:
        with self._ledger.transaction() as session:
            found = rows(
                session,
                f"SELECT 1 FROM work.items WHERE {DUE} LIMIT 1",
                queue=queue,
                resend=self._settings.resend_seconds,
            )
        return bool(found)

    def _mark_published(self, queue: str, depth: int) -> Sequence[Any]:
        """The work of a queue that is due, as many pieces as there is room for, marked as published."""
        with self._ledger.transaction() as session:
            marked = rows(
                session,
                "UPDATE work.items SET published_at = clock_timestamp() FROM ("
                f" SELECT job_id, stage, chunk FROM work.items WHERE {DUE}"
                " ORDER BY due_at, chunk LIMIT :limit FOR UPDATE SKIP LOCKED"
                ") AS due WHERE (items.job_id, items.stage, items.chunk) = (due.job_id, due.stage, due.chunk)"
                " RETURNING items.job_id, items.stage, items.chunk, items.due_at, items.queue, items.traceparent",
                queue=queue,
                resend=self._settings.resend_seconds * (PATIENCE if depth else 1),
                limit=min(BATCH_MESSAGES, max(0, self._settings.published_max - depth)),
            )
        return sorted(marked, key=lambda item: (item.due_at, item.chunk))

    def _unmark(self, unsent: Sequence[Any]) -> None:
        with self._ledger.transaction() as session:
            session.execute(
                text(
                    "UPDATE work.items SET published_at = NULL"
                    " WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk AND leased_until IS NULL"
                ),
                [{"job_id": item.job_id, "stage": item.stage, "chunk": item.chunk} for item in unsent],
            )


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    telemetry.configure(NAME, settings)
    failpoints.use(settings.failpoints)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    stop = threading.Event()
    set_on_signals(stop)
    ledger = Ledger(settings)
    telemetry.instrument_engine(ledger.engine)
    prepare_all(ledger)
    reactors = [threading.Thread(target=_until, args=(stop, run), daemon=True) for run in _reactors(ledger, settings)]
    for reactor in reactors:
        reactor.start()
    Dispatcher(ledger, settings).run(stop)
    for reactor in reactors:
        reactor.join(REACTOR_STOP_SECONDS_MAX)
    telemetry.flush()


def _until(stop: threading.Event, run: Callable[[threading.Event], None]) -> None:
    try:
        run(stop)
    except Exception:  # the edge of a thread: our own mistake ends the process, which is then started again
        log.exception("a reactor failed", extra={"action": "reactor_failed"})
        stop.set()


def _reactors(ledger: Ledger, settings: Settings) -> list[Callable[[threading.Event], None]]:
    """What else follows along, each in a thread of its own, so that none can hold up the work."""
    reactors: list[Callable[[threading.Event], None]] = [partial(keep_gathering, ledger)]
    if is_rabbitmq(settings):
        reactors.append(DeadLetters(ledger, settings).run)
    if settings.smtp_url is not None:
        reactors.append(Mailer(ledger, settings).run)
    return reactors


if __name__ == "__main__":
    main()
