"""Whatever would stop an archive is found before it is planned, and then nothing has changed, here or in the store."""

from __future__ import annotations

import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.retries.standard import ExponentialBackoff

from archive import closing, preflight
from archive.manifest import parse_manifest
from archive.volume import prefix_of
from archive.year_plan import year_plan
from ledger.application import Ledger
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.domain.year_states import YearState
from tests.integration.archiving import HEADER, ORIGIN, SIGNER, Archive, label_of, lines, new_archive
from tests.integration.place import STAMP, Place
from tests.s3_servers import new_bucket, s3_environment_of
from tests.strict_s3.faults import Fault
from tests.strict_s3.operations import NO_KEY
from tests.strict_s3.server import READER, SECRET, WRITER, StrictS3
from workers.archive_checks import verify_archives
from workers.archiving import archive_fiscal_year, in_the_way, policy_of
from workers.operations import operate
from workers.years import closing_of

YEAR = 2016
PROFILES = f"""\
[{READER}]
aws_access_key_id = {READER}
aws_secret_access_key = {SECRET}
[unknown]
aws_access_key_id = unknown
aws_secret_access_key = {SECRET}
"""


@dataclass
class Closed:
    """A closed year that is to be archived in a bucket of the double."""

    archive: Archive
    label: str
    s3: StrictS3
    planned: dict[str, Any]  # while it was open

    def attempt(self, **settings: Any) -> Operation | None:
        """What a worker makes of it when somebody has the year archived: the operation if it has ended."""
        place = self.place(**settings)
        operation = self.archive.ledger.request(Stage.ARCHIVE_YEAR, {"fiscal_year": self.label}, STAMP)
        place.follow()
        return operate(
            place.workshop, archive_fiscal_year, operation.id, Stage.ARCHIVE_YEAR, time.time(), lambda _: None
        )

    def refused(self, code: str, told: str, **settings: Any) -> None:
        """See that it fails at once, says why and what to do, and that nothing has happened."""
        ended = self.attempt(**settings)
        assert ended is not None, "it is tried again"
        assert ended.error is not None
        assert (ended.error["code"], told in ended.error["message"]) == (code, True), ended.error
        assert ended.error["remedy"]
        self.check_unchanged()

    def check_unchanged(self) -> None:
        assert self.archive.topics(self.label) == ["opened", "closed"]
        for bucket in self.s3.operations.buckets.values():
            assert bucket.all("books/v1/") == []

    def place(self, **settings: Any) -> Place:
        return self.archive.places[0].with_settings(seal_public_keys=str(SIGNER.public), **settings)


@pytest.fixture(scope="module")
def closed(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("closed")
    (folder / "profiles").write_text(PROFILES)
    with StrictS3() as double, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment_of(double.url).items():
            patch.setenv(name, value)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "profiles"))
        patch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)
        archive = new_archive(ledger, folder, f"s3://{new_bucket()}/books", datasets=1)
        archive.load(archive.places[0], HEADER + lines(YEAR, range(20)))
        planned = plan_of(archive)
        yield Closed(archive, archive.close(YEAR), double, planned)


def plan_of(archive: Archive) -> dict[str, Any]:
    settings = archive.places[0].workshop.settings
    closes, policy = closing_of(archive.ledger, settings), policy_of(settings)
    year = closing.known_year(closes, label_of(YEAR), STAMP)
    return year_plan(closes, year, STAMP, policy, in_the_way(closes, settings, year), is_priced=True)


def test_what_a_plan_says_of_an_open_year_is_what_there_is_when_it_is_closed(closed: Closed) -> None:
    then, now = closed.planned, plan_of(closed.archive)
    assert (then["state"], then["next"]) == ("open", f"ledger archive close {closed.label}")
    assert (now["state"], now["next"]) == ("closed", f"ledger archive run {closed.label}")
    assert (now["rows"], now["jobs"], now["files"], now["in_the_way"]) == (20, 1, 1, [])
    changed = {name for name in now if now[name] != then[name]}
    assert changed == {"state", "next", "classes"}, "there is one event more, of its closing"
    assert [each["objects"] for each in now["classes"]] == [each["objects"] for each in then["classes"]]


def test_a_bucket_that_is_not_there_or_keeps_nothing_is_refused(closed: Closed) -> None:
    closed.refused("cold_store_unfit", "is not there", archive_url="s3://nobody-has-made-it/books")
    closed.refused("cold_store_unfit", "has no Object Lock", archive_url=f"s3://{new_bucket(is_locking=False)}/books")
    bucket = closed.s3.operations.buckets[urlsplit(str(closed.place().workshop.settings.archive_url)).netloc]
    bucket.is_versioned = False
    try:
        closed.refused("cold_store_unfit", "keeps no versions")
    finally:
        bucket.is_versioned = True


