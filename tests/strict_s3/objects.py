"""What the double keeps, and the rules that S3 has for it.

Rules, each as S3 documents it or as its own conformance tests have it:
1. Bytes are taken only if every digest that comes with them is theirs. The SHA-256 that is told is one of the bytes.
2. `If-None-Match: *` refuses a key whose newest version is not a delete marker.
3. A lock in compliance mode only grows; in governance mode anything but growing needs the bypass. A hold is apart.
4. A version that is locked or held is not deleted. A delete without a version hides the object, whatever its lock.
5. What lies in GLACIER or DEEP_ARCHIVE is read only while a restored copy is there. Its class does not change.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.strict_s3.clock import VirtualClock, midnight_after

COLD = ("GLACIER", "DEEP_ARCHIVE")
CLASSES = ("STANDARD", "GLACIER_IR", *COLD)
# CLASS, TIER -> how long a restore takes; what is not here is refused.
RESTORE_TIMES: dict[tuple[str, str], timedelta] = {
    ("GLACIER", "Expedited"): timedelta(minutes=5),
    ("GLACIER", "Standard"): timedelta(hours=5),
    ("GLACIER", "Bulk"): timedelta(hours=12),
    ("DEEP_ARCHIVE", "Standard"): timedelta(hours=12),
    ("DEEP_ARCHIVE", "Bulk"): timedelta(hours=48),
}
DIGESTS = {
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
}


class S3Error(Exception):
    """An answer that is an error, by the code that S3 has for it."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message or code


@dataclass
class Version:
    """One version of an object, or a delete marker, which has no bytes."""

    key: str
    id: str
    modified: datetime
    data: bytes = b""
    is_delete_marker: bool = False
    storage_class: str = "STANDARD"
    checksums: dict[str, str] = field(default_factory=dict)
    kms_key: str | None = None
    lock_mode: str | None = None
    lock_until: datetime | None = None
    is_on_hold: bool = False
    restore_tier: str | None = None
    restore_days: int = 0
    restore_ready: datetime | None = None
    restore_ends: datetime | None = None

    @property
    def etag(self) -> str:
        salt = b"" if self.kms_key is None else b"encrypted"
        return f'"{hashlib.md5(self.data + salt).hexdigest()}"'


def check_digests(headers: dict[str, str], data: bytes) -> dict[str, str]:
    """The checksums that came with some bytes, as they will be told. Raises S3Error if one is not theirs."""
    if headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD").startswith("STREAMING-"):
        raise S3Error(501, "NotImplemented", "the double takes no bodies in signed chunks")
    payload = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if payload != "UNSIGNED-PAYLOAD" and payload != hashlib.sha256(data).hexdigest():
        raise S3Error(400, "XAmzContentSHA256Mismatch", "the body is not what was signed")
    if "content-md5" in headers and headers["content-md5"] != _base64(hashlib.md5(data).digest()):
        raise S3Error(400, "BadDigest", "the MD5 is not that of the body")
    told = {name: value for name, value in headers.items() if name in DIGESTS}
    for name, value in told.items():
        if value != _base64(DIGESTS[name](data)):
            raise S3Error(400, "BadDigest", f"{name} is not that of the body")
    algorithm = headers.get("x-amz-sdk-checksum-algorithm")
    if algorithm is not None and f"x-amz-checksum-{algorithm.lower()}" not in told:
        raise S3Error(400, "InvalidRequest", f"the algorithm is {algorithm} and its checksum is not there")
    return told


