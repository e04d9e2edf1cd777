"""The contract of a blob store, kept by both: a folder, and a bucket of a server that speaks S3."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from ledger.blobs import ABANDONED_SECONDS, SYNC_BYTES, BlobFile, BlobStore, FolderBlobStore, open_blob_store, put
from ledger.blobs_s3 import S3BlobStore
from ledger.errors import InvalidRequestError, NotFoundError, PartUnavailableError
from tests.disks import small_disk
from tests.faults.faults import fault

DATA = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(DATA).hexdigest()
MEBIBYTE = 1 << 20
TMPFS_BYTES = MEBIBYTE
UNREACHABLE = "http://127.0.0.1:9"  # the discard port, where nobody listens


class FolderFixture:
    """A store in a folder, what stands in it, and how it goes away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: BlobStore = open_blob_store(folder.as_uri())

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def go_away(self) -> None:
        # Not by permissions, which root does not feel: what should be a folder is a file.
        self.folder.rename(self.folder.with_name("away"))
        self.folder.write_text("in the way")


class BucketFixture:
    """A store in a bucket, what stands in it, and how it goes away."""

    def __init__(self) -> None:
        self.bucket = f"ledger-{uuid4().hex}"
        self.client: Any = boto3.client("s3")
        self.client.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        self.store: BlobStore = open_blob_store(f"s3://{self.bucket}/blobs")

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return sorted(item["Key"].removeprefix("blobs/") for item in found)

    def go_away(self) -> None:
        for item in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            self.client.delete_object(Bucket=self.bucket, Key=item["Key"])
        self.client.delete_bucket(Bucket=self.bucket)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> FolderFixture | BucketFixture:
    """Each store in turn, empty."""
    if request.param == "folder":
        return FolderFixture(tmp_path / "blobs")
    request.getfixturevalue("s3_environment")
    return BucketFixture()


def test_the_same_bytes_are_one_blob_under_the_name_of_their_digest(place: FolderFixture | BucketFixture) -> None:
    assert put(place.store, DATA) == SHA256
    assert put(place.store, DATA) == SHA256
    assert put(place.store, b"") == hashlib.sha256(b"").hexdigest()
    empty = hashlib.sha256(b"").hexdigest()
    assert place.names() == sorted([f"{SHA256[:2]}/{SHA256}", f"{empty[:2]}/{empty}"])
    assert place.store.read(SHA256, 0, len(DATA)) == DATA


def test_a_blob_written_in_pieces_counts_them_and_has_the_digest_of_the_whole(
    place: FolderFixture | BucketFixture,
) -> None:
    writer = place.store.writer()
    for start in range(0, len(DATA), 100_000):
        writer.write(DATA[start : start + 100_000])
        assert place.names() == [] or "incoming/" in place.names()[0]
    assert writer.size == len(DATA)
    assert writer.finish() == SHA256
    writer.abort()
    assert place.store.read(SHA256, 0, len(DATA)) == DATA


@pytest.mark.parametrize(
    ("start", "size"),
    [(0, 0), (0, 1), (1, 999), (len(DATA) - 1, 1), (len(DATA) - 5, 100), (len(DATA), 10), (len(DATA) + 7, 10)],
)
def test_a_range_is_what_lies_there_and_ends_with_the_blob(
    place: FolderFixture | BucketFixture, start: int, size: int
) -> None:
    put(place.store, DATA)
    assert place.store.read(SHA256, start, size) == DATA[start : start + size]


def test_a_range_of_an_empty_blob_is_empty(place: FolderFixture | BucketFixture) -> None:
    assert place.store.read(put(place.store, b""), 0, 10) == b""


def test_a_blob_that_is_not_there_is_not_found(place: FolderFixture | BucketFixture) -> None:
    put(place.store, b"something else")
    with pytest.raises(NotFoundError, match=SHA256):
        place.store.read(SHA256, 0, 10)


def test_what_is_aborted_leaves_nothing(place: FolderFixture | BucketFixture) -> None:
    writer = place.store.writer()
    writer.write(DATA)
    writer.abort()
    writer.abort()
    assert place.names() == []
    with pytest.raises(NotFoundError):
        place.store.read(SHA256, 0, 1)


def test_aborting_after_the_end_keeps_the_blob(place: FolderFixture | BucketFixture) -> None:
    put(place.store, DATA)  # it aborts after it finished
    assert place.store.read(SHA256, 0, 10) == DATA[:10]


def test_a_check_of_a_store_that_works_leaves_nothing(place: FolderFixture | BucketFixture) -> None:
    place.store.check()
    assert place.names() == []


def test_a_store_that_is_away_says_so(place: FolderFixture | BucketFixture) -> None:
    put(place.store, DATA)
    place.go_away()
    with pytest.raises(PartUnavailableError) as refused:
        place.store.check()
    assert refused.value.remedy
    with pytest.raises(PartUnavailableError):
        put(place.store, b"more")
    with pytest.raises(PartUnavailableError):
        place.store.read(SHA256, 0, 10)


@pytest.mark.usefixtures("s3_environment")
def test_a_bucket_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", UNREACHABLE)
    store = S3BlobStore("ledger", "")
    for attempt in (store.check, lambda: put(store, DATA), lambda: store.read(SHA256, 0, 10)):
        with pytest.raises(PartUnavailableError, match="ledger"):
            attempt()


