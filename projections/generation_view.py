"""A view whose generations live side by side: building one anew, comparing it, switching to it, and back.

Readers never miss it: until the switch they see the old one. What is compared is the content of both at the same
position, so an old view that had drifted is found out and said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ledger.application import Ledger
from ledger.database import lock_at_once
from ledger.errors import ConflictError
from ledger.failpoints import failpoint
from projections.views import DIFFERENCES_TOLD_MAX, Comparison, Live, Order, Standing, ViewBusyError

log = logging.getLogger(__name__)

COMPARE_ATTEMPTS = 10


class Generation(Protocol):
    """One generation of a view."""

    generation: int

    def position(self) -> int:
        """The position in the log that it reflects, 0 if none."""

    def apply_batch(self, *, until: int | None = None) -> int:
        """Take the next events of the log in, none after `until`; how many: 0 at the end."""

    def digest(self) -> str:
        """SHA-256 over its content."""

    def in_order(self) -> Iterator[Any]:
        """What it consists of, in the order of places (see `Generations.place`)."""

    def drop(self) -> None:
        """Forget it."""


class Generations(Protocol):
    """Where the generations of a view are kept. Every method raises PartUnavailableError if that is away."""

    name: str

    def live(self) -> Live:
        """What is live, made on first use."""

    def kept(self) -> set[int]:
        """Every generation that left something behind."""

    def open(self, generation: int) -> Generation:
        """One of them."""

    def new(self) -> Generation:
        """An empty one, above the live one and every one that left something behind."""

    def switch(self, generation: int, *, previous: int, by: str) -> None:
        """Make a generation the live one."""

    def place(self, item: Any) -> int:
        """Where an item of a generation stands among all: no two are the same."""

    def told(self, item: Any) -> dict[str, Any]:
        """What an item is told by, which is never what it holds."""


class GenerationView:
    """A view that is kept in generations. See `projections.views.View`."""

    def __init__(self, ledger: Ledger, kept: Generations) -> None:
        self._ledger = ledger
        self._kept = kept

    def rebuild(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and switch.

        Raises:
            ViewBusyError: it is being rebuilt already.
            PartUnavailableError: what it is made of or kept in is away.
        """
        with self._alone():
            there = self._kept.live()
            old = self._old(there)
            if there.switched_by == str(order.id):  # by an attempt whose worker died behind the switch
                new, old = old, self._kept.open(there.previous)
                events, found = self._built(order, old, new)
            else:
                new = self._kept.new()
                events, found = self._built(order, old, new)
                failpoint("rebuild_compared")
                self._kept.switch(new.generation, previous=old.generation, by=str(order.id))
                failpoint("rebuild_switched")
                if there.previous:
                    self._kept.open(there.previous).drop()
            if found.equal is False:
                log.error("the view %s had drifted from the log", self._kept.name, extra={"action": "view_drifted"})
            return self._result(new, found, events=events, switched=True)

    def check(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and drop what was built. Raises as `rebuild` does."""
        with self._alone():
            there = self._kept.live()
            old, new = self._old(there), self._kept.new()
            events, found = self._built(order, old, new)
            result = self._result(old, found, events=events, switched=False)
            new.drop()
            return result

    def roll_back(self, order: Order) -> dict[str, Any]:
        """Let the generation before the live one follow the log to its end, and switch to it.

        Raises:
            ConflictError: nothing is kept of it, or the view is being rebuilt.
            PartUnavailableError: what it is made of or kept in is away.
        """
        with self._alone():
            there = self._kept.live()
            if there.switched_by == str(order.id):  # by an attempt whose worker died behind the switch
                return self._rolled_back(there)
            if not there.previous:
                raise ConflictError(
                    f"Nothing is kept of {self._kept.name} from before a switch.",
                    "Only the last rebuild can be rolled back.",
                )
            old = self._kept.open(there.previous)
            while count := old.apply_batch():
                self._tell(order, count, old)
            self._kept.switch(old.generation, previous=there.generation, by=str(order.id))
            failpoint("rebuild_switched")
            return self._rolled_back(self._kept.live())

    def standing(self) -> Standing:
        """Where the live generation stands."""
        store = self._kept.open(self._kept.live().generation)
        return Standing(self._kept.name, store.position(), store.generation)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        name = self._kept.name
        with self._ledger.transaction() as session:
            if not lock_at_once(session, f"rebuild {name}"):
                raise ViewBusyError(f"The view {name!r} is being rebuilt already.", "Wait until that is done.")
            yield

    def _old(self, there: Live) -> Generation:
        """The live generation; what a killed rebuild left behind is dropped."""
        for abandoned in self._kept.kept() - {there.generation, there.previous}:
            self._kept.open(abandoned).drop()
        return self._kept.open(there.generation)

    def _built(self, order: Order, old: Generation, new: Generation) -> tuple[int, Comparison]:
        """Let a new generation follow the log to its end: how many events it took, and how the old one compares."""
        events = 0
        for _ in range(COMPARE_ATTEMPTS):
            while count := new.apply_batch():
                events += count
                self._tell(order, events, new)
            while old.apply_batch(until=new.position()):
                pass
            found = self._compared(old, new)
            if old.position() == new.position():  # still so after both digests: nothing moved meanwhile
                return events, found
        return events, Comparison(None, found.digest, found.digest_before)

    def _compared(self, old: Generation, new: Generation) -> Comparison:
        digest, digest_before = new.digest(), old.digest()
        found = Comparison(digest == digest_before, digest, digest_before)
        if not found.equal:
            for difference in self._differences(old, new):
                found.differences_total += 1
                if len(found.differences) < DIFFERENCES_TOLD_MAX:
                    found.differences.append(difference)
        return found

    def _differences(self, old: Generation, new: Generation) -> Iterator[dict[str, Any]]:
        """What differs: both are gone through in the order of places."""
        place, told = self._kept.place, self._kept.told
        olds, news = old.in_order(), new.in_order()
        there, right = next(olds, None), next(news, None)
        while there is not None or right is not None:
            if right is None or (there is not None and place(there) < place(right)):
                assert there is not None
                yield {**told(there), "what": "unknown"}
                there = next(olds, None)
            elif there is None or place(right) < place(there):
                yield {**told(right), "what": "missing"}
                right = next(news, None)
            else:
                if there != right:
                    yield {**told(right), "what": "changed"}
                there, right = next(olds, None), next(news, None)

    def _tell(self, order: Order, events: int, store: Generation) -> None:
        order.tell({"events": events, "position": store.position(), "log_position": self._ledger.position()})

    def _result(self, store: Generation, found: Comparison, *, events: int, switched: bool) -> dict[str, Any]:
        return {
            "view": self._kept.name,
            "switched": switched,
            "generation": store.generation,
            "position": store.position(),
            "events": events,
            **found.to_dict(),
        }

    def _rolled_back(self, there: Live) -> dict[str, Any]:
        position = self._kept.open(there.generation).position()
        return {"view": self._kept.name, "switched": True, "generation": there.generation, "position": position}
