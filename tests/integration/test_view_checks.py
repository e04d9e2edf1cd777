"""What is done to views, rows, rejects, files and the index of arrivals is found at the level that looks at them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pymongo.database import Database
from sqlalchemy import text

from api.embedded.home import Home
from api.embedded.parts import MongoDBServer, embedded_parts
from api.embedded.postgresql import PostgreSQL
from api.embedded.supervisor import Supervisor
from ledger.application import Ledger
from ledger.blobs import FolderBlobStore
from ledger.domain.access import Role
from ledger.domain.contract import Contract
from ledger.domain.words import Stage, Status
from ledger.findings import Level
from ledger.keys import create_key
from ledger.seal import seal
from ledger.seal_key import signer
from ledger.settings import Settings
from projections.runner import apply_batch, live_store
from projections.trail.store import live_trail
from projections.view_store import connect
from tests.integration.place import CONTRACT, STAMP, Place, unguard
from tests.integration.views import new_order
from tests.stack import open_folder
from workers.tasks import prepare_all
from workers.verification import verify_record
from workers.workshop import Workshop

LENIENT = Contract(CONTRACT.columns, fiscal_date_column="paid_on", rejects_max="9")
FILE = "number,paid_on\n" + "".join(f"{n},2026-0{3 + n % 3}-01\n" for n in range(1, 30)) + "seven,2026-04-01\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Workshop]:
    with open_folder() as folder:
        home = Home(folder / "home")
        with Supervisor(home, threading.Event()) as supervisor:
            ports = home.choose_ports({"postgresql": 0, "mongodb": 0})
            supervisor.start(embedded_parts(home, ports), ports)
            settings = Settings(
                database_url=PostgreSQL(home, ports["postgresql"]).url,
                views_url=MongoDBServer(home, ports["mongodb"]).url_of("views"),
                blobs_url=(folder / "blobs").as_uri(),
                seal_key_file=home.seal_key_path(),
            )
            ledger = Ledger(settings)
            prepare_all(ledger)
            yield Workshop.of(ledger, settings)
            ledger.engine.dispose()


@pytest.fixture(scope="module")
def place(running: Workshop) -> Place:
    """A dataset with a file of two fiscal years and a reject, everything sealed and in its views."""
    place = Place(running, "payments")
    job_id = place.send(FILE.encode(), LENIENT)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    create_key(place.ledger, STAMP, name="a key", role=Role.VIEWER, datasets=None, expires_in=None)
    with place.ledger.transaction() as session:
        assert seal(session, signer(running.settings), running.settings.origin, STAMP.at) is not None
    catch_up(place)
    return place


def catch_up(place: Place) -> None:
    while apply_batch(place.ledger, live_store(documents_of(place))):
        pass
    while live_trail(place.ledger).apply_batch():
        pass


def documents_of(place: Place) -> Database[dict[str, Any]]:
    return connect(place.workshop.settings.views_url.get_secret_value())


def found(place: Place, level: Level = Level.VIEWS) -> set[str]:
    result = verify_record(place.workshop, new_order(level=level.value))
    assert result["holds"] is not bool(result["findings"])
    return {finding["code"] for finding in result["findings"]}


ROWS, TRAIL, REJECTS, ARRIVALS, KEYS = (
    "data.payments", "trail.entries", "rejects.records", "ledger.arrivals", "ledger.api_keys"
)  # fmt: skip
SWAPPED = "a SET number = b.number FROM data.payments b WHERE (a._record, b._record) IN ((7, 8), (8, 7))"
# What is done, to which table, by which SQL -> how it is told.
BY_SQL: dict[str, tuple[str, str, str]] = {
    "a value of a row": (ROWS, "UPDATE {} SET number = number + 1 WHERE _record = 7", "view_differs"),
    "a row's lineage": (ROWS, "UPDATE {} SET _record = 99 WHERE _record = 7", "view_differs"),
    "a row is deleted": (ROWS, "DELETE FROM {} WHERE _record = 7", "view_differs"),
    "a row is inserted": (ROWS, "INSERT INTO {} VALUES (7, '2026-04-01', 1, 77)", "view_differs"),
    "two rows are swapped": (ROWS, "UPDATE {} " + SWAPPED, "view_differs"),
    "all rows are deleted": (ROWS, "TRUNCATE {}", "view_differs"),
    "an entry of the trail": (TRAIL, "UPDATE {} SET actor = 'x' WHERE position = 1", "view_differs"),
    "an entry of the trail is deleted": (TRAIL, "DELETE FROM {} WHERE position = 2", "view_differs"),
    "what a reject was sent as": (REJECTS, "UPDATE {} SET raw = 'x'", "file_differs"),
    "a reject is deleted": (REJECTS, "DELETE FROM {}", "file_differs"),
    "an arrival's digest": (ARRIVALS, "UPDATE {} SET sha256 = repeat('0', 64)", "arrival_differs"),
    "an arrival's dataset": (ARRIVALS, "UPDATE {} SET dataset = 'x'", "arrival_differs"),
    "an arrival is deleted": (ARRIVALS, "DELETE FROM {}", "arrival_differs"),
    "a key's role": (KEYS, "UPDATE {} SET role = 'admin'", "access_differs"),
    "a key is deleted": (KEYS, "DELETE FROM {}", "access_differs"),
}


def test_nothing_is_found_where_nothing_was_done(place: Place) -> None:
    assert found(place) == set()


@pytest.mark.parametrize("what", BY_SQL)
def test_what_is_done_by_sql_is_found_and_only_at_that_level(place: Place, what: str) -> None:
    table, change, code = BY_SQL[what]
    with place.ledger.transaction() as session:
        unguard(session)
        session.execute(text(f"CREATE TABLE public.kept_aside AS SELECT * FROM {table}"))
        session.execute(text(change.format(table)))
    try:
        assert code in found(place)
        assert found(place, Level.EVENTS) == set()
    finally:
        with place.ledger.transaction() as session:
            unguard(session)
            session.execute(text(f"TRUNCATE {table}"))
            session.execute(text(f"INSERT INTO {table} SELECT * FROM public.kept_aside"))
            session.execute(text("DROP TABLE public.kept_aside"))
    assert found(place) == set()


def change_document(documents: Any) -> None:
    documents.update_one({}, {"$set": {"rows_loaded": 30}})


def insert_document(documents: Any) -> None:
    document = documents.find_one()
    documents.insert_one({**document, "_id": str(uuid4()), "received_position": 99})


def delete_documents(documents: Any) -> None:
    documents.delete_many({})


@pytest.mark.parametrize("change", [change_document, insert_document, delete_documents])
def test_what_is_done_to_documents_is_found(place: Place, change: Callable[[Any], None]) -> None:
    documents = documents_of(place)[f"status_{live_store(documents_of(place)).generation}"]
    kept = list(documents.find())
    change(documents)
    try:
        assert "view_differs" in found(place)
    finally:
        documents.delete_many({})
        documents.insert_many(kept)
    assert found(place) == set()


def blobs_of(place: Place) -> dict[str, Path]:
    """The blobs of the job by what they are."""
    [job_id] = [row[0] for row in place.query("SELECT job_id FROM ledger.arrivals")]
    job = place.ledger.job(UUID(str(job_id)))
    store = place.workshop.blobs
    assert isinstance(store, FolderBlobStore)
    folder = Path(place.workshop.settings.blobs_url.removeprefix("file://"))
    return {what: folder / name[:2] / name for what, name in (("file", job.sha256), ("plan", str(job.plan)))}


@pytest.mark.parametrize("what", ["file", "plan"])
@pytest.mark.parametrize("how", ["changed", "cut", "deleted", "another"])
def test_what_is_done_to_a_blob_is_found(place: Place, what: str, how: str) -> None:
    blobs = blobs_of(place)
    path, data = blobs[what], blobs[what].read_bytes()
    middle = len(data) // 2
    changed = {
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-5],
        "another": b"number,paid_on\n1,2026-04-01\n",
    }
    path.chmod(0o600)
    path.unlink()
    if how != "deleted":
        path.write_bytes(changed[how])
    try:
        assert found(place) & {"file_differs", "file_not_read", "view_not_built"}
        assert found(place, Level.EVENTS) == set()
    finally:
        path.write_bytes(data)
    assert found(place) == set()
