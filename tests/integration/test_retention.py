"""What nobody can take away, until when, what a hold adds to it, and what in a cold store belongs to no archive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest

from archive import closing, retention
from archive.garbage import garbage
from archive.retention import Changed, raise_locks
from archive.sealed import newest_archive, versions_of
from archive.stores import Lock, LockMode, StorageClass, StoredObject, open_cold_store
from archive.verifier import NOTE
from archive.volume import prefix_of
from ledger import failpoints
from ledger.application import Ledger
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage
from ledger.domain.year_states import Ground
from ledger.errors import ConflictError
from ledger.failpoints import FailpointError
from tests.contracts.cold_places import refused, sha256_of
from tests.integration.place import STAMP, new_place
from tests.integration.shelving import ORIGIN, RETAINED_UNTIL, Shelf
from tests.integration.test_late_records import label_of, lines, years
from tests.integration.test_table_rebuild import HEADER, Yard
from tests.integration.years import SECOND
from tests.s3_servers import new_bucket, s3_environment_of
from tests.strict_s3.server import StrictS3
from workers.archives import decide_hold, hold_fiscal_year
from workers.operations import operate

KEPT = Lock(LockMode.COMPLIANCE, RETAINED_UNTIL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The one bucket of all years of the ledger."""
    with StrictS3() as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment_of(s3.url).items():
            patch.setenv(name, value)
        yield f"s3://{new_bucket()}/books"


@pytest.fixture
def shelf(ledger: Ledger, tmp_path: Path, url: str) -> Shelf:
    place = new_place(
        ledger, tmp_path, chunk_bytes=4096, blobs_url=(tmp_path / "blobs").as_uri(), scratch_folder=tmp_path,
        archive_url=url,
    )  # fmt: skip
    return Shelf(place, open_cold_store(url), tmp_path, StorageClass.DEEP_ARCHIVE)


@pytest.fixture
def label(shelf: Shelf) -> str:
    """A year in cold storage whose rows are still here."""
    year = next(years)
    Yard(shelf.place).load(HEADER + lines(year, range(100)))
    shelf.export(label_of(year))
    return label_of(year)


def objects(shelf: Shelf, label: str) -> list[StoredObject]:
    archive = newest_archive(shelf.place.ledger, shelf.store, shelf.year(label))
    return [
        shelf.store.head(each.key, each.version) for each in versions_of(shelf.store, archive.prefix, archive.manifest)
    ]


def seal(shelf: Shelf, label: str, **policy: Any) -> Changed:
    archive = newest_archive(shelf.place.ledger, shelf.store, shelf.year(label))
    wanted = archive.manifest.policy.model_copy(update=policy)
    return raise_locks(shelf.store, archive.prefix, archive.manifest, wanted)


def hold(shelf: Shelf, label: str, case: str = "2026/17") -> None:
    decide_hold(shelf.closing, label, STAMP, lambda year: year.place_hold(STAMP, case=case))


def lift(shelf: Shelf, label: str, case: str = "2026/17") -> None:
    decide_hold(shelf.closing, label, SECOND, lambda year: year.lift_hold(SECOND, case=case, reason="settled"))


def orders(shelf: Shelf) -> list[UUID]:
    shelf.place.follow()
    found = shelf.place.query("SELECT job_id FROM work.items WHERE stage = 'hold_year' ORDER BY due_at")
    return [job_id for (job_id,) in found]


def attempt(shelf: Shelf, operation_id: UUID) -> Operation | None:
    """What a message makes a worker do."""
    return operate(shelf.place.workshop, hold_fiscal_year, operation_id, Stage.HOLD_YEAR, time.time(), lambda _: None)


def carry_out(shelf: Shelf) -> list[Operation]:
    """What messages make workers do about holds."""
    done = []
    for operation_id in orders(shelf):
        ended = attempt(shelf, operation_id)
        assert ended is not None
        assert (ended.status, ended.error) == (OperationStatus.COMPLETED, None)
        done.append(ended)
    return done


def test_an_archive_is_locked_to_its_last_object_and_only_made_longer_and_stricter(shelf: Shelf, label: str) -> None:
    before = objects(shelf, label)
    assert {each.lock.mode for each in before if each.lock} == {LockMode.GOVERNANCE}
    assert NOTE in {each.key.rpartition("/")[2] for each in before}
    assert seal(shelf, label) == Changed(len(before), len(before))
    assert {each.lock for each in objects(shelf, label)} == {KEPT}
    assert seal(shelf, label) == Changed(len(before), 0)
    shorter = seal(shelf, label, retain_until=datetime(2041, 1, 1, tzinfo=UTC).isoformat())
    assert (shorter.changed, {each.lock for each in objects(shelf, label)}) == (0, {KEPT})
    longer = replace(KEPT, until=datetime(2050, 1, 1, tzinfo=UTC))
    seal(shelf, label, retain_until=longer.until.isoformat())
    assert {each.lock for each in objects(shelf, label)} == {longer}


def test_a_sealing_that_ends_in_the_middle_goes_on_with_what_is_left(shelf: Shelf, label: str, tmp_path: Path) -> None:
    armed = tmp_path / "failpoints"
    armed.mkdir()
    (armed / "lock_raised").write_text("raise")
    failpoints.use(armed)
    try:
        with pytest.raises(FailpointError):
            seal(shelf, label)
    finally:
        failpoints.use(None)
    all_of_them = len(objects(shelf, label))
    assert seal(shelf, label) == Changed(all_of_them, all_of_them - 1)


