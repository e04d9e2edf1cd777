"""Cold stores: where the objects of an archive are kept for years, in a bucket or in a folder.

Rules:
1. An object is put once, under a key that nobody has. The same bytes under the same key again are the same object, so
   every retry is free; other bytes are a conflict, and nothing is written over.
2. What a store says of an object is what it holds, not what it was told: its size and its SHA-256 are looked up after
   every put, and compared, whatever the put answered.
3. Everything after a put names the version that it made. Who puts or hides a newer one changes nothing.
4. A lock is only ever made longer and stricter.
5. What lies in a class that is not read at once has to be restored first. A restored copy is there for some days,
   beside the object, which stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ledger.errors import LedgerError

OBJECT_BYTES_MAX = 240 << 20


class StorageClass(StrEnum):
    """Where in the store an object lies, by the names that S3 has for it."""

    STANDARD = "STANDARD"
    GLACIER_IR = "GLACIER_IR"
    GLACIER = "GLACIER"
    DEEP_ARCHIVE = "DEEP_ARCHIVE"

    @property
    def is_cold(self) -> bool:
        """Whether an object has to be restored before it can be read."""
        return self in (StorageClass.GLACIER, StorageClass.DEEP_ARCHIVE)


class Tier(StrEnum):
    """How fast, and for how much, cold objects are brought back."""

    EXPEDITED = "Expedited"
    STANDARD = "Standard"
    BULK = "Bulk"


class LockMode(StrEnum):
    """Who may take a lock away: those with the permission to, or nobody."""

    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"


class Restoration(StrEnum):
    """Whether a cold object can be read."""

    NONE = "none"
    UNDER_WAY = "under_way"
    READY = "ready"


@dataclass(frozen=True)
class Lock:
    """Until when a version can be neither deleted nor written over."""

    mode: LockMode
    until: datetime


@dataclass(frozen=True)
class StoredObject:
    """What a store says of one version of an object. `restored_until` is set while a restored copy is there."""

    key: str
    version: str
    size_bytes: int
    sha256: str
    storage_class: StorageClass
    lock: Lock | None
    is_on_hold: bool
    restoration: Restoration = Restoration.NONE
    restored_until: datetime | None = None


@dataclass(frozen=True)
class ListedVersion:
    """A version in a listing. A delete marker hides an object, and has no bytes."""

    key: str
    version: str
    size_bytes: int
    is_latest: bool
    is_delete_marker: bool


class ObjectDamagedError(LedgerError):
    """A store does not hold what it was given."""

    code = "object_damaged"


class NotRestoredError(LedgerError):
    """A cold object was read before it was restored."""

    code = "object_not_restored"


class ColdStore(Protocol):
    """Keeps objects for years.

    Every method raises PartUnavailableError when the store cannot be reached or does not let us, NotFoundError when
    there is no such object or version.
    """

    def check(self) -> None:
        """Raise InvalidRequestError unless archives can be kept here: no such bucket, no versions, no Object Lock."""

    def put(self, key: str, file: Path, sha256: str, storage_class: StorageClass, lock: Lock | None) -> StoredObject:
        """Keep a file of at most `OBJECT_BYTES_MAX`; what the store then says of it (rule 2).

        Raises:
            ConflictError: other bytes are kept under the key.
            ObjectDamagedError: what the store holds is not what it was given.
        """

    def head(self, key: str, version: str) -> StoredObject:
        """What the store says of a version."""

    def versions(self, prefix: str) -> Iterator[ListedVersion]:
        """All versions of all keys that begin with it, delete markers too, in the order of keys, newest first."""

    def read(self, key: str, version: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes of a version, or `size` of them from `start`. What was cut on the way is an error, not an end.

        Raises:
            NotRestoredError: it has to be restored first.
        """

    def restore(self, key: str, version: str, tier: Tier, days: int) -> Restoration:
        """Ask for a readable copy for some days; where that stands. Asking again while it is under way is harmless.

        Raises:
            InvalidRequestError: the class has no such tier.
            PartUnavailableError: there is no capacity for the tier now.
        """

    def lock(self, key: str, version: str, lock: Lock) -> None:
        """Lock a version, or make its lock longer or stricter. Raises ConflictError: it would be less than there is."""

    def hold(self, key: str, version: str, is_on_hold: bool) -> None:
        """Place a legal hold on a version, or lift it."""
