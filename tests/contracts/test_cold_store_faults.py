"""A bucket that fails, at every call and in every way: the answer is right, or it is an error and a retry works.

The calls are found by recording a whole life of an object, so a new one is tested from its first day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.retries.standard import ExponentialBackoff

from archive import stores_s3
from archive.rehearsal import rehearse
from archive.stores import (
    LockMode,
    NotRestoredError,
    ObjectDamagedError,
    Restoration,
    StorageClass,
    StoredObject,
    StoreUnfitError,
    Tier,
    open_cold_store,
)
from ledger.errors import ConflictError, LedgerError, PartUnavailableError
from tests.contracts.cold_places import COMPLIANT, DATA, GOVERNED, ColdPlace, bucket_place, folder_place, sha256_of
from tests.faults.proxy import Direction, FaultProxy
from tests.s3_servers import S3Server
from tests.strict_s3.clock import midnight_after
from tests.strict_s3.faults import Fault
from tests.strict_s3.operations import ALIASES, KEYS_OF_KMS, NO_KEY
from tests.strict_s3.server import READER, StrictS3

KEY = "fy=2025/gen=0001/data/00001.copy.zst"
MEBIBYTE = 1 << 20
ARCHIVERS = 8
KMS_ID = ALIASES["alias/archive"]


@pytest.fixture
def double(s3_environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictS3]:
    """A double of this test's own; nobody pauses before another attempt."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)
    monkeypatch.setattr(stores_s3, "PAUSE_SECONDS", 0)
    with StrictS3() as double:
        s3_environment(double.url)
        yield double


@pytest.fixture
def place(double: StrictS3, tmp_path: Path) -> ColdPlace:
    """An empty bucket of the double."""
    return bucket_place("double", tmp_path, double)


def life(place: ColdPlace) -> StoredObject:
    """All that is ever done to an object, each answer checked; it may begin anywhere, for it was begun before."""
    assert place.double is not None
    place.store.check()
    found = place.put(KEY, storage_class=StorageClass.GLACIER, lock=GOVERNED)
    assert (found.sha256, found.size_bytes, found.storage_class) == (sha256_of(DATA), len(DATA), StorageClass.GLACIER)
    assert found.lock in (GOVERNED, COMPLIANT)
    place.store.lock(KEY, found.version, COMPLIANT)
    place.store.hold(KEY, found.version, True)
    assert place.store.restore(KEY, found.version, Tier.STANDARD, 3) in (Restoration.UNDER_WAY, Restoration.READY)
    place.double.clock.advance(timedelta(hours=5))
    assert place.read(found) == DATA
    if place.read(found, 1000, 5000) != DATA[1000:6000]:
        raise ObjectDamagedError("Who reads a part has its digest, and finds it.")
    place.store.hold(KEY, found.version, False)
    told = place.store.head(KEY, found.version)
    if told.sha256 != found.sha256:
        raise ObjectDamagedError("Who asks what is there has its digest, and finds it.")
    assert (told.sha256, told.lock, told.is_on_hold, told.restoration) == (
        found.sha256, COMPLIANT, False, Restoration.READY,
    )  # fmt: skip
    return told


# What a fault that is no answer at all may be at each call.
AT_ANY_CALL = [
    Fault.LOST_ANSWER,
    Fault.SLOW_DOWN,
    Fault.RESET,
    Fault.FLIPPED_REQUEST,
    Fault.FLIPPED_ANSWER,
    Fault.CUT_ANSWER,
    Fault.GARBLED_ANSWER,
]


@pytest.mark.parametrize("fault", AT_ANY_CALL)
def test_whatever_happens_to_any_call_the_answer_is_right_or_a_retry_makes_the_same_single_version(
    double: StrictS3, tmp_path: Path, fault: Fault
) -> None:
    life(bucket_place("double", tmp_path, double))
    calls = list(double.faults.calls[1:])  # the first made the bucket
    assert {"PutObject", "HeadObject", "GetObject", "ListObjectVersions", "RestoreObject"} <= set(calls)
    for number, call in enumerate(calls):
        place = bucket_place("double", tmp_path, double)
        double.faults.arm(fault, after=number)
        try:
            told = life(place)
        except LedgerError as error:
            assert error.remedy or error.message, (number, call)
            double.faults.disarm()
            told = life(place)
        assert place.versions() == [(KEY, told.version)], (number, call)


@pytest.mark.parametrize("fault", [Fault.PRECONDITION_FAILED, Fault.CONDITIONAL_CONFLICT])
def test_a_put_that_is_refused_for_a_while_is_tried_again(place: ColdPlace, fault: Fault) -> None:
    assert place.double is not None
    place.double.faults.arm(fault, "PutObject", times=stores_s3.ATTEMPTS_MAX - 1)
    found = place.put(KEY)
    assert place.versions() == [(KEY, found.version)]


