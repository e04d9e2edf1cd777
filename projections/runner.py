"""Keeps views up to date: follows the log in batches, folds, writes, and remembers its position with each view.

Rules:
1. The position of the status view is written after its documents, so a crash in between means folding some events
   again, which changes nothing.
2. An event that cannot be read or folded stops the view's follower loudly. It never skips one.
3. MongoDB or PostgreSQL away is not an error but a wait, growing to `PAUSE_SECONDS_MAX`.
4. Each view has a follower of its own. One that stopped begins again where it was after a pause, and the others go on
   meanwhile; when none of them can go on, all end, and with them the process.
5. What is kept of a view for a roll-back follows the log only as far as the last erasure of a name, so that no erased
   name stays in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event as StopSignal
from threading import Lock
from typing import Protocol, TypeVar

from pymongo.database import Database

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import LogListener, prepare
from ledger.erasures import last_name_erased
from ledger.errors import PartUnavailableError
from projections.status import Document, fold
from projections.trail.store import BATCH_EVENTS, TRAIL, TrailStore, live_trail
from projections.trail.store import live as trail_standing
from projections.view_store import ViewStore, live, live_generation, switch
from projections.views import Live

log = logging.getLogger(__name__)

STATUS = "status"
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


class Kept(Protocol):
    """A generation that is kept for a roll-back."""

    def position(self) -> int:
        """The position in the log that it reflects, 0 if none."""

    def drop(self) -> None:
        """Forget it."""


Store = TypeVar("Store", bound=Kept)


def erase_in_kept(
    ledger: Ledger, standing: Callable[[], Live], opened: Callable[[int], Store], apply: Callable[[Store, int], int]
) -> int:
    """Take the next events up to the last erasure into what is kept of a view.

    Args:
        apply: takes the next events of the log into a generation, none after a position; how many.

    Returns:
        How many events were taken; 0 means that no erased name is left in it.
    """
    generation = standing().previous
    if not generation:
        return 0
    kept, erased = opened(generation), last_name_erased(ledger)
    if kept.position() >= erased:
        return 0
    count = apply(kept, erased)
    after = standing()
    if generation not in (after.generation, after.previous):  # a rebuild has dropped it meanwhile
        kept.drop()
    return count


def run(ledger: Ledger, database: Database[Document], stop: StopSignal) -> None:
    """Keep the status view up to date until told to stop."""

    def apply() -> tuple[int, int]:
        store = live_store(database)
        count = apply_batch(ledger, store)
        erased = erase_in_kept(
            ledger,
            partial(live, database, STATUS),
            partial(ViewStore, database, STATUS),
            lambda kept, until: apply_batch(ledger, kept, until=until),
        )
        return max(count, erased), store.position()

    follow(ledger, STATUS, apply, stop)


def run_trail(ledger: Ledger, stop: StopSignal) -> None:
    """Keep the audit trail up to date until told to stop. Makes its tables first, if somebody dropped them."""
    prepare(ledger.engine, "projections")

    def apply() -> tuple[int, int]:
        trail = live_trail(ledger)
        count = trail.apply_batch()
        erased = erase_in_kept(
            ledger,
            partial(trail_standing, ledger),
            partial(TrailStore, ledger),
            lambda kept, until: kept.apply_batch(until=until),
        )
        return max(count, erased), trail.position()

    follow(ledger, TRAIL, apply, stop)


def follow(ledger: Ledger, view: str, apply: Callable[[], tuple[int, int]], stop: StopSignal) -> None:
    """Follow the log until told to stop.

    Args:
        apply: takes the next events of the log into the view; how many there were, and the view's position then.
    """
    listener = LogListener(ledger.engine)
    pause_seconds = 0.0
    try:
        while not stop.is_set():
            try:
                count, position = apply()
                pause_seconds = 0.0
                telemetry.PROJECTION_LAG.set(max(0, ledger.position() - position), {telemetry.VIEW: view})
                if count == BATCH_EVENTS:
                    continue
                listener.wait(IDLE_SECONDS_MAX)
                stop.wait(GATHER_SECONDS)
            except PartUnavailableError as error:
                pause_seconds = min(PAUSE_SECONDS_MAX, pause_seconds * 2 or 0.5)
                log.warning("the view %s waits: %s", view, error, extra={"action": "projection_waits"})
                stop.wait(pause_seconds)
    finally:
        listener.close()


def follow_all(followers: Mapping[str, Callable[[StopSignal], None]], stop: StopSignal) -> None:
    """Run a follower for each view, in threads of their own, until told to stop.

    Raises:
        Exception: what the last of them stopped at, when none can go on.
    """
    stopped: set[str] = set()
    lock = Lock()

    def keep(view: str) -> None:
        pause_seconds = 0.0
        while not stop.is_set():
            try:
                followers[view](stop)
            except Exception:  # the edge of a thread: whatever it is must be told, and must not stop the others
                log.exception("the view %s has stopped", view, extra={"action": "projection_stopped"})
                with lock:
                    stopped.add(view)
                    if stopped == set(followers):
                        stop.set()
                        raise
                pause_seconds = min(PAUSE_SECONDS_MAX, pause_seconds * 2 or 0.5)
                stop.wait(pause_seconds)
                with lock:
                    stopped.discard(view)

    with ThreadPoolExecutor(len(followers), "follow") as pool:
        kept = [pool.submit(keep, view) for view in followers]
    for each in kept:
        each.result()
