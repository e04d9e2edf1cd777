"""Whatever is done to an archive, the verifier and the auditor's script find it, and name the object."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from archive.stores import StorageClass
from archive.verifier import VerifiedArchive, verify_archive
from tests.archive_tampering import BEFORE, OF_MANIFESTS, OF_OBJECTS, PAGE, OfManifest, OfObject, Owner, page
from tests.archives import SIGNER, Archive, Archiver
from tests.contracts.archive_script import verify_by_script
from tests.contracts.cold_places import ColdPlace, bucket_place
from tests.s3_servers import s3_environment_of
from tests.strict_s3.objects import Bucket
from tests.strict_s3.server import StrictS3


@dataclass
class Kept:
    """Three archives in a bucket, each of which goes on from the one before, and the bucket as it was."""

    place: ColdPlace
    archives: list[Archive]
    bucket: Bucket

    def owner(self) -> Owner:
        """Whoever owns the bucket, as it was."""
        assert self.place.double is not None and self.place.bucket is not None
        bucket = copy.deepcopy(self.bucket)
        self.place.double.operations.buckets[self.place.bucket] = bucket
        return Owner(bucket, "books", self.archives[1], self.archives[2], self.archives[0])

    def verified(self, archive: Archive, *, content: bool = False) -> VerifiedArchive:
        """What the verifier finds."""
        return verify_archive(self.place.store, archive.prefix, [SIGNER.public], content=content)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with pytest.MonkeyPatch.context() as patch, StrictS3() as double:
        for name, value in s3_environment_of(double.url).items():
            patch.setenv(name, value)
        place = bucket_place("double", tmp_path_factory.mktemp("archives"), double)
        archiver = Archiver(place.store, place.scratch, StorageClass.GLACIER_IR)
        archives = [archiver.archive(year) for year in ("FY2023-24", "FY2024-25", "FY2025-26")]
        assert place.bucket is not None
        yield Kept(place, archives, double.operations.buckets[place.bucket])


def test_nothing_is_found_where_nothing_was_done(kept: Kept) -> None:
    owner = kept.owner()
    found = kept.verified(owner.archive, content=True)
    assert (found.holds, found.findings) == (True, [])
    assert found.evidence["manifest_sha256"] == owner.archive.sha256
    assert found.evidence["locked_until"] == owner.archive.manifest.policy.retain_until


@pytest.mark.parametrize("done", OF_OBJECTS, ids=lambda done: done.what)
def test_what_is_done_to_an_object_is_found_and_the_object_named(kept: Kept, done: OfObject) -> None:
    owner = kept.owner()
    names = [entry.key for entry in owner.archive.manifest.objects()]
    for name in names:
        done.do(owner, name)
    if done.needs_content:
        assert kept.verified(owner.archive).holds
    found = kept.verified(owner.archive, content=done.needs_content)
    assert not found.holds
    told = {finding.object for finding in found.findings if finding.code == done.code}
    assert told == {f"{owner.archive.prefix}/{name}" for name in names}


@pytest.mark.parametrize("done", OF_MANIFESTS, ids=lambda done: done.what)
def test_what_is_done_to_a_manifest_is_found(kept: Kept, done: OfManifest) -> None:
    owner = kept.owner()
    done.do(owner)
    found = kept.verified(owner.archive)
    assert [(finding.code, finding.object) for finding in found.findings[:1]] == [
        (done.code, _object(owner, done.name))
    ]


@pytest.mark.parametrize("done", OF_OBJECTS, ids=lambda done: done.what)
def test_the_script_finds_what_is_done_to_an_object_and_names_it(kept: Kept, done: OfObject) -> None:
    owner = kept.owner()
    names = [entry.key for entry in owner.archive.manifest.objects()]
    for name in names:
        done.do(owner, name)
    if done.needs_content:
        assert verify_by_script(kept.place, owner.archive.prefix, content=False)[0] == 0
    ended, lines = verify_by_script(kept.place, owner.archive.prefix, content=done.needs_content)
    assert ended == 1
    wrong = [line for line in lines if line.startswith("WRONG") and done.said in line]
    assert {line.split()[1] for line in wrong} == set(names), lines


@pytest.mark.parametrize("done", OF_MANIFESTS, ids=lambda done: done.what)
def test_the_script_finds_what_is_done_to_a_manifest(kept: Kept, done: OfManifest) -> None:
    owner = kept.owner()
    done.do(owner)
    ended, lines = verify_by_script(kept.place, owner.archive.prefix, content=False)
    assert ended == 1
    wrong = [line for line in lines if line.startswith("WRONG")]
    assert any(done.name.removeprefix(BEFORE) in line and done.said in line for line in wrong), lines


def test_the_page_of_what_is_done_to_archives_is_that_of_the_table() -> None:
    assert PAGE.read_text() == page()


def _object(owner: Owner, name: str) -> str:
    if name.startswith(BEFORE):
        return f"{owner.before.prefix}/{name.removeprefix(BEFORE)}"
    return f"{owner.archive.prefix}/{name}"
