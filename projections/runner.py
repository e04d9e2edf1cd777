"""Keeps a view up to date: follows the log in batches, folds, writes, and remembers its position with the view.

Rules:
1. The position is written after the documents, so a crash in between means folding some events again, which
   changes nothing.
2. An event that cannot be read or folded stops the runner loudly. It never skips one.
3. MongoDB or PostgreSQL away is not an error but a wait, growing to `PAUSE_SECONDS_MAX`.
"""

from __future__ import annotations

import logging
from threading import Event as StopSignal

from pymongo.database import Database

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import LogListener
from ledger.errors import PartUnavailableError
from projections.status import Document, fold
from projections.view_store import ViewStore, live_generation, switch

log = logging.getLogger(__name__)

STATUS = "status"
BATCH_EVENTS = 1_000
IDLE_SECONDS_MAX = 1.0
# Events of a load come in quick succession: a moment's rest lets several share one batch.
GATHER_SECONDS = 0.1
PAUSE_SECONDS_MAX = 10.0


def apply_batch(ledger: Ledger, store: ViewStore, *, until: int | None = None) -> int:
    """Fold the next events of the log into a view.

    Args:
        until: stop after this position; None means at the end of the log.

    Returns:
        How many events were read; 0 means that the view has reached the end (or `until`).
    """
    events = ledger.events_after(store.position(), BATCH_EVENTS)
    if until is not None:
        events = [logged for logged in events if logged.position <= until]
    if not events:
        return 0
    with telemetry.span(telemetry.SPAN_PROJECT, {telemetry.VIEW: store.name, telemetry.EVENT_COUNT: len(events)}):
        ids = {str(logged.event.originator_id) for logged in events}
        documents: dict[str, Document] = store.documents(sorted(ids))
        changed: dict[str, Document] = {}
        for logged in events:
            job_id = str(logged.event.originator_id)
            before = documents.get(job_id)
            after = fold(before, logged)
            if after is not None and after is not before:
                documents[job_id] = changed[job_id] = after
        store.write(list(changed.values()), events[-1].position)
    return len(events)


def live_store(database: Database[Document]) -> ViewStore:
    """The live generation of the status view, made on first use."""
    generation = live_generation(database, STATUS)
    store = ViewStore(database, STATUS, generation or 1)
    if generation == 0:
        store.prepare()
        switch(database, STATUS, 1)
    return store


def run(ledger: Ledger, database: Database[Document], stop: StopSignal) -> None:
    """Follow the log until told to stop."""
    listener = LogListener(ledger.engine)
    pause_seconds = 0.0
    try:
        while not stop.is_set():
            try:
                store = live_store(database)
                count = apply_batch(ledger, store)
                pause_seconds = 0.0
                if count == BATCH_EVENTS:
                    telemetry.PROJECTION_LAG.set(ledger.position() - store.position(), {telemetry.VIEW: STATUS})
                    continue
                telemetry.PROJECTION_LAG.set(0, {telemetry.VIEW: STATUS})
                listener.wait(IDLE_SECONDS_MAX)
                stop.wait(GATHER_SECONDS)
            except PartUnavailableError as error:
                pause_seconds = min(PAUSE_SECONDS_MAX, pause_seconds * 2 or 0.5)
                log.warning("the status view waits: %s", error, extra={"action": "projection_waits"})
                stop.wait(pause_seconds)
    finally:
        listener.close()