@pytest.mark.parametrize(
    "fault",
    [Fault.PRECONDITION_FAILED, Fault.CONDITIONAL_CONFLICT, Fault.SLOW_DOWN, Fault.FLIPPED_REQUEST, Fault.RESET],
)
def test_a_put_that_never_works_is_given_up_and_leaves_nothing(place: ColdPlace, fault: Fault) -> None:
    assert place.double is not None
    place.double.faults.arm(fault, "PutObject", times=1_000)
    with pytest.raises(PartUnavailableError, match="archive-"):
        place.put(KEY)
    assert place.double.faults.calls.count("PutObject") <= stores_s3.ATTEMPTS_MAX**2
    place.double.faults.disarm()
    assert place.versions() == []
    assert place.put(KEY).sha256 == sha256_of(DATA)


@pytest.mark.parametrize("fault", [Fault.FLIPPED_REQUEST, Fault.IGNORED, Fault.RESET, Fault.LOST_ANSWER])
def test_a_put_that_fails_once_works_without_anybody_noticing(place: ColdPlace, fault: Fault) -> None:
    assert place.double is not None
    place.double.faults.arm(fault, "PutObject")
    found = place.put(KEY)
    assert place.versions() == [(KEY, found.version)]


def test_a_lock_and_a_hold_that_are_acknowledged_and_not_there_are_told(place: ColdPlace) -> None:
    assert place.double is not None
    found = place.put(KEY)
    place.double.faults.arm(Fault.IGNORED, "PutObjectRetention")
    with pytest.raises(PartUnavailableError, match="did not lock"):
        place.store.lock(KEY, found.version, GOVERNED)
    place.double.faults.arm(Fault.IGNORED, "PutObjectLegalHold")
    with pytest.raises(PartUnavailableError, match="did not place the hold"):
        place.store.hold(KEY, found.version, True)


def test_a_put_whose_answers_are_all_lost_is_found_to_be_done(place: ColdPlace) -> None:
    assert place.double is not None
    place.double.faults.arm(Fault.LOST_ANSWER, "PutObject", times=1_000)
    with pytest.raises(PartUnavailableError):
        place.put(KEY)
    found = place.put(KEY)
    assert place.versions() == [(KEY, found.version)]


def test_a_read_that_is_cut_again_and_again_goes_on_and_one_that_stands_still_ends(place: ColdPlace) -> None:
    assert place.double is not None
    data = DATA * 500
    found = place.put(KEY, data)
    place.double.faults.arm(Fault.CUT_ANSWER, "GetObject", times=2)
    assert place.read(found) == data
    place.double.faults.arm(Fault.SLOW_DOWN, "GetObject", times=1_000)
    with pytest.raises(PartUnavailableError, match="SlowDown"):
        place.read(found)
    place.double.faults.arm(Fault.SHORT_ANSWER, "GetObject", times=1_000)
    with pytest.raises(PartUnavailableError, match="did not read"):
        place.read(found)


def test_bytes_that_are_changed_on_their_way_here_are_not_taken_for_the_object(place: ColdPlace) -> None:
    assert place.double is not None
    found = place.put(KEY)
    place.double.faults.arm(Fault.FLIPPED_ANSWER, "GetObject", times=1_000)
    with pytest.raises(ObjectDamagedError, match="another SHA-256"):
        place.read(found)


