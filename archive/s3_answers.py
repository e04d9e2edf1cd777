"""What the answers of S3 say: of a version, of a page of versions, and why something was not done."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from archive.stores import ListedVersion, Lock, LockMode, Restoration, StorageClass, StoredObject, damaged

# Somebody else is there, or was at the same moment; or what arrived is not what was sent.
TRY_AGAIN = (
    "PreconditionFailed", "ConditionalRequestConflict", "OperationAborted",
    "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody",
)  # fmt: skip
NOT_THERE = ("NoSuchKey", "NoSuchVersion", "404", "MethodNotAllowed", "405")
# Who asks is not known or may not do that, by whatever status; S3 says 403 of most.
NOT_LET = ("InvalidToken", "ExpiredToken", "AuthorizationHeaderMalformed", "PermanentRedirect")
RESTORED = re.compile(r'ongoing-request="(true|false)"(?:,\s*expiry-date="([^"]+)")?')
MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def is_refusal(answer: Any) -> bool:
    """Whether an error is about who asks, or about the key of KMS that he names, and not about the moment."""
    code, status = answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]
    # `KMS.NotFoundException` and others come with 400. What is in cold storage is refused with 403, to everybody.
    return code in NOT_LET or code.startswith("KMS.") or (status == 403 and code != "InvalidObjectState")


def stored_object(key: str, version: str, answer: Any) -> StoredObject:
    """What an answer to HEAD says of a version.

    Raises:
        ObjectDamagedError: it has no SHA-256, or is said to be what no archive puts.
    """
    if "ChecksumSHA256" not in answer:
        raise damaged(key, version, "has no SHA-256, so it was put by somebody else")
    try:
        lock = None
        if "ObjectLockMode" in answer:
            lock = Lock(LockMode(answer["ObjectLockMode"]), answer["ObjectLockRetainUntilDate"])
        restoration, until = Restoration.NONE, None
        if found := RESTORED.fullmatch(answer.get("Restore", "")):
            restoration = Restoration.UNDER_WAY if found[1] == "true" else Restoration.READY
            until = parsedate_to_datetime(found[2]) if found[2] else None
        return StoredObject(
            key=key,
            version=version,
            size_bytes=answer["ContentLength"],
            sha256=base64.b64decode(answer["ChecksumSHA256"], validate=True).hex(),
            storage_class=StorageClass(answer.get("StorageClass", "STANDARD")),
            lock=lock,
            is_on_hold=answer.get("ObjectLockLegalHoldStatus") == "ON",
            restoration=restoration,
            restored_until=until,
        )
    except ValueError as error:
        raise damaged(key, version, f"is said to be what no archive puts ({error})") from error


def md5_of(answer: Any) -> str | None:
    """The MD5 that S3 has of an object's bytes; None where it tells none: under a key of KMS, the tag is no digest."""
    if answer.get("ServerSideEncryption", "AES256") != "AES256":
        return None
    found = MD5.fullmatch(answer.get("ETag", ""))
    return found[1] if found else None


def is_encrypted_under(answer: Any, kms_key: str) -> bool:
    """Whether a version is encrypted under a key of KMS.

    S3 tells a key by its ARN, whatever it was called in the put. So of an alias nobody can say whether it stood for
    that key, and any key counts.
    """
    if answer.get("ServerSideEncryption") != "aws:kms":
        return False
    found = answer.get("SSEKMSKeyId", "")
    is_alias = kms_key.startswith("alias/") or ":alias/" in kms_key
    return is_alias or found == kms_key or found.endswith(f":key/{kms_key}")


def listed_versions(page: Any, prefix: str) -> Iterator[ListedVersion]:
    """One page of versions, by key and newest first.

    boto3 tells markers apart from versions, so they are joined again. Of a marker and a version of the same second
    nothing says which came first, but for the latest.
    """
    found = [(each, False) for each in page.get("Versions", [])]
    found += [(each, True) for each in page.get("DeleteMarkers", [])]
    found.sort(key=lambda each: each[0]["LastModified"], reverse=True)
    for each, is_marker in sorted(found, key=lambda each: (each[0]["Key"], not each[0]["IsLatest"])):
        key = each["Key"].removeprefix(prefix)
        yield ListedVersion(key, each["VersionId"], each.get("Size", 0), each["IsLatest"], is_marker)
