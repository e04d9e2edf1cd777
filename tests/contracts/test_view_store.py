"""What a view may rely on, shown on every server that the ledger can keep its views in."""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pymongo.monitoring import CommandListener, CommandSucceededEvent

from ledger.errors import PartUnavailableError
from projections.view_store import Document, ViewStore, connect, live_generation, new_generation, switch

MakeDocument = Callable[..., Document]
LONG = "Größe € 漢字 \U0001f4be \u0000 \u2028 " * 20_000


def everything(store: ViewStore, limit: int = 10_000) -> list[Document]:
    return store.page(datasets=None, status=None, before=None, limit=limit)


def test_what_is_written_is_read_back(store: ViewStore, view_document: MakeDocument) -> None:
    first, second = view_document(1), view_document(2)
    store.write([first, second], 7)
    assert store.document(first["_id"]) == first
    assert store.documents([second["_id"], first["_id"], "absent"]) == {first["_id"]: first, second["_id"]: second}
    assert store.document("absent") is None
    assert store.documents([]) == {}
    assert store.position() == 7


def test_an_empty_view_stands_at_position_zero(database: Database[Document]) -> None:
    store = ViewStore(database, "status", 1)
    assert store.position() == 0
    assert everything(store) == []
    assert store.digest() == hashlib.sha256().hexdigest()


def test_writing_a_batch_twice_changes_nothing(store: ViewStore, view_document: MakeDocument) -> None:
    batch = [view_document(number, version=3) for number in range(1, 50)]
    store.write(batch, 10)
    before = store.digest()
    store.write(batch, 10)
    assert (store.digest(), store.position()) == (before, 10)


def test_the_same_version_never_replaces(store: ViewStore, view_document: MakeDocument) -> None:
    store.write([view_document(1, version=2, status="Completed")], 1)
    store.write([view_document(1, version=2, status="Failed")], 2)
    assert everything(store)[0]["status"] == "Completed"


def test_an_old_batch_after_a_new_one_changes_only_what_is_news(store: ViewStore, view_document: MakeDocument) -> None:
    newer = view_document(1, version=5, rows_loaded=50)
    store.write([newer], 20)
    unknown = view_document(2, version=1)
    store.write([view_document(1, version=4, rows_loaded=40), unknown], 15)
    assert store.documents([newer["_id"], unknown["_id"]]) == {newer["_id"]: newer, unknown["_id"]: unknown}
    assert store.position() == 20


def test_a_newer_version_replaces_the_whole_document(store: ViewStore, view_document: MakeDocument) -> None:
    store.write([view_document(1, error={"code": "x"})], 1)
    newer = view_document(1, version=2)
    store.write([newer], 2)
    assert everything(store) == [newer]


def test_a_batch_may_hold_several_versions_of_a_document(store: ViewStore, view_document: MakeDocument) -> None:
    store.write([view_document(1, version=version) for version in (2, 3, 1)], 3)
    assert [document["version"] for document in everything(store)] == [3]


def test_the_position_moves_without_documents_and_never_back(store: ViewStore) -> None:
    store.write([], 2**40)
    store.write([], 3)
    assert store.position() == 2**40


def test_a_refusal_that_is_not_the_guard_is_raised(store: ViewStore, view_document: MakeDocument) -> None:
    # MongoDB refuses both; each of its stand-ins refuses at least one.
    broken = [view_document(1) | {"_id": ["not", "an", "id"]}, view_document(2, text="x" * (16 << 20))]
    with pytest.raises(BulkWriteError):
        store.write([view_document(3), *broken], 9)
    assert store.position() == 0


def test_concurrent_writers_leave_the_highest_version(
    store: ViewStore, database_url: str, view_document: MakeDocument
) -> None:
    numbers, versions, writers = range(1, 41), range(1, 9), 8

    def write_shuffled(seed: int) -> None:
        mine = ViewStore(connect(database_url), "status", 1)
        order = random.Random(seed)
        for version in order.sample(versions, len(versions)):
            batch = [view_document(number, version=version, marker=f"v{version}") for number in numbers]
            order.shuffle(batch)
            mine.write(batch, version)

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write_shuffled, range(writers)))
    found = everything(store)
    assert {(document["version"], document["marker"]) for document in found} == {(8, "v8")}
    assert len(found) == len(numbers)
    assert store.position() == 8


def test_racing_first_writers_never_lose_the_newer_document(
    store: ViewStore, database_url: str, view_document: MakeDocument
) -> None:
    rounds, writers = 30, 8
    stores = [ViewStore(connect(database_url), "status", 1) for _ in range(writers)]
    with ThreadPoolExecutor(writers) as pool:
        for turn in range(rounds):
            batch = range(turn * 10 + 1, turn * 10 + 11)
            writes = [
                pool.submit(stores[n].write, [view_document(i, version=n + 1) for i in batch], 1)
                for n in range(writers)
            ]
            for write in writes:
                write.result()
    assert {document["version"] for document in everything(store)} == {writers}


