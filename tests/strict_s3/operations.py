"""The operations of S3 that an archive uses, from requests to answers: paths, headers and XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

from tests.strict_s3.clock import VirtualClock
from tests.strict_s3.objects import Bucket, S3Error, Version, check_digests

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
PAGE_KEYS_MAX = 1000
KEYS_OF_KMS = "arn:aws:kms:eu-central-1:111122223333:key/"
NO_KEY = "00000000-0000-0000-0000-000000000000"
ALIASES = {"alias/archive": "1234abcd-12ab-34cd-56ef-1234567890ab"}


@dataclass
class Request:
    """A request, its header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    query: dict[str, str] = field(init=False)
    bucket: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.bucket, _, self.key = unquote(parts.path).lstrip("/").partition("/")

    @property
    def bypass(self) -> bool:
        """Whether the sender wants to pass a lock in governance mode."""
        return self.headers.get("x-amz-bypass-governance-retention", "").lower() == "true"

    @property
    def within_bucket(self) -> str:
        """What it is about, in whatever bucket."""
        return f"{self.key}?{urlencode(self.query)}"

    @property
    def version_id(self) -> str | None:
        """The version that is asked for."""
        return self.query.get("versionId")

    def text(self, name: str) -> str:
        """The text of an element of the body. Raises S3Error."""
        try:
            found = ET.fromstring(self.body).find(f".//{{*}}{name}")
        except ET.ParseError:
            raise S3Error(400, "MalformedXML") from None
        if found is None or found.text is None:
            raise S3Error(400, "MalformedXML", f"{name} is missing")
        return found.text


