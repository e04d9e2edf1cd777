"""Years come back from cold storage as they were closed, however long that takes and wherever it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import zstandard
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.exc import DBAPIError

from archive import closing, restoration
from archive.definitions import archived_statements
from archive.manifest import ManifestRefusedError, ObjectEntry
from archive.restoration import RestorationDiffersError, schema_of
from archive.retrieval import bring_back, release
from archive.retrieval_plan import parts_to_read, plan
from archive.sealed import exports_of, newest_archive, read_archive
from archive.stores import ObjectDamagedError, StorageClass, Tier, open_cold_store
from archive.stores_s3 import S3ColdStore
from archive.volume import Volume, prefix_of
from ledger import telemetry
from ledger.application import Ledger
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import Year
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage
from ledger.domain.year_states import CopyState, YearState
from ledger.errors import ConflictError, InvalidRequestError
from tests.integration.place import STAMP, new_place
from tests.integration.shelving import ORIGIN, Shelf
from tests.integration.test_late_records import label_of, lines, numbers, years
from tests.integration.test_table_rebuild import HEADER, Yard
from tests.integration.years import SECOND
from tests.s3_servers import new_bucket, s3_environment_of
from tests.strict_s3.objects import Version
from tests.strict_s3.server import StrictS3
from workers.archives import request_restore, restore_fiscal_year
from workers.operations import operate

ROWS = 300


@pytest.fixture(scope="module")
def s3() -> Iterator[StrictS3]:
    with StrictS3() as double:
        yield double


@pytest.fixture
def year() -> int:
    return next(years)


class Retrieving:
    """A dataset with a year in cold storage, and somebody who wants it back."""

    def __init__(self, shelf: Shelf, s3: StrictS3 | None, label: str) -> None:
        self.shelf = shelf
        self.s3 = s3
        self.label = label
        self.yard = Yard(shelf.place)
        self.before: list[tuple[Any, ...]] = []

    @property
    def ledger(self) -> Ledger:
        return self.shelf.place.ledger

    @property
    def copy(self) -> str:
        found = self.shelf.year(self.label)
        return f"{schema_of(Year(self.label, found.start, found.end), found.generation)}.{self.shelf.place.dataset}"

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return self.shelf.place.query(f"SELECT number, paid_on, _job, _record FROM {table} ORDER BY _job, _record")

    def is_there(self) -> bool:
        """Whether there is a copy that anybody can read."""
        return self.shelf.place.query("SELECT to_regclass(:name)", name=self.copy) != [(None,)]

    def parts(self) -> list[Version]:
        """The objects of the rows, as the double keeps them."""
        assert self.s3 is not None
        [bucket] = [each for each in self.s3.operations.buckets.values() if each.all(f"books/{self.prefix}/")]
        return bucket.all(f"books/{self.prefix}/data/")

    @property
    def prefix(self) -> str:
        return prefix_of(ORIGIN, self.label, self.shelf.year(self.label).generation)

    def request(self, tier: Tier = Tier.STANDARD, days: int = 2) -> UUID:
        operation = request_restore(
            self.shelf.closing, self.shelf.store, self.label, STAMP, tier=tier, days=days, reason="an audit"
        )
        self.shelf.place.follow()
        return operation.id

    def attempt(self, operation_id: UUID) -> Operation | None:
        """What a message makes a worker do, by the clock of the double, and due at once however long it pauses."""
        self.shelf.place.query(
            "UPDATE work.items SET due_at = clock_timestamp() WHERE job_id = :id RETURNING 1", id=operation_id
        )
        act = partial(restore_fiscal_year, now=datetime.now(UTC) if self.s3 is None else self.s3.clock.now)
        return operate(self.shelf.place.workshop, act, operation_id, Stage.RESTORE_YEAR, time.time(), lambda _: None)

    def waiting(self, operation_id: UUID) -> tuple[int, str]:
        """The attempts that count for a work item, and why it was given back."""
        [(attempts, reason)] = self.shelf.place.query(
            "SELECT attempts, last_error FROM work.items WHERE job_id = :id", id=operation_id
        )
        return attempts, reason

    def told(self) -> list[FileJob.Restored]:
        events = [logged.event for logged in self.ledger.events_after(0, 1_000_000)]
        return [e for e in events if isinstance(e, FileJob.Restored) and e.fiscal_years == [self.label]]


@pytest.fixture
def shelving(
    ledger: Ledger, tmp_path: Path, s3: StrictS3, monkeypatch: pytest.MonkeyPatch
) -> Callable[[StorageClass | None], Shelf]:
    """Makes a shelf in a bucket of the double, or in a folder for no class."""

    def make(storage_class: StorageClass | None) -> Shelf:
        url = (tmp_path / "cold").as_uri()
        if storage_class is not None:
            for name, value in s3_environment_of(s3.url).items():
                monkeypatch.setenv(name, value)
            url = f"s3://{new_bucket()}/books"
        s3.faults.disarm()
        place = new_place(
            ledger, tmp_path, chunk_bytes=4096, blobs_url=(tmp_path / "blobs").as_uri(), scratch_folder=tmp_path,
            archive_url=url, retry_seconds_min=0.001, retry_seconds_max=0.001,
        )  # fmt: skip
        return Shelf(place, open_cold_store(url), tmp_path, storage_class or StorageClass.DEEP_ARCHIVE)

    return make


@pytest.fixture
def cold(shelving: Callable[..., Shelf], s3: StrictS3, year: int) -> Retrieving:
    """A year in deep archive, its rows dropped."""
    return shelved(shelving(StorageClass.DEEP_ARCHIVE), s3, year)


@pytest.fixture
def near(shelving: Callable[..., Shelf], year: int) -> Retrieving:
    """A year in a folder, its rows dropped."""
    return shelved(shelving(None), None, year)


def shelved(shelf: Shelf, s3: StrictS3 | None, year: int) -> Retrieving:
    Yard(shelf.place).load(HEADER + lines(year, range(ROWS)) + lines(year + 1, range(ROWS, ROWS + 3)))
    found = Retrieving(shelf, s3, label_of(year))
    before = found.rows(f"data.{shelf.place.dataset} WHERE number < {ROWS}")
    shelf.drop(found.label)
    assert numbers(found.yard) == [ROWS, ROWS + 1, ROWS + 2]
    found.before = before
    return found


def test_a_year_comes_back_from_deep_archive_as_it_was_closed_and_no_worker_waits_for_it(cold: Retrieving) -> None:
    assert cold.s3 is not None
    operation_id = cold.request()
    before = len(cold.s3.faults.calls)
    for _ in range(6):  # more often than an operation is tried
        assert cold.attempt(operation_id) is None
    attempts, reason = cold.waiting(operation_id)
    assert (attempts, reason.startswith("0 of ")) == (0, True)
    assert cold.s3.faults.calls[before:].count("RestoreObject") == len(cold.parts()) > 3
    cold.s3.clock.advance(timedelta(hours=12))
    ended = cold.attempt(operation_id)
    assert ended is not None
    assert (ended.status, ended.error) == (OperationStatus.COMPLETED, None)
    assert ended.result is not None
    assert (ended.result["rows"], cold.rows(cold.copy)) == (ROWS, cold.before)
    year = cold.shelf.year(cold.label)
    assert (year.copy, year.state) == (CopyState.RESTORED, YearState.DROPPED)
    assert ended.result["manifest_sha256"] == year.manifest_sha256
    assert [event.manifest for event in cold.told()] == [year.manifest_sha256]
    with pytest.raises(DBAPIError, match=r"was restored to be read|permission denied"):
        cold.shelf.place.query(f"DELETE FROM {cold.copy} RETURNING 1")
    assert release(cold.shelf.closing, cold.label, SECOND).copy is CopyState.NONE
    assert not cold.is_there()
    with pytest.raises(ConflictError, match="has no copy"):
        release(cold.shelf.closing, cold.label, SECOND)


def test_each_step_and_each_part_of_bringing_a_year_back_is_a_span_that_says_how_much_it_was(
    near: Retrieving, spans: InMemorySpanExporter
) -> None:
    near.attempt(near.request())
    told = [(span.name, dict(span.attributes or {})) for span in spans.get_finished_spans()]
    found = [(name, about) for name, about in told if name.startswith("restore.")]
    assert {about.pop(telemetry.FISCAL_YEAR) for _, about in found} == {near.label}
    tables = newest_archive(near.ledger, near.shelf.store, near.shelf.year(near.label)).manifest.tables
    count, read = sum(len(table.parts) for table in tables), []
    for table in tables:
        for part in table.parts:
            told_of_part = {telemetry.PART_TEXT_BYTES: part.raw_bytes, telemetry.PART_ROWS: part.lines}
            read.append(("restore.copy", {telemetry.PART: part.key, **told_of_part}))
        read.append(("restore.compare", {telemetry.TABLE: table.dataset, telemetry.TABLE_ROWS: table.rows}))
    assert found == [
        ("restore.ask", {telemetry.PART_COUNT: count, telemetry.PART_COUNT_READY: count}),
        *read,
        ("restore.tell_files", {}),
    ]
    assert count > 1


def test_copies_that_go_while_they_are_read_are_asked_for_again_and_nothing_half_is_left(
    cold: Retrieving, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cold.s3 is not None
    clock, operation_id = cold.s3.clock, cold.request(days=1)
    assert cold.attempt(operation_id) is None
    clock.advance(timedelta(hours=12))
    read, keys = S3ColdStore.read, list[str]()

    def slowly(store: S3ColdStore, key: str, version: str, *rest: Any) -> Iterator[bytes]:
        if "/data/" in key:
            keys.append(key)
            clock.advance(timedelta(days=3 if len(keys) == 3 else 0, seconds=1))
        return read(store, key, version, *rest)

    monkeypatch.setattr(S3ColdStore, "read", slowly)
    assert cold.attempt(operation_id) is None
    assert "no copy of it is restored" in cold.waiting(operation_id)[1]
    assert (len(keys), cold.is_there(), cold.shelf.year(cold.label).copy) == (3, False, CopyState.REQUESTED)
    assert cold.attempt(operation_id) is None  # asked for again
    clock.advance(timedelta(hours=12))
    ended = cold.attempt(operation_id)
    assert ended is not None
    assert (ended.error, cold.rows(cold.copy)) == (None, cold.before)


def test_copies_that_would_not_last_until_all_are_read_are_made_to_last_first(cold: Retrieving) -> None:
    assert cold.s3 is not None
    clock, operation_id = cold.s3.clock, cold.request(days=2)
    assert cold.attempt(operation_id) is None
    clock.advance(timedelta(hours=12))
    ends = cold.parts()[0].restore_ends
    assert ends is not None
    clock.advance(ends - clock.now - timedelta(minutes=30))
    ended = cold.attempt(operation_id)
    assert ended is not None
    assert ended.error is None
    assert all(part.restore_ends is not None and part.restore_ends > ends for part in cold.parts())


def test_without_capacity_for_an_expedited_restore_the_standard_one_is_asked_for_and_said_to_be(
    shelving: Callable[..., Shelf], s3: StrictS3, year: int
) -> None:
    found = shelved(shelving(StorageClass.GLACIER), s3, year)
    for bucket in s3.operations.buckets.values():
        bucket.has_expedited_capacity = False
    operation_id = found.request(Tier.EXPEDITED)
    assert found.attempt(operation_id) is None
    assert "come as Standard" in found.waiting(operation_id)[1]
    assert {part.restore_tier for part in found.parts()} == {"Standard"}
    s3.clock.advance(timedelta(hours=5))
    ended = found.attempt(operation_id)
    assert ended is not None
    assert (ended.error, found.rows(found.copy)) == (None, found.before)


def test_what_cannot_be_asked_for_is_refused_before_anything_is_said(cold: Retrieving) -> None:
    before = cold.ledger.position()
    with pytest.raises(InvalidRequestError, match="no expedited restores"):
        cold.request(Tier.EXPEDITED)
    with pytest.raises(InvalidRequestError, match=r"could be gone"):
        cold.request(days=0)
    with pytest.raises(InvalidRequestError, match="Nothing says why"):
        request_restore(cold.shelf.closing, cold.shelf.store, cold.label, STAMP, tier=Tier.BULK, days=1, reason=" ")
    with pytest.raises(ConflictError, match="has no archive"):
        request_restore(cold.shelf.closing, cold.shelf.store, "FY1999-00", STAMP, tier=Tier.BULK, days=1, reason="why")
    assert cold.ledger.position() == before
    cold.request()
    with pytest.raises(ConflictError, match="has this copy: requested"):
        cold.request()


def test_a_copy_that_was_released_before_it_was_there_is_not_made(cold: Retrieving) -> None:
    assert cold.s3 is not None
    operation_id = cold.request()
    assert cold.attempt(operation_id) is None
    release(cold.shelf.closing, cold.label, STAMP)
    cold.s3.clock.advance(timedelta(hours=12))
    ended = cold.attempt(operation_id)
    assert ended is not None
    assert ended.error is not None
    assert (ended.error["code"], cold.is_there()) == ("conflict", False)


def test_a_table_that_has_other_columns_by_now_comes_back_as_it_was(near: Retrieving) -> None:
    dataset = near.shelf.place.dataset
    near.shelf.place.query(f"ALTER TABLE data.{dataset} ADD COLUMN memo text; SELECT 1")
    ended = near.attempt(near.request())
    assert ended is not None
    assert (ended.error, near.rows(near.copy)) == (None, near.before)
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attname = 'memo'"
    assert near.shelf.place.query(columns, name=near.copy) == [(0,)]


def test_a_part_that_is_another_one_is_found_and_restores_nothing(near: Retrieving, tmp_path: Path) -> None:
    operation_id = near.request()
    part = next((tmp_path / "cold").glob(f"{near.prefix}/data/*/*.zst"))
    part.chmod(0o644)
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    ended = near.attempt(operation_id)
    assert ended is not None
    assert ended.error is not None
    assert (ended.error["code"], near.is_there()) == ("object_damaged", False)


def test_a_copy_that_was_released_while_it_was_made_is_not_there(
    near: Retrieving, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = restoration.restore

    def restore(*arguments: Any) -> str:
        schema = original(*arguments)
        release(near.shelf.closing, near.label, SECOND)
        return schema

    operation_id = near.request()
    monkeypatch.setattr(restoration, "restore", restore)
    ended = near.attempt(operation_id)
    assert ended is not None
    assert ended.error is not None
    assert (ended.error["code"], near.is_there()) == ("conflict", False)


def test_an_archive_of_something_else_than_the_log_says_restores_nothing(near: Retrieving) -> None:
    near.request()
    ledger, store = near.ledger, near.shelf.store
    exported = exports_of(ledger, near.shelf.year(near.label))[-1]
    with pytest.raises(ObjectDamagedError, match="not the manifest of which the log has"):
        read_archive(store, replace(exported, manifest_sha256="34" * 32))
    with pytest.raises(ManifestRefusedError, match="is one of generation 1"):
        read_archive(store, replace(exported, generation=2))
    archive = read_archive(store, exported)
    own, *others = sorted(archive.manifest.tables, key=lambda table: table.dataset != near.shelf.place.dataset)
    column = own.columns[0].model_copy(update={"type": "text"})
    other_columns = own.model_copy(update={"columns": (column, *own.columns[1:])})
    for tables, how in (((other_columns, *others), "other columns"), (tuple(others), "other datasets")):
        changed = replace(archive, manifest=archive.manifest.model_copy(update={"tables": tables}))
        with pytest.raises(RestorationDiffersError, match=how):
            bring_back(ledger, near.shelf.place.workshop.calendar, store, changed, near.label, STAMP)
    assert not near.is_there()


def test_a_year_comes_back_by_the_statement_that_was_archived(
    shelving: Callable[..., Shelf], year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = shelving(None)
    monkeypatch.setattr(
        shelf, "defined", lambda told: told.replace(b'\\"number\\" bigint', b'\\"number\\" bigint CHECK (number >= 0)')
    )
    found = shelved(shelf, None, year)
    ended = found.attempt(found.request())
    assert ended is not None
    assert (ended.error, found.rows(found.copy)) == (None, found.before)
    checks = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(:name) AND contype = 'c'"
    assert shelf.place.query(checks, name=found.copy) == [("CHECK ((number >= 0))",)]


# What is written into the definitions instead of something else, and what is said of it.
OTHER_DEFINITIONS = [
    (b'"type":"bigint"', b'"type":"integer"', "another value for 'columns'"),
    (b'"zone":"', b'"zone":"Not/', "the calendar"),
    (b'"dataset":"', b'"dataset":"no_', "other datasets"),
    (b'\\"number\\" bigint', b'\\"number\\" integer', "with other columns than the archive says"),
]


@pytest.mark.parametrize(("before", "after", "said"), OTHER_DEFINITIONS, ids=[each[2] for each in OTHER_DEFINITIONS])
def test_definitions_of_something_else_than_was_closed_restore_nothing(
    shelving: Callable[..., Shelf], year: int, monkeypatch: pytest.MonkeyPatch, before: bytes, after: bytes, said: str
) -> None:
    shelf = shelving(None)
    monkeypatch.setattr(shelf, "defined", lambda told: told.replace(before, after))
    found = shelved(shelf, None, year)
    ended = found.attempt(found.request())
    assert ended is not None
    assert ended.error is not None
    assert (ended.error["code"], said in ended.error["message"]) == ("restoration_differs", True), ended.error
    assert not found.is_there()


def test_definitions_that_are_other_ones_than_were_archived_restore_nothing(near: Retrieving, tmp_path: Path) -> None:
    archive = newest_archive(near.ledger, near.shelf.store, near.shelf.year(near.label))
    file = tmp_path / "cold" / near.prefix / archive.manifest.definitions.key
    archived = file.read_bytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(archived)
    operation_id = near.request()
    file.chmod(0o644)
    file.write_bytes(archived[:-1] + bytes([archived[-1] ^ 1]))
    ended = near.attempt(operation_id)
    assert ended is not None
    assert ended.error is not None
    assert (ended.error["code"], near.is_there()) == ("object_damaged", False)
    for other in (text.replace(b"bigint", b"bigint  ", 1), text[:-1], text + text, text[:-1] + b" "):
        kept = zstandard.ZstdCompressor().compress(other)
        with pytest.raises(ObjectDamagedError, match="are not what was archived"):
            archived_statements(Saying(kept), archive.manifest.definitions, near.shelf.year(near.label))
    assert archived_statements(Saying(archived), archive.manifest.definitions, near.shelf.year(near.label))


class Saying(Volume):
    """A volume whose store says of other bytes that they are those that were put."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, entry: ObjectEntry) -> Iterator[bytes]:
        return iter([self.data])


