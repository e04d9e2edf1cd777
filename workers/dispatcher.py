"""The dispatcher: `python -m workers.dispatcher` follows the log and tells the workers what is due.

Rules:
1. `WORK_OF` is the one table from an event to the work that it asks for. The work and the position in the log are
   written in one transaction, so no event is passed over and none is followed twice.
2. The broker is a hint. Whatever is due and not leased is published, and published again after `resend_seconds`
   without an answer; delivery twice, late or out of order does no harm (see `workers.leases`).
3. At most `published_max` messages are unanswered at a time, so a long log cannot flood the broker.
4. Two dispatchers at once are safe: row locks keep them apart.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from celery import Task
from kombu.exceptions import OperationalError as BrokerError
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import failpoints, telemetry
from ledger.application import Ledger
from ledger.database import LogListener, rows
from ledger.domain.base import LedgerEvent
from ledger.domain.filejob import FileJob
from ledger.domain.words import Stage
from ledger.errors import PartUnavailableError
from ledger.settings import Settings
from workers.tasks import load, plan, prepare_all

log = logging.getLogger(__name__)

NAME = "dispatcher"
BATCH_EVENTS = 500
BATCH_MESSAGES = 100
IDLE_SECONDS_MAX = 0.5
PAUSE_SECONDS = 1.0

# EVENT -> TASK: which work an event asks for, as (stage, number of pieces).
WORK_OF: dict[type[FileJob.Event], Callable[[Any], tuple[Stage, int]]] = {
    FileJob.Received: lambda event: (Stage.PLAN, 1),
    FileJob.Queued: lambda event: (Stage.LOAD, event.chunks_total),
}
TASK_OF: dict[str, Task[Any, Any]] = {Stage.PLAN.value: plan, Stage.LOAD.value: load}


class Followed(NamedTuple):
    """How many events were followed, and how many pieces of work they asked for."""

    events: int
    pieces: int


class Dispatcher:
    """Turns events into due work, and due work into messages."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings

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
        return Followed(len(events), pieces)

    def publish(self) -> int:
        """Send messages for work that is due; how many were sent.

        Raises:
            BrokerError: the broker cannot be reached; the work stays due.
        """
        with self._ledger.transaction() as session:
            due = rows(
                session,
                "SELECT job_id, stage, chunk, traceparent FROM work.items"
                " WHERE due_at <= clock_timestamp()"
                " AND (leased_until IS NULL OR leased_until < clock_timestamp())"
                " AND (published_at IS NULL OR published_at < clock_timestamp() - :resend * interval '1 second')"
                " ORDER BY due_at, chunk LIMIT :limit FOR UPDATE SKIP LOCKED",
                resend=self._settings.resend_seconds,
                limit=min(BATCH_MESSAGES, self._room(session)),
            )
            for item in due:
                self._send(item)
                session.execute(
                    text(
                        "UPDATE work.items SET published_at = clock_timestamp()"
                        " WHERE job_id = :job_id AND stage = :stage AND chunk = :chunk"
                    ),
                    {"job_id": item.job_id, "stage": item.stage, "chunk": item.chunk},
                )
        return len(due)

    def run(self, stop: threading.Event) -> None:
        """Follow and publish until told to stop."""
        listener = LogListener(self._ledger.engine)
        publish_at_seconds = 0.0
        try:
            while not stop.is_set():
                try:
                    followed = self.follow()
                    # Most events ask for no work, and what is due by time alone is looked for twice a second.
                    if followed.pieces or time.monotonic() >= publish_at_seconds:
                        while self.publish() == BATCH_MESSAGES:
                            pass
                        publish_at_seconds = time.monotonic() + IDLE_SECONDS_MAX
                    if followed.events < BATCH_EVENTS:
                        listener.wait(IDLE_SECONDS_MAX)
                except (PartUnavailableError, BrokerError, OSError) as error:
                    log.warning("the dispatcher waits: %s", error, extra={"action": "dispatcher_waits"})
                    stop.wait(PAUSE_SECONDS)
        finally:
            listener.close()

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
        if not isinstance(event, FileJob.Event) or type(event) not in WORK_OF:
            return 0
        stage, pieces = WORK_OF[type(event)](event)
        session.execute(
            text(
                "INSERT INTO work.items (job_id, stage, chunk, traceparent)"
                " SELECT :job_id, :stage, chunk, :traceparent FROM generate_series(0, :pieces - 1) AS chunk"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "job_id": event.originator_id,
                "stage": stage.value,
                "traceparent": event.traceparent,
                "pieces": pieces,
            },
        )
        return pieces

    def _room(self, session: Session) -> int:
        unanswered = session.execute(
            text(
                "SELECT count(*) FROM work.items WHERE leased_until IS NULL"
                " AND published_at >= clock_timestamp() - :resend * interval '1 second'"
            ),
            {"resend": self._settings.resend_seconds},
        ).scalar_one()
        return max(0, self._settings.published_max - int(unanswered))

    def _send(self, item: Any) -> None:
        with telemetry.continued(item.traceparent):
            TASK_OF[item.stage].apply_async(
                kwargs={
                    "job_id": str(item.job_id),
                    "chunk": item.chunk,
                    "published_at_seconds": time.time(),
                },
                retry=False,
            )


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = Settings()
    telemetry.configure(NAME, settings)
    failpoints.use(settings.failpoints)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ledger = Ledger(settings)
    telemetry.instrument_engine(ledger.engine)
    prepare_all(ledger)
    Dispatcher(ledger, settings).run(stop)
    telemetry.flush()


if __name__ == "__main__":
    main()
