"""The oracle notices: each way in which a story can stop being true is staged, found, and undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import pymongo
import pytest

from tests.faults.kit import FaultStack, PaymentsFile, payments_file, running_fault_stack
from tests.faults.oracle import assert_ledger_sound, rebuilt

NOW = 1.0  # the limit of waiting for what will never settle
RECORDS = 4_000


class Sound(NamedTuple):
    """A ledger with a completed and a failed job, and nothing wrong."""

    stack: FaultStack
    file: PaymentsFile
    task_id: str
    failed_id: str


@pytest.fixture(scope="module")
def sound() -> Iterator[Sound]:
    with running_fault_stack() as stack:
        file = payments_file(RECORDS)
        task_id = stack.send(file)["task_id"]
        stack.check_loaded(task_id, file)
        bad = payments_file(RECORDS, file.dataset)
        broken = bad.content + b"1,some day,1.00\n" * (RECORDS // 8)
        failed_id = stack.send(PaymentsFile(bad.filename, bad.dataset, broken, RECORDS, 0))["task_id"]
        assert stack.wait(failed_id)["status"] == "Failed"
        assert_ledger_sound(stack, stack.accepted)
        yield Sound(stack, file, task_id, failed_id)


@contextmanager
def staged(sound: Sound, table: str, condition: str, change: str) -> Iterator[None]:
    """Change rows of a table by SQL, for a while. `condition` says which; both may say {job}, {failed}, {dataset}."""
    stack = sound.stack
    words = {"job": sound.task_id, "failed": sound.failed_id, "dataset": sound.file.dataset}
    table, condition, change = (text.format(**words) for text in (table, condition, change))
    stack.sql(f"CREATE TABLE kept_aside AS SELECT * FROM {table} WHERE {condition}")
    delete = f"DELETE FROM {table} WHERE {condition}"
    try:
        stack.sql_unguarded(delete)
        if change:
            stack.sql(f"INSERT INTO {table} {change}")
        yield
    finally:
        stack.sql_unguarded(delete)
        stack.sql(f"INSERT INTO {table} SELECT * FROM kept_aside")
        stack.sql("DROP TABLE kept_aside")
        rebuilt(stack)  # the oracle has rebuilt the view from a log that was wrong


def check_noticed(sound: Sound, *findings: str) -> None:
    """The oracle finds at least this, and what it says names it."""
    with pytest.raises(AssertionError) as noticed:
        assert_ledger_sound(sound.stack, sound.stack.accepted, settle_seconds_max=NOW)
    for finding in findings:
        assert finding in str(noticed.value)


@pytest.fixture(autouse=True)
def _is_sound_again_afterwards(sound: Sound) -> Iterator[None]:
    yield
    assert_ledger_sound(sound.stack, sound.stack.accepted)


EVENTS = "ledger.stored_events"
OF_JOB = "originator_id = '{job}'"
KEPT = "SELECT * FROM kept_aside"


def test_a_deleted_event_is_noticed(sound: Sound) -> None:
    with staged(sound, EVENTS, OF_JOB + " AND originator_version = 3", ""):
        check_noticed(sound, "I1: stream", "I5: job")


def test_a_deleted_beginning_is_noticed(sound: Sound) -> None:
    with staged(sound, EVENTS, OF_JOB + " AND originator_version = 1", ""):
        check_noticed(sound, "I1: stream", "was None and then queued", "received 0 times", "I8: ")


def test_a_deleted_end_is_noticed(sound: Sound) -> None:
    with staged(sound, EVENTS, OF_JOB + " AND topic = 'filejob.completed'", ""):
        check_noticed(sound, "is stuck: it has no work", "has not ended")


def test_a_whole_job_that_was_deleted_is_noticed(sound: Sound) -> None:
    with staged(sound, EVENTS, OF_JOB, ""):
        check_noticed(sound, f"I8: {sound.task_id} was accepted and is lost", "I4: ", "should not have")


def test_a_missing_chunk_is_noticed_though_the_versions_have_no_gap(sound: Sound) -> None:
    renumbered = (
        "SELECT id, originator_id, originator_version - (originator_version > 3)::int, topic, state FROM kept_aside "
        "WHERE originator_version <> 3"
    )
    with staged(sound, EVENTS, OF_JOB, renumbered):
        check_noticed(sound, "I5: job", "do not cover its bytes", "add up to")


def test_a_chunk_that_stands_twice_is_noticed(sound: Sound) -> None:
    moved = (
        "SELECT id, originator_id, originator_version + (originator_version > 3)::int, topic, state FROM kept_aside "
        "UNION ALL SELECT -1, originator_id, 4, topic, state FROM kept_aside WHERE originator_version = 3"
    )
    with staged(sound, EVENTS, OF_JOB, moved):
        check_noticed(sound, "completed with the chunks", "I1: ")


def test_a_story_that_could_not_have_happened_is_noticed(sound: Sound) -> None:
    # A position before all others: nobody follows the log there.
    twice = f"{KEPT} UNION ALL SELECT -1, originator_id, originator_version + 1, topic, state FROM kept_aside"
    with staged(sound, EVENTS, OF_JOB + " AND topic = 'filejob.completed'", twice):
        check_noticed(sound, "was completed and then completed", "does not allow Completed")


def test_an_arrival_that_is_lost_is_noticed(sound: Sound) -> None:
    with staged(sound, "ledger.arrivals", "job_id = '{job}'", ""):
        check_noticed(sound, "I4: ")


def test_a_doubled_row_is_noticed(sound: Sound) -> None:
    with staged(sound, "data.{dataset}", "_record = 7", f"{KEPT} UNION ALL {KEPT}"):
        check_noticed(sound, f"has {RECORDS + 1} rows, its events say {RECORDS}", f"of {RECORDS} records")


def test_a_missing_row_is_noticed(sound: Sound) -> None:
    with staged(sound, "data.{dataset}", "_record = 7", ""):
        check_noticed(sound, f"has {RECORDS - 1} rows, its events say {RECORDS}")


def test_a_row_in_the_place_of_another_is_noticed(sound: Sound) -> None:
    seven_twice = f"{KEPT} WHERE _record = 7 UNION ALL {KEPT} WHERE _record = 7"
    with staged(sound, "data.{dataset}", "_record IN (7, 8)", seven_twice):
        check_noticed(sound, f"has {RECORDS} rows of {RECORDS - 1} records")


def test_rows_of_a_job_that_failed_for_good_are_noticed(sound: Sound) -> None:
    [(position,)] = sound.stack.sql("SELECT position FROM ledger.arrivals WHERE job_id = %s", sound.failed_id)
    of_failed = f"SELECT number, paid_on, amount, {position}, _record, _received FROM kept_aside"
    with staged(sound, "data.{dataset}", "_record = 7", f"{KEPT} UNION ALL {of_failed}"):
        check_noticed(sound, f"job {sound.failed_id} has 1 rows, its events say 0 (it is failed for good)")


def test_rows_of_nobody_are_noticed(sound: Sound) -> None:
    of_nobody = "SELECT number, paid_on, amount, 999999, _record, _received FROM kept_aside"
    with staged(sound, "data.{dataset}", "_record = 7", f"{KEPT} UNION ALL {of_nobody}"):
        check_noticed(sound, "1 rows of a job 999999")


@pytest.mark.parametrize("job", ["{job}", "{failed}", "3ef856b7-5561-4866-8e4f-ef0b0da76d46"])
def test_work_that_was_left_behind_is_noticed(sound: Sound, job: str) -> None:
    left = f"(job_id, stage, chunk, due_at) VALUES ('{job}', 'load', 0, 'infinity')"
    with staged(sound, "work.items", f"job_id = '{job}'", left):
        check_noticed(sound, "I6: ")


def test_a_lost_blob_and_a_changed_one_are_noticed(sound: Sound) -> None:
    [(sha256,)] = sound.stack.sql("SELECT sha256 FROM ledger.arrivals WHERE job_id = %s", sound.task_id)
    blob = sound.stack.home / "blobs" / sha256[:2] / sha256
    aside = blob.with_suffix(".aside")
    blob.rename(aside)
    try:
        check_noticed(sound, f"blob {sha256} of job {sound.task_id} is lost")
        blob.write_bytes(aside.read_bytes()[:-2] + b"?\n")
        check_noticed(sound, f"blob {sha256} of job {sound.task_id} has changed")
    finally:
        aside.replace(blob)


@pytest.mark.parametrize("change", [{"rows_loaded": 1}, {"status": "Queued"}, {"attempt": 7}], ids=str)
def test_a_view_that_was_changed_is_noticed(sound: Sound, change: dict[str, Any]) -> None:
    port = sound.stack.state()["ports"]["mongodb"]
    with pymongo.MongoClient[Any](f"mongodb://127.0.0.1:{port}/?directConnection=true") as client:
        views = client["ledger"]
        live = views["views"].find_one({"_id": "status"})
        assert live is not None
        assert views[f"status_{live['live']}"].update_one({"_id": sound.task_id}, {"$set": change}).modified_count == 1
    check_noticed(sound, "the view had drifted from the log")


def test_an_acknowledgement_of_nothing_is_noticed(sound: Sound) -> None:
    with pytest.raises(AssertionError, match=r"I8: .* was accepted and is lost"):
        assert_ledger_sound(sound.stack, [str(uuid4())])
