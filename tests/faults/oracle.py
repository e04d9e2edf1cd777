"""The oracle: whatever was done to a ledger, `assert_ledger_sound` says whether its story still holds.

Rules (the numbers are those of its findings):
    I1  the versions of each stream are 1, 2, 3 ... without a gap.
    I3  every prefix of a job's story could have happened.
    I4  each arrival has exactly one Received event, and `ledger.arrivals` says the same as the log.
    I5  the rows of a completed job are exactly what its chunks say, its chunks cover its file, and a job that failed
        for good or was cancelled has no rows; nobody else's rows are there.
    I6  a job that has not ended has work; one that has ended has none.
    I7  the status view is what its events fold to, and rebuilding it changes nothing.
    I8  whatever was answered with success is in the log.
    I9  the log is sealed to its end, and verifying every event against the seal finds nothing.
    And every blob that the log names is there and is what its name says.

All findings are told at once. What can be read without the code under test is (see `record`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx2
import psycopg2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import create_engine

from ledger.application import Ledger
from ledger.notes import PublicKey
from ledger.settings import Settings
from ledger.verifier import verify
from projections.status import TASK_FIELDS, fold_all
from tests.faults.record import Record, StoredRow, blob_folder, has_ended, read_record
from tests.faults.rules import wrong_in_blobs, wrong_in_log, wrong_in_rows, wrong_in_work
from tests.stack import Stack

ORIGIN = "ingestion-ledger"
SETTLE_SECONDS_MAX = 120.0
VIEW_SECONDS_MAX = 30.0
# A retry that is due later than this is waited for by nobody.
SOON_SECONDS = 5.0


def assert_ledger_sound(
    stack: Stack, accepted: Collection[str], *, settle_seconds_max: float = SETTLE_SECONDS_MAX
) -> None:
    """Wait until nothing goes on any more, then find fault with everything.

    Args:
        accepted: the ids of all tasks in answers of success.
    """
    _wait_for_door(stack, settle_seconds_max)
    record, findings = _settled(stack, settle_seconds_max)
    findings += wrong_in_log(record)
    findings += wrong_in_rows(record)
    findings += wrong_in_work(record)
    folder = blob_folder(stack)
    if folder is not None:
        findings += wrong_in_blobs(record, folder)
    received = {job for job, rows in record.jobs.items() if rows[0].topic == "filejob.received"}
    findings += [f"I8: {task_id} was accepted and is lost" for task_id in accepted if UUID(task_id) not in received]
    findings += _wrong_in_answers(stack, record)
    findings += _wrong_in_rebuild(stack)
    findings += _wrong_in_seal(stack)
    assert not findings, "the ledger is not sound:\n" + "\n".join(findings)


def _wait_for_door(stack: Stack, seconds_max: float) -> None:
    """Whoever was killed comes back first."""
    deadline = time.monotonic() + seconds_max
    while True:
        try:
            with stack.http() as http:
                answer = http.get("/readyz", timeout=10)
            told = answer.text
            if answer.is_success and answer.json()["parts"]["mongodb"]["ok"]:
                return
        except (httpx2.HTTPError, KeyError) as error:
            told = repr(error)
        assert time.monotonic() < deadline, f"the ledger does not come back: {told}"
        time.sleep(0.1)


def _settled(stack: Stack, seconds_max: float) -> tuple[Record, list[str]]:
    """What stands when nothing goes on any more; with a finding for each thing that still goes on at the end."""
    deadline = time.monotonic() + seconds_max
    while True:
        try:
            record = read_record(stack)
            unsettled = list(_unsettled(record))
        except (psycopg2.OperationalError, KeyError) as error:  # PostgreSQL may still be on its way back
            if time.monotonic() > deadline:
                raise
            unsettled = [str(error)]
        if not unsettled:
            return record, []
        if time.monotonic() > deadline:
            return record, [f"I6: after {seconds_max:g} s {what}" for what in unsettled]
        time.sleep(0.1)


def _unsettled(record: Record) -> Iterator[str]:
    if record.followed < record.last_position:
        yield f"the dispatcher stands at {record.followed} of {record.last_position}"
    for job, rows in record.jobs.items():
        items = record.items.get(job, [])
        waits = rows[-1].topic == "filejob.failed" and items and all(_waits(item.due_in_seconds) for item in items)
        if not has_ended(rows) and not waits:
            yield f"job {job} has not ended (last {rows[-1].topic}); its work: {items}"
        elif has_ended(rows) and items:
            yield f"job {job} has ended and still has work: {items}"


def _waits(due_in_seconds: float | None) -> bool:
    return due_in_seconds is not None and due_in_seconds > SOON_SECONDS


def _wrong_in_answers(stack: Stack, record: Record) -> Iterator[str]:
    with _ledger_of(stack) as ledger, stack.http() as http:
        _wait_for_view(http, record)
        for job, rows in record.jobs.items():
            answer = http.get(f"/task/{job}")
            if answer.status_code != httpx2.codes.OK:
                yield f"I7: /task/{job} answers {answer.status_code}: {answer.text}"
                continue
            try:
                document = fold_all(ledger.events_of(job))
            except Exception as error:  # whatever the fold refuses is a finding
                yield f"I7: the story of job {job} cannot be folded: {error!r}"
                continue
            assert document is not None
            told = answer.json()
            different = {
                field: (told.get(field), document[field]) for field in TASK_FIELDS if told.get(field) != document[field]
            }
            if different:
                yield f"I7: /task/{job} differs from its events (told, folded): {different}"
            yield from _wrong_in_told(told, rows)


@contextmanager
def _ledger_of(stack: Stack) -> Iterator[Ledger]:
    """The log with the names that are sealed in it, which only its reader can open."""
    ledger = Ledger(
        Settings(
            database_url=stack.database_url().replace("postgresql://", "postgresql+psycopg2://"),
            subject_key_file=stack.home / "secrets" / "subjects.key",
            subject_key=None,
        )
    )
    try:
        yield ledger
    finally:
        ledger.engine.dispose()


def _wrong_in_told(told: dict[str, object], rows: list[StoredRow]) -> Iterator[str]:
    """The little that can be said of an answer without the fold."""
    statuses = {
        "filejob.completed": "Completed",
        "filejob.failed": "Failed",
        "filejob.cancelled": "Cancelled",
        "filejob.archived": "Archived",
        "filejob.restored": "Archived",
    }
    expected = statuses.get(rows[-1].topic)
    if expected is not None and told["status"] != expected:
        yield f"I7: /task/{told['task_id']} says {told['status']} after {rows[-1].topic}"
    if told["sha256"] != rows[0].state["sha256"] or told["size"] != rows[0].state["size"]:
        yield f"I7: /task/{told['task_id']} tells of other bytes than were received"


def _wait_for_view(http: httpx2.Client, record: Record) -> None:
    """The view follows the log in its own time."""
    deadline = time.monotonic() + VIEW_SECONDS_MAX
    while record.last_position:
        view = http.get("/api/v1/jobs", params={"limit": 1}).json().get("view")
        if view is not None and view["position"] >= record.last_position:
            return
        assert time.monotonic() < deadline, f"I7: the view does not come to {record.last_position}: {view}"
        time.sleep(0.05)


def _wrong_in_rebuild(stack: Stack) -> Iterator[str]:
    operation = rebuilt(stack)
    if operation["status"] == "Failed":
        yield f"I7: the view cannot be rebuilt: {operation['error']}"
    elif operation["result"]["equal"] is False:
        yield f"I7: the view had drifted from the log: {operation['result']}"


def _wrong_in_seal(stack: Stack) -> Iterator[str]:
    """Seen by the verifier that asks no server, once the sealer has come to the end."""
    signer = load_pem_private_key((stack.home / "secrets" / "seal.pem").read_bytes(), password=None)
    assert isinstance(signer, Ed25519PrivateKey)
    key = PublicKey(ORIGIN, signer.public_key().public_bytes_raw())
    engine = create_engine(stack.database_url())
    deadline = time.monotonic() + VIEW_SECONDS_MAX
    try:
        while True:
            found = verify(engine, [key], ORIGIN)
            if found.findings or found.unsealed == 0:
                break
            assert time.monotonic() < deadline, f"I9: {found.unsealed} events are not sealed"
            time.sleep(0.1)
    finally:
        engine.dispose()
    yield from (f"I9: {each.message}" for each in found.findings if each.position not in stack.taken_out)


def rebuilt(stack: Stack) -> dict[str, Any]:
    """Have the status view rebuilt: the operation when it has ended."""
    with stack.http() as http:
        operation: dict[str, Any] = http.post("/api/v1/views/status/rebuild").json()
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while operation.get("status") not in ("Completed", "Failed"):
            assert time.monotonic() < deadline, f"I7: the rebuild does not end: {operation}"
            operation = http.get(f"/api/v1/operations/{operation['operation_id']}", params={"wait": 10}).json()
    return operation
