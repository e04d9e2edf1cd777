"""The contract of a cold store, kept by a folder and by buckets of each server that speaks S3.

Where a server is not as S3 is, `tests/cold_stores.py` says so, and its test has to fail.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from archive.stores import (
    Lock,
    LockMode,
    NotRestoredError,
    ObjectDamagedError,
    Restoration,
    StorageClass,
    StoredObject,
    Tier,
    open_cold_store,
)
from ledger.errors import ConflictError, InvalidRequestError, NotFoundError, PartUnavailableError
from tests.contracts.cold_places import (
    COMPLIANT,
    DATA,
    GOVERNED,
    LATER,
    SOON,
    ColdPlace,
    sha256_of,
)
from tests.s3_servers import S3_SERVERS, new_bucket, s3_environment_of

RESTORE_SECONDS_MAX = 60.0
KEY = "v1/fy=2025/gen=0001/data/00001.copy.zst"
BUCKETS_ONLY = pytest.mark.parametrize("place", list(S3_SERVERS), indirect=True)
NOBODY_LISTENS = "http://127.0.0.1:9"


def test_what_was_put_is_found_as_it_was_put(place: ColdPlace) -> None:
    found = place.put(KEY, lock=COMPLIANT)
    assert found == StoredObject(
        KEY, found.version, len(DATA), sha256_of(DATA), StorageClass.STANDARD, COMPLIANT, is_on_hold=False
    )
    assert place.store.head(KEY, found.version) == found
    assert place.read(found) == DATA


def test_an_object_without_bytes_is_one(place: ColdPlace) -> None:
    found = place.put(KEY, b"")
    assert (found.size_bytes, found.sha256) == (0, sha256_of(b""))
    assert place.read(found) == b""


@pytest.mark.parametrize("storage_class", list(StorageClass))
def test_an_object_of_each_class_is_told_with_its_digest_and_its_lock_without_a_restore(
    place: ColdPlace, storage_class: StorageClass
) -> None:
    found = place.put(KEY, storage_class=storage_class, lock=GOVERNED)
    assert (found.storage_class, found.sha256, found.lock) == (storage_class, sha256_of(DATA), GOVERNED)


def test_the_same_bytes_again_are_the_same_version(place: ColdPlace) -> None:
    assert place.put(KEY) == place.put(KEY) == place.put(KEY, storage_class=StorageClass.GLACIER)
    assert len(place.versions()) == 1


def test_other_bytes_under_a_key_are_refused_and_nothing_is_written_over(place: ColdPlace) -> None:
    found = place.put(KEY)
    with pytest.raises(ConflictError, match=KEY):
        place.put(KEY, b"other")
    assert place.versions() == [(KEY, found.version)]
    assert place.read(found) == DATA


def test_a_file_that_is_not_what_its_digest_says_is_not_put(place: ColdPlace) -> None:
    with pytest.raises(ObjectDamagedError, match=sha256_of(b"other")):
        place.put(KEY, DATA, sha256=sha256_of(b"other"))
    assert place.versions() == []


def test_what_is_put_again_gets_the_lock_that_is_asked_for_and_keeps_a_stricter_one(place: ColdPlace) -> None:
    assert place.put(KEY).lock is None
    assert place.put(KEY, lock=GOVERNED).lock == GOVERNED
    assert place.put(KEY, lock=COMPLIANT).lock == COMPLIANT
    assert place.put(KEY, lock=GOVERNED).lock == COMPLIANT
    assert place.put(KEY).lock == COMPLIANT


def test_a_lock_only_becomes_longer_and_stricter(place: ColdPlace) -> None:
    found = place.put(KEY, lock=GOVERNED)
    for lock in (GOVERNED, Lock(LockMode.GOVERNANCE, LATER), Lock(LockMode.COMPLIANCE, LATER)):
        place.store.lock(KEY, found.version, lock)
        assert place.store.head(KEY, found.version).lock == lock
    for less in (COMPLIANT, Lock(LockMode.GOVERNANCE, LATER), Lock(LockMode.GOVERNANCE, SOON)):
        with pytest.raises(ConflictError, match="longer and stricter"):
            place.store.lock(KEY, found.version, less)
    assert place.store.head(KEY, found.version).lock == Lock(LockMode.COMPLIANCE, LATER)


def test_a_lock_of_what_is_cold_is_raised_without_a_restore(place: ColdPlace) -> None:
    found = place.put(KEY, storage_class=StorageClass.DEEP_ARCHIVE, lock=GOVERNED)
    place.store.lock(KEY, found.version, COMPLIANT)
    assert place.store.head(KEY, found.version).lock == COMPLIANT


def test_a_lock_ends_with_a_whole_second_and_not_before_its_time(place: ColdPlace) -> None:
    found = place.put(KEY, lock=Lock(LockMode.GOVERNANCE, SOON + timedelta(microseconds=1)))
    assert found.lock == Lock(LockMode.GOVERNANCE, SOON + timedelta(seconds=1))


def test_a_lock_that_has_ended_already_is_refused(place: ColdPlace) -> None:
    past = Lock(LockMode.GOVERNANCE, datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(InvalidRequestError, match="has ended already"):
        place.put(KEY, lock=past)
    found = place.put(KEY)
    with pytest.raises(InvalidRequestError, match="has ended already"):
        place.store.lock(KEY, found.version, past)
    assert place.store.head(KEY, found.version).lock is None


def test_a_hold_is_placed_and_lifted_and_leaves_the_lock_alone(place: ColdPlace) -> None:
    found = place.put(KEY, lock=COMPLIANT)
    for is_on_hold in (True, True, False, False):
        place.store.hold(KEY, found.version, is_on_hold)
        told = place.store.head(KEY, found.version)
        assert (told.is_on_hold, told.lock) == (is_on_hold, COMPLIANT)


@pytest.mark.parametrize(("start", "size"), [(0, 1), (1, 999), (5, None), (len(DATA) - 5, 100)])
def test_a_range_is_what_lies_there_and_ends_with_the_object(place: ColdPlace, start: int, size: int | None) -> None:
    found = place.put(KEY)
    assert place.read(found, start, size) == DATA[start : len(DATA) if size is None else start + size]


def test_a_range_of_all_is_the_object_and_one_of_nothing_or_behind_its_end_is_empty(place: ColdPlace) -> None:
    found = place.put(KEY)
    assert place.read(found, 0, len(DATA)) == place.read(found, 0, 2 * len(DATA)) == DATA
    assert place.read(found, 0, 0) == place.read(found, len(DATA), 1) == place.read(found, len(DATA) + 7) == b""


def test_an_object_of_several_blocks_is_read_whole(place: ColdPlace) -> None:
    data = DATA * 320
    assert place.read(place.put(KEY, data)) == data


def test_versions_are_listed_by_key_below_a_prefix(place: ColdPlace) -> None:
    keys = ["v1/b/2", "v1/a/é ü", "v1/a/1", "v1/a/10", "v2/x", "v1/a-b"]
    found = {key: place.put(key, key.encode()).version for key in keys}
    assert place.versions("v1/") == [(key, found[key]) for key in sorted(keys) if key.startswith("v1/")]
    assert place.versions("v1/a/1") == [("v1/a/1", found["v1/a/1"]), ("v1/a/10", found["v1/a/10"])]
    assert [each.size_bytes for each in place.store.versions("v2/")] == [4]
    assert place.versions("v3/") == []


def test_a_key_that_begins_like_another_is_another(place: ColdPlace) -> None:
    signature = place.put("v1/MANIFEST.json.sig", b"signature")
    manifest = place.put("v1/MANIFEST.json", b"manifest")
    assert place.put("v1/MANIFEST.json.sig", b"signature") == signature
    assert place.put("v1/MANIFEST.json", b"manifest") == manifest


def test_what_is_not_there_is_not_found(place: ColdPlace) -> None:
    version = place.put("v1/other").version
    for key, asked in ((KEY, version), ("v1/other", "v" + "0" * (len(version) - 1)), ("v1/other", "no such version")):
        for attempt in (
            lambda key=key, asked=asked: place.store.head(key, asked),
            lambda key=key, asked=asked: list(place.store.read(key, asked)),
            lambda key=key, asked=asked: place.store.restore(key, asked, Tier.BULK, 1),
            lambda key=key, asked=asked: place.store.lock(key, asked, GOVERNED),
            lambda key=key, asked=asked: place.store.hold(key, asked, True),
        ):
            with pytest.raises(NotFoundError, match=key):
                attempt()


def test_what_is_cold_is_read_once_it_is_restored(place: ColdPlace) -> None:
    found = place.put(KEY, storage_class=StorageClass.GLACIER)
    if place.has_restores:
        assert found.restoration == Restoration.NONE
        for start, size in ((0, None), (1, 5)):
            with pytest.raises(NotRestoredError, match=KEY):
                place.read(found, start, size)
        place.store.restore(KEY, found.version, Tier.EXPEDITED, 2)
        assert place.store.head(KEY, found.version).restoration != Restoration.NONE
        let_restores_end(place, found)
        told = place.store.head(KEY, found.version)
        assert told.restored_until is not None and told.restored_until > datetime.now(UTC) + timedelta(days=1)
    assert place.store.head(KEY, found.version).restoration == Restoration.READY
    assert place.store.head(KEY, found.version).storage_class == StorageClass.GLACIER
    assert place.read(found) == DATA
    assert place.read(found, 5, 3) == DATA[5:8]


def test_a_restore_is_under_way_until_its_copy_is_there(place: ColdPlace) -> None:
    found = place.put(KEY, storage_class=StorageClass.DEEP_ARCHIVE)
    if place.has_restores:
        assert place.store.restore(KEY, found.version, Tier.BULK, 1) == Restoration.UNDER_WAY
        assert place.store.restore(KEY, found.version, Tier.BULK, 1) == Restoration.UNDER_WAY
        assert place.store.head(KEY, found.version).restoration == Restoration.UNDER_WAY
        with pytest.raises(NotRestoredError, match=KEY):
            place.read(found)
        let_restores_end(place, found)
    assert place.store.restore(KEY, found.version, Tier.BULK, 5) == Restoration.READY


def test_a_restore_of_what_is_read_at_once_is_ready(place: ColdPlace) -> None:
    for storage_class in (StorageClass.STANDARD, StorageClass.GLACIER_IR):
        found = place.put(f"v1/{storage_class}", storage_class=storage_class)
        assert place.store.restore(found.key, found.version, Tier.EXPEDITED, 1) == Restoration.READY
        assert place.read(found) == DATA


def test_a_tier_that_a_class_does_not_have_is_refused(place: ColdPlace) -> None:
    found = place.put(KEY, storage_class=StorageClass.DEEP_ARCHIVE)
    with pytest.raises(InvalidRequestError, match="no expedited restores"):
        place.store.restore(KEY, found.version, Tier.EXPEDITED, 1)
    with pytest.raises(InvalidRequestError, match="0 days"):
        place.store.restore(KEY, found.version, Tier.BULK, 0)
    assert place.store.head(KEY, found.version).restoration in (Restoration.NONE, Restoration.READY)


def test_a_store_in_which_archives_can_be_kept_is_checked_without_a_trace(place: ColdPlace) -> None:
    place.store.check()
    assert place.versions() == []


@BUCKETS_ONLY
def test_a_hidden_object_and_newer_versions_by_somebody_else_change_nothing(place: ColdPlace) -> None:
    found = place.put(KEY)
    place.client.delete_object(Bucket=place.bucket, Key=f"books/{KEY}")
    assert [each.is_delete_marker for each in place.store.versions(KEY)] == [True, False]
    assert place.put(KEY) == found
    assert place.read(found) == DATA
    place.client.put_object(Bucket=place.bucket, Key=f"books/{KEY}", Body=b"other", ChecksumAlgorithm="SHA256")
    assert place.put(KEY) == found
    listed = list(place.store.versions(KEY))
    assert [each.is_latest for each in listed] == [True, False, False]
    assert [each.size_bytes for each in listed if not each.is_delete_marker] == [5, len(DATA)]


@BUCKETS_ONLY
def test_a_bucket_in_which_archives_cannot_be_kept_is_refused(place: ColdPlace) -> None:
    with pytest.raises(InvalidRequestError, match="is not there"):
        open_cold_store("s3://no-such-bucket-of-ours/v1").check()
    with pytest.raises(InvalidRequestError, match="Object Lock"):
        open_cold_store(f"s3://{new_bucket(is_locking=False)}/v1").check()


@BUCKETS_ONLY
def test_an_object_that_somebody_else_put_without_a_digest_is_told(place: ColdPlace) -> None:
    put = place.client.put_object(Bucket=place.bucket, Key=f"books/{KEY}", Body=DATA, ChecksumAlgorithm="CRC32")
    with pytest.raises(ObjectDamagedError, match="no SHA-256"):
        place.store.head(KEY, put["VersionId"])
    with pytest.raises(ObjectDamagedError, match="no SHA-256"):
        place.put(KEY)


def test_a_store_that_cannot_be_reached_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment_of(NOBODY_LISTENS).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "file").write_bytes(DATA)
    for url, version in (("s3://archives/v1", "v1"), ((tmp_path / "file" / "below").as_uri(), "v1")):
        store = open_cold_store(url)
        for attempt in (
            lambda store=store: store.put(KEY, tmp_path / "file", sha256_of(DATA), StorageClass.GLACIER, None),
            lambda store=store, version=version: store.hold(KEY, version, True),
        ):
            with pytest.raises(PartUnavailableError):
                attempt()


@pytest.mark.parametrize("url", ["", "/folder", "ftp://host/folder", "s3://", "file://"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="LEDGER_ARCHIVE_URL"):
        open_cold_store(url)


def let_restores_end(place: ColdPlace, found: StoredObject) -> None:
    """Wait until a copy is there; the double's clock has to be told, and nobody else's can be."""
    if place.double is not None:
        place.double.clock.advance(timedelta(days=2))
    deadline = time.monotonic() + RESTORE_SECONDS_MAX
    while place.store.head(found.key, found.version).restoration != Restoration.READY:
        assert time.monotonic() < deadline, "the restored copy was never there"
        time.sleep(0.2)
