"""Cold stores that a suite runs against: a folder, and a bucket of each server that speaks S3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from archive.stores import ColdStore, Lock, LockMode, StorageClass, StoredObject, open_cold_store
from tests.s3_servers import new_bucket
from tests.strict_s3.server import StrictS3

DATA = bytes(range(256)) * 40
SOON = datetime(2040, 1, 1, tzinfo=UTC)
LATER = datetime(2045, 1, 1, tzinfo=UTC)
GOVERNED = Lock(LockMode.GOVERNANCE, SOON)
COMPLIANT = Lock(LockMode.COMPLIANCE, SOON)


def sha256_of(data: bytes) -> str:
    """The name of some bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class ColdPlace:
    """A store, empty, and where it lies: in a folder, or in a bucket."""

    kind: str
    store: ColdStore
    scratch: Path
    folder: Path | None = None
    bucket: str | None = None
    double: StrictS3 | None = None

    @property
    def has_restores(self) -> bool:
        """Whether what is cold has to be restored."""
        return self.folder is None

    @property
    def client(self) -> Any:
        """A client of its own, for what somebody else does to the bucket."""
        return boto3.client("s3")

    def put(
        self,
        key: str,
        data: bytes = DATA,
        storage_class: StorageClass = StorageClass.STANDARD,
        lock: Lock | None = None,
        *,
        sha256: str | None = None,
    ) -> StoredObject:
        """Put some bytes."""
        file = self.scratch / "file"
        file.write_bytes(data)
        return self.store.put(key, file, sha256 or sha256_of(data), storage_class, lock)

    def read(self, found: StoredObject, start: int = 0, size: int | None = None) -> bytes:
        """The bytes of a version."""
        return b"".join(self.store.read(found.key, found.version, start, size))

    def versions(self, prefix: str = "") -> list[tuple[str, str]]:
        """The keys and versions that are listed."""
        return [(each.key, each.version) for each in self.store.versions(prefix)]


def folder_place(scratch: Path) -> ColdPlace:
    """A store in a folder that is not there yet."""
    folder = scratch / "cold store"
    return ColdPlace("folder", open_cold_store(folder.as_uri()), scratch, folder=folder)


def bucket_place(kind: str, scratch: Path, double: StrictS3 | None = None, prefix: str = "/books") -> ColdPlace:
    """A store in a new bucket of the server that the environment names."""
    bucket = new_bucket()
    return ColdPlace(kind, open_cold_store(f"s3://{bucket}{prefix}"), scratch, bucket=bucket, double=double)


class Bucket:
    """A new bucket of the server that the environment names, and what S3 is asked there, not by a cold store."""

    def __init__(self) -> None:
        self.name = new_bucket()
        self.client: Any = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))

    def put(self, key: str = "key", data: bytes = DATA, **values: Any) -> str:
        """Put some bytes; their version."""
        values = {"ChecksumAlgorithm": "SHA256", **values}
        version: str = self.client.put_object(Bucket=self.name, Key=key, Body=data, **values)["VersionId"]
        return version

    def retain(self, version: str, mode: str, until: datetime, *, bypass: bool = False, key: str = "key") -> None:
        """Lock a version."""
        self.client.put_object_retention(
            Bucket=self.name, Key=key, VersionId=version, BypassGovernanceRetention=bypass,
            Retention={"Mode": mode, "RetainUntilDate": until}, ChecksumAlgorithm="SHA256",
        )  # fmt: skip

    def delete(self, version: str, *, bypass: bool = False) -> None:
        """Delete a version for good."""
        self.client.delete_object(Bucket=self.name, Key="key", VersionId=version, BypassGovernanceRetention=bypass)

    def restore(self, version: str, tier: str = "Standard", days: int = 1) -> int:
        """Ask for a restored copy; the status of the answer."""
        answer = self.client.restore_object(
            Bucket=self.name, Key="key", VersionId=version, ChecksumAlgorithm="SHA256",
            RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": tier}},
        )  # fmt: skip
        status: int = answer["ResponseMetadata"]["HTTPStatusCode"]
        return status

    def lock_of(self, version: str) -> tuple[str, datetime]:
        """The mode and the end of a lock."""
        head = self.client.head_object(Bucket=self.name, Key="key", VersionId=version)
        return head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]


def refused(code: str, call: Callable[[], object]) -> None:
    """Assert that a call is refused with a code of S3."""
    with pytest.raises(ClientError) as refusal:
        call()
    assert refusal.value.response["Error"]["Code"] == code
