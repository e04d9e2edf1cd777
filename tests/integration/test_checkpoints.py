"""The contract of a place for checkpoints, kept by both: a folder, and a bucket with Object Lock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from ledger.checkpoints import CheckpointStore, open_checkpoint_store
from ledger.errors import ConflictError, InvalidRequestError, PartUnavailableError
from ledger.settings import Settings

DAYS_LOCKED = 30


def in_bucket(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    request.getfixturevalue("s3_environment")
    bucket = f"checkpoints-{uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(
        Bucket=bucket,
        CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        ObjectLockEnabledForBucket=True,
    )
    return f"s3://{bucket}/books"


def in_folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (tmp_path / "checkpoints").as_uri()


@pytest.fixture(params=[in_folder, in_bucket], ids=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    where: Callable[[pytest.FixtureRequest, Path], str] = request.param
    return where(request, tmp_path)


def opened(url: str) -> CheckpointStore:
    store = open_checkpoint_store(Settings(checkpoints_url=url, checkpoint_days_locked=DAYS_LOCKED))
    assert store is not None
    return store


def test_what_was_kept_is_found_in_the_order_of_sizes(url: str) -> None:
    store = opened(url)
    assert store.sizes() == []
    for size in (100, 3, 20_000_000_000):
        store.add(size, f"{size} \u2014\n".encode())
    assert opened(url).sizes() == [3, 100, 20_000_000_000]
    assert store.read(100) == "100 \u2014\n".encode()


def test_another_checkpoint_of_the_same_size_is_refused_and_the_same_is_not(url: str) -> None:
    store = opened(url)
    store.add(3, b"one")
    store.add(3, b"one")
    with pytest.raises(ConflictError, match="Two histories"):
        store.add(3, b"another")
    assert store.read(3) == b"one"


def test_a_checkpoint_in_a_bucket_is_locked(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = in_bucket(request, tmp_path)
    opened(url).add(3, b"one")
    client: Any = boto3.client("s3")
    bucket = url.split("/")[2]
    found = client.head_object(Bucket=bucket, Key="books/0000000000000003.checkpoint")
    assert found["ObjectLockMode"] == "COMPLIANCE"
    assert found["ObjectLockRetainUntilDate"] > datetime.now(UTC) + timedelta(days=DAYS_LOCKED - 1)


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path, s3_environment: None) -> None:
    (tmp_path / "file").write_text("no folder")
    for url in ((tmp_path / "file" / "inside").as_uri(), "s3://no-such-bucket/books"):
        with pytest.raises(PartUnavailableError, match="cannot be used"):
            opened(url).add(3, b"one")
    with pytest.raises(InvalidRequestError, match="Give file:///folder or s3://bucket/prefix"):
        opened("ftp://somewhere")
    assert open_checkpoint_store(Settings()) is None
