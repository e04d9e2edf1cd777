"""A view whose generations live side by side: building one anew, comparing it, switching to it, and back.

Readers never miss it: until the switch they see the old one. Both are compared (`projections.generation_comparison`),
so an old view that had drifted is found out and said.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ledger.application import Ledger
from ledger.errors import ConflictError, PartUnavailableError
from ledger.failpoints import failpoint
from projections.generation_comparison import Generation, GenerationComparison, Items
from projections.views import Comparison, Live, Order, Standing, alone

log = logging.getLogger(__name__)


class Generations(Items, Protocol):
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
        with alone(self._ledger, self._kept.name):
            there = self._kept.live()
            live = self._live(there)
            if there.switched_by == str(order.id):  # by an attempt whose worker died behind the switch
                events, found = self._compared_with_the_log(order, self._kept.open(there.previous))
            else:
                new, events, found = self._built(order, live)
                failpoint("rebuild_compared")
                self._catch_up(order, new)
                self._kept.switch(new.generation, previous=live.generation, by=str(order.id))
                failpoint("rebuild_switched")
                if there.previous:
                    self._kept.open(there.previous).drop()
                live = new
            if found.equal is False:
                log.error("the view %s had drifted from the log", self._kept.name, extra={"action": "view_drifted"})
            return self._result(live, found, events=events, switched=True)

    def check(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and drop what was built. Raises as `rebuild` does."""
        with alone(self._ledger, self._kept.name):
            live = self._live(self._kept.live())
            events, found = self._compared_with_the_log(order, live)
            return self._result(live, found, events=events, switched=False)

    def roll_back(self, order: Order) -> dict[str, Any]:
        """Let the generation before the live one follow the log to its end, and switch to it.

        Raises:
            ConflictError: nothing is kept of it, or the view is being rebuilt.
            PartUnavailableError: what it is made of or kept in is away.
        """
        with alone(self._ledger, self._kept.name):
            there = self._kept.live()
            if there.switched_by == str(order.id):  # by an attempt whose worker died behind the switch
                return self._rolled_back(there)
            if not there.previous:
                raise ConflictError(
                    f"Nothing is kept of {self._kept.name} from before a switch.",
                    "Only the last rebuild can be rolled back.",
                )
            old = self._kept.open(there.previous)
            self._catch_up(order, old)
            self._kept.switch(old.generation, previous=there.generation, by=str(order.id))
            failpoint("rebuild_switched")
            return self._rolled_back(self._kept.live())

    def standing(self) -> Standing:
        """Where the live generation stands."""
        store = self._kept.open(self._kept.live().generation)
        return Standing(self._kept.name, store.position(), store.generation)

    def _live(self, there: Live) -> Generation:
        """The live generation; what a killed rebuild left behind is dropped."""
        for abandoned in self._kept.kept() - {there.generation, there.previous}:
            self._kept.open(abandoned).drop()
        return self._kept.open(there.generation)

    def _compared_with_the_log(self, order: Order, old: Generation) -> tuple[int, Comparison]:
        """How many events make a new generation, and how the old one compares with that, which is dropped."""
        new, events, found = self._built(order, old)
        new.drop()
        return events, found

    def _built(self, order: Order, old: Generation) -> tuple[Generation, int, Comparison]:
        """A new generation, how many events it took in, and how the old one compares with it."""
        new = self._kept.new()
        try:
            comparison = GenerationComparison(self._ledger, self._kept, old, new, partial(self._tell, order))
            found = comparison.result()
        except BaseException:
            with suppress(PartUnavailableError):  # then the next one drops it
                new.drop()
            raise
        return new, comparison.events, found

    def _catch_up(self, order: Order, store: Generation) -> None:
        """Follow the log to the end that it has now: it may grow for ever."""
        events, until = 0, self._ledger.position()
        while count := store.apply_batch(until=until):
            events += count
            self._tell(order, events, store)

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