def test_a_dropped_year_is_reopened_from_its_copy_and_closed_again_as_the_next(near: Retrieving, year: int) -> None:
    years_of, shelf = near.shelf.closing, near.shelf
    closing.decide(years_of, near.label, STAMP, lambda found: found.request_reopen(STAMP, reason="an invoice"))
    with pytest.raises(ConflictError, match="has its rows in cold storage"):
        closing.reopen(years_of, near.label, SECOND)
    ended = near.attempt(near.request())
    assert ended is not None
    assert ended.error is None
    copy = near.copy
    assert closing.reopen(years_of, near.label, SECOND).state is YearState.REOPENED
    in_year = f"data.{shelf.place.dataset} WHERE number < {ROWS}"
    assert near.rows(in_year) == near.before
    assert shelf.place.query("SELECT to_regclass(:name)", name=copy) == [(None,)]
    assert shelf.year(near.label).copy is CopyState.NONE
    first = shelf.year(near.label).manifest_sha256
    near.yard.work(shelf.place.send((HEADER + lines(year, range(ROWS - 1, ROWS))).encode(), may_adjust=True))
    manifest = shelf.export(near.label)
    assert (manifest.generation, manifest.supersedes) == (2, first)
    assert [t.rows for t in manifest.tables if t.dataset == shelf.place.dataset] == [ROWS + 1]
    ended = near.attempt(near.request())
    assert ended is not None
    assert (ended.error, len(near.rows(near.copy))) == (None, ROWS + 1)


