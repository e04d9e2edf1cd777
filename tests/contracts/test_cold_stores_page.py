"""The page about cold stores is what the table of deviations says, and the table names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from archive import stores_s3
from tests.cold_stores import DEVIATIONS, PAGE, TABLES, page, promises_of
from tests.s3_servers import S3_SERVERS

# CALL of boto3 -> the permissions that S3 wants for it, with a version, a lock and a checksum.
PERMISSIONS = {
    "head_bucket": ["ListBucket"],
    "get_bucket_versioning": ["GetBucketVersioning"],
    "get_object_lock_configuration": ["GetBucketObjectLockConfiguration"],
    "list_object_versions": ["ListBucketVersions"],
    "put_object": ["PutObject", "PutObjectRetention"],
    "head_object": ["GetObject", "GetObjectVersion", "GetObjectRetention", "GetObjectLegalHold"],
    "get_object": ["GetObject", "GetObjectVersion"],
    "get_object_attributes": ["GetObjectAttributes", "GetObjectVersionAttributes"],
    "put_object_retention": ["PutObjectRetention", "BypassGovernanceRetention"],
    "put_object_legal_hold": ["PutObjectLegalHold"],
    "restore_object": ["RestoreObject"],
}


def test_the_page_names_the_permissions_of_each_call_that_a_cold_store_makes_and_no_other() -> None:
    assert stores_s3.__file__ is not None
    source = Path(stores_s3.__file__).read_text()
    assert set(re.findall(r'_client\.(?:get_paginator\(")?(\w+)', source)) == PERMISSIONS.keys()
    named = set(re.findall(r"`s3:(\w+)`", PAGE.read_text()))
    assert named == {each for permissions in PERMISSIONS.values() for each in permissions}


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text() == page(), "python -m tests.cold_stores writes it"


def test_each_deviation_is_of_a_server_and_a_test_that_there_is() -> None:
    there = {test for file in TABLES for test in promises_of(file)}
    assert {each.test for each in DEVIATIONS} <= there
    assert {each.server for each in DEVIATIONS} <= S3_SERVERS.keys() - {"double"}
    assert len({(each.server, each.test) for each in DEVIATIONS}) == len(DEVIATIONS)