def test_a_hold_reaches_every_object_and_is_lifted_from_them_with_the_last_case(shelf: Shelf, label: str) -> None:
    hold(shelf, label)
    hold(shelf, label, "2026/18")
    [first, second] = carry_out(shelf)
    assert all(each.is_on_hold for each in objects(shelf, label))
    count = len(objects(shelf, label))
    assert first.result == {"fiscal_year": label, "is_on_hold": True, "objects": count, "changed": count}
    assert second.result is not None
    assert second.result["changed"] == 0
    lift(shelf, label)
    carry_out(shelf)
    assert all(each.is_on_hold for each in objects(shelf, label))
    lift(shelf, label, "2026/18")
    carry_out(shelf)
    assert not any(each.is_on_hold for each in objects(shelf, label))


def test_a_hold_that_is_placed_while_one_is_being_lifted_stands_in_the_end(
    shelf: Shelf, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(shelf, label)
    carry_out(shelf)
    lift(shelf, label)
    [lifting] = orders(shelf)
    original = retention.carry_out_holds
    once = [True]

    def slowly(*arguments: Any) -> Changed:
        done = original(*arguments)
        if once:
            once.clear()
            hold(shelf, label, "2026/18")
            for placing in orders(shelf):
                if placing != lifting:
                    attempt(shelf, placing)
            for each in objects(shelf, label):  # the one that lifts writes last
                shelf.store.hold(each.key, each.version, False)
        return done

    monkeypatch.setattr(retention, "carry_out_holds", slowly)
    attempt(shelf, lifting)
    assert all(each.is_on_hold for each in objects(shelf, label))


def test_a_held_year_is_not_dropped_and_its_objects_cannot_be_deleted(shelf: Shelf, label: str) -> None:
    closing.decide(shelf.closing, label, STAMP, lambda year: year.verify(STAMP, evidence={}))
    closing.decide(shelf.closing, label, STAMP, lambda year: year.authorize_drop(STAMP, ground=Ground.GRACE))
    hold(shelf, label)
    carry_out(shelf)
    with pytest.raises(ConflictError, match="is held for '2026/17'"):
        closing.decide(shelf.closing, label, STAMP, lambda year: year.drop(STAMP, tables=[]))
    client: Any = boto3.client("s3")
    bucket = str(shelf.place.workshop.settings.archive_url).split("/")[2]
    some = objects(shelf, label)[0]
    refused(
        "AccessDenied",
        lambda: client.delete_object(
            Bucket=bucket, Key=f"books/{some.key}", VersionId=some.version, BypassGovernanceRetention=True
        ),
    )


def test_what_differs_between_the_log_and_the_store_is_told_object_by_object(shelf: Shelf, label: str) -> None:
    def report() -> dict[str, Any]:
        return retention.report(shelf.place.ledger, shelf.store, shelf.year(label))

    there = len(objects(shelf, label))
    assert report()["findings_total"] == there  # it is not sealed: its locks are those of a run
    seal(shelf, label)
    assert report()["findings"] == []
    [generation] = report()["generations"]
    assert (generation["held"], generation["locks"]) == (
        0,
        [{"mode": "COMPLIANCE", "until": RETAINED_UNTIL.isoformat(), "objects": there}],
    )
    some = objects(shelf, label)[0]
    shelf.store.hold(some.key, some.version, True)
    assert report()["findings"] == [f"version {some.version} of {some.key} is on hold, and by the log is not."]
    hold(shelf, label)
    assert report()["findings_total"] == there - 1
    carry_out(shelf)
    assert (report()["findings_total"], report()["holds"]) == (0, ["2026/17"])


def test_garbage_is_what_no_manifest_names_and_no_run_is_about_to(shelf: Shelf, label: str, tmp_path: Path) -> None:
    def found() -> list[str]:
        return [each["key"] for each in garbage(shelf.place.ledger, shelf.store, ORIGIN)["objects"]]

    def put(key: str, data: bytes, lock: Lock | None = None) -> None:
        file = tmp_path / "left"
        file.write_bytes(data)
        shelf.store.put(key, file, sha256_of(data), StorageClass.STANDARD, lock)

    assert found() == []
    given_up = f"{prefix_of(ORIGIN, label, 1)}/data/other/00001-abc.copy.zst"
    put(given_up, b"some", KEPT)
    other = next(years)
    Yard(shelf.place).load(HEADER + lines(other, range(3)))
    closing.close(shelf.closing, label_of(other), STAMP, requested_by="a", end=lambda session, year: None)
    put(f"{prefix_of(ORIGIN, label_of(other), 1)}/data/some/00001-abc.copy.zst", b"under way")
    put(f"{prefix_of('another', label, 1)}/data/some/00001-abc.copy.zst", b"of another ledger")
    [told] = garbage(shelf.place.ledger, shelf.store, ORIGIN)["objects"]
    assert (told["key"], told["locked_until"], told["size_bytes"]) == (given_up, RETAINED_UNTIL.isoformat(), 4)
