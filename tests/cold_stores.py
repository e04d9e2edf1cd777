"""`python -m tests.cold_stores` writes docs/cold-stores.md: what archives rely on, and who does otherwise.

Each promise is a test (`tests/contracts/test_s3_rules.py`, `test_cold_store.py`) that runs against every server. Where
a server is said here to do otherwise its test has to fail, so that the page is never behind.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

CONTRACTS = Path(__file__).parent / "contracts"
PAGE = Path(__file__).parents[1] / "docs" / "cold-stores.md"


class Deviation(NamedTuple):
    """What a server does otherwise than S3, and the test that finds it."""

    server: str
    test: str
    what: str


DEVIATIONS = [
    Deviation("moto", "test_bytes_with_a_wrong_sha256_are_refused", "takes them, and tells that digest"),
    Deviation("moto", "test_bytes_with_a_wrong_md5_are_refused", "takes them"),
    Deviation(
        "moto", "test_a_version_that_is_locked_in_governance_mode_is_deleted_with_the_bypass_only", "deletes it without"
    ),
    Deviation("moto", "test_a_lock_in_compliance_mode_cannot_be_shortened", "shortens it"),
    Deviation("moto", "test_a_lock_in_compliance_mode_cannot_become_one_in_governance_mode", "changes its mode"),
    Deviation("moto", "test_a_lock_in_governance_mode_is_shortened_with_the_bypass_only", "shortens it without"),
    Deviation("moto", "test_a_lock_is_raised_to_compliance_mode_with_the_bypass_only", "raises it without"),
    Deviation("moto", "test_a_lock_that_has_ended_already_is_refused_by_the_server", "takes it"),
    Deviation("moto", "test_an_expedited_restore_from_deep_archive_is_refused", "restores"),
    Deviation("moto", "test_a_second_restore_while_one_is_under_way_is_refused", "has restored at once"),
    Deviation("moto", "test_a_version_is_told_to_be_under_way_from_cold_storage", "has restored at once"),
    Deviation("moto", "test_a_restore_is_under_way_until_its_copy_is_there", "has restored at once"),
    Deviation("moto", "test_versions_of_a_bucket_with_locks_cannot_be_suspended", "suspends them"),
    Deviation("moto", "test_a_version_id_that_cannot_be_one_is_a_bad_request", "has no such version"),
    Deviation("ministack", "test_a_lock_is_raised_to_compliance_mode_with_the_bypass_only", "raises it without"),
    Deviation("ministack", "test_a_lock_that_has_ended_already_is_refused_by_the_server", "takes it"),
    Deviation("ministack", "test_an_expedited_restore_from_deep_archive_is_refused", "restores"),
    Deviation("ministack", "test_a_version_is_told_to_be_under_way_from_cold_storage", "says nothing of it"),
    Deviation("ministack", "test_a_restore_is_under_way_until_its_copy_is_there", "says nothing of it"),
    Deviation("ministack", "test_what_is_cold_is_read_once_it_is_restored", "does not say that it is restored"),
    Deviation("ministack", "test_a_part_of_a_version_is_read_by_its_range", "answers with the whole"),
    Deviation("ministack", "test_a_range_is_what_lies_there_and_ends_with_the_object", "answers with the whole"),
    Deviation("ministack", "test_versions_of_a_bucket_with_locks_cannot_be_suspended", "suspends them"),
    Deviation("ministack", "test_a_version_id_that_cannot_be_one_is_a_bad_request", "has no such version"),
]

INTRODUCTION = """\
# What archives rely on, and who does it

Each line is a test. It runs against a strict double of S3 of our own (`tests/strict_s3`), against moto and against
MiniStack; those of the second table against a folder, too. Our double does all of it as S3 documents it. A server that
does otherwise has to fail the test, or the test itself fails. Written by `python -m tests.cold_stores`; do not edit.

A bucket for archives keeps versions and has Object Lock. Who archives needs `s3:ListBucket`, `s3:ListBucketVersions`,
`s3:GetBucketVersioning`, `s3:GetBucketObjectLockConfiguration`, `s3:PutObject`, `s3:GetObject`, `s3:GetObjectVersion`,
`s3:GetObjectAttributes`, `s3:GetObjectVersionAttributes`, `s3:PutObjectRetention`, `s3:GetObjectRetention`,
`s3:PutObjectLegalHold`, `s3:GetObjectLegalHold`, `s3:RestoreObject`, and, if archives are locked in compliance mode,
`s3:BypassGovernanceRetention`, without which S3 does not change the mode of a lock. Who verifies needs those that get
and list, and `s3:RestoreObject`. With a key of KMS, both need `kms:Decrypt`, and who archives `kms:GenerateDataKey`.
The API needs to get and to list as well: it looks at the bucket when somebody asks for a year to be closed or archived.

Nobody needs to delete. Before each archive is planned one object of some 150 bytes is put under `rehearsals/`, locked
for two hours, to see whether all of this is allowed (`archive/rehearsal.py`). A rule of the bucket may let what lies
there expire.
"""
TABLES = {
    "test_s3_rules.py": "What S3 does",
    "test_cold_store.py": "What a cold store of ours does",
}


def page() -> str:
    """The whole of docs/cold-stores.md."""
    return INTRODUCTION + "".join(_table(file, title) for file, title in TABLES.items())


def promises_of(file: str) -> list[str]:
    """The tests of a suite that run against every server, in their order."""
    functions = [each for each in ast.parse((CONTRACTS / file).read_text()).body if isinstance(each, ast.FunctionDef)]
    return [
        each.name
        for each in functions
        if each.name.startswith("test_") and {"bucket", "place"} & {argument.arg for argument in each.args.args}
    ]


def _table(file: str, title: str) -> str:
    lines = [f"\n## {title}\n\n| promise | moto | MiniStack |\n|---|---|---|\n"]
    for test in promises_of(file):
        promise = test.removeprefix("test_").replace("_", " ")
        lines.append(f"| {promise} | {_told('moto', test)} | {_told('ministack', test)} |\n")
    return "".join(lines)


def _told(server: str, test: str) -> str:
    found = [each.what for each in DEVIATIONS if (each.server, each.test) == (server, test)]
    return found[0] if found else "yes"


if __name__ == "__main__":
    PAGE.write_text(page())
