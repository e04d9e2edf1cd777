"""A volume: the objects of one archive in a cold store, all under one prefix.

Names within a volume are letters, digits and `-._/` alone, so that they stand in a URL and in a folder as they are.
What is text has the first digits of its digest in its name: another content is another object.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from archive.manifest import ObjectEntry, TextEntry
from archive.stores import ColdStore, Lock, StorageClass, StoredObject
from archive.text_files import TextFacts, file_blocks

FORM = "v1"
DIGITS = 16
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

    def keep(self, name: str, file: Path, storage_class: StorageClass, sha256: str | None = None) -> ObjectEntry:
        """Put a file under a name. Raises as `ColdStore.put`."""
        assert NAME.fullmatch(name), f"{name!r} does not stand in every URL as it is"
        digest = sha256 or _digest_of(file)
        kept = self._store.put(f"{self._prefix}/{name}", file, digest, storage_class, self._lock)
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
        kept = self.keep(f"{stem}-{facts.raw_sha256[:DIGITS]}.{ending}", file, storage_class, facts.sha256)
        told = {"raw_bytes": facts.raw_bytes, "raw_sha256": facts.raw_sha256, "lines": facts.lines}
        return kind.model_validate({**kept.model_dump(), **told, **more})

    def head(self, entry: ObjectEntry) -> StoredObject:
        """What the store says of an object."""
        return self._store.head(f"{self._prefix}/{entry.key}", entry.version)

    def read(self, entry: ObjectEntry) -> Iterator[bytes]:
        """The bytes of an object. Raises as `ColdStore.read`."""
        return self._store.read(f"{self._prefix}/{entry.key}", entry.version)


def _digest_of(file: Path) -> str:
    digest = hashlib.sha256()
    for block in file_blocks(file):
        digest.update(block)
    return digest.hexdigest()
