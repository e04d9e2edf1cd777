"""The sealer skips nothing, signs nothing over a history that was replaced, and gives its checkpoints away."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import sealer as sealer_module
from ledger.application import Arrival, Ledger
from ledger.checkpoints import CheckpointStore, FolderCheckpointStore, name_of
from ledger.domain.words import OnDuplicate, OperationStatus, Stage
from ledger.errors import InvalidRequestError, PartUnavailableError
from ledger.findings import Level
from ledger.merkle import check_consistency, consistency_proof
from ledger.notes import Checkpoint, NoteRefusedError, Signer
from ledger.seal import StoredNodes, newest_checkpoint
from ledger.seal_key import new_seal_key, public_keys, signer
from ledger.sealer import HistoryReplacedError, Sealer
from ledger.settings import Settings
from ledger.verifier import verify
from tests.integration.place import STAMP, Place, new_place, running_ledger, unguard, wait_until
from tests.integration.views import new_order
from tests.tampering import OF_ANCHORS
from workers.operations import operate
from workers.verification import ANCHORS_NEWEST, ANCHORS_OLDER, chosen, request_if_due, verify_record

ORIGIN = "books"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
WRITERS = 16
HAMMER_SECONDS = float(os.environ.get("LEDGER_TEST_SEAL_SECONDS", "4"))
SETTINGS = Settings(origin=ORIGIN, seal_seconds=0.01, checkpoint_seconds=0.01)


@pytest.fixture(scope="module")
def running() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture
def ledger(running: Ledger) -> Ledger:
    """A ledger in which nothing has happened."""
    with running.transaction() as session:
        unguard(session)
        tables = ("ledger.stored_events", "ledger.leaves", "ledger.nodes", "ledger.checkpoints", "ledger.arrivals")
        session.execute(text(f"TRUNCATE {', '.join(tables)}, work.items, work.positions, work.schedule"))
    return running


@pytest.fixture
def store(tmp_path: Path) -> FolderCheckpointStore:
    return FolderCheckpointStore(tmp_path / "checkpoints")


def sealer(ledger: Ledger, store: CheckpointStore | None = None) -> Sealer:
    return Sealer(ledger, SIGNER, [SIGNER.public], store, SETTINGS)


def receive(ledger: Ledger, count: int = 1) -> None:
    for _ in range(count):
        name = uuid4()
        arrival = Arrival(name, sha256(name.bytes).hexdigest(), 1, "a.csv", "text/csv", "payments")
        ledger.receive([arrival], STAMP, door="http", on_duplicate=OnDuplicate.ALLOW)


def newest(ledger: Ledger) -> Checkpoint:
    with Session(ledger.engine) as session:
        found = newest_checkpoint(session)
    assert found is not None
    return Checkpoint.open(found[1], [SIGNER.public])


def restore_from_before(ledger: Ledger, events: int) -> None:
    """What a backup brings back: a sound log that ends earlier."""
    with ledger.transaction() as session:
        unguard(session)
        last = session.execute(
            text("SELECT position FROM ledger.leaves WHERE index = :last"), {"last": events - 1}
        ).scalar_one()
        session.execute(text("DELETE FROM ledger.stored_events WHERE id > :last"), {"last": last})
        session.execute(text("DELETE FROM ledger.leaves WHERE index >= :size"), {"size": events})
        session.execute(text("DELETE FROM ledger.checkpoints WHERE size > :size"), {"size": events})


@pytest.mark.parametrize("level", Level)
def test_a_log_in_which_nothing_has_happened_holds(ledger: Ledger, level: Level) -> None:
    found = verify(ledger.engine, [SIGNER.public], ORIGIN, (), level)
    assert (found.findings, found.leaves, found.checkpoint) == ([], 0, None)


def test_what_is_appended_is_sealed_and_kept_elsewhere(ledger: Ledger, store: FolderCheckpointStore) -> None:
    receive(ledger, 3)
    first = sealer(ledger, store)
    first.begin()
    assert (first.seal(), first.seal(), first.keep(), first.keep()) == (3, 0, True, False)
    receive(ledger, 2)
    again = sealer(ledger, store)  # another process, later
    again.begin()
    assert (again.seal(), again.keep(), store.sizes()) == (2, True, [3, 5])
    assert Checkpoint.open(store.read(5), [SIGNER.public]) == newest(ledger)


def test_nothing_is_signed_over_a_database_that_was_restored_from_before(
    ledger: Ledger, store: FolderCheckpointStore
) -> None:
    running = sealer(ledger, store)
    for _ in range(2):
        receive(ledger, 2)
        assert (running.seal(), running.keep()) == (2, True)
    restore_from_before(ledger, 2)
    with pytest.raises(HistoryReplacedError, match=r"over 4 events was signed, and only 2 events"):
        sealer(ledger, store).begin()
    with pytest.raises(HistoryReplacedError):
        running.keep()


def test_nothing_is_signed_over_a_history_that_was_written_anew(ledger: Ledger, store: FolderCheckpointStore) -> None:
    receive(ledger, 3)
    running = sealer(ledger, store)
    assert (running.seal(), running.keep()) == (3, True)
    with ledger.transaction() as session:
        unguard(session)
        session.execute(text("UPDATE ledger.stored_events SET state = 'x'"))
        session.execute(text("TRUNCATE ledger.leaves, ledger.nodes, ledger.checkpoints"))
    receive(ledger)
    with pytest.raises(HistoryReplacedError, match="another root: history was written anew"):
        running.seal()
    assert sealed_size(ledger) == 0
    assert sealer(ledger).seal() == 4, "who begins without what was kept can seal anything"
    for refused in (running.keep, sealer(ledger, store).begin):
        with pytest.raises(HistoryReplacedError, match="another root: history was written anew"):
            refused()
    assert store.sizes() == [3]


@pytest.mark.parametrize("more", [1, 5])
def test_nothing_is_signed_that_does_not_continue_what_was_signed_though_none_of_it_is_kept(
    ledger: Ledger, more: int
) -> None:
    running = sealer(ledger)
    for _ in range(2):
        receive(ledger, 2)
        assert running.seal() == 2
    restore_from_before(ledger, 2)
    receive(ledger, more)
    with pytest.raises(HistoryReplacedError, match="over 4 events was signed, and"):
        running.seal()
    assert sealed_size(ledger) == 2


def test_another_sealer_may_go_on_meanwhile(ledger: Ledger, store: FolderCheckpointStore) -> None:
    one, other = sealer(ledger, store), sealer(ledger, store)
    for number in range(3):
        receive(ledger, 2)
        assert ((one, other)[number % 2].seal(), (other, one)[number % 2].seal()) == (2, 0)
        assert [each.keep() for each in (one, other)] == [True, True]
    assert store.sizes() == [2, 4, 6]


def test_a_checkpoint_that_is_kept_under_another_name_is_not_begun_with(
    ledger: Ledger, store: FolderCheckpointStore
) -> None:
    receive(ledger, 3)
    running = sealer(ledger, store)
    assert (running.seal(), running.keep()) == (3, True)
    store.add(99, store.read(3))
    with pytest.raises(NoteRefusedError, match="over 99 events is that of books over 3"):
        sealer(ledger, store).begin()


def test_a_tree_with_a_hole_is_told_each_time_and_not_sealed_until_it_is_whole(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer_module, "DAMAGED_PAUSE_SECONDS", 0.01)
    receive(ledger, 3)
    assert sealer(ledger).seal() == 3
    with ledger.transaction() as session:
        unguard(session)
        leaf = session.execute(text("SELECT * FROM ledger.leaves WHERE index = 1")).mappings().one()
        session.execute(text("DELETE FROM ledger.leaves WHERE index = 1"))
    receive(ledger)
    stop = threading.Event()
    running = threading.Thread(target=sealer(ledger).run, args=(stop,))
    running.start()
    try:
        wait_until(lambda: len(told_as(caplog, "tree_damaged")) > 1, "it is not told")
        assert sealed_size(ledger) == 2
        assert "ledger audit verify" in told_as(caplog, "tree_damaged")[0].getMessage()
        with ledger.transaction() as session:
            session.execute(text("INSERT INTO ledger.leaves VALUES (:index, :position, :hash, :fields)"), dict(leaf))
        wait_until(lambda: sealed_size(ledger) == 4, "the event is not sealed")
    finally:
        stop.set()
        running.join()
    assert verify(ledger.engine, [SIGNER.public], ORIGIN).findings == []


def told_as(caplog: pytest.LogCaptureFixture, action: str) -> list[logging.LogRecord]:
    return [record for record in list(caplog.records) if vars(record).get("action") == action]


class AwayStore:
    """A place for checkpoints that is away, until it is not."""

    def __init__(self, store: FolderCheckpointStore) -> None:
        self.store = store
        self.away = True
        self.asked = 0

    def sizes(self) -> list[int]:
        return self.store.sizes()

    def read(self, size: int) -> bytes:
        return self.store.read(size)

    def add(self, size: int, note: bytes) -> None:
        self.asked += 1
        if self.away:
            raise PartUnavailableError("The bucket is away.")
        self.store.add(size, note)


def test_sealing_goes_on_while_checkpoints_cannot_be_kept_and_the_newest_is_kept_when_they_can(
    ledger: Ledger, store: FolderCheckpointStore
) -> None:
    place, stop = AwayStore(store), threading.Event()
    running = threading.Thread(target=sealer(ledger, place).run, args=(stop,))
    running.start()
    try:
        for size in (1, 2):
            receive(ledger)
            wait_until(lambda size=size: sealed_size(ledger) == size, "an event is not sealed")
        assert store.sizes() == []
        place.away = False
        wait_until(lambda: store.sizes() == [2], "the newest checkpoint is not kept")
    finally:
        stop.set()
        running.join()


def test_a_place_that_is_away_is_not_asked_again_at_once(ledger: Ledger, store: FolderCheckpointStore) -> None:
    place, stop = AwayStore(store), threading.Event()
    seldom = SETTINGS.model_copy(update={"checkpoint_seconds": 3600.0})
    running = threading.Thread(target=Sealer(ledger, SIGNER, [SIGNER.public], place, seldom).run, args=(stop,))
    running.start()
    try:
        for size in (1, 2, 3):
            receive(ledger)
            wait_until(lambda size=size: sealed_size(ledger) == size, "an event is not sealed")
    finally:
        stop.set()
        running.join()
    assert place.asked == 2, "for the first checkpoint, and when it was told to stop"


def sealed_size(ledger: Ledger) -> int:
    with Session(ledger.engine) as session:
        return int(session.execute(text("SELECT count(*) FROM ledger.leaves")).scalar_one())


def test_no_event_is_skipped_and_every_checkpoint_continues_the_last_while_many_write(ledger: Ledger) -> None:
    """Several writers, two sealers and a verifier at once; LEDGER_TEST_SEAL_SECONDS says for how long."""
    stop, end = threading.Event(), time.monotonic() + HAMMER_SECONDS
    sealers = [threading.Thread(target=sealer(ledger).run, args=(stop,)) for _ in range(2)]

    def write() -> None:
        while time.monotonic() < end:
            receive(ledger)

    def read() -> int:
        seen: Checkpoint | None = None
        rounds = 0
        while time.monotonic() < end or rounds == 0:
            found = verify(ledger.engine, [SIGNER.public], ORIGIN, [seen] if seen else [])
            assert found.findings == []
            if found.checkpoint is not None and seen is not None:
                check_continues(ledger, seen, found.checkpoint)
            seen, rounds = found.checkpoint or seen, rounds + 1
        return rounds

    for each in sealers:
        each.start()
    try:
        with ThreadPoolExecutor(WRITERS + 1) as pool:
            reading = pool.submit(read)
            for writing in [pool.submit(write) for _ in range(WRITERS)]:
                writing.result()
            assert reading.result() > 0
    finally:
        stop.set()
        for each in sealers:
            each.join()
    sealer(ledger).seal()
    found = verify(ledger.engine, [SIGNER.public], ORIGIN)
    with Session(ledger.engine) as session:
        events = session.execute(text("SELECT count(*) FROM ledger.stored_events")).scalar_one()
    assert (found.findings, found.events, found.unsealed) == ([], events, 0)


def check_continues(ledger: Ledger, old: Checkpoint, new: Checkpoint) -> None:
    with Session(ledger.engine) as session:
        proof = consistency_proof(StoredNodes(session), old.size, new.size)
    check_consistency(old.size, new.size, proof, old.root, new.root)


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path, store: FolderCheckpointStore) -> Place:
    """A place whose workers can verify."""
    key = tmp_path / "seal.pem"
    key.write_text(new_seal_key())
    return new_place(
        ledger, tmp_path, origin=ORIGIN, seal_key_file=key, checkpoints_url=(tmp_path / "checkpoints").as_uri()
    )


def verified(place: Place, operation_id: UUID) -> dict[str, Any]:
    """What a worker makes of a verification that was asked for."""
    place.follow()
    operation = operate(place.workshop, verify_record, operation_id, Stage.VERIFY, time.time(), lambda _: None)
    assert operation is not None
    assert operation.status is OperationStatus.COMPLETED
    assert operation.result is not None
    return operation.result


def sealed_place(place: Place, store: FolderCheckpointStore) -> None:
    settings = place.workshop.settings
    running = Sealer(place.ledger, signer(settings), public_keys(settings), store, settings)
    running.begin()
    assert running.seal()
    assert running.keep()


def test_a_verification_is_on_record_with_what_it_found(place: Place, store: FolderCheckpointStore) -> None:
    ledger = place.ledger
    receive(ledger, 5)
    sealed_place(place, store)
    operation = ledger.request(Stage.VERIFY, {"level": "events"}, STAMP)
    result = verified(place, operation.id)
    assert (result["holds"], result["events"], result["anchors"], result["findings"]) == (True, 5, 1, [])
    sealed_place(place, store)
    with ledger.transaction() as session:
        unguard(session)
        position = session.execute(text("SELECT min(id) FROM ledger.stored_events")).scalar_one()
        session.execute(text("UPDATE ledger.stored_events SET topic = 'x' WHERE id = :id"), {"id": position})
    operation = ledger.request(Stage.VERIFY, {"level": "events"}, STAMP)
    result = verified(place, operation.id)
    assert result["holds"] is False
    assert {finding["code"] for finding in result["findings"]} == {"event_changed"}
    assert result["findings"][0]["position"] == position
    operation = ledger.request(Stage.VERIFY, {"level": "tree"}, STAMP)
    assert verified(place, operation.id)["holds"] is True, "that level does not read events"


def test_a_verification_is_asked_for_by_itself_once_and_not_at_the_first_start(place: Place) -> None:
    settings = place.workshop.settings.model_copy(update={"verify_seconds": 3600.0})
    assert request_if_due(place.ledger, settings) is None
    make_due(place)
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda _: request_if_due(place.ledger, settings), range(4)))
    assert sum(operation is not None for operation in asked) == 1
    assert request_if_due(place.ledger, settings.model_copy(update={"verify_seconds": 0.0})) is None


def delete_all(folder: Path, _: Place) -> None:
    for path in folder.iterdir():
        path.unlink()


def change_one(folder: Path, _: Place) -> None:
    path = folder / name_of(2)
    note = path.read_bytes()
    path.unlink()
    path.write_bytes(note.replace(b"previous", b"Previous"))


def rename_one(folder: Path, _: Place) -> None:
    (folder / name_of(2)).rename(folder / name_of(1))


def put_another(folder: Path, place: Place) -> None:
    signing = signer(place.workshop.settings)
    (folder / name_of(1)).write_bytes(signing.sign(Checkpoint("other books", 1, bytes(32)).text()))


DONE_TO_ANCHORS = dict(zip(OF_ANCHORS, (delete_all, change_one, rename_one, put_another), strict=True))


@pytest.mark.parametrize("what", OF_ANCHORS)
def test_what_is_done_to_checkpoints_that_are_kept_elsewhere_is_found_at_every_level(
    place: Place, store: FolderCheckpointStore, tmp_path: Path, what: str
) -> None:
    for _ in range(2):
        receive(place.ledger, 2)
        sealed_place(place, store)
    for level in list(Level)[:3]:
        assert verified_here(place, level)["holds"] is True
    DONE_TO_ANCHORS[what](tmp_path / "checkpoints", place)
    for level in list(Level)[:3]:
        assert [finding["code"] for finding in verified_here(place, level)["findings"]] == [OF_ANCHORS[what]]


def verified_here(place: Place, level: Level) -> dict[str, Any]:
    return verify_record(place.workshop, new_order(level=level.value))


def test_of_many_checkpoints_the_newest_are_read_and_each_older_one_some_day() -> None:
    sizes = list(range(1, ANCHORS_NEWEST + 301))
    read = [chosen(sizes) for _ in range(100)]
    assert all(each[-ANCHORS_NEWEST:] == sizes[-ANCHORS_NEWEST:] and each == sorted(set(each)) for each in read)
    assert {len(each) for each in read} == {ANCHORS_NEWEST + ANCHORS_OLDER}
    assert set().union(*read) == set(sizes)
    assert chosen(sizes[:5]) == sizes[:5]


def make_due(place: Place) -> None:
    place.query("UPDATE work.schedule SET asked_at = asked_at - interval '2 hours' RETURNING 1")


def test_no_verification_is_asked_for_by_itself_while_one_is_open(place: Place) -> None:
    settings = place.workshop.settings.model_copy(update={"verify_seconds": 3600.0})
    request_if_due(place.ledger, settings)
    make_due(place)
    first = request_if_due(place.ledger, settings)
    assert first is not None
    place.follow()
    make_due(place)
    assert request_if_due(place.ledger, settings) is None
    verified(place, first.id)
    assert request_if_due(place.ledger, settings) is not None


def test_nothing_is_written_as_long_as_no_verification_is_due(place: Place) -> None:
    settings = place.workshop.settings.model_copy(update={"verify_seconds": 3600.0})
    request_if_due(place.ledger, settings)
    versions = "SELECT xmin::text, xmax::text, ctid::text FROM work.schedule"  # a lock of the row would be seen, too
    before = place.query(versions)
    assert request_if_due(place.ledger, settings) is None
    assert place.query(versions) == before


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_verification_by_itself_that_fails_is_an_error_in_the_log(
    place: Place, caplog: pytest.LogCaptureFixture, by_itself: bool
) -> None:
    settings = place.workshop.settings.model_copy(update={"verify_seconds": 3600.0})
    request_if_due(place.ledger, settings)
    make_due(place)
    operation = request_if_due(place.ledger, settings)
    if not by_itself:
        operation = place.ledger.request(Stage.VERIFY, {"level": "events"}, STAMP)
    assert operation is not None
    place.follow()
    without_key = place.with_settings(seal_key_file=None).workshop
    ended = operate(without_key, verify_record, operation.id, Stage.VERIFY, time.time(), lambda _: None)
    assert ended is not None
    assert ended.status is OperationStatus.FAILED
    told = [(record.levelname, vars(record)["code"]) for record in told_as(caplog, "scheduled_failed")]
    assert told == ([("ERROR", "invalid_request")] if by_itself else [])


def test_a_key_that_is_missing_or_none_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key")
    for settings in (Settings(), Settings(seal_key_file=tmp_path / "none.pem"), Settings(seal_key_file=wrong)):
        with pytest.raises(InvalidRequestError, match="openssl genpkey -algorithm ed25519"):
            public_keys(settings)
