"""A cold store in a bucket of S3: with versions, Object Lock and the classes of Glacier.

Rules:
1. What a put answers is never looked at, nor that it did not: what counts is which versions are there afterwards, and
   what S3 says of them. So a lost answer, a second archiver and a retry after years are one and the same case.
2. A put creates and never replaces (`If-None-Match: *`), and gives S3 the SHA-256 to check. Before it, versions are
   listed: a delete marker would let a second version of the same object be made.
3. S3 keeps the SHA-256 that it was given; that this is of the bytes that it has is its promise. The entity tag is the
   MD5 that it computed itself (not where KMS encrypts), so it is compared as well.
4. Under which key of KMS an object is encrypted is compared like its digest, as far as S3 tells it.
5. To raise a lock from governance to compliance is to change its mode, for which S3 wants the permission
   `s3:BypassGovernanceRetention`. It is used for nothing else.

Credentials, region and endpoint are boto3's customary ones.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from archive.s3_answers import (
    NOT_THERE,
    TRY_AGAIN,
    is_encrypted_under,
    is_refusal,
    listed_versions,
    md5_of,
    stored_object,
)
from archive.stores import (
    OBJECT_BYTES_MAX,
    ListedVersion,
    Lock,
    NoCapacityError,
    NotRestoredError,
    Restoration,
    StorageClass,
    StoredObject,
    StoreUnfitError,
    Tier,
    another_is_kept,
    damaged,
    in_whole_seconds,
    no_such_object,
    not_the_file,
    refuse_less,
    refuse_restore,
)
from ledger import blobs_s3
from ledger.errors import ConflictError, InvalidRequestError, PartUnavailableError

BLOCK_BYTES = 1 << 20
ATTEMPTS_MAX = 5
PAUSE_SECONDS = 0.2  # after the first refused attempt; it then doubles


class S3ColdStore:
    """Keeps objects in a bucket. See `archive.stores.ColdStore`."""

    def __init__(self, bucket: str, prefix: str, kms_key: str | None, profile: str | None = None) -> None:
        try:
            session: Any = boto3 if profile is None else boto3.Session(profile_name=profile)
        except ProfileNotFound as error:
            raise InvalidRequestError(
                f"There is no profile {profile!r} in the configuration of AWS.", "Add it, or name another one."
            ) from error
        self._client = session.client("s3", config=blobs_s3.CONFIG)
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._kms_key = kms_key
        self._encryption: dict[str, Any] = (
            {}
            if kms_key is None
            else {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key, "BucketKeyEnabled": True}
        )

    def check(self) -> None:
        """See `ColdStore`. HEAD comes last, for it does not say why it is refused."""
        with self._unavailable_as_error():
            try:
                lock = self._client.get_object_lock_configuration(Bucket=self._bucket)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in ("NoSuchBucket", "404"):
                    raise self._unfit("is not there") from None
                if code == "ObjectLockConfigurationNotFoundError":
                    raise self._unfit("has no Object Lock") from None
                raise
            versioning = self._client.get_bucket_versioning(Bucket=self._bucket)
            self._client.head_bucket(Bucket=self._bucket)
        if lock.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise self._unfit("has no Object Lock")
        if versioning.get("Status") != "Enabled":
            raise self._unfit("keeps no versions")

    def put(self, key: str, file: Path, sha256: str, storage_class: StorageClass, lock: Lock | None) -> StoredObject:
        """See `ColdStore`."""
        lock = None if lock is None else in_whole_seconds(lock)
        md5 = _md5_of(key, file, sha256)
        found = self._kept(key, file.stat().st_size, sha256, md5)
        for attempt in range(ATTEMPTS_MAX):
            if found is None:
                self._try_to_put(key, file, sha256, storage_class, lock, attempt)
                found = self._kept(key, file.stat().st_size, sha256, md5)
        if found is None:
            raise PartUnavailableError(
                f"The bucket {self._bucket} did not take {key} in {ATTEMPTS_MAX} attempts.", "Try again later."
            )
        if lock is None or (found.lock is not None and found.lock.covers(lock)):
            return found
        self.lock(key, found.version, lock)
        return self.head(key, found.version)

    def head(self, key: str, version: str) -> StoredObject:
        """See `ColdStore`."""
        return stored_object(key, version, self._head(key, version))

    def versions(self, prefix: str) -> Iterator[ListedVersion]:
        """See `ColdStore`."""
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        pages_left = iter(pages)
        while True:
            with self._unavailable_as_error():
                page: Any = next(pages_left, None)
            if page is None:
                return
            yield from listed_versions(page, self._prefix)

    def read(self, key: str, version: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See `ColdStore`. Goes on where an answer was cut, so many times."""
        kept = self.head(key, version)
        end = kept.size_bytes if size is None else min(kept.size_bytes, start + size)
        found = hashlib.sha256()
        position = start
        attempts = 0
        while position < end:
            before = position
            try:
                for block in self._blocks(kept, position, end):
                    found.update(block)
                    position += len(block)
                    yield block
            except PartUnavailableError:
                attempts = 1 if position > before else attempts + 1
                if attempts == ATTEMPTS_MAX:
                    raise
                time.sleep(PAUSE_SECONDS * 2**attempts)
        if start == 0 and end == kept.size_bytes and found.hexdigest() != kept.sha256:
            raise damaged(key, version, f"was read with another SHA-256 than {kept.sha256}")

    def restore(self, key: str, version: str, tier: Tier, days: int) -> Restoration:
        """See `ColdStore`."""
        kept = self.head(key, version)
        refuse_restore(kept.storage_class, tier, days)
        if not kept.storage_class.is_cold:
            return Restoration.READY
        with self._unavailable_as_error():
            try:
                answer = self._client.restore_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    VersionId=version,
                    RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": tier.value}},
                    ChecksumAlgorithm="SHA256",
                )
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "RestoreAlreadyInProgress":
                    return Restoration.UNDER_WAY
                if code == "GlacierExpeditedRetrievalNotAvailable":
                    raise NoCapacityError(
                        f"S3 has no capacity for an expedited restore of {key} now.", "Ask for Standard, or later."
                    ) from None
                raise
        # 200: a copy was there already, and now stays longer. 202: it will be.
        is_ready = answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        return Restoration.READY if is_ready else Restoration.UNDER_WAY

    def lock(self, key: str, version: str, lock: Lock) -> None:
        """See `ColdStore`."""
        lock = in_whole_seconds(lock)
        there = self.head(key, version).lock
        refuse_less(key, there, lock)
        if there == lock:
            return
        is_raised = there is not None and there.mode != lock.mode
        with self._unavailable_as_error():
            self._client.put_object_retention(
                Bucket=self._bucket,
                Key=self._prefix + key,
                VersionId=version,
                Retention={"Mode": lock.mode.value, "RetainUntilDate": lock.until},
                ChecksumAlgorithm="SHA256",
                BypassGovernanceRetention=is_raised,
            )
        if self.head(key, version).lock != lock:
            raise self._not_done(f"lock {key}")

    def hold(self, key: str, version: str, is_on_hold: bool) -> None:
        """See `ColdStore`."""
        self.head(key, version)
        with self._unavailable_as_error():
            self._client.put_object_legal_hold(
                Bucket=self._bucket,
                Key=self._prefix + key,
                VersionId=version,
                LegalHold={"Status": "ON" if is_on_hold else "OFF"},
                ChecksumAlgorithm="SHA256",
            )
        if self.head(key, version).is_on_hold != is_on_hold:
            raise self._not_done(f"{'place' if is_on_hold else 'lift'} the hold on {key}")

    def _kept(self, key: str, size_bytes: int, sha256: str, md5: str) -> StoredObject | None:
        """The oldest version of a key that was put with this digest; None if the key has no version.

        Raises:
            ConflictError: there are versions, and none was put with this digest; or that one is encrypted otherwise.
            ObjectDamagedError: one was, and holds something else.
        """
        listed = takewhile(lambda each: each.key == key, self.versions(key))
        there = [each.version for each in listed if not each.is_delete_marker]
        for version in reversed(there):
            answer = self._head(key, version)
            found = stored_object(key, version, answer)
            if found.sha256 != sha256:
                continue
            if found.size_bytes != size_bytes or md5_of(answer) not in (md5, None):
                raise damaged(key, version, "does not hold what was put, though it has its SHA-256")
            if self._kms_key is not None and not is_encrypted_under(answer, self._kms_key):
                raise ConflictError(
                    f"{key} is kept, and not encrypted under {self._kms_key}.",
                    "Archive this year with the key that it was begun with (LEDGER_ARCHIVE_KMS_KEY). If it was begun"
                    " with this one, the bucket does not encrypt as it is asked to.",
                )
            return found
        if there:
            raise another_is_kept(key)
        return None

    def _try_to_put(
        self, key: str, file: Path, sha256: str, storage_class: StorageClass, lock: Lock | None, attempt: int
    ) -> None:
        locked: dict[str, Any] = {}
        if lock is not None:
            locked = {"ObjectLockMode": lock.mode.value, "ObjectLockRetainUntilDate": lock.until}
        with self._unavailable_as_error(), file.open("rb") as body:
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    Body=body,
                    IfNoneMatch="*",
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                    StorageClass=storage_class.value,
                    **locked,
                    **self._encryption,
                )
            except ClientError as error:
                if error.response["Error"]["Code"] not in TRY_AGAIN:
                    raise
                time.sleep(PAUSE_SECONDS * 2**attempt)

    def _head(self, key: str, version: str) -> Any:
        with self._unavailable_as_error():
            try:
                return self._client.head_object(
                    Bucket=self._bucket, Key=self._prefix + key, VersionId=version, ChecksumMode="ENABLED"
                )
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in NOT_THERE or (code == "400" and self._is_no_version(key, version)):
                    raise no_such_object(key, version) from None
                raise

    def _is_no_version(self, key: str, version: str) -> bool:
        """Whether a bad request is one because S3 cannot have made such a version: HEAD does not say."""
        try:
            self._client.get_object_attributes(
                Bucket=self._bucket, Key=self._prefix + key, VersionId=version, ObjectAttributes=["ObjectSize"]
            )
            return False
        except ClientError as error:
            return error.response["Error"]["Code"] in ("InvalidArgument", *NOT_THERE)

    def _blocks(self, kept: StoredObject, start: int, end: int) -> Iterator[bytes]:
        """The bytes of one answer. Raises PartUnavailableError where it is cut."""
        key, version = kept.key, kept.version
        is_whole = start == 0 and end == kept.size_bytes
        part: dict[str, Any] = {} if is_whole else {"Range": f"bytes={start}-{end - 1}"}
        with self._unavailable_as_error():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, VersionId=version, **part)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in NOT_THERE:
                    raise no_such_object(key, version) from None
                if code == "InvalidObjectState":
                    raise NotRestoredError(
                        f"{key} is in cold storage, and no copy of it is restored.", "Restore it, and wait for it."
                    ) from None
                raise
            # Some servers answer with the whole where a part was asked for.
            if not is_whole and not answer.get("ContentRange", "").startswith(f"bytes {start}-{end - 1}/"):
                raise self._not_done(f"read the bytes {start} to {end} of {key}")
            left = end - start
            with closing(answer["Body"]) as body:
                while left:
                    block = body.read(min(BLOCK_BYTES, left))
                    if not block:
                        raise self._not_done(f"read {key} to its end")
                    left -= len(block)
                    yield block

    def _unfit(self, how: str) -> StoreUnfitError:
        return StoreUnfitError(
            f"The bucket {self._bucket} {how}.", "Archives are locked: give a bucket with versions and Object Lock."
        )

    def _not_let(self, error: Exception) -> StoreUnfitError:
        return StoreUnfitError(
            f"The bucket {self._bucket} does not let us do that ({error}).",
            "Mend the credentials of AWS, what they may do (docs/cold-stores.md lists it), the key of KMS"
            " (LEDGER_ARCHIVE_KMS_KEY), or this machine's clock; then ask again.",
        )

    def _not_done(self, what: str) -> PartUnavailableError:
        return PartUnavailableError(
            f"The bucket {self._bucket} did not {what}, and did not say why.", "Try again; then ask who runs it."
        )

    @contextmanager
    def _unavailable_as_error(self) -> Iterator[None]:
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise self._not_let(error) from error
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and is_refusal(error.response):
                raise self._not_let(error) from error
            raise PartUnavailableError(
                f"The bucket {self._bucket} cannot be used for archives ({error}).",
                "Check its name and region and whether S3 can be reached, then try again.",
            ) from error


def _md5_of(key: str, file: Path, sha256: str) -> str:
    """The MD5 of a file whose SHA-256 is given, and whose it has to be."""
    assert file.stat().st_size <= OBJECT_BYTES_MAX, f"{file} has {file.stat().st_size} bytes"
    found, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            found.update(block)
            md5.update(block)
    if found.hexdigest() != sha256:
        raise not_the_file(key, file, sha256, found.hexdigest())
    return md5.hexdigest()
