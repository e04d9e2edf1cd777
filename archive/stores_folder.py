"""A cold store in a folder: the same objects under the same keys, better on another machine's disk.

Rules:
1. An object is there when its record is: `.records/KEY.json`, with class, lock and hold, written after the bytes are
   durable under their name. A crash in between leaves bytes that the next put makes an object: the one that it puts, or
   if it puts other bytes, one that is in its way as any other.
2. Nothing is written in its place: it is written aside, made durable, and takes its name, in one step. One process at
   a time changes anything.
3. What is said of an object is what its file holds: its digest is computed anew each time.
4. The version of an object is the digest that it was put with, cut: bytes that somebody exchanged are not believed to
   be the version that was asked for.

All classes are read at once, so what is cold in a bucket is always ready here. Locks and holds are kept and told, and
bind this program alone: whoever owns the folder can delete from it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from archive.stores import (
    OBJECT_BYTES_MAX,
    ListedVersion,
    Lock,
    LockMode,
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
from ledger.errors import PartUnavailableError
from ledger.folders import sync_folder

BLOCK_BYTES = 1 << 20
VERSION_CHARACTERS = 32
RECORDS = ".records"
INCOMING = ".incoming"


@dataclass(frozen=True)
class _Record:
    """What is kept beside the bytes of an object."""

    sha256: str
    size_bytes: int
    storage_class: StorageClass
    lock_mode: LockMode | None = None
    lock_until: str | None = None
    is_on_hold: bool = False

    @property
    def version(self) -> str:
        return self.sha256[:VERSION_CHARACTERS]

    @property
    def lock(self) -> Lock | None:
        if self.lock_mode is None or self.lock_until is None:
            return None
        return Lock(LockMode(self.lock_mode), datetime.fromisoformat(self.lock_until))

    def locked(self, lock: Lock) -> _Record:
        return replace(self, lock_mode=lock.mode, lock_until=lock.until.isoformat())


class FolderColdStore:
    """Keeps objects in a folder. See `archive.stores.ColdStore`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """See `ColdStore`. Makes the folder, and writes, syncs and removes a small file."""
        try:
            with self._alone():
                self._write_aside(b"check").unlink()
        except PartUnavailableError as error:
            raise StoreUnfitError(error.message, error.remedy) from error

    def put(self, key: str, file: Path, sha256: str, storage_class: StorageClass, lock: Lock | None) -> StoredObject:
        """See `ColdStore`."""
        path = self._path(key)
        lock = None if lock is None else in_whole_seconds(lock)
        with self._alone():
            record = self._record(key)
            if record is None:
                record = _Record(sha256, self._keep(key, file, sha256, storage_class), storage_class)
                self._write_record(key, record if lock is None else record.locked(lock))
            elif record.sha256 != sha256:
                raise another_is_kept(key)
            elif lock is not None and not (record.lock is not None and record.lock.covers(lock)):
                refuse_less(key, record.lock, lock)
                self._write_record(key, record.locked(lock))
            found = self.head(key, record.version)
        if (found.sha256, found.size_bytes) != (sha256, record.size_bytes):
            raise damaged(key, found.version, f"does not hold what was put into {path}")
        return found

    def head(self, key: str, version: str) -> StoredObject:
        """See `ColdStore`. Reads the whole object."""
        record = self._version(key, version)
        with self._unavailable_as_error(), self._opened(key, version) as descriptor:
            found = hashlib.sha256()
            size_bytes = 0
            while block := os.read(descriptor, BLOCK_BYTES):
                found.update(block)
                size_bytes += len(block)
        restoration = Restoration.READY if record.storage_class.is_cold else Restoration.NONE
        return StoredObject(
            key, version, size_bytes, found.hexdigest(), record.storage_class, record.lock, record.is_on_hold,
            restoration,
        )  # fmt: skip

    def versions(self, prefix: str) -> Iterator[ListedVersion]:
        """See `ColdStore`. There is one of each."""
        records = self._folder / RECORDS
        with self._unavailable_as_error():
            keys = [path.relative_to(records).as_posix()[: -len(".json")] for path in records.rglob("*.json")]
        for key in sorted(key for key in keys if key.startswith(prefix)):
            record = self._record(key)
            with self._unavailable_as_error(), suppress(FileNotFoundError):
                size_bytes = self._path(key).stat().st_size
                if record is not None:
                    yield ListedVersion(key, record.version, size_bytes, is_latest=True, is_delete_marker=False)

    def read(self, key: str, version: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """See `ColdStore`."""
        record = self._version(key, version)
        end = record.size_bytes if size is None else min(record.size_bytes, start + size)
        found = hashlib.sha256()
        position = start
        with self._unavailable_as_error(), self._opened(key, version) as descriptor:
            while position < end:
                block = os.pread(descriptor, min(BLOCK_BYTES, end - position), position)
                if not block:
                    raise damaged(key, version, f"ends at byte {position} and had {record.size_bytes}")
                found.update(block)
                position += len(block)
                yield block
        if start == 0 and end == record.size_bytes and found.hexdigest() != record.sha256:
            raise damaged(key, version, f"has another SHA-256 than {record.sha256}")

    def restore(self, key: str, version: str, tier: Tier, days: int) -> Restoration:
        """See `ColdStore`. Everything is ready here."""
        refuse_restore(self._version(key, version).storage_class, tier, days)
        return Restoration.READY

    def lock(self, key: str, version: str, lock: Lock) -> None:
        """See `ColdStore`."""
        lock = in_whole_seconds(lock)
        with self._alone():
            record = self._version(key, version)
            refuse_less(key, record.lock, lock)
            self._write_record(key, record.locked(lock))

    def hold(self, key: str, version: str, is_on_hold: bool) -> None:
        """See `ColdStore`."""
        with self._alone():
            self._write_record(key, replace(self._version(key, version), is_on_hold=is_on_hold))

    def _path(self, key: str) -> Path:
        names = key.split("/")
        assert all(name and not name.startswith(".") for name in names), f"{key!r} is no key of ours"
        return self._folder.joinpath(*names)

    def _record_path(self, key: str) -> Path:
        return self._folder / RECORDS / f"{key}.json"

    def _record(self, key: str) -> _Record | None:
        with self._unavailable_as_error():
            try:
                text = self._record_path(key).read_text()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            values = json.loads(text)
            return _Record(**{**values, "storage_class": StorageClass(values["storage_class"])})
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(key, "of any name", f"has an unreadable record, {self._record_path(key)}") from error

    def _version(self, key: str, version: str) -> _Record:
        record = self._record(key)
        if record is None or record.version != version:
            raise no_such_object(key, version)
        return record

    @contextmanager
    def _opened(self, key: str, version: str) -> Iterator[int]:
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            raise no_such_object(key, version) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock, which ends with the process; what lies aside was left by one that ended too early."""
        with self._unavailable_as_error():
            incoming = self._folder / INCOMING
            if not incoming.is_dir():
                self._folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self._folder.parent)
                incoming.mkdir(exist_ok=True)
            descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                for left in incoming.iterdir():
                    left.unlink()
                yield
            finally:
                os.close(descriptor)

    def _keep(self, key: str, file: Path, sha256: str, storage_class: StorageClass) -> int:
        """Give a file's bytes their name, durably; their size. Others that have it already are never written over."""
        aside = self._folder / INCOMING / "object"
        found, size_bytes = _copy_durably(file, aside)
        if found != sha256:
            raise not_the_file(key, file, sha256, found)
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(aside, path)
        except FileExistsError:
            there = _sha256_of(path)
            if there != sha256:
                self._write_record(key, _Record(there, path.stat().st_size, storage_class))
                raise another_is_kept(key) from None
        aside.unlink()
        self._sync_folders(path.parent)
        return size_bytes

    def _write_record(self, key: str, record: _Record) -> None:
        path = self._record_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._write_aside(json.dumps(asdict(record), indent=1).encode()), path)
        self._sync_folders(path.parent)

    def _write_aside(self, content: bytes) -> Path:
        aside = self._folder / INCOMING / "record"
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return aside

    def _sync_folders(self, folder: Path) -> None:
        """Make the names in a folder durable, and its own, up to the store's."""
        for each in (folder, *folder.parents):
            sync_folder(each)
            if each == self._folder:
                return

    @contextmanager
    def _unavailable_as_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise PartUnavailableError(
                f"The cold store {self._folder} cannot be used: {error.strerror}.",
                "Free some space, then try again." if full else "Repair the folder, then try again.",
            ) from error


def _copy_durably(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file into a new one that nobody writes to any more; the digest and the size of what was copied."""
    found = hashlib.sha256()
    size_bytes = 0
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as copy:
        while block := file.read(BLOCK_BYTES):
            found.update(block)
            size_bytes += len(block)
            left = memoryview(block)
            while left:
                left = left[copy.write(left) :]
        assert size_bytes <= OBJECT_BYTES_MAX, f"{source} has {size_bytes} bytes"
        os.fsync(copy.fileno())
        os.chmod(target, 0o444)
    return found.hexdigest(), size_bytes


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
