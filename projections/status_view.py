"""The status view as a view that can be built anew: its generations in MongoDB, see `projections.view_store`.

Readers never miss it: until the switch they see the old one. What is compared is the content of both at the same
position, so an old view that had drifted is found out and said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ledger.database import lock_at_once
from ledger.errors import ConflictError
from ledger.failpoints import failpoint
from projections.runner import STATUS, apply_batch, live_store
from projections.view_store import Live, ViewStore, generations, live, new_generation, switch
from projections.views import DIFFERENCES_TOLD_MAX, Comparison, Order, Parts, Standing

log = logging.getLogger(__name__)

COMPARE_ATTEMPTS = 10


class StatusView:
    """The status of every job."""

    def __init__(self, parts: Parts) -> None:
        self._ledger = parts.ledger
        self._database = parts.database

    def rebuild(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and switch.

        Raises:
            ConflictError: it is being rebuilt already.
            PartUnavailableError: MongoDB or PostgreSQL is away.
        """
        with self._alone():
            old, there = self._old(), live(self._database, STATUS)
            if there.switched_by == str(order.id):  # by an attempt whose worker died behind the switch
                new, old = old, self._store(there.previous)
                events, found = self._built(order, old, new)
            else:
                new = self._new()
                events, found = self._built(order, old, new)
                failpoint("rebuild_compared")
                switch(self._database, STATUS, new.generation, previous=old.generation, by=str(order.id))
                failpoint("rebuild_switched")
                if there.previous:
                    self._store(there.previous).drop()
            if found.equal is False:
                log.error("the view %s had drifted from the log", STATUS, extra={"action": "view_drifted"})
            return self._result(new, found, events=events, switched=True)

    def check(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and drop what was built. Raises as `rebuild` does."""
        with self._alone():
            old, new = self._old(), self._new()
            events, found = self._built(order, old, new)
            result = self._result(old, found, events=events, switched=False)
            new.drop()
            return result

    def roll_back(self, order: Order) -> dict[str, Any]:
        """Let the generation before the live one follow the log to its end, and switch to it.

        Raises:
            ConflictError: nothing is kept of it, or the view is being rebuilt.
            PartUnavailableError: MongoDB or PostgreSQL is away.
        """
        with self._alone():
            there = live(self._database, STATUS)
            if there.switched_by == str(order.id):  # by an attempt whose worker died behind the switch
                return self._rolled_back(there)
            if not there.previous:
                raise ConflictError(
                    f"Nothing is kept of {STATUS} from before a switch.", "Only the last rebuild can be rolled back."
                )
            old = self._store(there.previous)
            while count := apply_batch(self._ledger, old):
                self._tell(order, count, old)
            switch(self._database, STATUS, old.generation, previous=there.generation, by=str(order.id))
            failpoint("rebuild_switched")
            return self._rolled_back(live(self._database, STATUS))

    def standing(self) -> Standing:
        """Where the live generation stands."""
        store = live_store(self._database)
        return Standing(STATUS, store.position(), store.generation)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._ledger.transaction() as session:
            if not lock_at_once(session, f"rebuild {STATUS}"):
                raise ConflictError(f"The view {STATUS!r} is being rebuilt already.", "Wait until that is done.")
            yield

    def _old(self) -> ViewStore:
        """The live generation; what a killed rebuild left behind is dropped."""
        old = live_store(self._database)
        for abandoned in generations(self._database, STATUS) - {old.generation, live(self._database, STATUS).previous}:
            self._store(abandoned).drop()
        return old

    def _new(self) -> ViewStore:
        """An empty generation."""
        new = self._store(new_generation(self._database, STATUS))
        new.prepare()
        return new

    def _built(self, order: Order, old: ViewStore, new: ViewStore) -> tuple[int, Comparison]:
        """Let a new generation follow the log to its end: how many events it took, and how the old one compares."""
        events = 0
        for _ in range(COMPARE_ATTEMPTS):
            while count := apply_batch(self._ledger, new):
                events += count
                self._tell(order, events, new)
            while apply_batch(self._ledger, old, until=new.position()):
                pass
            found = _compared(old, new)
            if old.position() == new.position():  # still so after both digests: nothing moved meanwhile
                return events, found
        return events, Comparison(None, found.digest, found.digest_before)

    def _store(self, generation: int) -> ViewStore:
        return ViewStore(self._database, STATUS, generation)

    def _tell(self, order: Order, events: int, store: ViewStore) -> None:
        order.tell({"events": events, "position": store.position(), "log_position": self._ledger.position()})

    def _result(self, store: ViewStore, found: Comparison, *, events: int, switched: bool) -> dict[str, Any]:
        return {
            "view": STATUS,
            "switched": switched,
            "generation": store.generation,
            "position": store.position(),
            "events": events,
            **found.to_dict(),
        }

    def _rolled_back(self, there: Live) -> dict[str, Any]:
        position = self._store(there.generation).position()
        return {"view": STATUS, "switched": True, "generation": there.generation, "position": position}


def _compared(old: ViewStore, new: ViewStore) -> Comparison:
    digest, digest_before = new.digest(), old.digest()
    found = Comparison(digest == digest_before, digest, digest_before)
    if not found.equal:
        for difference in _differences(old, new):
            found.differences_total += 1
            if len(found.differences) < DIFFERENCES_TOLD_MAX:
                found.differences.append(difference)
    return found


def _differences(old: ViewStore, new: ViewStore) -> Iterator[dict[str, Any]]:
    """The documents that differ, by their jobs: both views are gone through in the order in which jobs came in."""
    olds, news = old.in_order(), new.in_order()
    there, right = next(olds, None), next(news, None)
    while there is not None or right is not None:
        if right is None or (there is not None and _place(there) < _place(right)):
            assert there is not None
            yield {"job_id": there["_id"], "what": "unknown"}
            there = next(olds, None)
        elif there is None or _place(right) < _place(there):
            yield {"job_id": right["_id"], "what": "missing"}
            right = next(news, None)
        else:
            if there != right:
                yield {"job_id": right["_id"], "what": "changed"}
            there, right = next(olds, None), next(news, None)


def _place(document: dict[str, Any]) -> int:
    return int(document["received_position"])