class Bucket:
    """A bucket with versions, and Object Lock if it was made with it."""

    def __init__(self, clock: VirtualClock, *, is_locking: bool) -> None:
        self.clock = clock
        self.is_locking = is_locking
        self.is_versioned = is_locking
        self.has_expedited_capacity = True
        self._versions: dict[str, list[Version]] = {}  # the newest last
        self._ids = itertools.count(1)

    def put(self, version: Version, *, only_new: bool) -> Version:
        """Keep a version. Raises S3Error."""
        there = self._versions.setdefault(version.key, [])
        if only_new and there and not there[-1].is_delete_marker:
            raise S3Error(412, "PreconditionFailed", "the key is there")
        if version.storage_class not in CLASSES:
            raise S3Error(400, "InvalidStorageClass")
        if version.lock_mode is not None or version.is_on_hold:
            self._need_lock()
        if version.lock_until is not None and version.lock_until <= self.clock.now:
            raise S3Error(400, "InvalidArgument", "the retain until date must be in the future")
        version.id = self._new_id()
        if not self.is_versioned:
            there.clear()
        there.append(version)
        return version

    def find(self, key: str, version_id: str | None) -> Version:
        """A version; the newest if none is named. Raises S3Error."""
        if version_id is None:
            there = self._versions.get(key)
            if not there or there[-1].is_delete_marker:
                raise S3Error(404, "NoSuchKey")
            return there[-1]
        if not version_id.startswith("v"):
            raise S3Error(400, "InvalidArgument", "Invalid version id specified")
        for version in self._versions.get(key, []):
            if version.id == version_id:
                if version.is_delete_marker:
                    raise S3Error(405, "MethodNotAllowed")
                return version
        raise S3Error(404, "NoSuchVersion")

    def all(self, prefix: str) -> list[Version]:
        """All versions by key, the newest first, markers too."""
        keys = sorted(key for key, there in self._versions.items() if key.startswith(prefix) and there)
        return [version for key in keys for version in reversed(self._versions[key])]

    def is_latest(self, version: Version) -> bool:
        """Whether nothing newer has the key."""
        return self._versions[version.key][-1] is version

    def delete(self, key: str, version_id: str | None, *, bypass: bool) -> Version | None:
        """Delete a version; without one, hide the object, whose marker is given."""
        there = self._versions.setdefault(key, [])
        if version_id is None:
            marker = Version(key, self._new_id(), self.clock.now, is_delete_marker=True)
            there.append(marker)
            return marker
        for version in there:
            if version.id == version_id:
                self._refuse_locked(version, bypass=bypass)
                there.remove(version)
                return None
        return None

    def retain(self, version: Version, mode: str, until: datetime, *, bypass: bool) -> None:
        """Lock a version. Raises S3Error for less than there is."""
        self._need_lock()
        if until <= self.clock.now:
            raise S3Error(400, "InvalidArgument", "the retain until date must be in the future")
        if version.lock_until is not None and version.lock_until > self.clock.now:
            grows = mode == version.lock_mode and until >= version.lock_until
            if not grows and not (version.lock_mode == "GOVERNANCE" and bypass):
                raise S3Error(403, "AccessDenied", "the object is protected by Object Lock")
        version.lock_mode, version.lock_until = mode, until

    def hold(self, version: Version, *, is_on_hold: bool) -> None:
        """Place or lift a hold."""
        self._need_lock()
        version.is_on_hold = is_on_hold

    def restore(self, version: Version, days: int, tier: str) -> int:
        """Restore a copy; the status of the answer. Raises S3Error."""
        if version.storage_class not in COLD:
            raise S3Error(403, "InvalidObjectState", "Restore is not allowed for the object's current storage class")
        if days < 1:
            raise S3Error(400, "InvalidArgument", "restoration days should be at least 1")
        takes = RESTORE_TIMES.get((version.storage_class, tier))
        if takes is None:
            raise S3Error(400, "InvalidArgument", f"{version.storage_class} has no retrieval option {tier}")
        if tier == "Expedited" and not self.has_expedited_capacity:
            raise S3Error(503, "GlacierExpeditedRetrievalNotAvailable")
        if self.is_restored(version):
            version.restore_ends = midnight_after(self.clock.now + timedelta(days=days))
            return 200
        if self.is_being_restored(version):
            assert version.restore_tier is not None and version.restore_ready is not None
            if takes >= RESTORE_TIMES[version.storage_class, version.restore_tier]:
                raise S3Error(409, "RestoreAlreadyInProgress")
            version.restore_ready = min(version.restore_ready, self.clock.now + takes)  # a faster tier is an upgrade
        else:
            version.restore_ready = self.clock.now + takes
        version.restore_tier, version.restore_days = tier, days
        version.restore_ends = midnight_after(version.restore_ready + timedelta(days=days))
        return 202

    def is_being_restored(self, version: Version) -> bool:
        """Whether a restore is under way."""
        return version.restore_ready is not None and self.clock.now < version.restore_ready

    def is_restored(self, version: Version) -> bool:
        """Whether a restored copy is there now."""
        if version.restore_ready is None or version.restore_ends is None:
            return False
        return version.restore_ready <= self.clock.now < version.restore_ends

    def is_readable(self, version: Version) -> bool:
        """Whether its bytes can be had now."""
        return version.storage_class not in COLD or self.is_restored(version)

    def _need_lock(self) -> None:
        if not self.is_locking:
            raise S3Error(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")

    def _refuse_locked(self, version: Version, *, bypass: bool) -> None:
        is_locked = version.lock_until is not None and version.lock_until > self.clock.now
        if version.is_on_hold or (is_locked and not (version.lock_mode == "GOVERNANCE" and bypass)):
            raise S3Error(403, "AccessDenied", "the object is protected by Object Lock")

    def _new_id(self) -> str:
        return f"v{next(self._ids):012}" if self.is_versioned else "vnull"


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
