"""Blobs as objects of an S3 bucket: `prefix/ab/abcdef...`.

A blob's name is known only after its last byte, so it is spooled to disk, then uploaded with SHA-256 checksums
that S3 verifies; S3 shows an object only when it is whole. Credentials and region are boto3's customary ones.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ledger.blobs import BlobWriter
from ledger.errors import NotFoundError, PartUnavailableError

CONFIG = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})


class S3BlobStore:
    """A blob store in a bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._client = boto3.client("s3", config=CONFIG)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def writer(self) -> BlobWriter:
        """Start a blob in a spool file."""
        return _S3BlobWriter(self)

    def read(self, sha256: str, start: int, size: int) -> bytes:
        """Read a range of the blob's object."""
        if size == 0:
            return b""
        with self._unavailable_as_error():
            try:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=self._key(sha256), Range=f"bytes={start}-{start + size - 1}"
                )
                data: bytes = answer["Body"].read()
                return data
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":
                    return b""
                if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                    raise NotFoundError(f"The blob store has no blob {sha256}.") from None
                raise

    def upload(self, spool_path: str, sha256: str) -> None:
        """Give a spooled file its name in the bucket, unless it stands there already."""
        with self._unavailable_as_error():
            try:
                self._client.head_object(Bucket=self._bucket, Key=self._key(sha256))
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                self._client.upload_file(
                    spool_path, self._bucket, self._key(sha256), ExtraArgs={"ChecksumAlgorithm": "SHA256"}
                )

    def check(self) -> None:
        """Ask for the bucket."""
        with self._unavailable_as_error():
            self._client.head_bucket(Bucket=self._bucket)

    def sweep(self) -> None:
        """Nothing to do: a spool file has no name, so it vanishes with the process that wrote it."""

    def _key(self, sha256: str) -> str:
        return f"{self._prefix}{sha256[:2]}/{sha256}"

    @contextmanager
    def _unavailable_as_error(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, boto3.exceptions.S3UploadFailedError) as error:
            raise PartUnavailableError(
                f"The bucket {self._bucket} cannot be used ({error}).",
                "Check its name, region and permissions, then try again.",
            ) from error


class _S3BlobWriter:
    def __init__(self, store: S3BlobStore) -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self._spool = tempfile.NamedTemporaryFile()  # noqa: SIM115 - it lives as long as the upload
        self.size = 0

    def write(self, data: bytes) -> None:
        with _full_disk_as_error():
            self._spool.write(data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> str:
        sha256 = self._hash.hexdigest()
        with _full_disk_as_error():
            self._spool.flush()
        self._store.upload(self._spool.name, sha256)
        return sha256

    def abort(self) -> None:
        with suppress(OSError):  # closing once more tries to write what a full disk did not take; it goes anyway
            self._spool.close()


@contextmanager
def _full_disk_as_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PartUnavailableError(
            f"The upload cannot be spooled to disk: {error.strerror}.", "Free some space and send it again."
        ) from error
