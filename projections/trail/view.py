"""The trail's generations, for whoever builds it anew: see `projections.trail.store`."""

from __future__ import annotations

from typing import Any

from ledger.application import Ledger
from projections.generation_comparison import Place
from projections.trail import store
from projections.trail.entries import Entry
from projections.views import Live


class TrailGenerations:
    """An entry for every event. See `projections.generation_view.Generations`."""

    name = store.TRAIL

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def live(self) -> Live:
        """What is live."""
        return store.live(self._ledger)

    def kept(self) -> set[int]:
        """Every generation that left something behind."""
        return store.generations(self._ledger)

    def open(self, generation: int) -> store.TrailStore:
        """One of them."""
        return store.TrailStore(self._ledger, generation)

    def new(self) -> store.TrailStore:
        """An empty one, above every one that left something behind."""
        return self.open(store.new_generation(self._ledger))

    def switch(self, generation: int, *, previous: int, by: str) -> None:
        """Make a generation the live one."""
        store.switch(self._ledger, generation, previous=previous, by=by)

    def place(self, item: Entry) -> Place:
        """The position of its event."""
        return item.position, ""

    def line(self, item: Entry) -> bytes:
        """As canonical JSON."""
        return store.line_of(item)

    def told(self, place: Place) -> dict[str, Any]:
        """The position of its event."""
        return {"position": place[0]}
