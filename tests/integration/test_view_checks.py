"""What is done to views, rows, rejects, files and the index of arrivals is found at the level that looks at them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import pytest
from pymongo.database import Database
from sqlalchemy import text

from api.cli.operation_results import verified as verified_as_told
from archive.stores import StoreUnfitError
from ledger.blobs import FolderBlobStore
from ledger.database import lock_at_once
from ledger.domain.access import Role
from ledger.domain.contract import Contract
from ledger.domain.words import Stage, Status
from ledger.errors import LedgerError, PartUnavailableError
from ledger.findings import Level
from ledger.keys import create_key
from ledger.seal import seal
from ledger.seal_key import signer
from projections.rebuild import view_of
from projections.runner import apply_batch, live_store
from projections.trail.store import live_trail
from projections.view_store import connect
from projections.views import Parts
from tests.integration.place import CONTRACT, STAMP, Place, running_workshop, unguard
from tests.integration.views import new_order
from tests.integration.years import decide, soft_close
from tests.tampering import BLOBS_ARE, OF_BLOBS, OF_DOCUMENTS, OF_EVENTS, OF_VIEWS, Tampering
from workers import verification, view_checks
from workers.verification import verify_record
from workers.workshop import Workshop

LENIENT = Contract(CONTRACT.columns, fiscal_date_column="paid_on", rejects_max="9")
FILE = "number,paid_on\n" + "".join(f"{n},2026-0{3 + n % 3}-01\n" for n in range(1, 30)) + "seven,2026-04-01\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Workshop]:
    with running_workshop() as workshop:
        yield workshop


@pytest.fixture(scope="module")
def place(running: Workshop, documents: Database[dict[str, Any]]) -> Iterator[Place]:
    """A dataset with a file of two fiscal years and a reject, another year that is closed softly, all of it sealed.

    What a test does it undoes; whether that was all of it is looked at after the last one.
    """
    place = Place(running, "payments")
    job_id = place.send(FILE.encode(), LENIENT)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    place.query("SELECT nextval('ledger.stored_events_id_seq')")  # as an append that was undone leaves a gap
    decide(place, "FY1999-00", soft_close)
    for name in ("a key", "another key"):
        create_key(place.ledger, STAMP, name=name, role=Role.VIEWER, datasets=None, expires_in=None)
    with place.ledger.transaction() as session:
        assert seal(session, signer(running.settings), running.settings.origin, STAMP.at) is not None
    while apply_batch(place.ledger, live_store(documents)):
        pass
    while live_trail(place.ledger).apply_batch():
        pass
    yield place
    assert found(place) == set()


@pytest.fixture(scope="module")
def documents(running: Workshop) -> Iterator[Database[dict[str, Any]]]:
    database = connect(running.settings.views_url.get_secret_value())
    yield database
    database.client.close()


def verified(place: Place, level: Level = Level.VIEWS) -> dict[str, Any]:
    result = verify_record(place.workshop, new_order(level=level.value))
    assert "payments.csv" not in str(result)
    return result


def found(place: Place, level: Level = Level.VIEWS) -> set[str]:
    result = verified(place, level)
    assert (result["holds"], result["not_compared"]) == (not result["findings"], [])
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
def test_what_is_done_to_documents_is_found(place: Place, documents: Database[dict[str, Any]], what: str) -> None:
    status = documents[f"status_{live_store(documents).generation}"]
    kept = list(status.find())
    CHANGES[what](status)
    try:
        assert found(place) == {"view_differs"}
    finally:
        status.delete_many({})
        status.insert_many(kept)


@contextmanager
def instead_of(path: Path, data: bytes | None) -> Iterator[None]:
    """Other bytes in a file, or no file."""
    kept = path.read_bytes()
    path.chmod(0o600)
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(kept)


def blobs_of(place: Place) -> dict[str, Path]:
    """The blobs of the job by what they are."""
    [[job_id]] = place.query("SELECT job_id FROM ledger.arrivals ORDER BY position LIMIT 1")
    job = place.ledger.job(UUID(str(job_id)))
    store = place.workshop.blobs
    assert isinstance(store, FolderBlobStore)
    folder = Path(place.workshop.settings.blobs_url.removeprefix("file://"))
    return {what: folder / name[:2] / name for what, name in (("file", job.sha256), ("plan", str(job.plan)))}


@pytest.mark.parametrize("what", OF_BLOBS)
@pytest.mark.parametrize("how", BLOBS_ARE)
def test_what_is_done_to_a_blob_is_found(place: Place, what: str, how: str) -> None:
    blobs = blobs_of(place)
    data = blobs[what].read_bytes()
    middle = len(data) // 2
    changed = {
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-5],
        "replaced by another": b"number,paid_on\n1,2026-04-01\n",
    }
    with instead_of(blobs[what], changed.get(how)):
        assert found(place) == set(OF_BLOBS[what])
        assert found(place, Level.EVENTS) == set()


@contextmanager
def tampered(place: Place, documents: Database[dict[str, Any]], statement: str) -> Iterator[None]:
    """The log as somebody has left it. Views that have taken that in are built anew afterwards."""
    tables = ("ledger.stored_events", "ledger.leaves")
    with place.ledger.transaction() as session:
        unguard(session)
        for table in tables:
            session.execute(text(f"CREATE TABLE public.kept_{table.partition('.')[2]} AS SELECT * FROM {table}"))
        session.execute(text(statement))
    try:
        yield
    finally:
        with place.ledger.transaction() as session:
            unguard(session)
            for table in tables:
                kept = f"public.kept_{table.partition('.')[2]}"
                session.execute(text(f"TRUNCATE {table}"))
                session.execute(text(f"INSERT INTO {table} SELECT * FROM {kept}"))
                session.execute(text(f"DROP TABLE {kept}"))
            session.execute(text("ALTER TABLE ledger.stored_events ALTER COLUMN state SET NOT NULL"))
        parts = Parts(place.ledger, place.workshop.blobs, documents, place.workshop.calendar)
        for name in ("status", "trail"):
            view_of(parts, name).rebuild(new_order())


@pytest.mark.parametrize("tampering", OF_EVENTS, ids=lambda tampering: tampering.what)
@pytest.mark.parametrize("topic", ["dataset.registered", "filejob.received", "key.created"])
def test_an_event_that_was_changed_does_not_end_the_deepest_level(
    place: Place, documents: Database[dict[str, Any]], tampering: Tampering, topic: str
) -> None:
    [[index]] = place.query(
        "SELECT min(index) FROM ledger.leaves JOIN ledger.stored_events ON id = position WHERE topic = :topic",
        topic=topic,
    )
    statement = tampering.statement.replace("index = 400", f"index = {index}").replace("index = 300", "index = 4")
    with tampered(place, documents, statement):
        result = verified(place)
    assert {finding["code"] for finding in result["findings"]} >= set(tampering.codes), result


def test_a_view_that_is_being_rebuilt_is_told_as_not_compared_and_nothing_is_said_to_hold(place: Place) -> None:
    for view in ("status", f"data.{place.dataset}"):
        with place.ledger.transaction() as session:
            assert lock_at_once(session, f"rebuild {view}")
            result = verified(place)
        assert (result["holds"], result["findings"]) == (None, [])
        [message] = result["not_compared"]
        assert f"The view {view} was not compared" in message
        assert message in verified_as_told({}, result)
        assert "Nothing was changed" not in verified_as_told({}, result)


def test_a_check_that_breaks_is_told_without_its_words_and_hides_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("of payments.csv")

    checks = ("view_names", "content_of", "keys_that_differ", "replay_job")
    for name in checks:
        monkeypatch.setattr(view_checks, name, broken)
    findings = verified(place)["findings"]
    assert {finding["code"] for finding in findings} == {"not_checked"}
    assert len(findings) == len(checks)
    assert all("(ValueError)" in finding["message"] for finding in findings)


@pytest.mark.parametrize(
    ("level", "module", "name", "kind"),
    [
        (Level.VIEWS, view_checks, "view_of", PartUnavailableError),
        (Level.ARCHIVES, verification, "verify_archives", PartUnavailableError),
        (Level.ARCHIVES, verification, "verify_archives", StoreUnfitError),
    ],
)
def test_what_was_found_in_the_log_is_on_record_though_a_part_that_views_need_is_away(
    place: Place,
    documents: Database[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    level: Level,
    module: ModuleType,
    name: str,
    kind: type[LedgerError],
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise kind("MongoDB is away, or S3 does not let us.")

    monkeypatch.setattr(module, name, away)
    with pytest.raises(kind):
        verified(place, level)
    with tampered(place, documents, "UPDATE ledger.stored_events SET topic = 'x' WHERE topic = 'key.created'"):
        result = verified(place, level)
    assert (result["holds"], [finding["code"] for finding in result["findings"]][:2]) == (False, ["event_changed"] * 2)
    assert "a part was away" in result["not_compared"][0]


def test_the_file_of_a_job_that_was_never_planned_is_looked_at_as_well(place: Place) -> None:
    data = b"number,paid_on\n1,2026-04-01\n"
    job_id = place.send(data)
    sha256 = hashlib.sha256(data).hexdigest()
    path = Path(place.workshop.settings.blobs_url.removeprefix("file://")) / sha256[:2] / sha256
    assert found(place) == set()
    for changed in (data[:-1], None):
        with instead_of(path, changed):
            [finding] = verified(place)["findings"]
            assert (finding["code"], finding["stream"]) == ("file_differs", str(job_id))
    assert found(place) == set()
