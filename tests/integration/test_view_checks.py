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
from tests.tampering import OF_BLOBS, OF_DOCUMENTS, OF_VIEWS
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


def test_nothing_is_found_where_nothing_was_done(place: Place) -> None:
    assert found(place) == set()


@pytest.mark.parametrize("what", OF_VIEWS)
def test_what_is_done_by_sql_is_found_and_only_at_that_level(place: Place, what: str) -> None:
    table, change, code = OF_VIEWS[what]
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


CHANGES: dict[str, Callable[[Any], None]] = dict(
    zip(OF_DOCUMENTS, (change_document, insert_document, delete_documents), strict=True)
)


@pytest.mark.parametrize("what", OF_DOCUMENTS)
def test_what_is_done_to_documents_is_found(place: Place, what: str) -> None:
    documents = documents_of(place)[f"status_{live_store(documents_of(place)).generation}"]
    kept = list(documents.find())
    CHANGES[what](documents)
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
@pytest.mark.parametrize("how", OF_BLOBS)
def test_what_is_done_to_a_blob_is_found(place: Place, what: str, how: str) -> None:
    blobs = blobs_of(place)
    path, data = blobs[what], blobs[what].read_bytes()
    middle = len(data) // 2
    changed = {
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-5],
        "replaced by another": b"number,paid_on\n1,2026-04-01\n",
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
