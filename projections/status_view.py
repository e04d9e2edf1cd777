"""The status view's generations in MongoDB, for whoever builds it anew: see `projections.view_store`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pymongo.database import Database

from ledger.application import Ledger
from projections.generation_comparison import Generation, Place, Seen
from projections.runner import STATUS, apply_batch, live_store
from projections.status import Document
from projections.view_store import ViewStore, generations, line_of, live, new_generation, received_position, switch
from projections.views import Live


class StatusGenerations:
    """The status of every job, a document each. See `projections.generation_view.Generations`."""

    name = STATUS

    def __init__(self, ledger: Ledger, database: Database[Document]) -> None:
        self._ledger = ledger
        self._database = database

    def live(self) -> Live:
        """What is live, made on first use."""
        live_store(self._database)
        return live(self._database, STATUS)

    def kept(self) -> set[int]:
        """Every generation that left something behind."""
        return generations(self._database, STATUS)

    def open(self, generation: int) -> Generation:
        """One of them."""
        return _Generation(self._ledger, ViewStore(self._database, STATUS, generation))

    def new(self) -> Generation:
        """An empty one, with the indexes that pages need."""
        store = ViewStore(self._database, STATUS, new_generation(self._database, STATUS))
        store.prepare()
        return _Generation(self._ledger, store)

    def switch(self, generation: int, *, previous: int, by: str) -> None:
        """Make a generation the live one."""
        switch(self._database, STATUS, generation, previous=previous, by=by)

    def place(self, item: Document) -> Place:
        """Where a job's story begins in the log, and the job."""
        return received_position(item), str(item["_id"])

    def line(self, item: Document) -> bytes:
        """As canonical JSON."""
        return line_of(item)

    def told(self, place: Place) -> dict[str, Any]:
        """Its job."""
        return {"job_id": place[1]}


class _Generation:
    def __init__(self, ledger: Ledger, store: ViewStore) -> None:
        self.generation = store.generation
        self._ledger = ledger
        self._store = store

    def position(self) -> int:
        return self._store.position()

    def apply_batch(self, *, until: int | None = None) -> int:
        return apply_batch(self._ledger, self._store, until=until)

    def digest(self) -> str:
        return self._store.digest()

    def in_order(self) -> Iterator[Document]:
        return self._store.in_order()

    def at(self, places: Sequence[Place]) -> Seen:
        position = self._store.position()  # before the documents, which are written before it
        documents = self._store.documents([job_id for _, job_id in places])
        end = self._ledger.position()
        items = {place: documents[place[1]] for place in places if place[1] in documents}
        later = {place for place, document in items.items() if _is_between(document.get("position"), position, end)}
        return Seen(position, items, frozenset(later))

    def drop(self) -> None:
        self._store.drop()


def _is_between(position: Any, after: int, end: int) -> bool:
    """Whether a document's position, which somebody may have changed to whatever he liked, is one of the log's."""
    return isinstance(position, int) and after < position <= end
