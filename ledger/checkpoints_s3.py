"""Checkpoints as objects of an S3 bucket, locked for as long as the settings say.

With Object Lock in compliance mode nobody can remove one before its time, not even who owns the account. The bucket has
to be made with Object Lock. Credentials and region are boto3's customary ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from ledger import blobs_s3
from ledger.checkpoints import name_of, refuse_another, size_in
from ledger.errors import PartUnavailableError

EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")


class S3CheckpointStore:
    """Keeps checkpoints in a bucket. See `ledger.checkpoints.CheckpointStore`."""

    def __init__(self, bucket: str, prefix: str, days_locked: int) -> None:
        self._client = boto3.client("s3", config=blobs_s3.CONFIG)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._days_locked = days_locked

    def sizes(self) -> list[int]:
        """See `CheckpointStore`."""
        with self._unavailable_as_error():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        sizes = (size_in(key.removeprefix(self._prefix)) for key in keys)
        return sorted(size for size in sizes if size is not None)

    def read(self, size: int) -> bytes:
        """See `CheckpointStore`."""
        with self._unavailable_as_error():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name_of(size))
            data: bytes = answer["Body"].read()
        return data

    def add(self, size: int, note: bytes) -> None:
        """See `CheckpointStore`."""
        lock: dict[str, Any] = {}
        if self._days_locked:
            until = datetime.now(UTC) + timedelta(days=self._days_locked)
            lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
        with self._unavailable_as_error():
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + name_of(size),
                    Body=note,
                    IfNoneMatch="*",
                    ChecksumAlgorithm="SHA256",
                    ContentType="text/plain; charset=utf-8",
                    **lock,
                )
                return
            except ClientError as error:
                if error.response["Error"]["Code"] not in EXISTS:
                    raise
        refuse_another(size, self.read(size), note)

    @contextmanager
    def _unavailable_as_error(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise PartUnavailableError(
                f"The bucket {self._bucket} cannot be used for checkpoints ({error}).",
                "Check its name, region, permissions and Object Lock.",
            ) from error
