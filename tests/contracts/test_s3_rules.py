"""The rules of S3 that archives rely on, asked of each server directly: what is tested against it is worth as much.

What a server does otherwise is in `tests/cold_stores.py`, from which docs/cold-stores.md is made.
"""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from tests.contracts.cold_places import DATA, LATER, SOON, Bucket, refused

GOVERNED = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": SOON}
COMPLIANT = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": SOON}
WRITERS = 8


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def test_bytes_with_a_wrong_sha256_are_refused(bucket: Bucket) -> None:
    wrong = base64_of(hashlib.sha256(b"other").digest())
    refused("BadDigest", lambda: bucket.put(ChecksumSHA256=wrong))


def test_bytes_with_a_wrong_md5_are_refused(bucket: Bucket) -> None:
    wrong = base64_of(hashlib.md5(b"other").digest())
    refused("BadDigest", lambda: bucket.put(ContentMD5=wrong))


def test_the_sha256_of_what_is_cold_is_told_without_a_restore(bucket: Bucket) -> None:
    version = bucket.put(StorageClass="DEEP_ARCHIVE")
    expected = base64_of(hashlib.sha256(DATA).digest())
    head = bucket.client.head_object(Bucket=bucket.name, Key="key", VersionId=version, ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == expected
    told = bucket.client.get_object_attributes(
        Bucket=bucket.name, Key="key", VersionId=version, ObjectAttributes=["Checksum", "ObjectSize", "StorageClass"]
    )
    assert (told["Checksum"]["ChecksumSHA256"], told["ObjectSize"]) == (expected, len(DATA))
    assert told["StorageClass"] == "DEEP_ARCHIVE"


def test_the_entity_tag_is_the_md5_of_the_bytes(bucket: Bucket) -> None:
    version = bucket.put()
    head = bucket.client.head_object(Bucket=bucket.name, Key="key", VersionId=version)
    assert head["ETag"] == f'"{hashlib.md5(DATA).hexdigest()}"'


def test_a_put_of_what_is_new_only_is_refused_where_something_is(bucket: Bucket) -> None:
    bucket.put(IfNoneMatch="*")
    refused("PreconditionFailed", lambda: bucket.put(IfNoneMatch="*"))


def test_a_put_of_what_is_new_only_creates_one_version_however_many_try(bucket: Bucket) -> None:
    def attempt(number: int) -> bool:
        try:
            bucket.put(data=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        assert sum(pool.map(attempt, range(WRITERS))) == 1
    assert len(bucket.client.list_object_versions(Bucket=bucket.name)["Versions"]) == 1


def test_a_put_of_what_is_new_only_is_taken_behind_a_delete_marker(bucket: Bucket) -> None:
    bucket.put()
    bucket.client.delete_object(Bucket=bucket.name, Key="key")
    bucket.put(IfNoneMatch="*")


def test_a_version_that_is_locked_in_governance_mode_is_deleted_with_the_bypass_only(bucket: Bucket) -> None:
    version = bucket.put(**GOVERNED)
    refused("AccessDenied", lambda: bucket.delete(version))
    bucket.delete(version, bypass=True)


def test_a_version_that_is_locked_in_compliance_mode_cannot_be_deleted(bucket: Bucket) -> None:
    version = bucket.put(**COMPLIANT)
    refused("AccessDenied", lambda: bucket.delete(version))
    refused("AccessDenied", lambda: bucket.delete(version, bypass=True))


def test_a_version_on_hold_cannot_be_deleted(bucket: Bucket) -> None:
    version = bucket.put(ObjectLockLegalHoldStatus="ON")
    refused("AccessDenied", lambda: bucket.delete(version, bypass=True))


def test_a_locked_object_can_be_hidden(bucket: Bucket) -> None:
    version = bucket.put(**COMPLIANT)
    assert bucket.client.delete_object(Bucket=bucket.name, Key="key")["DeleteMarker"]
    listed = bucket.client.list_object_versions(Bucket=bucket.name)
    assert [each["VersionId"] for each in listed["Versions"]] == [version]
    assert [each["IsLatest"] for each in listed["DeleteMarkers"]] == [True]


def test_a_lock_in_compliance_mode_cannot_be_shortened(bucket: Bucket) -> None:
    version = bucket.put(ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=LATER)
    refused("AccessDenied", lambda: bucket.retain(version, "COMPLIANCE", SOON, bypass=True))
    assert bucket.lock_of(version) == ("COMPLIANCE", LATER)


def test_a_lock_in_compliance_mode_cannot_become_one_in_governance_mode(bucket: Bucket) -> None:
    version = bucket.put(**COMPLIANT)
    refused("AccessDenied", lambda: bucket.retain(version, "GOVERNANCE", LATER, bypass=True))


def test_a_lock_in_governance_mode_is_shortened_with_the_bypass_only(bucket: Bucket) -> None:
    version = bucket.put(ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=LATER)
    refused("AccessDenied", lambda: bucket.retain(version, "GOVERNANCE", SOON))
    bucket.retain(version, "GOVERNANCE", SOON, bypass=True)
    assert bucket.lock_of(version) == ("GOVERNANCE", SOON)


def test_a_lock_is_raised_to_compliance_mode_with_the_bypass_only(bucket: Bucket) -> None:
    version = bucket.put(**GOVERNED)
    refused("AccessDenied", lambda: bucket.retain(version, "COMPLIANCE", SOON))
    bucket.retain(version, "COMPLIANCE", SOON, bypass=True)
    assert bucket.lock_of(version) == ("COMPLIANCE", SOON)


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_lock_of_what_is_cold_is_extended_without_a_bypass(bucket: Bucket, mode: str) -> None:
    version = bucket.put(StorageClass="DEEP_ARCHIVE", ObjectLockMode=mode, ObjectLockRetainUntilDate=SOON)
    bucket.retain(version, mode, LATER)
    assert bucket.lock_of(version) == (mode, LATER)


def test_a_lock_that_has_ended_already_is_refused_by_the_server(bucket: Bucket) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    with pytest.raises(ClientError):
        bucket.put(ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=past)


def test_what_is_cold_is_not_read(bucket: Bucket) -> None:
    for storage_class in ("GLACIER", "DEEP_ARCHIVE"):
        version = bucket.put(StorageClass=storage_class)
        for part in ({}, {"Range": "bytes=0-4"}):
            refused(
                "InvalidObjectState",
                lambda version=version, part=part: bucket.client.get_object(
                    Bucket=bucket.name, Key="key", VersionId=version, **part
                ),
            )


def test_what_is_read_at_once_cannot_be_restored(bucket: Bucket) -> None:
    for storage_class in ("STANDARD", "GLACIER_IR"):
        version = bucket.put(StorageClass=storage_class)
        with pytest.raises(ClientError):
            bucket.restore(version)


def test_an_expedited_restore_from_deep_archive_is_refused(bucket: Bucket) -> None:
    version = bucket.put(StorageClass="DEEP_ARCHIVE")
    with pytest.raises(ClientError):
        bucket.restore(version, "Expedited")


def test_a_second_restore_while_one_is_under_way_is_refused(bucket: Bucket) -> None:
    version = bucket.put(StorageClass="GLACIER")
    assert bucket.restore(version) == 202
    refused("RestoreAlreadyInProgress", lambda: bucket.restore(version))


def test_a_version_is_told_to_be_under_way_from_cold_storage(bucket: Bucket) -> None:
    version = bucket.put(StorageClass="GLACIER")
    bucket.restore(version)
    head = bucket.client.head_object(Bucket=bucket.name, Key="key", VersionId=version)
    assert head.get("Restore") == 'ongoing-request="true"'
    assert head["StorageClass"] == "GLACIER"


def test_a_part_of_a_version_is_read_by_its_range(bucket: Bucket) -> None:
    version = bucket.put()
    answer = bucket.client.get_object(Bucket=bucket.name, Key="key", VersionId=version, Range="bytes=5-9")
    assert (answer["Body"].read(), answer.get("ContentRange")) == (DATA[5:10], f"bytes 5-9/{len(DATA)}")


def test_versions_are_listed_in_pages(bucket: Bucket) -> None:
    put = [(f"key {number}", bucket.put(f"key {number}")) for number in range(3)]
    put.insert(1, ("key 0", put[0][1]))
    put[0] = ("key 0", bucket.put("key 0", b"newer"))
    listed = []
    for page in bucket.client.get_paginator("list_object_versions").paginate(
        Bucket=bucket.name, PaginationConfig={"PageSize": 1}
    ):
        assert len(page["Versions"]) == 1
        listed += [(each["Key"], each["VersionId"]) for each in page["Versions"]]
    assert listed == put


def test_versions_of_a_bucket_with_locks_cannot_be_suspended(bucket: Bucket) -> None:
    refused(
        "InvalidBucketState",
        lambda: bucket.client.put_bucket_versioning(
            Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"}
        ),
    )


def test_a_version_id_that_cannot_be_one_is_a_bad_request(bucket: Bucket) -> None:
    bucket.put()
    refused("400", lambda: bucket.client.head_object(Bucket=bucket.name, Key="key", VersionId="no version of S3"))