@pytest.mark.parametrize(("key", "told"), [("unknown", "InvalidAccessKeyId"), (READER, "AccessDenied")])
def test_credentials_that_are_not_known_or_may_only_look_are_refused(
    closed: Closed, monkeypatch: pytest.MonkeyPatch, key: str, told: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
    closed.refused("cold_store_unfit", told)


def test_a_key_of_kms_that_is_not_there_is_refused(closed: Closed) -> None:
    closed.refused("cold_store_unfit", "KMS.NotFoundException", archive_kms_key=NO_KEY)


def test_a_lock_that_cannot_be_raised_is_found_before_there_are_objects(closed: Closed) -> None:
    closed.s3.faults.arm(Fault.FORBIDDEN, "PutObjectRetention")
    closed.refused("cold_store_unfit", "PutObjectRetention", archive_lock_mode="COMPLIANCE")


def test_whoever_verifies_and_may_not_look_is_refused(closed: Closed) -> None:
    closed.refused("cold_store_unfit", "Who verifies archives may not look", archive_verifier_profile="unknown")


IN_THE_WAY = {
    "foreign_key": (
        "CREATE UNIQUE INDEX payment_of_year ON {table} (_job, _record);"
        "CREATE TABLE data.notes (job bigint, record bigint,"
        " FOREIGN KEY (job, record) REFERENCES {table} (_job, _record))",
        "DROP TABLE data.notes; DROP INDEX data.payment_of_year",
        "The foreign key",
    ),
    "default_partition": (
        "CREATE TABLE data.the_rest PARTITION OF {dataset} DEFAULT", "DROP TABLE data.the_rest", "a DEFAULT partition",
    ),
    "type": (
        "CREATE DOMAIN data.digit AS int; ALTER TABLE {dataset} ADD COLUMN odd data.digit",
        "ALTER TABLE {dataset} DROP COLUMN odd; DROP DOMAIN data.digit",
        "has the type data.digit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", IN_THE_WAY)
def test_what_was_made_of_its_tables_since_the_year_was_closed_is_refused(closed: Closed, way: str) -> None:
    made, undone, told = (
        each.format(table=closed.archive.table(closed.label), dataset=f"data.{closed.archive.places[0].dataset}")
        for each in IN_THE_WAY[way]
    )
    change(closed, made)
    try:
        closed.refused("fiscal_year_not_ready", told)
    finally:
        change(closed, undone)


def change(closed: Closed, statements: str) -> None:
    with closed.archive.ledger.transaction() as session:
        session.connection().connection.cursor().execute(statements)


@contextmanager
def sealing(closed: Closed) -> Iterator[None]:
    """Have somebody seal and sign meanwhile."""
    is_over = threading.Event()

    def seal() -> None:
        while not is_over.wait(0.05):
            closed.archive.seal()

    thread = threading.Thread(target=seal)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_too_little_room_in_the_spool_folder_is_refused(closed: Closed, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage(1, 1, 100))
    closed.refused("fiscal_year_not_ready", "has 100 bytes free")


def test_a_store_that_is_away_for_a_while_is_asked_again(closed: Closed) -> None:
    closed.s3.faults.arm(Fault.SLOW_DOWN, times=1_000)
    try:
        assert closed.attempt() is None
    finally:
        closed.s3.faults.disarm()
    closed.check_unchanged()


def test_whoever_verifies_comes_with_credentials_of_his_own_and_for_every_object(closed: Closed) -> None:
    """The last of this file: the year is archived."""
    closed.s3.asked.clear()
    with sealing(closed):
        ended = closed.attempt(archive_verifier_profile=READER)
    assert ended is not None and ended.error is None
    assert closed.archive.year(closed.label).state is YearState.VERIFIED
    looked_at = {target for who, operation, target in closed.s3.asked if (who, operation) == (READER, "HeadObject")}
    prefix = f"books/{prefix_of(ORIGIN, closed.label, 1)}"
    bucket = closed.s3.operations.buckets[urlsplit(str(closed.place().workshop.settings.archive_url)).netloc]
    manifest = parse_manifest(bucket.find(f"{prefix}/MANIFEST.json", None).data)
    assert {f"{prefix}/{entry.key}?versionId={entry.version}" for entry in manifest.objects()} <= looked_at
    assert WRITER in {who for who, _, _ in closed.s3.asked}
    closed.s3.asked.clear()
    workshop = closed.place(archive_verifier_profile=READER).workshop
    assert verify_archives(workshop, lambda told: None, label=closed.label, content=False).holds
    assert {who for who, _, _ in closed.s3.asked} == {READER}
