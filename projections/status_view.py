"""The status view's generations in MongoDB, for whoever builds it anew: see `projections.view_store`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymongo.database import Database

from ledger.application import Ledger
from projections.generation_view import Generation
from projections.runner import STATUS, apply_batch, live_store
from projections.status import Document
from projections.view_store import ViewStore, generations, live, new_generation, switch
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

    def place(self, item: Document) -> int:
        """Where a job's story begins in the log."""
        return int(item["received_position"])

    def told(self, item: Document) -> dict[str, Any]:
        """Its job."""
        return {"job_id": item["_id"]}


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

    def drop(self) -> None:
        self._store.drop()