def test_rows_that_come_out_as_others_in_a_table_that_was_changed_are_not_put_back(near: Retrieving) -> None:
    dataset = near.shelf.place.dataset
    ended = near.attempt(near.request())
    assert ended is not None
    assert ended.error is None
    closing.decide(
        near.shelf.closing, near.label, STAMP, lambda found: found.request_reopen(STAMP, reason="an invoice")
    )
    for change, refusal in (
        (f"ALTER TABLE data.{dataset} ALTER number TYPE numeric(12, 1)", RestorationDiffersError),
        (f"ALTER TABLE data.{dataset} DROP COLUMN number", ConflictError),
    ):
        near.shelf.place.query(f"{change}; SELECT 1")
        with pytest.raises(refusal):
            closing.reopen(near.shelf.closing, near.label, SECOND)
        assert near.shelf.year(near.label).state is YearState.DROPPED
        assert near.is_there()
    assert near.shelf.place.query(f"SELECT count(*) FROM data.{dataset}") == [(3,)]


def test_a_plan_tells_bytes_hours_and_dollars_of_what_is_read(cold: Retrieving) -> None:
    archive = newest_archive(cold.ledger, cold.shelf.store, cold.shelf.year(cold.label))
    planned = plan(archive.manifest, Tier.BULK, 3)
    parts = list(parts_to_read(archive.manifest))
    assert (planned["objects"], planned["bytes"], planned["rows"]) == (
        len(parts),
        sum(part.bytes for part in parts),
        ROWS,
    )
    assert [(each["storage_class"], each["hours_max"]) for each in planned["classes"]] == [("DEEP_ARCHIVE", "48.00")]