def test_a_blob_is_read_and_sought_as_a_file(place: FolderFixture | BucketFixture) -> None:
    put(place.store, DATA)
    file = BlobFile(place.store, SHA256, len(DATA))
    assert file.seek(1000) == file.tell() == 1000
    pieces = [file.read(65_536) for _ in range(3)]
    assert b"".join(pieces) == DATA[1000 : 1000 + 3 * 65_536]
    assert file.seek(-10, io.SEEK_END) == len(DATA) - 10
    assert file.seek(4, io.SEEK_CUR) == len(DATA) - 6
    assert (file.read(), file.read(), file.read(10)) == (DATA[-6:], b"", b"")
    assert file.seek(0) == 0
    assert file.read() == DATA


def test_sweeping_removes_what_is_old_and_unfinished_and_nothing_else(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    put(store, DATA)
    writers = [store.writer() for _ in range(2)]
    for writer in writers:
        writer.write(b"unfinished")
    old, young = sorted((tmp_path / "incoming").iterdir())
    long_ago = time.time() - ABANDONED_SECONDS - 60
    for path in (old, tmp_path / SHA256[:2] / SHA256):
        os.utime(path, (long_ago, long_ago))
    store.sweep()
    assert not old.exists()
    assert young.exists()
    assert store.read(SHA256, 0, len(DATA)) == DATA
    for writer in writers:
        writer.abort()


def test_sweeping_a_store_that_nobody_has_used_does_nothing(tmp_path: Path) -> None:
    FolderBlobStore(tmp_path / "unused").sweep()
    assert not (tmp_path / "unused").exists()


def test_a_blob_is_read_only_and_its_folder_is_not_its_name(tmp_path: Path) -> None:
    put(FolderBlobStore(tmp_path / "with space"), DATA)
    assert open_blob_store((tmp_path / "with space").as_uri()).read(SHA256, 0, 3) == DATA[:3]
    assert (tmp_path / "with space" / SHA256[:2] / SHA256).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("url", ["", "/folder", "ftp://host/folder", "s3://", "file://"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="LEDGER_BLOBS_URL"):
        open_blob_store(url)


def attempts_on_a_full_disk(store: BlobStore) -> list[Callable[[], object]]:
    """As a whole; in pieces; and so that the disk is full only when the last of it leaves the buffer."""

    def in_pieces(sizes: list[int]) -> None:
        writer = store.writer()
        try:
            for size in sizes:
                writer.write(b"x" * size)
            writer.finish()
        finally:
            writer.abort()

    return [
        lambda: put(store, bytes(2 * TMPFS_BYTES)),
        lambda: in_pieces([65_536] * 64),
        lambda: in_pieces([1_000] * 2_000),
        lambda: in_pieces([TMPFS_BYTES - 4096, 4096, 1]),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_is_told_leaves_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = FolderBlobStore(disk / "blobs")
        kept = put(store, b"kept")
        for attempt in attempts_on_a_full_disk(store):
            with pytest.raises(PartUnavailableError, match="No space left on device"):
                attempt()
            assert list((disk / "blobs" / "incoming").iterdir()) == []
        assert store.read(kept, 0, 10) == b"kept"
        assert put(store, bytes(TMPFS_BYTES // 2))


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
@pytest.mark.usefixtures("s3_environment")
def test_a_full_spool_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = BucketFixture()
    with small_disk(tmp_path / "spool") as spool:
        monkeypatch.setattr("tempfile.tempdir", str(spool))
        for attempt in attempts_on_a_full_disk(place.store):
            with pytest.raises(PartUnavailableError, match="No space left on device"):
                attempt()
            assert list(spool.iterdir()) == []
        assert place.names() == []


@fault(
    19,
    "an I/O error of the sync that runs while more comes in",
    protection="the error is kept until the end, for Linux tells it once",
    seen="with the error forgotten: the blob was kept",
)
def test_a_write_back_that_fails_early_fails_the_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells it once, to whoever syncs first: here to the sync that runs while more comes in."""
    told: list[int] = []

    def told_once(descriptor: int) -> None:
        if not told:
            told.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", told_once)
    writer = FolderBlobStore(tmp_path).writer()
    for _ in range(SYNC_BYTES // MEBIBYTE + 1):
        writer.write(bytes(MEBIBYTE))
    with pytest.raises(PartUnavailableError, match="Input/output error"):
        writer.finish()
    writer.abort()
    assert told
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@fault(
    19,
    "an I/O error of the last sync, of the file or of the folder that holds its name",
    protection="a blob is kept only if its last sync succeeds",
    seen="with the error suppressed: the blob was kept",
)
@pytest.mark.parametrize("failing", [1, 2])
def test_a_write_back_that_fails_last_fails_the_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    sync = os.fsync
    synced: list[int] = []

    def fails_once(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == failing:
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_once)
    store = FolderBlobStore(tmp_path)
    with pytest.raises(PartUnavailableError, match="Input/output error"):
        put(store, DATA)
    assert list((tmp_path / "incoming").iterdir()) == []
    assert put(store, DATA) == SHA256
    assert store.read(SHA256, 0, len(DATA)) == DATA
