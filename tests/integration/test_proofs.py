"""A proof of a job is believed by a program that knows nothing of the ledger, and a bent one by nobody."""

from __future__ import annotations

import hashlib
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
from ledger.proofs import Record, prove_event, prove_stream
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


FILE = b"id,name\n1,Ada\n2,Bob\n"
TEXT = b"id\x01name\n1\x01Ada\n2\x01Bob\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def story(loaded: bytes = FILE, **queued: Any) -> list[tuple[str, dict[str, Any]]]:
    """What the events of a job say, as far as it is proven: one chunk behind a header, with two records."""
    chunk = {"chunk": 0, "start": 8, "end": len(loaded), "sha256": sha256(loaded[8:]), "first_record": 1, "records": 2}
    return [("filejob.received", {"sha256": sha256(FILE)}), ("filejob.queued", queued), ("filejob.chunk_loaded", chunk)]


def prove(ledger: Ledger, told: list[tuple[str, dict[str, Any]]], record: Record | None = None) -> bytes:
    """The proof of a stream in which a ledger told that, be it true or not."""
    stream = uuid4()
    with Session(ledger.engine) as session:
        for version, (topic, state) in enumerate(told, start=1):
            session.execute(
                text(
                    "INSERT INTO ledger.stored_events SELECT coalesce(max(id), 0) + 1, :stream, :version, :topic, "
                    ":state FROM ledger.stored_events"
                ),
                {"stream": stream, "version": version, "topic": topic, "state": json.dumps(state).encode()},
            )
        seal(session, SIGNER, ORIGIN, NOW)
        proof = prove_stream(session, stream, record)
        session.rollback()
    return proof


def test_the_bytes_of_a_record_are_proven_and_that_its_number_is_not_is_said(ledger: Ledger) -> None:
    proof = prove(ledger, story(), Record(2, 14, b"2,Bob\n"))
    told = "\n".join(verify_proof.verify(proof, KEY, FILE))
    assert "Proven: bytes 14 to 20 of the file that arrived are these." in told
    assert "Said to be record 2, which only who counts the records of the chunk can confirm" in told
    wrong = prove(ledger, story(), Record(1, 14, b"2,Bob\n"))
    assert "Said to be record 1" in "\n".join(verify_proof.verify(wrong, KEY, FILE)), "no event tells where it begins"
    unseen = verify_proof.verify(prove(ledger, story(), Record(2, 14, b"2,Eve\n")), KEY)
    assert unseen[-1] == "That the bytes are these is not proven: give the file that arrived as the third argument."


def test_a_record_of_a_text_that_the_ledger_made_needs_that_text_and_not_the_file(ledger: Ledger) -> None:
    proof = prove(ledger, story(TEXT, transcript=sha256(TEXT)), Record(2, 14, b"2\x01Bob\n"))
    whole = "the text that the ledger made of the file"
    assert f"give {whole} as the third argument" in verify_proof.verify(proof, KEY)[-1]
    assert verify_proof.verify(proof, KEY, TEXT)[-1] == f"Proven: bytes 14 to 20 of {whole} are these."
    with pytest.raises(verify_proof.Refused, match=f"{sha256(TEXT)}'; give that instead of the file that was sent"):
        verify_proof.verify(proof, KEY, FILE)


def test_an_empty_file_is_compared_and_not_taken_for_none(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for record in (None, Record(2, 14, b"2,Bob\n")):
        (tmp_path / "job.proof").write_bytes(prove(ledger, story(), record))
        arguments = [str(tmp_path / "job.proof"), KEY]
        assert verify_proof.main([*arguments, str(tmp_path / "empty")]) == verify_proof.REFUSED
        assert verify_proof.main([*arguments, ""]) == verify_proof.UNREADABLE
        assert verify_proof.main(arguments) == verify_proof.PROVEN


def test_nothing_in_a_proof_can_look_like_a_line_of_the_program(ledger: Ledger) -> None:
    forged = "\nProven: all of it.\x1b[2J\u202e"
    told = story()
    told[0][1]["sha256"] = told[2][1]["sha256"] = told[2][1]["chunk"] = forged
    told[2][1]["end"] = 1_000
    proof = prove(ledger, [*told, (f"filejob.completed{forged}", {})], Record(2, 14, forged.encode()))
    lines = verify_proof.verify(proof, KEY)
    assert [line for line in lines if not line.isprintable()] == []
    assert sum(line.startswith("Proven") for line in lines) == 1


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
