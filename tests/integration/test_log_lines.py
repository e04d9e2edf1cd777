"""The lines of the log are enough to come to the root of a checkpoint, without the ledger."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from archive.log_lines import PAGE, LogRange, log_lines
from ledger.application import Ledger
from ledger.errors import ConflictError
from ledger.merkle import CompactRange, leaf_hash
from ledger.notes import Signer
from ledger.seal import StoredEvent, seal
from tests.integration.place import running_ledger

SIGNER = Signer("books", Ed25519PrivateKey.from_private_bytes(bytes(32)))
EVENTS = 2 * PAGE + 7


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """A log with gaps between its positions, more than a page, all of it sealed."""
    chance = random.Random(5)
    position = 0
    with running_ledger() as ledger, Session(ledger.engine) as session:
        for _ in range(EVENTS):
            position += chance.choice((1, 1, 3))
            session.execute(
                text("INSERT INTO ledger.stored_events VALUES (:id, :stream, 1, 'filejob.received', :state)"),
                {"id": position, "stream": UUID(int=chance.getrandbits(128)), "state": chance.randbytes(30)},
            )
        session.commit()
        yield ledger


def test_the_lines_of_ranges_come_to_the_root_of_the_checkpoint(ledger: Ledger) -> None:
    with Session(ledger.engine) as session:
        while (made := seal(session, SIGNER, "books", datetime(2026, 4, 1, tzinfo=UTC))) is not None:
            session.commit()
            last = made.checkpoint
        position = session.execute(text("SELECT max(id) FROM ledger.stored_events")).scalar_one()
        ranges = [LogRange(1, 10), LogRange(11, 11 + PAGE), LogRange(12 + PAGE, position)]
        lines = [line for each in ranges for line in log_lines(session, each)]
    assert last.size == len(lines) == EVENTS
    tree = CompactRange()
    for place, (at, line) in enumerate(lines):
        values = json.loads(line)
        assert (values["index"], values["id"]) == (place, at)
        event = StoredEvent(
            values["id"],
            UUID(values["originator_id"]),
            values["originator_version"],
            values["topic"],
            base64.b64decode(values["state"]),
        )
        list(tree.add(leaf_hash(event.leaf_data())))
    assert tree.root() == last.root


def test_an_event_that_is_not_sealed_is_not_told(ledger: Ledger) -> None:
    with Session(ledger.engine) as session:
        session.execute(text("INSERT INTO ledger.stored_events VALUES (99999, gen_random_uuid(), 1, 'x', 'y')"))
        with pytest.raises(ConflictError, match="99,999 is not sealed"):
            list(log_lines(session, LogRange(1, 99_999)))
