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
from ledger.findings import Level, Verified
from ledger.notes import Checkpoint, Signer
from ledger.seal import newest_checkpoint, seal, sealed
from ledger.verifier import verify_in
from tests.integration.place import running_ledger, unguard
from tests.tampering import BATCHES, EVENT, EVENTS, FOUND_AT, PAGE, Tampering, page

ORIGIN = "ledger.example/books"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
IMPOSTOR = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
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
    found = newest_checkpoint(session)
    assert found is not None
    return Checkpoint.open(found[1], [SIGNER.public])


def test_an_untouched_log_has_no_findings(session: Session) -> None:
    found = run(session, last(session))
    assert (found.findings, found.events, found.unsealed) == ([], EVENTS, 0)
    assert found.checkpoint == last(session)
    append(session, random.Random(4), 7)
    assert (run(session).findings, run(session).unsealed) == ([], 7)
    assert seal(session, SIGNER, ORIGIN, NOW) is not None
    assert seal(session, SIGNER, ORIGIN, NOW) is None
    assert (sealed(session)[0], run(session, last(session)).findings) == (EVENTS + 7, [])


@pytest.mark.parametrize(
    ("least", "tampering"),
    [pytest.param(level, each, id=each.what) for level, found in FOUND_AT.items() for each in found],
)
def test_what_is_changed_is_found_at_its_level_and_at_every_deeper_one(
    session: Session, least: Level, tampering: Tampering
) -> None:
    session.execute(text(tampering.statement))
    found = {level: run(session, level=level).findings for level in Level}
    assert [level for level in Level if found[level]] == list(Level)[list(Level).index(least) :]
    assert {finding.code for finding in found[Level.EVENTS]} >= set(tampering.codes), found
    assert all(finding.message.endswith(".") for findings in found.values() for finding in findings)


def test_the_page_about_tampering_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.tampering"


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
    assert [finding.code for finding in run(session, kept, level=Level.SIGNATURES).findings] == [
        "checkpoint_inconsistent"
    ]


def test_a_backup_of_before_is_found_by_what_was_kept_elsewhere(session: Session) -> None:
    kept = last(session)
    session.execute(
        text("DELETE FROM ledger.stored_events WHERE id > (SELECT position FROM ledger.leaves WHERE index = 255)")
    )
    session.execute(text("DELETE FROM ledger.leaves WHERE index > 255"))
    session.execute(text("DELETE FROM ledger.nodes WHERE index > 0"))
    session.execute(text("DELETE FROM ledger.checkpoints WHERE size > 256"))
    assert run(session).findings == [], "an old backup is sound by itself"
    for level in Level:
        assert [finding.code for finding in run(session, kept, level=level).findings] == ["rollback"]
