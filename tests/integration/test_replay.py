"""Replaying jobs: what was read once is read again, and whatever has been changed since is told."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.contract import Contract
from ledger.domain.words import OnDuplicate
from ledger.erasures import erase_job
from ledger.errors import ConflictError, LedgerError
from projections.transcribe import Transcription
from tests.integration.place import CONTRACT, STAMP, new_place
from tests.integration.test_table_rebuild import KEYED, Yard, payments
from tests.integration.views import new_order
from tests.unit.projections.workbooks import zipped
from workers import transcription
from workers.commands import cancel
from workers.replay import replay_job

MARKER = "Zebulon-Pfefferminz"


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    return Yard(
        new_place(ledger, tmp_path, chunk_bytes=512, blobs_url=(tmp_path / "blobs").as_uri(), scratch_folder=tmp_path)
    )


def replay(yard: Yard, job_id: UUID) -> dict[str, Any]:
    return replay_job(yard.place.workshop, new_order(job_id=str(job_id)))


def told(result: dict[str, Any]) -> set[tuple[str, int | None]]:
    return {(found["what"], found["chunk"]) for found in result["differences"]}


def blob_path(folder: Path, sha256: str | None) -> Path:
    assert sha256 is not None
    return folder / "blobs" / sha256[:2] / sha256


def damage(path: Path, at: int) -> None:
    path.chmod(0o640)
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def everything(folder: Path) -> dict[str, bytes]:
    """What stands in the blob store."""
    return {path.name: path.read_bytes() for path in (folder / "blobs").rglob("*") if path.is_file()}


def as_json(text: str) -> bytes:
    header, *lines = text.splitlines()
    names = header.split(",")
    return json.dumps([dict(zip(names, line.split(","), strict=True)) for line in lines]).encode()


FORMS: dict[str, Callable[[str], bytes]] = {
    "plain": lambda text: text.encode(),
    "packed": lambda text: gzip.compress(text.encode(), mtime=0),
    "utf-16": lambda text: text.encode("utf-16"),
    "json": as_json,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_job_that_nobody_touched_is_as_the_log_says_and_nothing_is_written(
    yard: Yard, tmp_path: Path, form: str
) -> None:
    job_id = yard.load_bytes(FORMS[form](payments(100, years=2)), filename="payments")
    before, rows, position = everything(tmp_path), yard.content(), yard.place.ledger.position()
    assert len(rows) == 100
    result = replay(yard, job_id)
    assert (result["equal"], result["differences"]) == (True, [])
    assert (result["records"], result["rows_loaded"]) == (100, 100)
    assert result["chunks"] > 2
    assert result["parser_version"] == result["parser_version_now"]
    assert (everything(tmp_path), yard.content(), yard.place.ledger.position()) == (before, rows, position)


def test_rejects_of_the_contract_and_of_the_table_and_corrections_come_to_the_same(yard: Yard) -> None:
    yard.load(payments(50), Contract(KEYED.columns[:2], key=("number",), rejects_max="100%"))
    job_id = yard.load(payments(60, 31) + "x,2024-05-01\n")
    correction = "number,paid_on,_record,_line,_column,_code,_reason\n900,2024-05-01,31,32,number,value_invalid,no\n"
    sha256 = put(yard.place.workshop.blobs, correction.encode())
    arrival = Arrival(uuid4(), sha256, len(correction), "again.csv", "text/csv", yard.place.dataset, corrects=job_id)
    yard.place.ledger.receive([arrival], STAMP, door="http", on_duplicate=OnDuplicate.ALLOW)
    yard.place.follow()
    yard.work(arrival.job_id)
    for each, rows in ((job_id, 40), (arrival.job_id, 1)):
        result = replay(yard, each)
        assert (result["equal"], result["rows_loaded"], result["differences"]) == (True, rows, [])


def test_chunks_are_cut_as_they_were_whatever_the_settings_are_now(yard: Yard) -> None:
    job_id = yard.load(payments(100))
    for chunk_bytes in (64, 100_000):
        later = Yard(yard.place.with_settings(chunk_bytes=chunk_bytes))
        assert replay(later, job_id)["differences"] == []


def test_a_job_that_was_cancelled_or_has_failed_is_replayed_as_far_as_it_was_loaded(yard: Yard) -> None:
    failed = yard.load(payments(100) + "x,2024-05-01\n")
    result = replay(yard, failed)
    assert result["equal"] is True
    assert result["chunks"] > 1
    waiting = yard.place.send(payments(10).encode())
    with pytest.raises(ConflictError, match="never planned"):
        replay(yard, waiting)
    cancel(yard.place.ledger, waiting, STAMP, reason="sent by mistake")


def test_a_damaged_file_is_told_down_to_the_chunk_and_stays_as_it_is(yard: Yard, tmp_path: Path) -> None:
    job_id = yard.load(payments(100))
    path = blob_path(tmp_path, yard.place.ledger.job(job_id).sha256)
    damage(path, 700)
    before = everything(tmp_path)
    result = replay(yard, job_id)
    assert (result["equal"], told(result)) == (False, {("file", None), ("sha256", 1)})
    assert result["differences"][0]["expected"] == yard.place.ledger.job(job_id).sha256
    assert everything(tmp_path) == before
    path.unlink()
    lost = replay(yard, job_id)
    assert lost["equal"] is False
    assert lost["differences"][0] == {
        "what": "file",
        "chunk": None,
        "expected": yard.place.ledger.job(job_id).sha256,
        "got": None,
    }


def test_a_file_that_was_cut_is_told_and_not_waited_for(yard: Yard, tmp_path: Path) -> None:
    job_id = yard.load(payments(100))
    path = blob_path(tmp_path, yard.place.ledger.job(job_id).sha256)
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:700])
    assert {("file", None), ("sha256", 1), ("sha256", 2)} <= told(replay(yard, job_id))


def test_a_tampered_plan_is_told_and_the_chunks_are_compared_by_one_made_again(yard: Yard, tmp_path: Path) -> None:
    job_id = yard.load(payments(100))
    damage(blob_path(tmp_path, yard.place.ledger.job(job_id).plan), 50)
    assert told(replay(yard, job_id)) == {("plan", None)}


@pytest.mark.parametrize("blob", ["transcript", "places"])
def test_a_tampered_transcript_is_told_and_is_not_repaired_in_passing(yard: Yard, tmp_path: Path, blob: str) -> None:
    job_id = yard.load_bytes(as_json(payments(100)), filename="payments.json")
    job = yard.place.ledger.job(job_id)
    plan = json.loads(blob_path(tmp_path, job.plan).read_text())
    damage(blob_path(tmp_path, job.transcript if blob == "transcript" else plan["places"]), 700)
    before = everything(tmp_path)
    expected = {(blob, None)} | ({("sha256", 1)} if blob == "transcript" else set())
    assert told(replay(yard, job_id)) == expected
    assert everything(tmp_path) == before


def test_a_reject_that_was_taken_away_is_told(yard: Yard) -> None:
    job_id = yard.load(payments(20) + "x,2024-05-01\n", Contract(KEYED.columns[:2], rejects_max="100%"))
    yard.place.query("WITH gone AS (DELETE FROM rejects.records WHERE job_id = :job RETURNING 1) SELECT 1", job=job_id)
    assert {what for what, _ in told(replay(yard, job_id))} == {"rejects that are kept", "the reject of record 21"}


def test_another_version_of_the_reader_is_told_and_compared_all_the_same(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = yard.load(payments(20))
    monkeypatch.setattr(Transcription, "parser_version", "delimited-99")
    result = replay(yard, job_id)
    assert (result["equal"], result["parser_version_now"]) == (True, "delimited-99")
    assert result["parser_version"] != "delimited-99"


def replay_of_a_job_that_reads(yard: Yard, monkeypatch: pytest.MonkeyPatch, program: str) -> dict[str, Any]:
    """A replay whose reader is another program than that of the plan."""
    job_id = yard.load_bytes(as_json(payments(20)), filename=f"{MARKER}.json")
    monkeypatch.setattr(transcription, "READER", (sys.executable, "-c", f"import os; {program}"))
    return replay(yard, job_id)


def test_a_refusal_is_told_by_its_code_and_not_by_a_message_that_names_the_file(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = replay_of_a_job_that_reads(yard, monkeypatch, "os.kill(os.getpid(), 11)")
    assert result["differences"] == [
        {"what": "reading", "chunk": None, "expected": "as it was read", "got": "reader_crashed"}
    ]
    assert MARKER not in str(result)


def test_a_reader_that_was_killed_from_outside_is_no_difference_and_its_error_names_no_file(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LedgerError, match="The reader of the file ended with -9") as killed:
        replay_of_a_job_that_reads(yard, monkeypatch, "os.kill(os.getpid(), 9)")
    assert MARKER not in str(killed.value)


def test_a_job_without_a_name_is_replayed_from_what_was_kept_and_its_name_is_not_told(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, member = zipped({f"{MARKER}/a.csv": payments(100).encode(), f"{MARKER}/b.csv": b"n\n"}), f"{MARKER}/a.csv"
    yard.place.ledger.register_dataset(yard.place.dataset, CONTRACT, STAMP)
    arrival = Arrival(
        uuid4(), put(yard.place.workshop.blobs, data), len(data), member, "application/zip", yard.place.dataset,
        reading={"member": member},
    )  # fmt: skip
    yard.place.ledger.receive([arrival], STAMP, door="http", on_duplicate=OnDuplicate.ALLOW)
    yard.place.follow()
    yard.work(arrival.job_id)
    before = replay(yard, arrival.job_id)
    assert (before["equal"], before["name_erased"], before["parser_version_now"] is None) == (True, False, False)
    erase_job(yard.place.ledger, arrival.job_id, STAMP, reason="somebody asked for it")
    monkeypatch.setattr(transcription, "READER", (sys.executable, "-c", "raise SystemExit(1)"))
    after = replay(yard, arrival.job_id)
    assert after == {**before, "name_erased": True, "parser_version_now": None, "position": after["position"]}
    assert after["chunks"] > 1
    assert MARKER not in str(after)


@pytest.mark.parametrize("places", ["lost", "cut"])
def test_places_that_are_not_whole_are_told_and_rejects_that_need_them_are_only_counted(
    yard: Yard, tmp_path: Path, places: str
) -> None:
    data = as_json(payments(100) + "x,2024-05-01\n")
    job_id = yard.load_bytes(data, Contract(KEYED.columns[:2], rejects_max="100%"), "payments.json")
    plan = json.loads(blob_path(tmp_path, yard.place.ledger.job(job_id).plan).read_text())
    path = blob_path(tmp_path, plan["places"])
    path.chmod(0o640)
    if places == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    assert told(replay(yard, job_id)) == {("places", None)}
    yard.place.query("WITH gone AS (DELETE FROM rejects.records WHERE job_id = :job RETURNING 1) SELECT 1", job=job_id)
    assert {what for what, _ in told(replay(yard, job_id))} == {"places", "rejects that are kept"}
