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
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ledger.errors import ConflictError, InvalidRequestError, LedgerError, NotFoundError, PartUnavailableError

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

    def covers(self, other: Lock) -> bool:
        """Whether it is at least as long and as strict as another."""
        return self.until >= other.until and self.mode in (other.mode, LockMode.COMPLIANCE)


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

    @property
    def is_readable(self) -> bool:
        """Whether it can be read now: it is not cold, or a copy of it is there."""
        return not self.storage_class.is_cold or self.restoration is Restoration.READY


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


class StoreUnfitError(InvalidRequestError):
    """Archives cannot be kept in a store: it keeps none, or does not let us. To try again changes nothing."""

    code = "cold_store_unfit"


class NotRestoredError(LedgerError):
    """A cold object was read before it was restored."""

    code = "object_not_restored"


class NoCapacityError(PartUnavailableError):
    """The store restores nothing so fast now."""

    code = "no_restore_capacity"


class AnotherKeptError(ConflictError):
    """Other bytes are kept under a key."""


class ColdStore(Protocol):
    """Keeps objects for years.

    Every method raises PartUnavailableError when the store cannot be reached, StoreUnfitError when it does not let us,
    NotFoundError when there is no such object or version.
    """

    def check(self) -> None:
        """Raise StoreUnfitError unless archives can be kept here: no such bucket, no versions, no Object Lock.

        Nothing is left behind. Whether all can be done that archives need, `archive.rehearsal` finds out.
        """

    def put(self, key: str, file: Path, sha256: str, storage_class: StorageClass, lock: Lock | None) -> StoredObject:
        """Keep a file of at most `OBJECT_BYTES_MAX`; what the store then says of it (rule 2).

        What is kept already gets the lock as well, unless it has a longer and stricter one.

        Raises:
            AnotherKeptError: other bytes are kept under the key.
            ConflictError: the same ones are, encrypted otherwise than is asked for; or see `lock`.
            ObjectDamagedError: the file, or what the store holds, is not what it was given.
            InvalidRequestError: the lock has ended already.
        """

    def head(self, key: str, version: str) -> StoredObject:
        """What the store says of a version."""

    def versions(self, prefix: str) -> Iterator[ListedVersion]:
        """All versions of all keys that begin with it, delete markers too, in the order of keys, newest first."""

    def read(self, key: str, version: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes of a version, or `size` of them from `start`. What was cut on the way is an error, not an end.

        Raises:
            NotRestoredError: it has to be restored first.
            ObjectDamagedError: all of it was read, and is not what its digest says.
        """

    def restore(self, key: str, version: str, tier: Tier, days: int) -> Restoration:
        """Ask for a readable copy for some days; where that stands. Asking again while it is under way is harmless.

        What lies in a class that is read at once is ready.

        Raises:
            InvalidRequestError: the class has no such tier.
            NoCapacityError: there is none for the tier now.
        """

    def lock(self, key: str, version: str, lock: Lock) -> None:
        """Lock a version, or make its lock longer or stricter.

        Raises:
            ConflictError: it would be less than there is.
            InvalidRequestError: it has ended already.
        """

    def hold(self, key: str, version: str, is_on_hold: bool) -> None:
        """Place a legal hold on a version, or lift it."""


def open_cold_store(url: str, kms_key: str | None = None, profile: str | None = None) -> ColdStore:
    """The cold store at `file:///folder` or `s3://bucket/prefix`.

    Args:
        kms_key: the key of KMS that objects are encrypted under there.
        profile: the profile of AWS whose credentials are used there; the customary ones if none is given.

    Raises:
        InvalidRequestError: the URL names no kind of store that there is, or there is no such profile.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        from archive.stores_folder import FolderColdStore

        return FolderColdStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from archive.stores_s3 import S3ColdStore  # boto3 takes half a second to import, and few processes need it

        return S3ColdStore(parts.netloc, parts.path.strip("/"), kms_key, profile)
    raise InvalidRequestError(
        f"LEDGER_ARCHIVE_URL is {url!r}, which names no cold store.", "Use file:///folder or s3://bucket/prefix."
    )


def in_whole_seconds(lock: Lock) -> Lock:
    """The lock as a store keeps it: no store knows less than a second, and none may end before it.

    Raises:
        InvalidRequestError: it has ended already.
    """
    if lock.until <= datetime.now(UTC):
        raise InvalidRequestError(f"A lock until {lock.until} has ended already.", "Give a time that is still to come.")
    return Lock(lock.mode, (lock.until + timedelta(microseconds=999_999)).replace(microsecond=0).astimezone(UTC))


def refuse_less(key: str, there: Lock | None, lock: Lock) -> None:
    """Raise ConflictError unless a lock is at least as long and as strict as the one that is there (rule 4)."""
    if there is not None and there.until > datetime.now(UTC) and not lock.covers(there):
        raise ConflictError(
            f"{key} is locked until {there.until} in the mode {there.mode}, and would be until {lock.until} in the mode"
            f" {lock.mode}.",
            "A lock is only made longer and stricter.",
        )


def refuse_restore(storage_class: StorageClass, tier: Tier, days: int) -> None:
    """Raise InvalidRequestError unless what lies in a class can be restored like that."""
    if storage_class == StorageClass.DEEP_ARCHIVE and tier == Tier.EXPEDITED:
        raise InvalidRequestError("DEEP_ARCHIVE has no expedited restores.", "Ask for Standard or Bulk.")
    if days < 1:
        raise InvalidRequestError(f"A copy cannot be restored for {days} days.", "Ask for a day at least.")


def no_such_object(key: str, version: str) -> NotFoundError:
    """There is no such version of an object, or no such object."""
    return NotFoundError(f"The cold store has no version {version} of {key}.", "Ask for one that it lists.")


def damaged(key: str, version: str, how: str) -> ObjectDamagedError:
    """A version of an object is not what its digest says."""
    return ObjectDamagedError(
        f"The version {version} of {key} {how}.",
        "Keep everything as it is, and compare it with another copy of the archive before anything is dropped.",
    )


def not_the_file(key: str, file: Path, sha256: str, found: str) -> ObjectDamagedError:
    """A file that shall be put is not what its digest says."""
    return ObjectDamagedError(
        f"The file {file} for {key} has the SHA-256 {found} and not {sha256}.", "Nothing was put. Write the file anew."
    )


def another_is_kept(key: str) -> AnotherKeptError:
    """Other bytes are kept under a key."""
    return AnotherKeptError(
        f"Something else is kept as {key} already.", "Find out who put it there: nothing is written over."
    )
