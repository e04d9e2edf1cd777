"""A proof of a job is believed by a program that knows nothing of the ledger, and a bent one by nobody."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import verify_proof
from ledger.application import Ledger
from ledger.errors import ConflictError, NotFoundError
from ledger.proofs import prove_event, prove_stream
from ledger.seal import seal
from tests.integration.place import running_ledger, unguard
from tests.integration.test_seal import IMPOSTOR, NOW, ORIGIN, SIGNER, append

STREAM = UUID(int=7)
VERSIONS = 3
KEY = str(SIGNER.public)
REFUSALS = (verify_proof.Refused, ValueError, KeyError, TypeError, AttributeError, OverflowError)


def written(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def append_version(session: Session, stream: UUID, version: int) -> None:
    session.execute(
        text(
            "INSERT INTO ledger.stored_events SELECT coalesce(max(id), 0) + 1, :stream, :version, 'filejob.received', "
            "'some state' FROM ledger.stored_events"
        ),
        {"stream": stream, "version": version},
    )


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    chance = random.Random(5)
    with running_ledger() as ledger, Session(ledger.engine) as session, session.begin():
        for version in range(1, VERSIONS + 1):
            append(session, chance, 111)
            append_version(session, STREAM, version)
        assert seal(session, SIGNER, ORIGIN, NOW) is not None
        session.commit()
        yield ledger


@pytest.fixture(scope="module")
def proof(ledger: Ledger) -> bytes:
    with Session(ledger.engine) as session:
        return prove_stream(session, STREAM)


def test_a_proof_holds_with_the_public_key_alone(proof: bytes, tmp_path: Path) -> None:
    # The file alone, in a folder without the ledger.
    program = tmp_path / "verify_proof.py"
    program.write_bytes(Path(verify_proof.__file__).read_bytes())
    (tmp_path / "job.proof").write_bytes(proof)
    (tmp_path / "key.pub").write_text(KEY)
    for key, status, says in (
        ("key.pub", 0, f"Proven: {VERSIONS} events of {STREAM}"),
        (KEY, 0, "filejob.received"),
        (str(IMPOSTOR.public), 1, "Refused: the checkpoint is not signed by"),
        ("no.pub", 2, "Cannot be read"),
    ):
        ended = subprocess.run(
            [sys.executable, "-I", str(program), "job.proof", key],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, says in ended.stdout) == (status, True), ended


def test_every_flipped_bit_of_a_proof_is_refused(proof: bytes) -> None:
    assert verify_proof.verify(proof, KEY)
    for place in range(len(proof)):
        for bit in range(8):
            bent = bytearray(proof)
            bent[place] ^= 1 << bit
            with pytest.raises(REFUSALS):
                verify_proof.verify(bytes(bent), KEY)


@pytest.mark.parametrize("place", range(VERSIONS))
def test_a_proof_without_one_of_its_events_is_refused(proof: bytes, place: int) -> None:
    values = json.loads(proof)
    del values["events"][place]
    if place == VERSIONS - 1:
        assert "2 events" in verify_proof.verify(written(values), KEY)[0], "that a later one was kept back, is not seen"
        return
    with pytest.raises(verify_proof.Refused, match="is missing"):
        verify_proof.verify(written(values), KEY)


def test_what_is_not_there_or_not_sealed_is_not_proven(ledger: Ledger) -> None:
    with Session(ledger.engine) as session:
        with pytest.raises(NotFoundError):
            prove_stream(session, uuid4())
        append_version(session, UUID(int=8), 1)
        with pytest.raises(ConflictError, match="not sealed yet"):
            prove_stream(session, UUID(int=8))
        append_version(session, STREAM, VERSIONS + 1)
        assert f"{VERSIONS} events" in verify_proof.verify(prove_stream(session, STREAM), KEY)[0]
        session.rollback()


def test_a_single_event_is_proven_by_itself_and_not_as_a_whole_stream(ledger: Ledger) -> None:
    with Session(ledger.engine) as session:
        position = session.execute(
            text("SELECT id FROM ledger.stored_events WHERE originator_id = :stream AND originator_version = 2"),
            {"stream": STREAM},
        ).scalar_one()
        proof = prove_event(session, position)
        with pytest.raises(NotFoundError, match="position 1,000,000"):
            prove_event(session, 1_000_000)
    assert "1 event of" in verify_proof.verify(proof, KEY)[0]
    with pytest.raises(verify_proof.Refused, match="version 1 of the stream is missing"):
        verify_proof.verify(written({**json.loads(proof), "about": "stream"}), KEY)


def test_a_leaf_behind_the_last_checkpoint_is_not_proven(ledger: Ledger) -> None:
    with Session(ledger.engine) as session:
        unguard(session)
        stream = UUID(int=8)
        append_version(session, stream, 1)
        session.flush()
        made = seal(session, SIGNER, ORIGIN, NOW)
        assert made is not None
        assert prove_stream(session, stream)
        session.execute(text("DELETE FROM ledger.checkpoints WHERE size = :size"), {"size": made.checkpoint.size})
        with pytest.raises(ConflictError, match="not sealed yet"):
            prove_stream(session, stream)
        assert prove_stream(session, STREAM), "what the checkpoint before it has can be proven"
        session.rollback()
