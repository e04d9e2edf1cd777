"""What a server must keep to be trusted with views and with Celery's results.

The embedded servers are killed without warning here, as a power button or an out-of-memory killer would.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from celery import Celery, states
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError
from pymongo.monitoring import CommandListener, CommandStartedEvent

from ledger.errors import PartUnavailableError
from projections.view_store import Document, ViewStore, connect

MakeDocument = Callable[..., Document]
KILLS = 10
BATCH_DOCUMENTS = 50


def test_a_kill_loses_nothing_that_was_acknowledged(killable_server: Any, view_document: MakeDocument) -> None:
    acknowledged = 0
    for turn in range(KILLS):
        store = ViewStore(connect(killable_server.url("ledger")), "status", 1)
        acknowledged = write_until_killed(killable_server, store, view_document, acknowledged, seed=turn)
        killable_server.start()
        position = store.position()
        assert position >= acknowledged
        count = position * BATCH_DOCUMENTS
        ids = [view_document(number)["_id"] for number in range(1, count + 1)]
        found = store.documents(ids)
        assert [found[each]["received_position"] for each in ids] == list(range(1, count + 1))
        acknowledged = position
    assert acknowledged > 0, "nothing was ever acknowledged, so nothing was shown"


def write_until_killed(server: Any, store: ViewStore, view_document: MakeDocument, position: int, *, seed: int) -> int:
    """Write batch after batch while another thread kills the server; the last position it acknowledged."""
    first_acknowledged = Event()
    with ThreadPoolExecutor(1) as pool:

        def kill_later() -> None:
            first_acknowledged.wait(60)
            time.sleep(random.Random(seed).uniform(0, 0.2))
            server.kill()

        killed = pool.submit(kill_later)
        try:
            while True:
                first = position * BATCH_DOCUMENTS + 1
                store.write([view_document(number) for number in range(first, first + BATCH_DOCUMENTS)], position + 1)
                position += 1
                first_acknowledged.set()
        except PartUnavailableError:
            killed.result()
    return position


class KillBefore(CommandListener):
    """Kills a server just before a command on a collection is sent to it."""

    def __init__(self, server: Any, command: str, collection: str) -> None:
        self.server, self.command, self.collection = server, command, collection

    def started(self, event: CommandStartedEvent) -> None:
        if event.command.get(self.command) == self.collection:
            self.server.kill()

    def succeeded(self, event: object) -> None:
        """Nothing to do."""

    def failed(self, event: object) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(("command", "collection"), [("update", "positions"), ("drop", "status_1")])
def test_a_crash_never_leaves_a_position_without_its_documents(
    killable_server: Any, view_document: MakeDocument, command: str, collection: str
) -> None:
    listener = KillBefore(killable_server, command, collection)
    client: MongoClient[Document] = MongoClient(killable_server.url("ledger"), event_listeners=[listener])
    store = ViewStore(connect(killable_server.url("ledger")), "status", 1)
    doomed = ViewStore(client["ledger"], "status", 1)
    document = view_document(1)
    if command == "drop":
        store.write([document], 5)
    with pytest.raises(PartUnavailableError):
        doomed.drop() if command == "drop" else doomed.write([document], 5)
    killable_server.start()
    assert store.position() == 0
    assert store.document(document["_id"]) == document


def test_an_orderly_stop_loses_nothing(killable_server: Any, view_document: MakeDocument) -> None:
    store = ViewStore(connect(killable_server.url("ledger")), "status", 1)
    store.prepare()
    store.write([view_document(number) for number in range(1, 1_001)], 1_000)
    digest = store.digest()
    killable_server.kill(signal.SIGTERM)
    killable_server.start()
    assert (store.digest(), store.position()) == (digest, 1_000)


def test_a_client_goes_on_after_its_server_came_back(killable_server: Any, view_document: MakeDocument) -> None:
    store = ViewStore(connect(killable_server.url("ledger")), "status", 1)
    store.write([view_document(1)], 1)
    killable_server.kill()
    with pytest.raises(PartUnavailableError, match=r"MongoDB at 127\.0\.0\.1"):
        store.position()
    killable_server.start()
    assert store.position() == 1


def test_a_server_that_stops_answering_is_reported(killable_server: Any) -> None:
    patient = ViewStore(connect(killable_server.url("ledger")), "status", 1)
    patient.write([], 3)
    limits = "socketTimeoutMS=500&serverSelectionTimeoutMS=500"
    hasty = ViewStore(connect(f"mongodb://127.0.0.1:{killable_server.port}/ledger?{limits}"), "status", 1)
    killable_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(PartUnavailableError):
            hasty.position()
    finally:
        killable_server.process.send_signal(signal.SIGCONT)
    assert patient.position() == 3


def test_everything_is_written_inside_the_given_folder(killable_server: Any, view_document: MakeDocument) -> None:
    store = ViewStore(connect(killable_server.url("ledger")), "status", 1)
    store.prepare()
    store.write([view_document(1)], 1)
    for descriptor in Path(f"/proc/{killable_server.process.pid}/fd").iterdir():
        file = descriptor.readlink()
        access = int((descriptor.parent.parent / "fdinfo" / descriptor.name).read_text().split()[3], 8) & os.O_ACCMODE
        if file.is_file() and access != os.O_RDONLY:
            assert file.is_relative_to(killable_server.folder)


def test_hello_and_ping_are_answered(database: Database[Document]) -> None:
    assert database.command("ping")["ok"] == 1
    hello = database.command("hello")
    assert hello["isWritablePrimary"] is True
    assert hello["maxWireVersion"] >= 8


def test_an_insert_of_a_taken_id_is_a_duplicate_key(database: Database[Document]) -> None:
    database["things"].insert_one({"_id": "a"})
    with pytest.raises(DuplicateKeyError):
        database["things"].insert_one({"_id": "a"})


def test_celery_s_guard_keeps_the_first_success(database: Database[Document]) -> None:
    results = database["celery_taskmeta"]

    def store(status: str, result: int) -> None:
        query = {"_id": "x", "status": {"$ne": "SUCCESS"}}
        results.replace_one(query, {"_id": "x", "status": status, "result": result}, upsert=True)

    store("STARTED", 1)
    store("SUCCESS", 2)
    with pytest.raises(DuplicateKeyError):
        store("FAILURE", 3)
    assert results.find_one({"_id": "x"}) == {"_id": "x", "status": "SUCCESS", "result": 2}


def test_old_results_are_deleted_by_their_date(database: Database[Document]) -> None:
    results = database["celery_taskmeta"]
    now = datetime(2026, 4, 1, 12, 0, 0, 123_000, tzinfo=UTC)
    for hours in range(10):
        results.insert_one({"_id": f"{hours} h", "date_done": now - timedelta(hours=hours)})
    assert results.delete_many({"date_done": {"$lt": now - timedelta(hours=5)}}).deleted_count == 4
    kept = [document["date_done"] for document in results.find().sort("_id", 1)]
    assert kept == [(now - timedelta(hours=hours)).replace(tzinfo=None) for hours in range(6)]


def test_an_index_that_expires_is_accepted_twice(database: Database[Document]) -> None:
    for _ in range(2):
        database["celery_taskmeta"].create_index("date_done", expireAfterSeconds=86_400)
    database["celery_taskmeta"].insert_one({"_id": "fresh", "date_done": datetime.now(UTC)})
    assert database["celery_taskmeta"].count_documents({}) == 1


def test_celery_s_own_backend_works(database_url: str, database: Database[Document]) -> None:
    app = Celery("contract", backend=database_url, broker="memory://", set_as_current=False)
    # Celery takes the seconds that the URL's limits come to for milliseconds.
    limits = {"serverSelectionTimeoutMS": 5_000, "socketTimeoutMS": 60_000}
    app.conf.mongodb_backend_settings = {"database": database.name, "options": limits}
    backend = app.backend
    assert backend.get_task_meta("t1")["status"] == states.PENDING
    backend.store_result("t1", {"rows": 2**53 + 1, "text": "Größe"}, states.SUCCESS)
    backend.store_result("t1", {"rows": 0}, states.FAILURE)
    assert app.AsyncResult("t1").get(timeout=30) == {"rows": 2**53 + 1, "text": "Größe"}
    backend.store_result("t2", ValueError("no"), states.FAILURE, traceback="where")
    with pytest.raises(ValueError, match="no"):
        app.AsyncResult("t2").get(timeout=30)
    app.GroupResult("g1", [app.AsyncResult("t1")]).save()
    assert [result.id for result in app.GroupResult.restore("g1")] == ["t1"]
    backend.cleanup()
    backend.forget("t1")
    assert app.AsyncResult("t1").status == states.PENDING
