"""A sealed log stays what it was, or the verifier says what was changed, where, and in which field."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.notes import Checkpoint, Signer, open_note
from ledger.seal import seal, sealed
from ledger.verifier import Level, Verified, verify_in
from tests.integration.place import running_ledger, unguard

ORIGIN = "ledger.example/books"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
IMPOSTOR = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
BATCHES = (1, 255, 2, 300, 142)
EVENTS = sum(BATCHES)
NOW = datetime(2026, 4, 1, tzinfo=UTC)


def append(session: Session, chance: random.Random, count: int) -> None:
    """Events with gaps between their positions."""
    for _ in range(count):
        session.execute(
            text(
                "INSERT INTO ledger.stored_events (id, originator_id, originator_version, topic, state) VALUES "
                "((SELECT coalesce(max(id), 0) FROM ledger.stored_events) + :gap, :stream, :version, :topic, :state)"
            ),
            {
                "gap": chance.choice((1, 1, 1, 2, 5)),
                "stream": UUID(int=chance.getrandbits(128)),
                "version": chance.randrange(1, 9),
                "topic": chance.choice(("filejob.received", "filejob.completed")),
                "state": chance.randbytes(40),
            },
        )


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    chance = random.Random(3)
    with running_ledger() as ledger:
        for count in BATCHES:
            with Session(ledger.engine) as session, session.begin():
                append(session, chance, count)
            with Session(ledger.engine) as session, session.begin():
                assert seal(session, SIGNER, ORIGIN, NOW) is not None
        yield ledger


@pytest.fixture
def session(ledger: Ledger) -> Iterator[Session]:
    """Somebody who owns the database and has taken the guards away. Whatever a test changes is undone."""
    with Session(ledger.engine) as session:
        unguard(session)
        yield session
        session.rollback()


def run(session: Session, *anchors: Checkpoint, level: Level = Level.EVENTS) -> Verified:
    return verify_in(session, [SIGNER.public], ORIGIN, anchors, level)


def last(session: Session) -> Checkpoint:
    note = session.execute(text("SELECT note FROM ledger.checkpoints ORDER BY size DESC LIMIT 1")).scalar_one()
    return Checkpoint.parse(open_note(bytes(note), [SIGNER.public])[0])


def test_an_untouched_log_has_no_findings(session: Session) -> None:
    found = run(session, last(session))
    assert (found.findings, found.events, found.unsealed) == ([], EVENTS, 0)
    assert found.checkpoint == last(session)
    append(session, random.Random(4), 7)
    assert (run(session).findings, run(session).unsealed) == ([], 7)
    assert seal(session, SIGNER, ORIGIN, NOW) is not None
    assert seal(session, SIGNER, ORIGIN, NOW) is None
    assert (sealed(session)[0], run(session, last(session)).findings) == (EVENTS + 7, [])


EVENT = "(SELECT position FROM ledger.leaves WHERE index = 400)"
OTHER = "(SELECT position FROM ledger.leaves WHERE index = 300)"
SWAPPED = "UPDATE ledger.stored_events a SET {0} = b.{0} FROM ledger.stored_events b"
# What is done to the database, and by a superuser if need be -> the codes of what is found.
TAMPERING: dict[str, tuple[str, set[str]]] = {
    "an event's id": (f"UPDATE ledger.stored_events SET id = 100000 WHERE id = {EVENT}", {"event_missing"}),
    "an event's id, within a gap": (
        f"UPDATE ledger.stored_events SET id = (SELECT min(id) + 1 FROM ledger.stored_events e WHERE NOT EXISTS "
        f"(SELECT FROM ledger.stored_events WHERE id = e.id + 1)) WHERE id = {EVENT}",
        {"event_missing", "event_not_sealed"},
    ),
    "an event's stream": (
        f"UPDATE ledger.stored_events SET originator_id = gen_random_uuid() WHERE id = {EVENT}", {"event_changed"}
    ),
    "an event's version": (
        f"UPDATE ledger.stored_events SET originator_version = originator_version + 1 WHERE id = {EVENT}",
        {"event_changed"},
    ),
    "an event's topic": (f"UPDATE ledger.stored_events SET topic = topic || '2' WHERE id = {EVENT}", {"event_changed"}),
    "an event's state": (
        f"UPDATE ledger.stored_events SET state = set_bit(state, 5, 1 - get_bit(state, 5)) WHERE id = {EVENT}",
        {"event_changed"},
    ),
    "two events' states": (
        f"{SWAPPED.format('state')} WHERE (a.id, b.id) IN (({EVENT}, {OTHER}), ({OTHER}, {EVENT}))", {"event_changed"}
    ),
    "an event is deleted": (f"DELETE FROM ledger.stored_events WHERE id = {EVENT}", {"event_missing"}),
    "the last event is deleted": (
        "DELETE FROM ledger.stored_events WHERE id = (SELECT max(id) FROM ledger.stored_events)", {"event_missing"}
    ),
    "all events are deleted": ("TRUNCATE ledger.stored_events", {"event_missing"}),
    "an event is put between": (
        "INSERT INTO ledger.stored_events SELECT min(id) + 1, gen_random_uuid(), 1, 'filejob.received', 'x' FROM "
        "ledger.stored_events e WHERE NOT EXISTS (SELECT FROM ledger.stored_events WHERE id = e.id + 1)",
        {"event_not_sealed"},
    ),
    "a leaf's hash": ("UPDATE ledger.leaves SET hash = sha256('x') WHERE index = 400", {"event_changed"}),
    "a leaf's fields": ("UPDATE ledger.leaves SET fields = 'x' WHERE index = 400", {"event_changed"}),
    "a leaf's position": ("UPDATE ledger.leaves SET position = 100000 WHERE index = 400", {"leaf_missing"}),
    "a leaf's index": ("UPDATE ledger.leaves SET index = 100000 WHERE index = 400", {"leaf_missing"}),
    "a leaf is deleted": ("DELETE FROM ledger.leaves WHERE index = 400", {"leaf_missing"}),
    "the last leaf is deleted": ("DELETE FROM ledger.leaves WHERE index = 699", {"leaves_missing"}),
    "all leaves are deleted": ("TRUNCATE ledger.leaves", {"leaves_missing", "node_unknown"}),
    "a leaf is added": (
        "INSERT INTO ledger.leaves VALUES (700, 100000, sha256('x'), 'x')", {"event_missing", "leaves_unsigned"}
    ),
    "a node's hash": ("UPDATE ledger.nodes SET hash = sha256('x') WHERE index = 1", {"node_differs"}),
    "a node's level": ("UPDATE ledger.nodes SET level = 16 WHERE index = 1", {"node_differs", "node_unknown"}),
    "a node's index": ("UPDATE ledger.nodes SET index = 9 WHERE index = 1", {"node_differs", "node_unknown"}),
    "a node is deleted": ("DELETE FROM ledger.nodes WHERE index = 1", {"node_differs"}),
    "all nodes are deleted": ("TRUNCATE ledger.nodes", {"node_differs"}),
    "a node is added": ("INSERT INTO ledger.nodes VALUES (8, 2, sha256('x'))", {"node_unknown"}),
    "a checkpoint's size": ("UPDATE ledger.checkpoints SET size = 257 WHERE size = 258", {"checkpoint_of_another"}),
    "a checkpoint's note": (
        "UPDATE ledger.checkpoints SET note = set_bit(note, 9, 1 - get_bit(note, 9)) WHERE size = 258",
        {"note_refused", "checkpoint_of_another"},
    ),
    "a checkpoint's time": (
        "UPDATE ledger.checkpoints SET sealed_at = now() WHERE size = 258", {"checkpoint_of_another"}
    ),
    "a checkpoint is deleted": ("DELETE FROM ledger.checkpoints WHERE size = 258", {"checkpoint_of_another"}),
    "the last checkpoint is deleted": ("DELETE FROM ledger.checkpoints WHERE size = 700", {"leaves_unsigned"}),
    "all checkpoints are deleted": ("TRUNCATE ledger.checkpoints", {"leaves_unsigned"}),
    "two checkpoints' notes": (
        "UPDATE ledger.checkpoints a SET note = b.note FROM ledger.checkpoints b "
        "WHERE (a.size, b.size) IN ((256, 258), (258, 256))",
        {"checkpoint_of_another"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_what_is_changed_is_found(session: Session, what: str) -> None:
    statement, codes = TAMPERING[what]
    session.execute(text(statement))
    findings = run(session).findings
    assert {finding.code for finding in findings} >= codes, findings
    assert all(finding.message.endswith(".") for finding in findings)


@pytest.mark.parametrize("field", ["originator_id", "originator_version", "topic", "state"])
def test_the_field_that_was_changed_is_told_with_its_stream_and_version(session: Session, field: str) -> None:
    row: Any = session.execute(text(f"SELECT * FROM ledger.stored_events WHERE id = {EVENT}")).one()
    changes = {"originator_id": "gen_random_uuid()", "originator_version": "77", "topic": "'x'", "state": "'x'"}
    session.execute(text(f"UPDATE ledger.stored_events SET {field} = {changes[field]} WHERE id = {EVENT}"))
    [finding] = run(session).findings[:1]
    assert (finding.position, finding.field) == (row.id, field)
    if not field.startswith("originator"):
        assert (finding.stream, finding.version) == (row.originator_id, row.originator_version)


def rewritten(session: Session, signer: Signer) -> None:
    """What somebody does who has the database, and some key: history, leaves, nodes and checkpoints all made anew."""
    session.execute(
        text("UPDATE ledger.stored_events SET state = 'x' WHERE id = (SELECT min(id) FROM ledger.stored_events)")
    )
    session.execute(text("TRUNCATE ledger.leaves, ledger.nodes, ledger.checkpoints"))
    assert seal(session, signer, ORIGIN, NOW) is not None


def test_a_history_that_was_written_anew_is_found_by_its_key_or_by_what_was_kept_elsewhere(session: Session) -> None:
    kept = last(session)
    rewritten(session, IMPOSTOR)
    assert {finding.code for finding in run(session).findings} == {"note_refused", "leaves_unsigned"}
    rewritten(session, SIGNER)
    assert run(session).findings == [], (
        "who has the key can write anything, which is why checkpoints are kept elsewhere"
    )
    assert [finding.code for finding in run(session, kept).findings] == ["fork"]


def test_a_backup_of_before_is_found_by_what_was_kept_elsewhere(session: Session) -> None:
    kept = last(session)
    session.execute(
        text("DELETE FROM ledger.stored_events WHERE id > (SELECT position FROM ledger.leaves WHERE index = 255)")
    )
    session.execute(text("DELETE FROM ledger.leaves WHERE index > 255"))
    session.execute(text("DELETE FROM ledger.nodes WHERE index > 0"))
    session.execute(text("DELETE FROM ledger.checkpoints WHERE size > 256"))
    assert run(session).findings == [], "an old backup is sound by itself"
    assert [finding.code for finding in run(session, kept).findings] == ["rollback"]