@dataclass
class Answer:
    """What is answered."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Operations:
    """All buckets, and what can be done with them. Every method raises S3Error."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.buckets: dict[str, Bucket] = {}

    def do(self, operation: str, request: Request) -> Answer:
        """Do an operation by its name in the API of S3."""
        if operation == "CreateBucket":
            return self._create_bucket(request)
        bucket = self.buckets.get(request.bucket)
        if bucket is None:
            raise S3Error(404, "NoSuchBucket")
        return OPERATIONS[operation](self, bucket, request)

    def _create_bucket(self, request: Request) -> Answer:
        is_locking = request.headers.get("x-amz-bucket-object-lock-enabled", "").lower() == "true"
        if request.bucket in self.buckets:
            raise S3Error(409, "BucketAlreadyOwnedByYou")
        self.buckets[request.bucket] = Bucket(self.clock, is_locking=is_locking)
        return Answer()

    def _head_bucket(self, bucket: Bucket, request: Request) -> Answer:
        return Answer()

    def _get_versioning(self, bucket: Bucket, request: Request) -> Answer:
        status = "<Status>Enabled</Status>" if bucket.is_versioned else ""
        return _xml(f"<VersioningConfiguration>{status}</VersioningConfiguration>")

    def _put_versioning(self, bucket: Bucket, request: Request) -> Answer:
        if request.text("Status") == "Suspended":
            raise S3Error(409, "InvalidBucketState")
        bucket.is_versioned = True
        return Answer()

    def _get_lock(self, bucket: Bucket, request: Request) -> Answer:
        if not bucket.is_locking:
            raise S3Error(404, "ObjectLockConfigurationNotFoundError")
        enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>"
        return _xml(f"<ObjectLockConfiguration>{enabled}</ObjectLockConfiguration>")

    def _put(self, bucket: Bucket, request: Request) -> Answer:
        headers = request.headers
        checksums = check_digests(headers, request.body)
        if "x-amz-object-lock-mode" in headers and not checksums and "content-md5" not in headers:
            raise S3Error(400, "InvalidRequest", "a put with a lock needs a checksum")
        if ("x-amz-object-lock-mode" in headers) != ("x-amz-object-lock-retain-until-date" in headers):
            raise S3Error(400, "InvalidArgument", "a lock needs a mode and a date")
        until = headers.get("x-amz-object-lock-retain-until-date")
        made = bucket.put(
            Version(
                key=request.key,
                id="",
                modified=self.clock.now,
                data=request.body,
                storage_class=headers.get("x-amz-storage-class", "STANDARD"),
                checksums=checksums,
                kms_key=_kms_key(headers),
                lock_mode=headers.get("x-amz-object-lock-mode"),
                lock_until=None if until is None else _moment(until),
                is_on_hold=headers.get("x-amz-object-lock-legal-hold") == "ON",
            ),
            only_new=headers.get("if-none-match") == "*",
        )
        return Answer(headers={"ETag": made.etag, "x-amz-version-id": made.id, **checksums})

    def _head(self, bucket: Bucket, request: Request) -> Answer:
        version = bucket.find(request.key, request.version_id)
        headers = _described(bucket, version)
        if request.headers.get("x-amz-checksum-mode") == "ENABLED" and "range" not in request.headers:
            headers |= version.checksums
        return Answer(headers={**headers, "Content-Length": str(len(version.data))})

    def _get(self, bucket: Bucket, request: Request) -> Answer:
        answer = self._head(bucket, request)
        version = bucket.find(request.key, request.version_id)
        if not bucket.is_readable(version):
            raise S3Error(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
        data = version.data
        if "range" in request.headers:
            first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            if start >= len(data):
                raise S3Error(416, "InvalidRange")
            answer.status, answer.body = 206, data[start : end + 1]
            answer.headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        else:
            answer.body = data
        answer.headers["Content-Length"] = str(len(answer.body))
        return answer

    def _attributes(self, bucket: Bucket, request: Request) -> Answer:
        version = bucket.find(request.key, request.version_id)
        told = "".join(
            f"<Checksum{name[15:].upper()}>{value}</Checksum{name[15:].upper()}>"
            for name, value in version.checksums.items()
        )
        checksum = f"<Checksum>{told}<ChecksumType>FULL_OBJECT</ChecksumType></Checksum>" if told else ""
        return _xml(
            f"<GetObjectAttributesResponse>{checksum}<StorageClass>{version.storage_class}</StorageClass>"
            f"<ObjectSize>{len(version.data)}</ObjectSize></GetObjectAttributesResponse>"
        )

    def _delete(self, bucket: Bucket, request: Request) -> Answer:
        marker = bucket.delete(request.key, request.version_id, bypass=request.bypass)
        if marker is None:
            return Answer(204)
        return Answer(204, {"x-amz-version-id": marker.id, "x-amz-delete-marker": "true"})

    def _list_versions(self, bucket: Bucket, request: Request) -> Answer:
        left = bucket.all(request.query.get("prefix", ""))
        marker = request.query.get("key-marker")
        if marker is not None:
            after = request.query.get("version-id-marker")
            places = [place for place, each in enumerate(left) if (each.key, each.id) == (marker, after)]
            left = left[places[0] + 1 :] if places else [each for each in left if each.key > marker]
        page = left[: min(PAGE_KEYS_MAX, int(request.query.get("max-keys", PAGE_KEYS_MAX)))]
        is_cut = len(page) < len(left)
        more = ""
        if is_cut:
            more = (
                f"<NextKeyMarker>{escape(page[-1].key)}</NextKeyMarker>"
                f"<NextVersionIdMarker>{page[-1].id}</NextVersionIdMarker>"
            )
        listed = "".join(_listed(bucket, version) for version in page)
        return _xml(
            f"<ListVersionsResult><IsTruncated>{str(is_cut).lower()}</IsTruncated>{more}{listed}</ListVersionsResult>"
        )

    def _retain(self, bucket: Bucket, request: Request) -> Answer:
        check_digests(request.headers, request.body)
        version = bucket.find(request.key, request.version_id)
        bucket.retain(version, request.text("Mode"), _moment(request.text("RetainUntilDate")), bypass=request.bypass)
        return Answer()

    def _hold(self, bucket: Bucket, request: Request) -> Answer:
        check_digests(request.headers, request.body)
        version = bucket.find(request.key, request.version_id)
        bucket.hold(version, is_on_hold=request.text("Status") == "ON")
        return Answer()

    def _restore(self, bucket: Bucket, request: Request) -> Answer:
        check_digests(request.headers, request.body)
        version = bucket.find(request.key, request.version_id)
        return Answer(bucket.restore(version, int(request.text("Days")), request.text("Tier")))


OPERATIONS: dict[str, Callable[[Operations, Bucket, Request], Answer]] = {
    "HeadBucket": Operations._head_bucket,
    "GetBucketVersioning": Operations._get_versioning,
    "PutBucketVersioning": Operations._put_versioning,
    "GetObjectLockConfiguration": Operations._get_lock,
    "PutObject": Operations._put,
    "HeadObject": Operations._head,
    "GetObject": Operations._get,
    "GetObjectAttributes": Operations._attributes,
    "DeleteObject": Operations._delete,
    "ListObjectVersions": Operations._list_versions,
    "PutObjectRetention": Operations._retain,
    "PutObjectLegalHold": Operations._hold,
    "RestoreObject": Operations._restore,
}
# METHOD, whether there is a key, the parameter that names the operation -> operation.
ROUTES: dict[tuple[str, bool, str], str] = {
    ("PUT", False, ""): "CreateBucket",
    ("HEAD", False, ""): "HeadBucket",
    ("GET", False, "versioning"): "GetBucketVersioning",
    ("PUT", False, "versioning"): "PutBucketVersioning",
    ("GET", False, "object-lock"): "GetObjectLockConfiguration",
    ("GET", False, "versions"): "ListObjectVersions",
    ("PUT", True, ""): "PutObject",
    ("HEAD", True, ""): "HeadObject",
    ("GET", True, ""): "GetObject",
    ("GET", True, "attributes"): "GetObjectAttributes",
    ("DELETE", True, ""): "DeleteObject",
    ("PUT", True, "retention"): "PutObjectRetention",
    ("PUT", True, "legal-hold"): "PutObjectLegalHold",
    ("POST", True, "restore"): "RestoreObject",
}
NAMING = {parameter for _, _, parameter in ROUTES if parameter}
# What somebody who may only look may do.
OF_READERS = {name for name in OPERATIONS if name.startswith(("Get", "Head", "List"))} | {"RestoreObject"}


def operation_of(request: Request) -> str:
    """The operation that a request is for. Raises S3Error if the double does not know it."""
    naming = next((parameter for parameter in request.query if parameter in NAMING), "")
    try:
        return ROUTES[request.method, bool(request.key), naming]
    except KeyError:
        raise S3Error(501, "NotImplemented", f"{request.method} {request.target}") from None


def _described(bucket: Bucket, version: Version) -> dict[str, str]:
    headers = {
        "ETag": version.etag,
        "x-amz-version-id": version.id,
        "Last-Modified": format_datetime(version.modified, usegmt=True),
        "x-amz-server-side-encryption": "AES256" if version.kms_key is None else "aws:kms",
    }
    if version.kms_key is not None:
        headers["x-amz-server-side-encryption-aws-kms-key-id"] = version.kms_key
    if version.storage_class != "STANDARD":
        headers["x-amz-storage-class"] = version.storage_class
    if version.lock_mode is not None and version.lock_until is not None:
        headers["x-amz-object-lock-mode"] = version.lock_mode
        headers["x-amz-object-lock-retain-until-date"] = version.lock_until.isoformat().replace("+00:00", "Z")
    if version.is_on_hold:
        headers["x-amz-object-lock-legal-hold"] = "ON"
    if bucket.is_being_restored(version):
        headers["x-amz-restore"] = 'ongoing-request="true"'
    elif bucket.is_restored(version) and version.restore_ends is not None:
        ends = format_datetime(version.restore_ends, usegmt=True)
        headers["x-amz-restore"] = f'ongoing-request="false", expiry-date="{ends}"'
    return headers


def _kms_key(headers: dict[str, str]) -> str | None:
    """The ARN of the key that a put asks for: S3 tells no other name of it, and never an alias. Raises S3Error."""
    asked = headers.get("x-amz-server-side-encryption-aws-kms-key-id")
    if headers.get("x-amz-server-side-encryption") != "aws:kms" or asked is None:
        return None
    if asked == NO_KEY:
        raise S3Error(400, "KMS.NotFoundException", f"Key '{KEYS_OF_KMS}{NO_KEY}' does not exist")
    return asked if asked.startswith("arn:") else f"{KEYS_OF_KMS}{ALIASES.get(asked, asked)}"


def _listed(bucket: Bucket, version: Version) -> str:
    common = (
        f"<Key>{escape(version.key)}</Key><VersionId>{version.id}</VersionId>"
        f"<IsLatest>{str(bucket.is_latest(version)).lower()}</IsLatest>"
        f"<LastModified>{version.modified.isoformat().replace('+00:00', 'Z')}</LastModified>"
    )
    if version.is_delete_marker:
        return f"<DeleteMarker>{common}</DeleteMarker>"
    return (
        f"<Version>{common}<ETag>{escape(version.etag)}</ETag><Size>{len(version.data)}</Size>"
        f"<StorageClass>{version.storage_class}</StorageClass></Version>"
    )


def _xml(text: str) -> Answer:
    root, _, rest = text.partition(">")
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{root} xmlns="{NAMESPACE}">{rest}'
    return Answer(headers={"Content-Type": "application/xml"}, body=body.encode())


def _moment(text: str) -> datetime:
    try:
        moment: Any = datetime.fromisoformat(text)
    except ValueError:
        raise S3Error(400, "InvalidArgument", f"{text} is no time") from None
    return moment.astimezone(UTC)