def test_a_byte_that_is_changed_before_a_server_that_does_not_check_is_found_after_the_put(
    s3_server: Callable[[str], S3Server], s3_environment: Callable[[str], None], tmp_path: Path
) -> None:
    server = s3_server("moto")
    port = urlsplit(server.url).port
    assert port is not None
    with FaultProxy(port) as proxy:
        s3_environment(f"http://127.0.0.1:{proxy.port}")
        place = bucket_place("moto", tmp_path)
        for storage_class in (StorageClass.STANDARD, StorageClass.DEEP_ARCHIVE):
            proxy.flip_byte(Direction.TO_UPSTREAM, after_bytes=MEBIBYTE // 2)
            with pytest.raises(ObjectDamagedError, match="does not hold what was put"):
                place.put(f"{storage_class}", bytes(MEBIBYTE), storage_class)
            with pytest.raises(ObjectDamagedError, match="does not hold what was put"):
                place.put(f"{storage_class}", bytes(MEBIBYTE), storage_class)
        assert place.put("whole", bytes(MEBIBYTE)).sha256 == sha256_of(bytes(MEBIBYTE))


def test_several_archivers_at_once_make_one_version(place: ColdPlace, tmp_path: Path) -> None:
    for each in (place, folder_place(tmp_path)):
        file = tmp_path / "part"
        file.write_bytes(DATA)
        with ThreadPoolExecutor(ARCHIVERS) as pool:
            puts = [
                pool.submit(each.store.put, KEY, file, sha256_of(DATA), StorageClass.GLACIER, GOVERNED)
                for _ in range(ARCHIVERS)
            ]
        assert len({put.result() for put in puts}) == 1
        assert len(each.versions()) == 1


def test_a_server_that_is_none_of_s3_is_told(place: ColdPlace) -> None:
    assert place.double is not None
    place.double.faults.arm(Fault.GARBLED_ANSWER, times=1_000)
    for attempt in (place.store.check, lambda: place.put(KEY), place.versions):
        with pytest.raises(PartUnavailableError, match="archive-"):
            attempt()


def test_credentials_that_may_only_look_do_that_and_no_more(place: ColdPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    found = place.put(KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
    auditor = open_cold_store(f"s3://{place.bucket}/books")
    assert auditor.head(KEY, found.version) == found
    assert b"".join(auditor.read(KEY, found.version)) == DATA
    for refused in (
        lambda: auditor.lock(KEY, found.version, GOVERNED),
        lambda: auditor.hold(KEY, found.version, True),
        lambda: auditor.put("other", place.scratch / "file", sha256_of(DATA), StorageClass.STANDARD, None),
    ):
        with pytest.raises(StoreUnfitError, match="AccessDenied"):
            refused()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "guessed", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "", "credentials"),
    ],
    ids=["unknown", "wrong", "none"],
)
def test_credentials_that_are_none_are_told_as_such_and_not_as_a_store_that_is_away(
    place: ColdPlace, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    assert place.double is not None
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    before = len(place.double.faults.calls)
    with pytest.raises(StoreUnfitError, match=code) as refused:
        open_cold_store(f"s3://{place.bucket}/books").check()
    assert "docs/cold-stores.md" in refused.value.remedy
    assert len(place.double.faults.calls) - before <= 1, "it is not asked again"


def test_a_key_of_kms_that_is_not_there_is_told(place: ColdPlace) -> None:
    with pytest.raises(StoreUnfitError, match="NotFoundException"):
        put_under(place, NO_KEY)
    assert place.versions() == []


@pytest.mark.parametrize("mode", LockMode)
def test_a_rehearsal_does_all_that_an_archive_does_and_each_puts_an_object(
    place: ColdPlace, tmp_path: Path, mode: LockMode
) -> None:
    assert place.double is not None
    now = datetime.now(UTC)
    for name in ("one", "two"):
        kept = rehearse(place.store, place.store, name=name, mode=mode, now=now, scratch=tmp_path)
        assert kept.lock is not None
        assert (kept.storage_class, kept.lock.mode, kept.is_on_hold) == (StorageClass.STANDARD, mode, False)
        assert now < kept.lock.until < now + timedelta(hours=3)
    assert [key for key, _ in place.versions()] == ["rehearsals/one", "rehearsals/two"]
    of_archives = {"PutObject", "PutObjectRetention", "PutObjectLegalHold", "GetObject", "HeadObject"}
    assert of_archives <= set(place.double.faults.calls)


def test_a_rehearsal_that_is_forbidden_something_names_it(place: ColdPlace, tmp_path: Path) -> None:
    assert place.double is not None
    now = datetime.now(UTC)
    for operation in ("PutObject", "PutObjectRetention", "PutObjectLegalHold", "GetObject", "ListObjectVersions"):
        place.double.faults.arm(Fault.FORBIDDEN, operation)
        with pytest.raises(StoreUnfitError, match=operation):
            rehearse(place.store, place.store, name=operation, mode=LockMode.COMPLIANCE, now=now, scratch=tmp_path)


def test_whoever_verifies_and_looks_elsewhere_is_found_by_a_rehearsal(place: ColdPlace, tmp_path: Path) -> None:
    elsewhere, now = folder_place(tmp_path).store, datetime.now(UTC)
    with pytest.raises(StoreUnfitError, match="does not find rehearsals/one"):
        rehearse(place.store, elsewhere, name="one", mode=LockMode.GOVERNANCE, now=now, scratch=tmp_path)


def put_under(place: ColdPlace, kms_key: str | None) -> StoredObject:
    """Put the same object with another setting."""
    store = open_cold_store(f"s3://{place.bucket}/books", kms_key)
    (place.scratch / "file").write_bytes(DATA)
    return store.put(KEY, place.scratch / "file", sha256_of(DATA), StorageClass.STANDARD, None)


@pytest.mark.parametrize("kms_key", [KMS_ID, f"{KEYS_OF_KMS}{KMS_ID}", "alias/archive"])
def test_objects_are_encrypted_under_the_key_that_is_asked_for(place: ColdPlace, kms_key: str) -> None:
    assert place.double is not None and place.bucket is not None
    found = put_under(place, kms_key)
    kept = place.double.operations.buckets[place.bucket].find(f"books/{KEY}", found.version)
    assert kept.kms_key == f"{KEYS_OF_KMS}{KMS_ID}"
    assert place.read(found) == DATA
    assert put_under(place, kms_key) == put_under(place, None) == found


@pytest.mark.parametrize("kms_key", [f"2{KMS_ID[1:]}", None])
def test_an_object_that_is_encrypted_under_another_key_is_not_taken_for_ours(
    place: ColdPlace, kms_key: str | None
) -> None:
    found = put_under(place, kms_key)
    with pytest.raises(ConflictError, match=f"not encrypted under {KMS_ID}"):
        put_under(place, KMS_ID)
    assert place.versions() == [(KEY, found.version)]


@pytest.mark.parametrize(
    ("storage_class", "tier", "takes"),
    [
        (StorageClass.GLACIER, Tier.EXPEDITED, timedelta(minutes=5)),
        (StorageClass.GLACIER, Tier.STANDARD, timedelta(hours=5)),
        (StorageClass.DEEP_ARCHIVE, Tier.STANDARD, timedelta(hours=12)),
        (StorageClass.DEEP_ARCHIVE, Tier.BULK, timedelta(hours=48)),
    ],
)
def test_a_restored_copy_is_there_when_its_tier_says_and_gone_at_the_midnight_that_was_told(
    place: ColdPlace, storage_class: StorageClass, tier: Tier, takes: timedelta
) -> None:
    assert place.double is not None
    clock = place.double.clock
    found = place.put(KEY, storage_class=storage_class)
    assert place.store.restore(KEY, found.version, tier, 2) == Restoration.UNDER_WAY
    clock.advance(takes - timedelta(seconds=1))
    assert place.store.head(KEY, found.version).restoration == Restoration.UNDER_WAY
    clock.advance(timedelta(seconds=1))
    told = place.store.head(KEY, found.version)
    assert (told.restoration, told.restored_until) == (Restoration.READY, midnight_after(clock.now + timedelta(days=2)))
    assert place.store.restore(KEY, found.version, tier, 4) == Restoration.READY
    until = place.store.head(KEY, found.version).restored_until
    assert until == midnight_after(clock.now + timedelta(days=4))
    clock.advance(until - clock.now - timedelta(seconds=1))
    assert place.read(found) == DATA
    clock.advance(timedelta(seconds=1))
    assert place.store.head(KEY, found.version).restoration == Restoration.NONE
    with pytest.raises(NotRestoredError, match=KEY):
        place.read(found)


def test_a_restore_that_is_too_slow_is_asked_for_again_by_a_faster_tier(place: ColdPlace) -> None:
    assert place.double is not None
    found = place.put(KEY, storage_class=StorageClass.GLACIER)
    for tier in (Tier.BULK, Tier.EXPEDITED, Tier.STANDARD):
        assert place.store.restore(KEY, found.version, tier, 1) == Restoration.UNDER_WAY
    place.double.clock.advance(timedelta(minutes=5))
    assert place.read(found) == DATA


def test_an_expedited_restore_without_capacity_is_told_and_another_tier_works(place: ColdPlace) -> None:
    assert place.double is not None and place.bucket is not None
    place.double.operations.buckets[place.bucket].has_expedited_capacity = False
    found = place.put(KEY, storage_class=StorageClass.GLACIER)
    with pytest.raises(PartUnavailableError, match="no capacity"):
        place.store.restore(KEY, found.version, Tier.EXPEDITED, 1)
    assert place.store.restore(KEY, found.version, Tier.STANDARD, 1) == Restoration.UNDER_WAY


def test_a_copy_that_goes_while_it_is_read_is_an_error_and_not_an_end(place: ColdPlace) -> None:
    assert place.double is not None
    data = DATA * 500
    found = place.put(KEY, data, StorageClass.GLACIER)
    place.store.restore(KEY, found.version, Tier.STANDARD, 1)
    place.double.clock.advance(timedelta(hours=6))
    place.double.faults.arm(Fault.CUT_ANSWER, "GetObject")
    blocks = place.store.read(KEY, found.version)
    assert next(blocks)
    place.double.clock.advance(timedelta(days=3))
    with pytest.raises(NotRestoredError, match=KEY):
        list(blocks)
