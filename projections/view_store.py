"""The MongoDB side of a disposable view: documents guarded by version, and the view's position beside them.

Rules:
1. A view is a set of documents, each with an `_id`, a growing `version`, and the `received_position` where its story
   begins in the log: an integer that never changes and that no other document has.
2. A write replaces a document only if none stands there or the standing one has a lower version, so applying a
   batch twice, or an old one late, changes nothing.
3. The position of a view is written after its documents, forgotten before them, and only grows: wherever a crash
   falls, the position never claims documents that are not there.
4. Generations of a view (`status_1`, `status_2`) live side by side; one document says which is live and which was
   before it, so a switch is one write. It also says who switched, so that nobody does it twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pymongo import ASCENDING, DESCENDING, MongoClient, ReplaceOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, ConnectionFailure, ExecutionTimeout

from ledger.errors import PartUnavailableError
from ledger.failpoints import failpoint
from projections.views import Live

Document = dict[str, Any]

VIEWS = "views"
POSITIONS = "positions"
DIGEST_PAGE_DOCUMENTS = 1_000
PAGE_INDEXES = (
    ["received_position"],
    ["dataset", "received_position"],
    ["status", "received_position"],
    ["sha256", "received_position"],
)
RECEIVED = "received_position"
POSITION_MIN, POSITION_MAX = -(2**63), 2**63 - 1
# A document that somebody has changed by hand may have anything there, or nothing. Of an array its items are compared.
NO_ARRAY: Document = {f"{RECEIVED}.0": {"$exists": False}}
NUMBER: Document = {RECEIVED: {"$gte": POSITION_MIN, "$lte": POSITION_MAX}, **NO_ARRAY}
NO_NUMBER: Document = {"$or": [{"$nor": [NUMBER]}, {RECEIVED: {"$type": "array"}}]}
MILLISECONDS_MAX = {"serverSelectionTimeoutMS": 2_000, "connectTimeoutMS": 2_000, "socketTimeoutMS": 5_000}

# pymongo's messages go on with its settings and its picture of all servers.
END_OF_REASON = re.compile(r" \(configured timeouts|, Timeout: ")

# "Duplicate key": https://www.mongodb.com/docs/manual/reference/error-codes/
DUPLICATE_KEY = 11000


def connect(url: str) -> Database[Document]:
    """The database that a MongoDB URL names, `ledger` if it names none. Connects on first use.

    Waits for the server end after `MILLISECONDS_MAX`, unless the URL says otherwise.
    """
    given = {name.lower() for name, _ in parse_qsl(urlsplit(url).query)}
    limits: dict[str, Any] = {name: value for name, value in MILLISECONDS_MAX.items() if name.lower() not in given}
    client: MongoClient[Document] = MongoClient(url, **limits)
    return client.get_default_database("ledger")


def live(database: Database[Document], name: str) -> Live:
    """What is live of a view."""
    with _unavailable_as_error(database):
        found = database[VIEWS].find_one({"_id": name})
    if found is None:
        return Live()
    return Live(int(found["live"]), int(found.get("previous", 0)), found.get("switched_by"))


def live_generation(database: Database[Document], name: str) -> int:
    """The generation of a view that readers see, 0 if there is none."""
    return live(database, name).generation


def generations(database: Database[Document], name: str) -> set[int]:
    """Every generation of a view that left something behind."""
    with _unavailable_as_error(database):
        keys = [*database.list_collection_names(), *(str(found["_id"]) for found in database[POSITIONS].find())]
    parts = [key.rpartition("_") for key in keys]
    return {int(number) for view, _, number in parts if view == name and number.isdecimal()}


def new_generation(database: Database[Document], name: str) -> int:
    """A number above the live generation and above every generation of the view that left something behind."""
    return max(live_generation(database, name), *generations(database, name), 0) + 1


def switch(
    database: Database[Document], name: str, generation: int, *, previous: int = 0, by: str | None = None
) -> None:
    """Make a generation the live one."""
    document = {"_id": name, "live": generation, "previous": previous, "switched_by": by}
    with _unavailable_as_error(database):
        database[VIEWS].replace_one({"_id": name}, document, upsert=True)


class ViewStore:
    """One generation of a view. Every method raises PartUnavailableError if MongoDB does not answer in time."""

    def __init__(self, database: Database[Document], name: str, generation: int) -> None:
        self.name = name
        self.generation = generation
        self._database = database
        self._key = f"{name}_{generation}"
        self._collection = database[self._key]

    def prepare(self) -> None:
        """Make the indexes that pages need, those that are not there."""
        with _unavailable_as_error(self._database):
            for fields in PAGE_INDEXES:
                self._collection.create_index(fields)

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """The documents with these ids, by id."""
        with _unavailable_as_error(self._database):
            return {found["_id"]: found for found in self._collection.find({"_id": {"$in": list(ids)}})}

    def document(self, document_id: str) -> Document | None:
        """One document, or None."""
        with _unavailable_as_error(self._database):
            return self._collection.find_one({"_id": document_id})

    def write(self, documents: Sequence[Document], position: int) -> None:
        """Write documents that are news, then move the position forward."""
        with _unavailable_as_error(self._database):
            # Where a newer document stands, the filter misses, the upsert inserts, and the id is taken. The id is
            # also taken when another writer's older document came in between; so what was refused is tried once
            # more without inserting, which settles both cases.
            refused = self._replace_older(documents, upsert=True)
            self._replace_older(refused, upsert=False)
            failpoint("view_written")
            self._database[POSITIONS].update_one({"_id": self._key}, {"$max": {"position": position}}, upsert=True)
            failpoint("view_positioned")

    def position(self) -> int:
        """The position in the log that the view reflects, 0 if none."""
        with _unavailable_as_error(self._database):
            found = self._database[POSITIONS].find_one({"_id": self._key})
        return 0 if found is None else int(found["position"])

    def page(
        self,
        *,
        datasets: Collection[str] | None,
        status: str | None,
        before: int | None,
        limit: int,
        sha256: str | None = None,
    ) -> list[Document]:
        """At most `limit` documents, the last received first, from before a `received_position`.

        Those of some datasets, of none if there are none of these, and of all if that is None.
        """
        assert limit > 0, "to MongoDB, 0 means all"
        asked = {"status": status, "sha256": sha256}
        wanted: Document = {name: value for name, value in asked.items() if value is not None}
        if datasets is not None:
            # By its value for one alone: so the pages come in the order of an index.
            wanted["dataset"] = next(iter(datasets)) if len(datasets) == 1 else {"$in": sorted(datasets)}
        wanted[RECEIVED] = {"$lt": POSITION_MAX if before is None else before}  # which only numbers are
        with _unavailable_as_error(self._database):
            return list(self._collection.find(wanted).sort(RECEIVED, DESCENDING).limit(limit))

    def digest(self) -> str:
        """SHA-256 over all documents in the order in which they were received, each a line of canonical JSON."""
        digest = hashlib.sha256()
        for document in self.in_order():
            digest.update(line_of(document))
        return digest.hexdigest()

    def in_order(self) -> Iterator[Document]:
        """All documents in the order in which they were received; before them those without such a position.

        Reads in pages: no process holds the whole view, and no single answer has to beat the socket's time limit.
        """
        with _unavailable_as_error(self._database):
            yield from self._collection.find(NO_NUMBER)
            wanted, there = NUMBER, list[Document]()
            while page := list(self._collection.find(wanted).sort(RECEIVED, ASCENDING).limit(DIGEST_PAGE_DOCUMENTS)):
                yield from page
                last = page[-1][RECEIVED]
                # Those of the same position are asked for again without these: only somebody's hand makes several.
                there = [*there, *page] if there and there[-1][RECEIVED] == last else page
                there = [document for document in there if document[RECEIVED] == last]
                seen = [document["_id"] for document in there]
                wanted = {RECEIVED: {"$gte": last, "$lte": POSITION_MAX}, "_id": {"$nin": seen}, **NO_ARRAY}

    def drop(self) -> None:
        """Forget the generation."""
        with _unavailable_as_error(self._database):
            self._database[POSITIONS].delete_one({"_id": self._key})
            self._collection.drop()

    def _replace_older(self, documents: Sequence[Document], *, upsert: bool) -> list[Document]:
        """Replace what stands with a lower version; what was refused because its id is taken."""
        if not documents:
            return []
        requests = [
            ReplaceOne({"_id": document["_id"], "version": {"$lt": document["version"]}}, document, upsert=upsert)
            for document in documents
        ]
        try:
            self._collection.bulk_write(requests, ordered=False)
        except BulkWriteError as error:
            failures = error.details["writeErrors"]
            if error.details["writeConcernErrors"] or any(failed["code"] != DUPLICATE_KEY for failed in failures):
                raise
            return [documents[failed["index"]] for failed in failures]
        return []


def received_position(document: Document) -> int:
    """Where the story of a document begins in the log; before everything if it does not say so."""
    found = document.get(RECEIVED)
    return found if isinstance(found, int) else POSITION_MIN


def line_of(document: Document) -> bytes:
    """A document as a line of canonical JSON. What no view writes, and JSON does not know, is there as its text."""
    line = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return line.encode("utf-8", "surrogatepass") + b"\n"


@contextmanager
def _unavailable_as_error(database: Database[Document]) -> Iterator[None]:
    try:
        yield
    except (ConnectionFailure, ExecutionTimeout) as error:
        reason = END_OF_REASON.split(str(error))[0]
        addresses = ", ".join(
            f"{host}:{port}" for host, port in sorted(database.client.topology_description.server_descriptions())
        )
        raise PartUnavailableError(
            f"MongoDB at {addresses} does not answer: {reason}.",
            "Status views wait for it; uploads and loading go on.",
        ) from error
