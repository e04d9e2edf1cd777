"""A volume: the objects of one archive in a cold store, all under one prefix.

Rules:
1. Names within a volume are letters, digits and `-._/` alone, so that they stand in a URL and in a folder as they are.
2. What is compressed has in its name the first digits of the SHA-256 of the text that it holds, or is a copy of.
   So the same content is the same object, whoever compressed it: another version of a library does it otherwise.
3. What a run has put that was killed before it could note it is taken over as it is, if it was read back to its last
   byte and holds the same: there is one object of each name, in one version. What is cold is restored for that first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from archive.manifest import ObjectEntry, TextEntry
from archive.stores import (
    AnotherKeptError,
    ColdStore,
    ListedVersion,
    Lock,
    Restoration,
    StorageClass,
    StoredObject,
    Tier,
)
from archive.text_files import TextDamagedError, TextFacts, facts_of, file_blocks

FORM = "v1"
DIGITS = 16
RESTORED_DAYS = 3
NAME = re.compile(r"[A-Za-z0-9._/-]+")
Entry = TypeVar("Entry", bound=TextEntry)


def prefix_of(origin: str, fiscal_year: str, generation: int) -> str:
    """What the keys of an archive begin with. Another origin that reads alike is told apart by its digest."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", origin)
    told = plain if plain == origin else f"{plain}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    return f"{FORM}/{told}/{fiscal_year}/g{generation:04}"


class Volume:
    """Puts and reads the objects of one archive."""

    def __init__(self, store: ColdStore, prefix: str, lock: Lock | None) -> None:
        self._store = store
        self._prefix = prefix
        self._lock = lock

    def keep(
        self,
        name: str,
        file: Path,
        storage_class: StorageClass,
        sha256: str | None = None,
        holds_same: Callable[[Iterator[bytes]], bool] = lambda kept: False,
    ) -> ObjectEntry:
        """Put a file under a name.

        Args:
            holds_same: whether other bytes, which are kept under the name already, hold the same content (rule 3).

        Raises:
            NotRestoredError: they have to be restored before that can be known.
            ConflictError, ObjectDamagedError, InvalidRequestError: see `ColdStore.put`.
        """
        assert NAME.fullmatch(name), f"{name!r} does not stand in every URL as it is"
        key = f"{self._prefix}/{name}"
        digest = sha256 or _digest_of(file)
        try:
            kept = self._put(key, file, digest, storage_class)
        except AnotherKeptError:
            kept = self._first(key)
            if not holds_same(self._store.read(key, kept.version)):
                raise
            if self._lock is not None and not (kept.lock is not None and kept.lock.covers(self._lock)):
                self._store.lock(key, kept.version, self._lock)
        return ObjectEntry(
            key=name,
            version=kept.version,
            storage_class=kept.storage_class,
            bytes=kept.size_bytes,
            sha256=kept.sha256,
        )

    def keep_text(
        self,
        stem: str,
        ending: str,
        file: Path,
        facts: TextFacts,
        storage_class: StorageClass,
        kind: type[Entry],
        **more: Any,
    ) -> Entry:
        """Put a compressed text, under a stem, the first digits of its digest and an ending."""
        name = f"{stem}-{facts.raw_sha256[:DIGITS]}.{ending}"

        def holds_same(kept: Iterator[bytes]) -> bool:
            with suppress(TextDamagedError):
                there = facts_of(kept, name)
                return (there.raw_sha256, there.raw_bytes) == (facts.raw_sha256, facts.raw_bytes)
            return False

        kept = self.keep(name, file, storage_class, facts.sha256, holds_same)
        told = {"raw_bytes": facts.raw_bytes, "raw_sha256": facts.raw_sha256, "lines": facts.lines}
        return kind.model_validate({**kept.model_dump(), **told, **more})

    def restore_others(self, names: Collection[str]) -> None:
        """Ask for copies of what is cold and lies there under other names than these, to be read (rule 3)."""
        for each in self._others(names):
            self._store.restore(each.key, each.version, Tier.STANDARD, RESTORED_DAYS)

    def are_others_under_way(self, names: Collection[str]) -> bool:
        """Whether such copies were asked for and are not there yet."""
        found = (self._store.head(each.key, each.version) for each in self._others(names))
        return any(each.restoration is Restoration.UNDER_WAY for each in found)

    def head(self, entry: ObjectEntry) -> StoredObject:
        """What the store says of an object."""
        return self._store.head(f"{self._prefix}/{entry.key}", entry.version)

    def read(self, entry: ObjectEntry) -> Iterator[bytes]:
        """The bytes of an object. Raises as `ColdStore.read`."""
        return self._store.read(f"{self._prefix}/{entry.key}", entry.version)

    def _put(self, key: str, file: Path, sha256: str, storage_class: StorageClass) -> StoredObject:
        try:
            return self._store.put(key, file, sha256, storage_class, self._lock)
        except AnotherKeptError:
            # One more look costs nothing beside what follows: an answer that was changed on its way would have
            # our own object restored, for hours.
            return self._store.put(key, file, sha256, storage_class, self._lock)

    def _others(self, names: Collection[str]) -> Iterator[ListedVersion]:
        for each in self._store.versions(f"{self._prefix}/"):
            if not each.is_delete_marker and each.key.removeprefix(f"{self._prefix}/") not in names:
                yield each

    def _first(self, key: str) -> StoredObject:
        """The oldest version of a key, as only the first was put by an archiver."""
        *_, first = (each for each in self._store.versions(key) if each.key == key and not each.is_delete_marker)
        return self._store.head(key, first.version)


def _digest_of(file: Path) -> str:
    digest = hashlib.sha256()
    for block in file_blocks(file):
        digest.update(block)
    return digest.hexdigest()