class OlderAfterRefusal(CommandListener):
    """Puts an older document in the place of the one that a write was just refused for.

    To the writer this looks as if the older document's writer had won the race for the free id, which no server
    can be made to show at will.
    """

    def __init__(self, database: Database[Document], older: Document) -> None:
        self.database, self.older = database, older

    def started(self, event: object) -> None:
        """Nothing to do."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if "writeErrors" in event.reply:
            self.database["status_1"].replace_one({"_id": self.older["_id"]}, self.older)

    def failed(self, event: object) -> None:
        """Nothing to do."""


def test_an_id_taken_by_an_older_document_does_not_cost_the_newer_one(
    database: Database[Document], database_url: str, view_document: MakeDocument
) -> None:
    ViewStore(database, "status", 1).write([view_document(1, version=9)], 1)
    listener = OlderAfterRefusal(database, view_document(1, version=3))
    client: MongoClient[Document] = MongoClient(database_url, event_listeners=[listener])
    store = ViewStore(client[database.name], "status", 1)
    store.write([view_document(2, version=5), view_document(1, version=5)], 2)
    assert [document["version"] for document in everything(store)] == [5, 5]


def test_pages_show_every_document_once_and_the_newest_first(store: ViewStore, view_document: MakeDocument) -> None:
    numbers = list(range(1, 5_001))
    random.Random(1).shuffle(numbers)
    for start in range(0, len(numbers), 500):
        store.write([view_document(number) for number in numbers[start : start + 500]], start + 500)
    seen: list[int] = []
    before = None
    while page := store.page(datasets=None, status=None, before=before, limit=137):
        seen += [document["received_position"] for document in page]
        before = seen[-1]
    assert seen == list(range(5_000, 0, -1))


@pytest.mark.parametrize(
    "datasets", [None, {"flights"}, {"nothing"}, {"flights", "invoices"}, {"nothing", "invoices"}, set()]
)
@pytest.mark.parametrize("status", [None, "Failed"])
def test_pages_can_be_of_some_datasets_and_one_status(
    store: ViewStore, view_document: MakeDocument, datasets: set[str] | None, status: str | None
) -> None:
    documents = [view_document(number) for number in range(1, 301)]
    store.write(documents, 300)
    wanted = [
        document
        for document in reversed(documents)
        if document["received_position"] < 250
        and (datasets is None or document["dataset"] in datasets)
        and status in (None, document["status"])
    ]
    assert store.page(datasets=datasets, status=status, before=250, limit=20) == wanted[:20]
    assert store.page(datasets=datasets, status=status, before=250, limit=1_000) == wanted


def test_pages_can_be_of_the_same_bytes(store: ViewStore, view_document: MakeDocument) -> None:
    store.write([view_document(number, sha256="ab" * 32 if number % 2 else "cd" * 32) for number in range(1, 11)], 10)
    found = store.page(datasets=None, status=None, sha256="cd" * 32, before=9, limit=3)
    assert [document["received_position"] for document in found] == [8, 6, 4]


def test_preparing_twice_makes_each_index_once(store: ViewStore, database: Database[Document]) -> None:
    store.prepare()
    store.prepare()
    indexes = sorted(tuple(index["key"]) for index in database["status_1"].list_indexes())
    position = "received_position"
    assert indexes == [("_id",), ("dataset", position), (position,), ("sha256", position), ("status", position)]


@pytest.mark.parametrize(
    "value",
    [
        2**53 + 1, 2**62, -(2**63), 2**31, 0, True, False, None, 0.1, 1e300, "", LONG, "2026-04-01T00:00:00.000000Z",
        "null", [], {}, [[1, [2, [3, [None]]]], {"a": [{"b": None}]}], {"x": {"y": {"z": 2**53 + 1}}}, "1", 1.0,
        "5f9f1b9b9b9b9b9b9b9b9b9b", {"a.b": 1, "$c": 2, "": 3, "ä": 4},
    ],
    ids=lambda value: repr(value)[:24],
)  # fmt: skip
def test_values_come_back_exactly(store: ViewStore, view_document: MakeDocument, value: Any) -> None:
    document = view_document(1, value=value, error={"inner": value})
    store.write([document], 1)
    found = store.document(document["_id"])
    assert found == document
    assert found is not None
    assert isinstance(found["value"], type(value))
    assert isinstance(found["value"], bool) == isinstance(value, bool)


def test_the_digest_is_of_canonical_json_in_the_order_of_receipt(store: ViewStore, view_document: MakeDocument) -> None:
    documents = [view_document(number, text=f"ä{number}") for number in range(1, 2_501)]
    shuffled = random.Random(2).sample(documents, len(documents))
    for start in range(0, len(shuffled), 500):
        store.write(shuffled[start : start + 500], 1)
    lines = (json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False) for document in documents)
    assert store.digest() == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_generations_compare_by_digest(database: Database[Document], view_document: MakeDocument) -> None:
    old, new = ViewStore(database, "status", 1), ViewStore(database, "status", 2)
    documents = [view_document(number, nested={"b": 1, "a": [1, 2]}) for number in range(1, 101)]
    old.write(documents, 100)
    new.write([dict(reversed(document.items())) for document in reversed(documents)], 100)
    assert old.digest() == new.digest()
    new.write([view_document(50, version=2)], 101)
    assert old.digest() != new.digest()


def test_a_switch_is_seen_and_numbers_are_never_used_again(database: Database[Document]) -> None:
    assert (live_generation(database, "status"), new_generation(database, "status")) == (0, 1)
    ViewStore(database, "status", 1).prepare()
    switch(database, "status", 1)
    assert (live_generation(database, "status"), new_generation(database, "status")) == (1, 2)
    ViewStore(database, "status", 7).prepare()
    ViewStore(database, "status", 11).write([], 5)
    ViewStore(database, "status_totals", 40).prepare()
    assert (live_generation(database, "status"), new_generation(database, "status")) == (1, 12)
    switch(database, "status", 11)
    ViewStore(database, "status", 11).drop()
    assert (live_generation(database, "status"), new_generation(database, "status")) == (11, 12)
    assert live_generation(database, "totals") == 0


def test_a_dropped_generation_can_be_made_again(
    store: ViewStore, database: Database[Document], view_document: MakeDocument
) -> None:
    other = ViewStore(database, "status", 2)
    other.write([view_document(9)], 9)
    store.write([view_document(1, version=5)], 5)
    store.drop()
    store.drop()
    assert (everything(store), store.position()) == ([], 0)
    store.prepare()
    store.write([view_document(1, version=1)], 1)
    assert [document["version"] for document in everything(store)] == [1]
    assert (everything(other), other.position()) == ([view_document(9)], 9)


def test_two_clients_see_each_other_s_writes(store: ViewStore, database_url: str, view_document: MakeDocument) -> None:
    other = ViewStore(connect(database_url), "status", 1)
    for number in range(1, 51):
        writer, reader = (store, other) if number % 2 else (other, store)
        document = view_document(number)
        writer.write([document], number)
        assert reader.document(document["_id"]) == document
        assert reader.position() == number


def test_databases_of_one_server_are_apart(
    store: ViewStore, server_url: Callable[[str], str], view_document: MakeDocument
) -> None:
    other_database = connect(server_url(f"test_{uuid.uuid4().hex[:12]}"))
    store.write([view_document(1)], 1)
    other = ViewStore(other_database, "status", 1)
    assert (everything(other), other.position()) == ([], 0)
    other_database.client.drop_database(other_database.name)
    assert store.position() == 1


def test_the_database_is_named_by_the_url_and_is_ledger_otherwise() -> None:
    assert connect("mongodb://127.0.0.1:1/views?directConnection=true").name == "views"
    assert connect("mongodb://127.0.0.1:1").name == "ledger"


def test_the_url_s_own_time_limits_win() -> None:
    options = connect("mongodb://127.0.0.1:1/?sockettimeoutms=250").client.options
    assert (options.pool_options.socket_timeout, options.server_selection_timeout) == (0.25, 2.0)


@pytest.mark.parametrize(
    "operation",
    [
        lambda database: live_generation(database, "status"),
        lambda database: new_generation(database, "status"),
        lambda database: switch(database, "status", 1),
        lambda database: ViewStore(database, "status", 1).prepare(),
        lambda database: ViewStore(database, "status", 1).documents(["a"]),
        lambda database: ViewStore(database, "status", 1).document("a"),
        lambda database: ViewStore(database, "status", 1).write([{"_id": "a", "version": 1}], 1),
        lambda database: ViewStore(database, "status", 1).position(),
        lambda database: ViewStore(database, "status", 1).page(datasets=None, status=None, before=None, limit=1),
        lambda database: ViewStore(database, "status", 1).digest(),
        lambda database: ViewStore(database, "status", 1).drop(),
    ],
    ids=["live", "new", "switch", "prepare", "documents", "document", "write", "position", "page", "digest", "drop"],
)
def test_a_dead_server_is_named_without_its_password(operation: Callable[[Database[Document]], object]) -> None:
    database = connect("mongodb://clerk:hunter2@127.0.0.1:1/ledger?serverSelectionTimeoutMS=100")
    started = time.monotonic()
    with pytest.raises(PartUnavailableError) as caught:
        operation(database)
    assert "MongoDB at 127.0.0.1:1 " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "clerk" not in str(caught.value)
    assert time.monotonic() - started < 30, "it waited for something other than the server"
